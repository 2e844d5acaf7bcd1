//! `validate`: the exam of one model.

use clap::Args;

use super::context::{Context, WaitArgs};
use super::device::DeviceArgs;
use super::train::chosen_window;
use super::{probe, text};
use crate::error::Exit;
use crate::model_manifest::ModelManifest;
use crate::registry::{By, Registry};
use crate::validate::{Check, Sitting, Verdict, sit};

#[derive(Args)]
pub struct ValidateArgs {
    /// A model id, `latest` or `champion`
    #[arg(default_value = "latest")]
    model: String,
    /// Examine on this window's holdout [default: the one built last]
    #[arg(long, value_name = "ID")]
    window: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(args: ValidateArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
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
    Ok(verdict.outcome.exit())
}

/// The verdict for people: losses side by side, then every check.
pub(super) fn render(verdict: &Verdict) -> String {
    let rows = verdict.scores.iter().map(|scores| {
        let targets = scores.targets.iter().map(|target| text::number(Some(target.slice.loss)));
        let mut row =
            vec![scores.forecaster.clone(), text::number(Some(scores.loss)), text::number(scores.coverage)];
        row.extend(targets);
        row
    });
    let mut header = vec!["forecaster".to_owned(), "loss".into(), "P10-P90".into()];
    if let Some(scores) = verdict.scores.first() {
        header.extend(scores.targets.iter().map(|target| target.slice.name.clone()));
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let losses = text::table(&header, rows);
    let checks: String =
        verdict.checks.iter().map(|check| format!("  {:<9} {}\n", word(check), check.explain)).collect();
    format!("{}\n\n{losses}\n{checks}", verdict.in_a_line())
}

fn word(check: &Check) -> &'static str {
    match check {
        Check { applicable: false, .. } => "-",
        Check { passed: true, .. } => "ok",
        Check { waived: true, .. } => "waived",
        _ => "FAILED",
    }
}
