//! `validate`: the exam of one model.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::Device;
use clap::Args;

use super::context::{Context, WaitArgs, ensure_folder_of};
use super::device::DeviceArgs;
use super::train::chosen_window;
use super::{probe, text};
use crate::error::Exit;
use crate::evaluate::Scores;
use crate::forecast;
use crate::model_manifest::ModelManifest;
use crate::registry::{By, Registry};
use crate::site::Site;
use crate::train::TrainedModel;
use crate::validate::{Check, Sitting, Verdict, sit};
use crate::window::Window;

#[derive(Args)]
pub struct ValidateArgs {
    /// A model id, `latest` or `champion`
    #[arg(default_value = "latest")]
    model: String,
    /// Examine on this window's holdout [default: the one built last]
    #[arg(long, value_name = "ID")]
    window: Option<String>,
    /// Write the model's forecasts of the examined samples, beside the truth, to this parquet file
    #[arg(long, value_name = "FILE")]
    forecasts: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(args: ValidateArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
    args.forecasts.as_deref().map_or(Ok(()), ensure_folder_of)?;
    let registry = Registry::open(&site);
    let device = args.device.resolve(context)?;
    // It writes a verdict and perhaps an audit line, against the champion of this very moment.
    let _lock = site.lock("validate", now, args.wait.duration())?;
    let model = registry.resolve(&args.model)?;
    // Said before a window is asked for: no window makes such a model fit for an exam.
    ModelManifest::read(&registry.model_dir(&model))?.ensure_has_preprocessing()?;
    let window = chosen_window(&site, args.window.as_deref())?;
    let sitting =
        Sitting { model: &model, window: &window, device: &device, by: By::Operator, probe: &probe::probe };
    let verdict = sit(&site, &registry, &sitting, now, context.progress())?;
    context.output.result(&verdict, render)?;
    if let Some(path) = &args.forecasts {
        if verdict.scores.is_empty() {
            context.progress().warn("no forecasts are written: the model could not be scored");
        } else {
            write_forecasts(path, &registry.model_dir(&model), &window, &site, &device)?;
        }
    }
    Ok(verdict.outcome.exit())
}

fn write_forecasts(
    path: &Path,
    model_dir: &Path,
    window: &Window,
    site: &Site,
    device: &Device,
) -> anyhow::Result<()> {
    let model = TrainedModel::read(model_dir, device)?;
    forecast::write_holdout(path, &model, window, &site.config, device)
        .with_context(|| format!("write the forecasts to {}", path.display()))?;
    Ok(())
}

/// The verdict for people: scaled losses side by side, then in the targets' own units, then every check.
pub(super) fn render(verdict: &Verdict) -> String {
    let losses = losses_table(verdict);
    let own = own_units_table(verdict);
    let checks: String =
        verdict.checks.iter().map(|check| format!("  {:<9} {}\n", word(check), check.explain)).collect();
    format!("{}\n\n{losses}\n{own}\n{checks}", verdict.in_a_line())
}

/// One row per forecaster; losses divided by each series' day-to-day change.
fn losses_table(verdict: &Verdict) -> String {
    let rows = verdict.scores.iter().map(|scores| {
        let targets = scores.targets.iter().map(|target| text::number(Some(target.slice.loss)));
        let mut row =
            vec![scores.forecaster.clone(), text::number(Some(scores.loss)), text::number(scores.coverage)];
        row.extend(targets);
        row
    });
    let mut header = vec!["forecaster", "loss", "P10-P90"];
    header.extend(target_names(verdict));
    text::table(&header, rows)
}

/// One row per target: quantile losses in its own unit, and the absolute error of the first forecaster's median.
/// Nothing where nobody was scored.
fn own_units_table(verdict: &Verdict) -> String {
    let Some(first) = verdict.scores.first() else { return String::new() };
    let error = format!("MAE of {}", first.forecaster);
    let mut header = vec!["in own units", "unit"];
    header.extend(verdict.scores.iter().map(|scores| scores.forecaster.as_str()));
    header.push(&error);
    let rows = first.targets.iter().enumerate().map(|(at, target)| {
        let of = |scores: &Scores| scores.targets.get(at).map(|target| target.quantile_loss);
        let mut row = vec![target.slice.name.clone(), target.unit.clone()];
        row.extend(verdict.scores.iter().map(|scores| text::number(of(scores))));
        row.push(text::number(Some(target.mae)));
        row
    });
    text::table(&header, rows)
}

fn target_names(verdict: &Verdict) -> Vec<&str> {
    let first = verdict.scores.first();
    first.into_iter().flat_map(|scores| &scores.targets).map(|target| target.slice.name.as_str()).collect()
}

fn word(check: &Check) -> &'static str {
    match check {
        Check { applicable: false, .. } => "-",
        Check { passed: true, .. } => "ok",
        Check { waived: true, .. } => "waived",
        _ => "FAILED",
    }
}
