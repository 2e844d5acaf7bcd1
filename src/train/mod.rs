//! One more epoch: from a window and the lineage's checkpoint to a new checkpoint and an immutable model.
//!
//! [`train`] is the sequence: [`mod@plan`] decides from the state on disk what there is to do, [`lineage`] puts
//! weights, moments, vocabulary and scalers together, [`session`] trains, [`publish`] makes a model of the
//! result. [`epoch`], [`order`], [`objective`], [`tally`], [`lr_schedule`], [`guard`], [`pace`], [`optimizer`] and [`ema`] (both on
//! [`flat`]) are what the loop is made of; [`checkpoint`], [`archive`] and [`artifact`] are the files. [`exchange`] brings
//! networks in from another library, and out.
//!
//! State on disk: `checkpoints/{last,previous}/`, `checkpoints/lineages/`, `checkpoints/published.json`,
//! `models/tft_model_*/`. Invariants: `--epochs N` is an increment and never a total; a run that trained nothing is an error; a checkpoint or model
//! without a manifest does not exist; a killed run, continued, ends in the same bits (CPU). Who is champion is
//! not known here.

pub mod archive;
pub mod artifact;
pub mod checkpoint;
pub mod device;
pub mod ema;
pub mod epoch;
pub mod exchange;
pub mod flat;
mod graph;
pub mod grow;
pub mod guard;
mod head;
pub mod lineage;
pub mod lr_schedule;
pub mod objective;
pub mod optimizer;
pub mod order;
mod pace;
pub mod plan;
pub mod publish;
pub mod record;
pub mod session;
mod sizes;
pub mod step;
pub mod tally;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use chrono::{DateTime, Utc};

use crate::config::Config;
use crate::dataset::Survey;
use crate::error::HintExt;
use crate::fsx;
use crate::progress::Progress;
use crate::site::Site;
use crate::window::Window;

pub use artifact::TrainedModel;
pub use device::DeviceChoice;
pub use lineage::Material;
pub use plan::Start;
pub use record::{TrainOutcome, TrainRecord};
pub use tally::TargetLoss;

use checkpoint::{Checkpoint, State};
use lineage::{Footing, Origin, Setting, config_digest};
use plan::{Asked, Plan, plan};
use session::Session;

/// Stack of the training thread. A backward pass recurses once per chained operation of the network.
const STACK_BYTES: usize = 256 << 20;

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// Epochs to add.
    pub epochs: u32,
    pub start: Start,
    /// Limit on the training itself, over all processes of a named run; what comes after it (the exam) is the
    /// caller's to reserve.
    pub max_duration: Option<Duration>,
    pub device: DeviceChoice,
    /// Names the run, usually by its logical date: a run of the same name is continued or found done, and never
    /// trained twice.
    pub run_key: Option<String>,
    /// What to do where the config no longer fits the weights there are.
    pub if_changed: IfChanged,
}

/// What a changed config leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfChanged {
    /// A refusal that names the difference: a person decides.
    #[default]
    Refuse,
    /// A new lineage of so many epochs, with a warning that names the difference.
    Fresh { epochs: u32 },
}

impl Default for TrainRequest {
    /// One more epoch on whatever device there is.
    fn default() -> Self {
        Self {
            epochs: 1,
            start: Start::default(),
            max_duration: None,
            device: DeviceChoice::default(),
            run_key: None,
            if_changed: IfChanged::Refuse,
        }
    }
}

