//! Makes a forecast: the champion, the newest rows, every server.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use candle_core::Device;
use chrono::{DateTime, Utc};

use super::alert::alert_chance;
use super::{FleetForecast, SeriesForecast, Skipped, StepForecast};
use crate::buffer::Buffer;
use crate::calendar::to_utc;
use crate::config::Config;
use crate::dataset::{Dataset, SampleKey};
use crate::error::{HintExt, Refusal};
use crate::evaluate::{Forecasts, predict};
use crate::progress::Progress;
use crate::registry::{ModelId, Registry};
use crate::schema::Metric;
use crate::site::Site;
use crate::train::TrainedModel;
use crate::window::{self, Grid};

/// What to forecast, and from when.
pub struct ForecastRequest<'a> {
    /// The model; the champion by default.
    pub model: Option<ModelId>,
    /// Servers to forecast; all that report by default.
    pub servers: Vec<String>,
    /// Rows at or after this moment are not seen.
    pub at: DateTime<Utc>,
    pub device: &'a Device,
}

/// Forecasts from the buffer's newest rows before `request.at`.
///
/// The cutoff is the last step for which any server has data; a server with too little history before it, or a
/// gap longer than the limit, is skipped with the reason.
///
/// - Errors: no champion (with the hint), a server nobody knows, a model that does not load, no rows at all.
pub fn make(site: &Site, request: &ForecastRequest<'_>, progress: &dyn Progress) -> Result<FleetForecast> {
    let registry = Registry::open(site);
    let id = match &request.model {
        Some(id) => id.clone(),
        None => champion(&registry)?,
    };
    let model =
        TrainedModel::read(&registry.model_dir(&id), request.device).with_context(|| format!("load {id}"))?;
    let grid = recent_grid(site, &model, request, progress)?;
    ensure_known(&request.servers, &grid)?;
    let dataset = Dataset::new(grid, model.preprocessing.clone(), site.config.window.max_gap_steps)?;
    let wanted: BTreeSet<&str> = request.servers.iter().map(String::as_str).collect();
    let name = |key: &SampleKey| dataset.grid().servers[key.server as usize].name.as_str();
    let is_wanted = |server: &str| wanted.is_empty() || wanted.contains(server);
    let keys: Vec<SampleKey> =
        dataset.forecast_keys().into_iter().filter(|key| is_wanted(name(key))).collect();
    let metrics = target_metrics(&site.config, &model)?;
    let mut forecasts = predict(&model, &dataset, &keys, request.device)?;
    forecasts.cut_to_range(&metrics);
    let served: BTreeSet<&str> = keys.iter().map(name).collect();
    let reason = || "too little history, or a gap too long, before the cutoff".to_owned();
    let skipped = dataset.grid().servers.iter().map(|server| &server.name).filter(|server| is_wanted(server));
    let skipped = skipped.filter(|server| !served.contains(server.as_str()));
    Ok(FleetForecast {
        model_id: id.to_string(),
        made_at: request.at,
        cutoff: to_utc(dataset.grid().time_ms(dataset.grid().n_steps)),
        step_secs: dataset.grid().step_secs,
        quantiles: forecasts.quantiles.clone(),
        skipped: skipped.map(|server| Skipped { server_name: server.clone(), reason: reason() }).collect(),
        series: lay_out(&dataset, &keys, &forecasts, &metrics),
    })
}

fn champion(registry: &Registry) -> Result<ModelId> {
    match registry.champion()? {
        Some(champion) => Ok(champion.model_id),
        None => Err(anyhow::anyhow!("there is no champion to forecast with"))
            .hint(|| "`tftctl nightly` trains one; `tftctl models list` tells why none passed".into()),
    }
}

/// The last steps before `at`, ending with the newest step that anybody has data for.
fn recent_grid(
    site: &Site,
    model: &TrainedModel,
    request: &ForecastRequest<'_>,
    progress: &dyn Progress,
) -> Result<Grid> {
    // A short gap at the encoder's start is filled from the steps before it.
    let n_steps = model.preprocessing.encoder_length + site.config.window.max_gap_steps;
    let grid = window::read_recent(site, n_steps, request.at, progress)?;
    let none =
        || Refusal::NotEnoughData { reasons: vec![format!("no rows before {}", request.at.to_rfc3339())] };
    let newest = newest_step(&grid);
    if newest == Some(grid.n_steps - 1) {
        return Ok(grid);
    }
    // The newest rows are older: look from their end, which may be some days back.
    let end = match newest {
        Some(step) => to_utc(grid.time_ms(step + 1)),
        None => newest_row_end(site, &Buffer::open(site), request.at)?.ok_or_else(none)?,
    };
    progress.warn(&format!("the newest rows end at {}", end.format("%Y-%m-%dT%H:%M:%SZ")));
    window::read_recent(site, n_steps, end, progress)
}

/// The last step of a grid in which any value is known.
fn newest_step(grid: &Grid) -> Option<usize> {
    let has_data = |step: usize| {
        (0..grid.servers.len()).any(|server| grid.row(server, step).iter().any(|v| v.is_finite()))
    };
    (0..grid.n_steps).rev().find(|step| has_data(*step))
}

/// End of the newest step that has rows and is over at `at`.
fn newest_row_end(site: &Site, buffer: &Buffer, at: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
    let step_ms = i64::from(site.config.series.step_secs) * 1000;
    let start_of = |time_ms: i64| time_ms.div_euclid(step_ms) * step_ms;
    let newest = buffer.newest_time_ms(start_of(at.timestamp_millis()))?;
    Ok(newest.map(|time_ms| to_utc(start_of(time_ms) + step_ms)))
}

fn ensure_known(servers: &[String], grid: &Grid) -> Result<()> {
    let known = |name: &String| grid.servers.iter().any(|server| server.name == *name);
    match servers.iter().find(|name| !known(name)) {
        Some(name) => Err(Refusal::usage(format!("server `{name}` has no rows before the cutoff"))),
        None => Ok(()),
    }
}

/// The config's entries for a model's targets, in the model's order.
pub(super) fn target_metrics<'a>(config: &'a Config, model: &TrainedModel) -> Result<Vec<&'a Metric>> {
    let find = |name: &String| {
        let metric = config.metrics.iter().find(|metric| metric.name == *name);
        metric.with_context(|| format!("find the model's target {name} in the config"))
    };
    model.preprocessing.targets.iter().map(find).collect()
}

fn lay_out(
    dataset: &Dataset,
    keys: &[SampleKey],
    forecasts: &Forecasts,
    metrics: &[&Metric],
) -> Vec<SeriesForecast> {
    let grid = dataset.grid();
    let mut series = Vec::with_capacity(keys.len() * metrics.len());
    for (sample, key) in keys.iter().enumerate() {
        let server = key.server as usize;
        for (target, metric) in metrics.iter().enumerate() {
            let step = |h: usize| StepForecast {
                time: to_utc(grid.time_ms(key.cutoff as usize + h)),
                values: forecasts.quantiles_at(sample, target, h).to_vec(),
            };
            let steps: Vec<StepForecast> = (0..forecasts.horizon).map(step).collect();
            let last_observed =
                (0..grid.n_steps).rev().find_map(|step| dataset.series_value(server, target, step));
            series.push(SeriesForecast {
                server_name: grid.servers[server].name.clone(),
                profile: grid.servers[server].profile.clone(),
                is_known: dataset.is_known(server),
                metric: metric.name.clone(),
                unit: metric.unit.clone(),
                last_observed,
                alert: metric.alert_above.and_then(|above| alert_chance(above, &steps, &forecasts.quantiles)),
                steps,
            });
        }
    }
    series
}
