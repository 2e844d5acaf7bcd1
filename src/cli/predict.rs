//! `predict`: the champion's forecast of the fleet.

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use super::context::{Context, ensure_folder_of};
use super::device::DeviceArgs;
use super::text;
use crate::clock::parse_time;
use crate::error::{Exit, Refusal};
use crate::forecast::{self, FleetForecast, ForecastRequest, SeriesForecast};
use crate::fsx;
use crate::registry::Registry;

#[derive(Args)]
pub struct PredictArgs {
    /// Forecast these servers only (may be given several times)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    server: Vec<String>,
    /// Forecast from this moment; rows at or after it are not seen [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Forecast with this model [default: the champion]
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// How to write it: a summary per series, or every step
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Write here instead of standard output (parquet needs a file)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep it under forecasts/, where the next night scores it: the champion's forecast of the whole fleet, from now
    #[arg(long, conflicts_with_all = ["server", "model", "at"])]
    keep: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Ndjson,
    Parquet,
}

pub fn run(args: PredictArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
    let at = args.at.as_deref().map_or(Ok(now), |text| parse_time(text, site.zone()))?;
    let model = args.model.as_deref().map(|text| Registry::open(&site).resolve(text)).transpose()?;
    if args.format == Format::Parquet && args.out.is_none() {
        return Err(Refusal::usage("--format parquet needs --out FILE"));
    }
    let device = args.device.resolve(context)?;
    let request = ForecastRequest { model, servers: args.server, at, device: &device };
    args.out.as_deref().map_or(Ok(()), ensure_folder_of)?;
    let forecast = forecast::make(&site, &request, context.progress())?;
    for skipped in &forecast.skipped {
        context.progress().warn(&format!("{} is not forecast: {}", skipped.server_name, skipped.reason));
    }
    if args.keep {
        let path = forecast::keep(&site, site.logical_date(at), &forecast)?;
        context.progress().note(&format!("kept {}", path.display()));
    }
    let text = match args.format {
        _ if context.output.json => return write_json(&forecast, args.out.as_deref(), context),
        Format::Table => render_table(&forecast),
        Format::Csv => render_csv(&forecast)?,
        Format::Ndjson => render_ndjson(&forecast)?,
        Format::Parquet => {
            let path = args.out.context("--format parquet needs --out FILE")?;
            let mut frame = forecast::to_frame(&forecast)?;
            fsx::write_durable_with(&path, |file| forecast::write_parquet(file, &mut frame))?;
            context.progress().note(&format!("wrote {}", path.display()));
            return Ok(Exit::Done);
        }
    };
    match args.out {
        Some(path) => fsx::write_durable(&path, text.as_bytes())?,
        None => context.output.data(&text)?,
    }
    Ok(Exit::Done)
}

fn write_json(
    forecast: &FleetForecast,
    out: Option<&std::path::Path>,
    context: &Context,
) -> anyhow::Result<Exit> {
    match out {
        Some(path) => fsx::write_json(path, forecast)?,
        None => context.output.result(forecast, |_| String::new())?,
    }
    Ok(Exit::Done)
}

/// One line per series: where it is, where it goes, and what might happen.
pub(super) fn render_table(forecast: &FleetForecast) -> String {
    let n_steps = forecast.series.first().map_or(0, |series| series.steps.len());
    let hours = n_steps as f64 * f64::from(forecast.step_secs) / 3600.0;
    let heading = format!(
        "{} of {}, from {}, {hours:.1} h ahead\n\n",
        forecast.model_id,
        text::plural(forecast.n_servers() as u64, "server"),
        minute(forecast.cutoff)
    );
    let rows = forecast.series.iter().map(|series| row(series, &forecast.quantiles));
    let header = ["server", "metric", "now", "P10", "P50", "P90", "at the end", "peak P90", "alert"];
    heading + &text::table(&header, rows)
}

fn minute(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%MZ").to_string()
}

fn row(series: &SeriesForecast, quantiles: &[f64]) -> Vec<String> {
    let at = |level: f64| quantiles.iter().position(|q| (q - level).abs() < 1e-9);
    let last = series.steps.last();
    let end = |level: f64| text::number(last.zip(at(level)).map(|(step, q)| f64::from(step.values[q])));
    let peak = at(0.9).and_then(|q| series.steps.iter().map(|step| step.values[q]).reduce(f32::max));
    let alert =
        series.alert.as_ref().filter(|alert| alert.chance >= 0.01).map_or_else(String::new, |alert| {
            format!(
                "{:.0} % above {} at {}",
                alert.chance * 100.0,
                alert.threshold,
                alert.time.format("%H:%MZ")
            )
        });
    vec![
        series.server_name.clone(),
        format!("{}{}", series.metric, if series.is_known { "" } else { " (by profile)" }),
        text::number(series.last_observed.map(f64::from)),
        end(0.1),
        end(0.5),
        end(0.9),
        last.map_or(String::new(), |step| step.time.format("%H:%MZ").to_string()),
        text::number(peak.map(f64::from)),
        alert,
    ]
}

fn render_csv(forecast: &FleetForecast) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = vec!["server_name".to_owned(), "profile".into(), "metric".into(), "timestamp".into()];
    header.extend(forecast.quantiles.iter().map(|level| forecast::quantile_column(*level)));
    writer.write_record(&header)?;
    for series in &forecast.series {
        for step in &series.steps {
            let time = step.time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
            let mut record =
                vec![series.server_name.clone(), series.profile.clone(), series.metric.clone(), time];
            record.extend(step.values.iter().map(f32::to_string));
            writer.write_record(&record)?;
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn render_ndjson(forecast: &FleetForecast) -> anyhow::Result<String> {
    let mut text = String::new();
    for series in &forecast.series {
        for step in &series.steps {
            let mut line = serde_json::json!({
                "server_name": series.server_name, "profile": series.profile, "metric": series.metric,
                "timestamp": step.time, "model_id": forecast.model_id,
            });
            for (level, value) in forecast.quantiles.iter().zip(&step.values) {
                line[forecast::quantile_column(*level)] = serde_json::json!(value);
            }
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
    }
    Ok(text)
}
