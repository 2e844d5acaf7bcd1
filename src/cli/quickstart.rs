//! `quickstart`: everything once, on a fleet that does not exist.
//!
//! Makes a site, simulates a fleet, feeds it through the code of `buffer append`, and runs two nights of `nightly`; the
//! second one resumes. Sizes are small, so that it takes minutes on two cores; simulator and exam are those of every
//! day, and a model that they refuse is shown as refused.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Days, Utc};
use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::{predict, probe, text, validate};
use crate::buffer::{AppendOptions, AppendReport, Buffer, Source};
use crate::calendar;
use crate::clock::Clock;
use crate::config::{Config, template};
use crate::error::{Exit, HintExt, Refusal};
use crate::forecast::{self, FleetForecast, ForecastRequest};
use crate::fsx;
use crate::nightly::{self, NightEnd, NightRequest, Tools};
use crate::registry::{ModelId, Registry};
use crate::report::render_line;
use crate::simulate::{Fleet, FleetSpec};
use crate::site::{CONFIG_FILE, Site};
use crate::train::DeviceChoice;

/// Seconds between two rows of a simulated server.
const TICK_SECS: u32 = 60;
const NIGHTS: u64 = 2;

#[derive(Args)]
pub struct QuickstartArgs {
    /// The folder to make
    #[arg(default_value = "tftctl-quickstart")]
    dir: PathBuf,
    /// Number of simulated servers
    #[arg(long, default_value_t = 12, value_name = "N")]
    servers: u32,
    /// Equal seeds and equal --now give equal numbers
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// What quickstart did, for `--json`.
#[derive(Serialize)]
struct Shown {
    site: PathBuf,
    appended: AppendReport,
    nights: Vec<NightEnd>,
    champion: Option<ModelId>,
    forecast: Option<FleetForecast>,
    duration_secs: f64,
}

pub fn run(args: QuickstartArgs, context: &Context) -> Result<Exit> {
    let started = Instant::now();
    let stop = context.stop_on_signal()?;
    let now = context.clock(chrono_tz::UTC)?.now();
    ensure_empty(&args.dir)?;
    let fleet = fleet(&args, now)?;
    let site = make_site(&args.dir)?;
    let progress = context.progress();
    progress.stage("simulate and append");
    let appended = feed(&site, &fleet, now, context)?;
    let mut nights = Vec::new();
    for age in (0..NIGHTS).rev() {
        let tools = Tools {
            clock: Clock::Fixed(night_time(&site, now, age)?),
            progress,
            stop: &stop,
            probe: &probe::probe,
            env: &|_| None,
        };
        let request =
            NightRequest { device: DeviceChoice::Auto, max_duration: None, wait: Default::default() };
        nights.push(nightly::run(&site, &request, &tools)?);
    }
    let champion = Registry::open(&site).pointer()?.map(|champion| champion.model_id);
    let forecast = champion.is_some().then(|| forecast_now(&site, now, context)).transpose()?;
    let exit = if champion.is_some() { Exit::Done } else { Exit::Refused };
    let duration_secs = started.elapsed().as_secs_f64();
    let shown = Shown { site: site.root.clone(), appended, nights, champion, forecast, duration_secs };
    let verdicts = verdicts(&site)?;
    context.output.result(&shown, |shown| render(shown, &verdicts))?;
    Ok(exit)
}

/// Small sizes for a small fleet; everything that judges is left as it is.
fn config() -> Config {
    let mut config = Config { training_window_days: 14, initial_epochs: 3, ..Config::default() };
    config.series.sample_secs = TICK_SECS;
    config.series.step_secs = 900;
    config.model.encoder_length = 96;
    config.model.horizon = 32;
    config.model.hidden_size = 16;
    config.model.hidden_continuous_size = 8;
    config.model.attention_heads = 4;
    config.model.targets = ["cpu_user_pct", "mem_used_pct", "load_average"].map(str::to_owned).to_vec();
    config.training.learning_rate = 5e-3;
    config.training.samples_per_epoch = 4096;
    config.validation.max_samples = 1024;
    config
}

fn ensure_empty(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        true => Err(Refusal::usage(format!("{} is not empty", dir.display())))
            .hint(|| "name another folder: `tftctl quickstart DIR`".into()),
        false => Ok(()),
    }
}

