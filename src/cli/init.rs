//! `init`: makes a site, with the schema of a preset or of the user's own data.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::context::Context;
use super::text;
use crate::buffer::{Derived, derive};
use crate::config::{Config, parse_zone, template};
use crate::error::{Exit, HintExt, Refusal};
use crate::fsx;
use crate::site::CONFIG_FILE;

#[derive(Args)]
pub struct InitArgs {
    /// The folder to make a site of [default: --config's folder, or this one]
    dir: Option<PathBuf>,
    /// Learn metrics, cadence and targets from this parquet, CSV or NDJSON, or from a folder of
    /// metrics_YYYY-MM-DD.parquet, which then is the buffer as it stands (only read)
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "preset")]
    from: Option<PathBuf>,
    /// Start from a known set of metrics
    #[arg(long, value_enum, default_value = "fleet14")]
    preset: Preset,
    /// The site's time zone
    #[arg(long, default_value = "UTC", value_name = "ZONE", value_parser = parse_zone)]
    timezone: chrono_tz::Tz,
}

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    Fleet14,
}

#[derive(Serialize)]
struct Made {
    config: PathBuf,
    n_metrics: usize,
    targets: Vec<String>,
    derived: Option<Derived>,
}

pub fn run(args: InitArgs, context: &Context) -> anyhow::Result<Exit> {
    let path = config_path(&args, context);
    if path.exists() {
        return Err(Refusal::usage(format!("{} exists already", path.display())))
            .hint(|| "a site is made once: edit its config, or name another folder".into());
    }
    let mut config = Config { timezone: args.timezone, ..Config::default() };
    let derived = match &args.from {
        Some(sample) => Some(learn(sample, &mut config)?),
        None => None,
    };
    // What is written must be what can be read.
    let text = template::render(&config);
    Config::parse(&text, &[]).context("check the new config")?;
    fsx::write_durable(&path, text.as_bytes())?;
    let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    let made = Made { config: path, n_metrics: config.metrics.len(), targets: config.model.targets, derived };
    context.output.result(&made, render)?;
    Ok(Exit::Done)
}

fn config_path(args: &InitArgs, context: &Context) -> PathBuf {
    match (&args.dir, context.named_config()) {
        (Some(dir), _) => dir.join(CONFIG_FILE),
        (None, Some(named)) if named.extension().is_some_and(|extension| extension == "toml") => {
            named.to_owned()
        }
        (None, Some(named)) => named.join(CONFIG_FILE),
        (None, None) => Path::new(CONFIG_FILE).to_owned(),
    }
}

/// Puts what a sample says about its feed into `config`.
fn learn(sample: &Path, config: &mut Config) -> anyhow::Result<Derived> {
    let derived = derive(sample, config.training_window_days)?;
    config.series.sample_secs = derived.sample_secs;
    config.series.step_secs = derived.step_secs;
    config.min_training_samples = derived.min_training_samples;
    config.model.targets = derived.targets.clone();
    config.metrics = derived.schema.metrics.clone();
    config.profiles = derived.schema.profiles.clone();
    if derived.is_day_folder {
        let dir = sample.canonicalize().with_context(|| format!("find {}", sample.display()))?;
        config.data_buffer_dir = dir.to_str().context("the folder's name is not UTF-8")?.to_owned();
    }
    Ok(derived)
}

fn render(made: &Made) -> String {
    let mut lines = vec![format!("made {}", made.config.display())];
    if let Some(derived) = &made.derived {
        lines.push(format!(
            "learned from {} rows of {} servers, {} .. {}: {} metrics, a row every {} s, steps of {} s",
            text::count(derived.n_rows_read),
            derived.n_servers,
            derived.first.format("%Y-%m-%dT%H:%MZ"),
            derived.last.format("%Y-%m-%dT%H:%MZ"),
            made.n_metrics,
            derived.sample_secs,
            derived.step_secs
        ));
        for (column, reason) in &derived.ignored {
            lines.push(format!("  {column} is no metric: {reason}"));
        }
        for (metric, max) in &derived.over_100 {
            lines.push(format!("  {metric} goes up to {max}: its range has no upper end; look at its unit"));
        }
        if derived.is_day_folder {
            lines.push("the folder is the site's buffer; it is only read".into());
        }
    }
    lines.push(format!("targets: {}", made.targets.join(", ")));
    lines.push("next: `tftctl buffer append FILE`, then `tftctl nightly`".into());
    if made.derived.as_ref().is_some_and(|derived| derived.is_day_folder) {
        lines.pop();
        lines.push("next: `tftctl nightly`, with `--now TIME` for old data".into());
    }
    lines.join("\n")
}