/// [`train_on`] the stored window `window`.
///
/// - Errors: its values cannot be read, or those of [`train_on`].
pub fn train(
    site: &Site,
    window: &Window,
    request: &TrainRequest,
    stop: &AtomicBool,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<TrainOutcome> {
    let begun = Instant::now();
    let feed = window.feed(site.config.training.memory_bytes())?;
    progress.detail(&format!("window read in {:.2} s", begun.elapsed().as_secs_f64()));
    let material = Material { window_id: &window.id, feed: &feed, split: &window.manifest.split };
    train_on(site, &material, request, stop, now, progress)
}

/// Trains on `material` and publishes the model; the caller holds the site lock.
///
/// Works in a thread of its own with a large stack. Progress is told per batch.
///
/// - Errors: [`crate::error::Refusal::Interrupted`] once `stop` is set, after a checkpoint;
///   [`crate::error::Refusal::Usage`] where the config no longer fits the lineage, or CUDA was asked for and is
///   not there; [`crate::error::Refusal::NotEnoughData`] without a training sample; a run that diverged, or
///   trained nothing. The last good checkpoint and all models stay as they were.
pub fn train_on(
    site: &Site,
    material: &Material<'_>,
    request: &TrainRequest,
    stop: &AtomicBool,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<TrainOutcome> {
    if request.epochs == 0 {
        return Err(crate::error::Refusal::usage("training needs at least one epoch"));
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("train".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || train_here(site, material, request, stop, now, progress))
            .context("start the training thread")?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn train_here(
    site: &Site,
    material: &Material<'_>,
    request: &TrainRequest,
    stop: &AtomicBool,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<TrainOutcome> {
    let (device, device_reason) = request.device.resolve_for(site.config.training.precision)?;
    progress.note(&format!("training on {device_reason}"));
    let checkpoints_dir = site.checkpoints_dir();
    for dir in [archive::dir(&checkpoints_dir), checkpoints_dir.clone(), site.models_dir()] {
        fsx::sweep_staging(&dir, Duration::ZERO).with_context(|| format!("sweep {}", dir.display()))?;
    }
    let last = open_checkpoint(site, request, progress)?;
    let spent = time_spent(request, last.as_ref());
    let plan = decide(site, material, request, last.as_ref())?;
    if plan == Plan::Publish {
        progress.note("this run is trained already");
        let last = last.context("a finished run has a checkpoint")?;
        return publish::publish(site, &Footing::unchanged(last, &Device::Cpu)?, now);
    }
    let begun = Instant::now();
    let is_fitted = matches!(plan, Plan::Continue { .. });
    let survey = Survey::of(material.feed, material.split, &site.config, !is_fitted)
        .context("look at the window's servers")?;
    let setting = Setting {
        material: *material,
        survey: &survey,
        config: &site.config,
        device: &device,
        device_reason: &device_reason,
        key: request.run_key.as_deref(),
        epochs: request.epochs,
        now,
        left: last.as_ref().map(|last| last.state.lineage.as_str()),
    };
    let (footing, until) = begin(site, request, &setting, plan, last.clone(), progress)?;
    let limit = request.max_duration.map(|limit| limit.saturating_sub(spent));
    let dir = site.checkpoints_dir();
    let mut session = Session::new(footing, (material, &survey), &site.config, &device, dir, limit)?;
    progress.detail(&format!("prepared in {:.2} s", begun.elapsed().as_secs_f64()));
    let kept = match &last {
        Some(last) => keep_left_lineage(site, last, &session.footing.state.lineage, progress)?,
        None => None,
    };
    session.run(until, stop, progress)?;
    if let Some(kept) = kept {
        prune_lineages(site, &kept)?;
    }
    publish::publish(site, &session.footing, now)
}

/// Training time that earlier processes of this very run took: a night that is killed and started again gets what is
/// left of its limit. A run without a name begins its limit anew, since a person asked for it anew.
fn time_spent(request: &TrainRequest, last: Option<&Checkpoint>) -> Duration {
    let run = last.map(|last| &last.state.run);
    let same = run.filter(|run| run.key.is_some() && run.key == request.run_key);
    same.and_then(|run| Duration::try_from_secs_f64(run.duration_secs).ok()).unwrap_or_default()
}

/// Puts the state of the lineage in `last` where the checkpoints of `next` cannot push it out; returns its name there.
fn keep_left_lineage(
    site: &Site,
    last: &Checkpoint,
    next: &str,
    progress: &dyn Progress,
) -> Result<Option<String>> {
    if last.state.lineage == next {
        return Ok(None);
    }
    let checkpoints_dir = site.checkpoints_dir();
    let name = archive::keep(&checkpoints_dir, last)?;
    progress.note(&format!(
        "{} is left and kept: `tftctl train --from {name}` goes on with it",
        last.state.lineage
    ));
    Ok(Some(name))
}

/// Deletes the oldest kept lineages, but not `kept`. Only once the run that left it is on disk: until then the lineage it
/// went back to may exist nowhere else.
fn prune_lineages(site: &Site, kept: &str) -> Result<()> {
    let checkpoints_dir = site.checkpoints_dir();
    let old = archive::plan_prune(&archive::list(&checkpoints_dir)?, site.config.retention.lineages, kept);
    archive::apply_prune(&checkpoints_dir, &old)
}

/// The lineage's newest checkpoint. A new lineage does not need it: a damaged one must not stand in its way.
fn open_checkpoint(
    site: &Site,
    request: &TrainRequest,
    progress: &dyn Progress,
) -> Result<Option<Checkpoint>> {
    match Checkpoint::open_latest(&site.checkpoints_dir(), progress) {
        Err(error) if request.start == Start::Fresh => {
            progress.warn(&format!("the old lineage cannot be read and is set aside: {error:#}"));
            checkpoint::set_last_aside(&site.checkpoints_dir())?;
            Ok(None)
        }
        opened => opened.hint(|| "`tftctl train --fresh` begins a new lineage; all models stay".into()),
    }
}

fn decide(
    site: &Site,
    material: &Material<'_>,
    request: &TrainRequest,
    last: Option<&Checkpoint>,
) -> Result<Plan> {
    let is_published = match last {
        Some(last) => publish::published(site, last)?.is_some(),
        None => false,
    };
    let asked = Asked {
        epochs: request.epochs,
        start: &request.start,
        key: request.run_key.as_deref(),
        window_id: material.window_id,
        config_digest: &config_digest(&site.config),
    };
    Ok(plan(last.map(|last| &last.state), is_published, &asked))
}

/// What the run starts from, and how many of its epochs are to be done at its end.
fn begin(
    site: &Site,
    request: &TrainRequest,
    setting: &Setting<'_>,
    plan: Plan,
    last: Option<Checkpoint>,
    progress: &dyn Progress,
) -> Result<(Footing, u32)> {
    match (plan, last, &request.start) {
        (Plan::Continue { until }, Some(last), _) => {
            let mut footing = Footing::unchanged(last, setting.device)?;
            if request.run_key.is_none() {
                tell_what_is_finished(&footing.state, until, request.epochs, progress);
            }
            let run = &mut footing.state.run;
            progress.note(&format!(
                "continuing {} at batch {} of {} in epoch {}",
                footing.state.lineage,
                run.epoch.batches_done,
                run.n_batches,
                footing.state.total_epochs + 1
            ));
            setting.device_reason.clone_into(&mut run.device);
            if let Some(key) = setting.key {
                run.key = Some(key.to_owned());
            }
            Ok((footing, until))
        }
        (Plan::Next { epochs }, Some(last), _) => {
            let published = publish::published(site, &last)?;
            let origin = Origin::of_checkpoint(last, published.as_ref());
            next_or_fresh(origin, request, &Setting { epochs, ..*setting }, progress)
        }
        (Plan::From { epochs }, _, Start::From(dir)) => {
            let origin = origin_in(site, dir).with_context(|| format!("start from {}", dir.display()))?;
            next_or_fresh(origin, request, &Setting { epochs, ..*setting }, progress)
        }
        (Plan::Fresh { epochs }, ..) => Ok((Footing::fresh(setting)?, epochs)),
        (plan, ..) => bail!("the plan {plan:?} does not fit what is there"),
    }
}

/// A model folder, or a checkpoint folder with the model that was made of it as its parent.
fn origin_in(site: &Site, dir: &Path) -> Result<Origin> {
    if !checkpoint::is_checkpoint(dir) {
        return Origin::of_model(dir);
    }
    let checkpoint = Checkpoint::read(dir)?;
    let published = publish::published(site, &checkpoint)?;
    Ok(Origin::of_checkpoint(checkpoint, published.as_ref()))
}

/// An epoch that was left unfinished is finished and nothing more, whatever number was asked for: say so.
fn tell_what_is_finished(state: &State, until: u32, asked: u32, progress: &dyn Progress) {
    let n_left = until - state.run.epochs_done;
    if state.run.epochs_planned != asked && n_left != asked {
        progress.warn(&format!(
            "an epoch was left unfinished: it is finished now and nothing more; ask again for {asked} more"
        ));
    }
}

/// The next run of a lineage; or a new lineage, where the config has left the old one behind and that is wanted.
fn next_or_fresh(
    origin: Origin,
    request: &TrainRequest,
    setting: &Setting<'_>,
    progress: &dyn Progress,
) -> Result<(Footing, u32)> {
    match (origin.difference(setting.config), request.if_changed) {
        (Some(what), IfChanged::Fresh { epochs }) => {
            progress.warn(&format!(
                "{what} differ from those the lineage was trained with: a new lineage begins; epochs: {epochs}"
            ));
            Ok((Footing::fresh(&Setting { epochs, ..*setting })?, epochs))
        }
        _ => {
            let footing = Footing::next(origin, setting)?;
            if let Some(stale) = footing.state.run.stale_scales.message() {
                progress.warn(&stale);
            }
            Ok((footing, setting.epochs))
        }
    }
}

/// Whether a training under `config` can start from the model folder `dir`; if not, why.
///
/// Reads every byte of the model.
pub fn obstacle_to_start_from(dir: &Path, config: &Config) -> Option<String> {
    match Origin::of_model(dir) {
        Err(error) => Some(format!("{error:#}")),
        Ok(origin) => {
            let difference = origin.difference(config);
            difference.map(|what| format!("{what} differ from those it was trained with"))
        }
    }
}
