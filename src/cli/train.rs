//! `train`: one more epoch of the lineage.

use std::time::Duration;

use clap::Args;

use super::context::{Context, WaitArgs, parse_duration};
use super::device::DeviceArgs;
use super::sampling::SamplingArgs;
use super::text;
use crate::error::{Exit, HintExt, Refusal};
use crate::registry::Registry;
use crate::site::Site;
use crate::train::{self, IfChanged, Start, TargetLoss, TrainOutcome, TrainRequest, archive};
use crate::window::{self, Window};

#[derive(Args)]
#[command(group(clap::ArgGroup::new("start").args(["resume", "fresh", "from"])))]
pub struct TrainArgs {
    /// Epochs to add to the lineage [default: epochs_per_day]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Continue the lineage: finish an unfinished epoch, or add epochs (this is the default)
    #[arg(long)]
    resume: bool,
    /// Begin a new lineage; the old one's models stay, and its state in checkpoints/lineages/
    #[arg(long)]
    fresh: bool,
    /// Continue from this model's weights (an id, `champion` or `previous`), or from a lineage that was left
    #[arg(long, value_name = "MODEL|LINEAGE")]
    from: Option<String>,
    /// Train on this window [default: the one built last]
    #[arg(long, value_name = "ID")]
    window: Option<String>,
    /// Stop cleanly before this has passed, such as 4h [default: max_training_duration_hours]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_duration: Option<Duration>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(args: TrainArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut site = context.site()?;
    args.sampling.apply(&mut site.config)?;
    let now = context.clock(site.zone())?.now();
    let device = args.device.choice()?;
    // Window and model are looked up under the lock: the run that was waited for may have made newer ones.
    let _lock = site.lock("train", now, args.wait.duration())?;
    let window = chosen_window(&site, args.window.as_deref())?;
    let start = match &args.from {
        Some(text) if archive::is_lineage_name(text) => {
            Start::From(archive::find(&site.checkpoints_dir(), text)?)
        }
        Some(text) => {
            let registry = Registry::open(&site);
            Start::From(registry.model_dir(&registry.resolve(text)?))
        }
        None if args.fresh => Start::Fresh,
        None => Start::Resume,
    };
    let limit = Duration::try_from_secs_f64(site.config.max_training_duration_hours * 3600.0).ok();
    let request = TrainRequest {
        epochs: args.epochs.unwrap_or(site.config.epochs_per_day),
        start,
        max_duration: args.max_duration.or(limit),
        device,
        run_key: None,
        if_changed: IfChanged::Refuse,
    };
    let stop = context.stop_on_signal()?;
    let outcome = train::train(&site, &window, &request, &stop, now, context.progress())?;
    context.output.result(&outcome, render)?;
    Ok(Exit::Done)
}

/// The window of that id, or the one built last.
pub(super) fn chosen_window(site: &Site, id: Option<&str>) -> anyhow::Result<Window> {
    match id {
        Some(id) => window::open(site, id),
        None => window::latest(site)?
            .ok_or_else(|| Refusal::usage("there is no window yet"))
            .hint(|| "`tftctl window build` makes one".into()),
    }
}

fn render(outcome: &TrainOutcome) -> String {
    let record = &outcome.record;
    let partial =
        record.partial_epoch.map(|share| format!(" and {:.0} % of one", share * 100.0)).unwrap_or_default();
    let line = format!(
        "{}: {}{partial} more, {} in all; train loss {}; {} steps, {:.0} samples/s, {:.0} s",
        outcome.model_id,
        text::plural(record.epochs_run.into(), "epoch"),
        record.total_epochs,
        text::number(Some(record.loss_train)),
        record.optimizer_steps,
        record.samples_per_s,
        record.duration_secs,
    );
    let stale = match record.stale_scales.n_series {
        0 => String::new(),
        n => format!("{n} series have left their scales; `tftctl train --fresh` fits them anew\n"),
    };
    let dir = outcome.model_dir.display();
    if record.targets.is_empty() {
        return format!("{line}\n{stale}{dir}");
    }
    format!("{line}\n\n{}\n{stale}{dir}", targets_table(&record.targets))
}

/// The last epoch's loss of each target: scaled, and in its own unit.
fn targets_table(targets: &[TargetLoss]) -> String {
    let header = ["target", "weight", "scaled loss", "own loss", "unit", "points"];
    let rows = targets.iter().map(|target| {
        vec![
            target.name.clone(),
            text::number(Some(target.weight)),
            text::number(Some(target.loss_scaled)),
            text::number(Some(target.loss_own_unit)),
            target.unit.clone(),
            text::count(target.n_points),
        ]
    });
    text::table(&header, rows)
}