fn make_site(dir: &Path) -> Result<Site> {
    let path = dir.join(CONFIG_FILE);
    fsx::write_durable(&path, template::render(&config()).as_bytes())?;
    Site::open(&path, &super::context::setting_variables())
}

/// The fleet of both nights and of the days before them.
fn fleet(args: &QuickstartArgs, now: DateTime<Utc>) -> Result<Fleet> {
    let config = config();
    let zone = config.timezone;
    let window = u64::from(config.training_window_days) + NIGHTS;
    let start = calendar::day_start(calendar::day_of(now.timestamp_millis(), zone) - Days::new(window), zone);
    let spec = FleetSpec {
        n_servers: args.servers,
        start,
        end: now,
        tick_secs: TICK_SECS,
        seed: args.seed,
        ..FleetSpec::default()
    };
    Fleet::new(&spec)
}

/// Sends the fleet's rows through a pipe into the buffer, as a collector would.
fn feed(site: &Site, fleet: &Fleet, now: DateTime<Utc>, context: &Context) -> Result<AppendReport> {
    let (reader, mut writer) = std::io::pipe().context("open a pipe")?;
    let mut labels = tempfile::tempfile().context("open a temporary file")?;
    let appended = std::thread::scope(|scope| -> Result<AppendReport> {
        let simulated = scope.spawn(|| {
            let written = fleet.write_ndjson(&mut writer, &mut labels, &crate::progress::Silent);
            drop(writer);
            written
        });
        let source = Source::reader("the simulated fleet", reader);
        let buffer = Buffer::open(site);
        let appended =
            buffer.append(source, &AppendOptions::default(), &Clock::Fixed(now), context.progress())?;
        simulated.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(appended)
    })?;
    labels.rewind().and_then(|()| labels.flush()).context("read the labels back")?;
    fsx::write_durable_with(&site.root.join("simulated_incidents.ndjson"), |file| {
        std::io::copy(&mut labels, file).map(|_| ()).context("keep the labels")
    })?;
    Ok(appended)
}

/// `training_time` of the day `age` days ago.
fn night_time(site: &Site, now: DateTime<Utc>, age: u64) -> Result<DateTime<Utc>> {
    let date = site.logical_date(now) - Days::new(age);
    let time = calendar::day_start(date, site.zone()) + chrono::Duration::hours(2);
    Ok(if age == 0 { time.min(now) } else { time })
}

fn forecast_now(site: &Site, now: DateTime<Utc>, context: &Context) -> Result<FleetForecast> {
    let device = DeviceChoice::Auto.resolve()?.0;
    let request = ForecastRequest { model: None, servers: Vec::new(), at: now, device: &device };
    forecast::make(site, &request, context.progress())
}

/// Every model's verdict, oldest first, as text.
fn verdicts(site: &Site) -> Result<Vec<String>> {
    let registry = Registry::open(site);
    let mut ids = registry.ids()?;
    ids.reverse();
    let mut texts = Vec::new();
    for id in ids {
        if let Some(verdict) = registry.read_verdict(&id)? {
            texts.push(validate::render(&verdict));
        }
    }
    Ok(texts)
}

fn render(shown: &Shown, verdicts: &[String]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        text.push_str(verdict);
        text.push('\n');
    }
    for night in &shown.nights {
        if let Some(record) = &night.record {
            text.push_str(&format!("{}\n", render_line(record)));
        }
    }
    match (&shown.champion, &shown.forecast) {
        (Some(champion), Some(forecast)) => {
            text.push_str(&format!("\nchampion: {champion}\n\n{}", predict::render_table(forecast)));
        }
        _ => text.push_str("\nno champion: the exam refused every model, for the reasons above\n"),
    }
    let site = shown.site.display();
    // The program need not be on the PATH.
    let program = std::env::current_exe().map_or_else(|_| "tftctl".into(), |path| path.display().to_string());
    text.push_str(&format!(
        "\n{} rows simulated, everything in {:.0} s. It lies in {site}:\n\
         \x20 tftctl.toml  data_buffer/  windows/  checkpoints/  models/  forecasts/  logs/  state/\n\
         Look around: cd {site}, then {program} status, models list, models show champion, predict, window show\n",
        text::count(shown.appended.n_good),
        shown.duration_secs,
    ));
    text
}
