//! The loop: batch after batch through the network, until the epochs are done, time is up or a signal comes.
//!
//! Every number that a batch depends on is a function of the [`State`](super::checkpoint::State): which samples
//! (seed, epoch), which dropout and which samples pose as strangers (seed, batch), which learning rate (position in
//! the run). What a checkpoint holds is therefore all there is, and a run that was killed continues to the same bits
//! on the CPU.
//!
//! The one exception is a limit that bites: once the measured speed says that the run cannot finish in time, the
//! learning rate is planned for the batches that still fit, and those depend on the wall clock. A run that ends before
//! its limit never looks at it.
//!
//! A checkpoint in mid-epoch is written between the backward of a batch and its step: the weights in it have then just
//! given a finite loss and a finite gradient. Weights that a step has blown up never reach one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use super::artifact::{named_weights, weights_sha256};
use super::checkpoint::{self, Ending, EpochPosition, Parts};
use super::ema::Ema;
use super::epoch::{Epoch, Part, Size};
use super::graph::{GraphedStep, Numbers};
use super::guard::Guard;
use super::lineage::{Footing, Material};
use super::lr_schedule::learning_rate;
use super::pace::{Pace, duration_text};
use super::sizes::{ensure_takes_any, fix_size, sizes};
use super::step::{Learner, Taken};
use crate::config::{Config, TrainingConfig};
use crate::dataset::{Batch, Dataset, Resident, SampleKey, Survey};
use crate::error::Refusal;
use crate::ops::random::Key;
use crate::progress::{Progress, Tick};

/// Share of training samples whose server poses as unknown, so that servers never seen can be served.
const STRANGER_SHARE: f64 = 0.05;

/// Steps of a GPU whose outcome is read together: every reading waits for the device.
const READ_TOGETHER: usize = 16;

/// A run in progress.
pub struct Session<'a> {
    pub footing: Footing,
    settings: &'a TrainingConfig,
    device: Device,
    checkpoints_dir: PathBuf,
    material: Material<'a>,
    survey: &'a Survey,
    max_gap_steps: usize,
    /// The part in memory.
    loaded: Option<Loaded>,
    /// What the run has behind it at the beginning of each of its epochs, and at its end.
    sizes: Vec<Size>,
    /// Samples of the epoch so far.
    n_in_epoch: u64,
    learner: Learner,
    /// Whether steps are to be single launches, and the one that is recorded for the window in memory.
    is_graphing: bool,
    graphed: Option<GraphedStep>,
    /// Steps whose outcome has not been looked at, with their samples. On the CPU there is never one for long.
    unread: Vec<(Taken, usize)>,
    pace: Pace,
}

/// A part in memory.
struct Loaded {
    blocks: Vec<usize>,
    dataset: Dataset,
    /// Its values on the device, where that is a GPU with room for them.
    resident: Option<Resident>,
}

impl Loaded {
    fn batch(
        &self,
        keys: &[SampleKey],
        is_stranger: impl Fn(usize) -> bool,
        device: &Device,
    ) -> Result<Batch> {
        match &self.resident {
            Some(resident) => resident.batch(keys, is_stranger),
            None => self.dataset.batch_with_strangers(keys, is_stranger, device),
        }
    }
}

/// Why an epoch's loop was left.
enum Left {
    AtItsEnd,
    OutOfTime,
    Stopped,
}

impl<'a> Session<'a> {
    /// Puts network and optimizer on the device; values are read when an epoch asks for them.
    ///
    /// - Errors: the window has no training sample ([`Refusal::NotEnoughData`]), or the settings take none of them
    ///   ([`Refusal::Usage`]); parts do not fit together.
    pub fn new(
        mut footing: Footing,
        (material, survey): (&Material<'a>, &'a Survey),
        config: &'a Config,
        device: &Device,
        checkpoints_dir: PathBuf,
        limit: Option<Duration>,
    ) -> Result<Self> {
        let settings = &config.training;
        if survey.servers.iter().all(|server| server.cutoffs.is_empty()) {
            let reasons = vec!["the window holds no training sample without a long gap".to_owned()];
            return Err(Refusal::NotEnoughData { reasons }.into());
        }
        let sizes = sizes(&footing.state, material.feed, survey, settings);
        fix_size(&mut footing.state, &sizes)?;
        ensure_takes_any(&sizes, settings)?;
        let (network, settled) = ((&footing.config, &footing.params), (&config.model, settings));
        let mut learner = Learner::new(network, &footing.preprocessing, settled, device)?;
        if let Some(moments) = footing.moments.take() {
            let n_steps = footing.state.moment_steps;
            learner.optimizer.restore(&moments, n_steps).context("continue the optimizer")?;
        }
        let pace = Pace::begin(limit, footing.state.run.duration_secs);
        Ok(Self {
            footing,
            settings,
            device: device.clone(),
            checkpoints_dir,
            material: *material,
            survey,
            max_gap_steps: config.window.max_gap_steps,
            loaded: None,
            sizes,
            n_in_epoch: 0,
            learner,
            graphed: None,
            is_graphing: settings.cuda_graph && !device.is_cpu(),
            unread: Vec::new(),
            pace,
        })
    }

    /// Trains until `until` epochs of the run are done, or time is up, and leaves a checkpoint of it.
    ///
    /// - Errors: [`Refusal::Interrupted`] after a checkpoint once `stop` is set; too many steps without a finite
    ///   loss; a run that took no step or changed no weight. In the last two cases the last good checkpoint
    ///   stays.
    pub fn run(&mut self, until: u32, stop: &AtomicBool, progress: &dyn Progress) -> Result<()> {
        self.footing.state.run.ended = None;
        let mut ending = Ending::Complete;
        while self.footing.state.run.epochs_done < until {
            let left = self.run_epoch(stop, progress)?;
            self.settle()?;
            match left {
                Left::AtItsEnd => self.finish_epoch(progress),
                Left::OutOfTime => {
                    ending = Ending::Deadline;
                    progress.warn("the time for training is up; going on with the model as it is");
                    break;
                }
                Left::Stopped => return self.interrupt(),
            }
            if self.footing.state.run.epochs_done < until {
                self.checkpoint()?;
            }
        }
        self.ensure_trained()?;
        self.footing.state.run.ended = Some(ending);
        self.pace.note_change();
        self.checkpoint()?;
        if stop.load(Ordering::SeqCst) { self.interrupt() } else { Ok(()) }
    }

    fn interrupt(&mut self) -> Result<()> {
        self.checkpoint()?;
        Err(Refusal::Interrupted { step: self.footing.state.total_steps }.into())
    }

    fn run_epoch(&mut self, stop: &AtomicBool, progress: &dyn Progress) -> Result<Left> {
        fix_size(&mut self.footing.state, &self.sizes)?;
        let (feed, survey, settings) = (self.material.feed, self.survey, self.settings);
        let state = &self.footing.state;
        let epoch = Epoch::plan(feed, survey, settings, state.seed, state.total_epochs);
        let mut n_done = state.run.epoch.batches_done;
        self.n_in_epoch = 0;
        for part in &epoch.parts {
            let n_batches = part.size(settings.batch_size).n_batches;
            if n_done >= n_batches {
                n_done -= n_batches;
                self.n_in_epoch += part.size(settings.batch_size).n_samples;
                continue;
            }
            let samples = epoch.samples(part, feed, survey, settings);
            self.n_in_epoch += n_done * settings.batch_size as u64;
            for keys in samples.batches(settings.batch_size).skip(n_done as usize) {
                if stop.load(Ordering::SeqCst) {
                    return Ok(Left::Stopped);
                }
                if self.pace.is_out_of_time() {
                    return Ok(Left::OutOfTime);
                }
                self.load(part, progress)?;
                self.train_batch(&keys, progress)?;
                self.n_in_epoch += keys.len() as u64;
                self.tell(progress);
            }
            n_done = 0;
        }
        Ok(Left::AtItsEnd)
    }

    /// Puts the servers of `part` into memory, if they are not there; those that were are let go before.
    fn load(&mut self, part: &Part, progress: &dyn Progress) -> Result<()> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.blocks == part.blocks) {
            return Ok(());
        }
        (self.loaded, self.graphed) = (None, None);
        let grid = self.material.feed.read(&part.blocks).context("read a part of the window")?;
        let dataset = Dataset::new(grid, self.footing.preprocessing.clone(), self.max_gap_steps)?;
        let resident = dataset.resident(&self.device).context("put the window onto the device")?;
        if resident.is_none() && !self.device.is_cpu() {
            progress.note(
                "the window takes more than half of the device's free memory: batches come from the host",
            );
        }
        self.loaded = Some(Loaded { blocks: part.blocks.clone(), dataset, resident });
        Ok(())
    }

    /// One batch: forward, backward, a checkpoint if it is time, and a step; nothing of it but the first two if loss
    /// or gradient are not finite.
    fn train_batch(&mut self, keys: &[SampleKey], progress: &dyn Progress) -> Result<()> {
        let (seed, number) = (self.footing.state.seed, self.footing.state.total_batches);
        let strangers = Key::new(seed).name("strangers").number(number);
        let is_stranger = |place: usize| strangers.uniform(place as u64) < STRANGER_SHARE;
        let is_due = self.pace.is_checkpoint_due(self.settings.checkpoint_secs);
        // A batch with a checkpoint is looked at before its step, and one of another size is no launch that is known.
        if self.is_graphing && !is_due && keys.len() == self.settings.batch_size {
            match self.step_at_once(keys, is_stranger) {
                Ok(true) => return self.note_step(),
                Ok(false) => self.is_graphing = false,
                Err(error) => {
                    self.is_graphing = false;
                    progress.warn(&format!("training goes on without training.cuda_graph: {error:#}"));
                }
            }
        }
        let loaded = self.loaded.as_ref().context("a batch needs its servers in memory")?;
        let batch = loaded.batch(keys, is_stranger, &self.device)?;
        let look = self.learner.look(&batch, seed, number)?;
        if is_due && look.read()?.is_finite() {
            self.settle()?;
            self.checkpoint()?;
        }
        let rate = learning_rate(self.settings.learning_rate, self.position(), self.n_planned());
        let ema = self.footing.ema.as_mut().map(|ema| (ema, self.settings.ema_decay));
        self.unread.push((self.learner.step(&look, rate, ema)?, keys.len()));
        self.note_step()
    }

    /// A whole step as one launch; false where the window does not lie on a GPU.
    fn step_at_once(&mut self, keys: &[SampleKey], is_stranger: impl Fn(usize) -> bool) -> Result<bool> {
        let Some(resident) = self.loaded.as_ref().and_then(|loaded| loaded.resident.as_ref()) else {
            return Ok(false);
        };
        let learning_rate = learning_rate(self.settings.learning_rate, self.position(), self.n_planned());
        let (seed, number) = (self.footing.state.seed, self.footing.state.total_batches);
        let numbers = Numbers { keys, seed, number, learning_rate };
        let graphed = match &mut self.graphed {
            Some(graphed) => graphed,
            none => none.insert(GraphedStep::new(&self.learner, keys.len(), &self.device)?),
        };
        let ema = self.footing.ema.as_mut().map(|ema| (ema, self.settings.ema_decay));
        let taken = graphed.run(&mut self.learner, resident, &numbers, is_stranger, ema)?;
        self.unread.push((taken, keys.len()));
        Ok(true)
    }

    /// Counts a batch whose step is on its way, or done.
    fn note_step(&mut self) -> Result<()> {
        self.footing.state.total_batches += 1;
        self.footing.state.run.epoch.batches_done += 1;
        self.pace.note_batch();
        if self.device.is_cpu() || self.unread.len() >= READ_TOGETHER { self.settle() } else { Ok(()) }
    }

    /// Looks at what became of the last steps, and counts it.
    ///
    /// - Errors: too many steps without a finite loss.
    fn settle(&mut self) -> Result<()> {
        let n_batches = self.planned().n_batches;
        let (taken, n_samples): (Vec<Taken>, Vec<usize>) =
            std::mem::take(&mut self.unread).into_iter().unzip();
        let told = self.learner.read(taken, self.footing.ema.as_mut())?;
        let state = &mut self.footing.state;
        for (told, n_samples) in told.into_iter().zip(n_samples) {
            if state.run.guard.admit(told.loss, told.norm, n_batches)? {
                state.total_steps += 1;
                state.run.epoch.take_in(n_samples, told.loss);
                self.learner.objective.count(&mut state.run.epoch_targets, &told.per_target);
            }
        }
        state.moment_steps = self.learner.optimizer.n_steps();
        state.ema_steps = self.footing.ema.as_ref().map_or(0, Ema::n_steps);
        Ok(())
    }

    /// What of the run is behind it at the beginning of this epoch.
    fn before(&self) -> Size {
        let done = self.footing.state.run.epochs_done as usize;
        self.sizes.get(done).copied().unwrap_or_else(|| self.planned())
    }

    /// The whole run.
    fn planned(&self) -> Size {
        self.sizes.last().copied().unwrap_or_default()
    }

    /// Batches of this run seen so far: the position in the learning-rate schedule.
    fn position(&self) -> u64 {
        self.before().n_batches + self.footing.state.run.epoch.batches_done
    }

    /// Batches the learning rate is planned for: the whole run, or what the measured speed allows in time, so
    /// that a run cut short by its deadline has cooled down when it ends.
    fn n_planned(&self) -> u64 {
        let n_planned = self.planned().n_batches;
        self.pace.batches_left().map_or(n_planned, |n_left| n_planned.min(self.position() + n_left.max(1)))
    }

    fn finish_epoch(&mut self, progress: &dyn Progress) {
        let state = &mut self.footing.state;
        let loss = state.run.epoch.loss();
        state.total_epochs += 1;
        state.run.epochs_done += 1;
        state.run.losses.push(loss);
        state.run.epoch = EpochPosition::default();
        state.run.targets = std::mem::take(&mut state.run.epoch_targets);
        self.pace.note_change();
        progress.note(&format!("epoch {} done, train {loss:.4}", state.total_epochs));
    }

    /// Writes `checkpoints/last`, if anything was trained since the last one. A run that has not moved a weight yet has
    /// nothing to write: what fails to train leaves the disk as it was.
    ///
    /// - Errors: the weights are not finite, or so large that they are past saving. The last checkpoint stays.
    fn checkpoint(&mut self) -> Result<()> {
        if !self.pace.is_dirty() || !self.has_moved_weights()? {
            return Ok(());
        }
        let begun = Instant::now();
        ensure!(
            self.learner.optimizer.weights_norm()?.is_finite(),
            "training diverged: the weights are not finite after step {}; the last checkpoint is from before",
            self.footing.state.total_steps
        );
        self.footing.state.run.duration_secs = self.pace.secs_in_all();
        let footing = &self.footing;
        let parts = Parts {
            state: &footing.state,
            config: &footing.config,
            preprocessing: &footing.preprocessing,
            weights: &named_weights(&footing.params),
            moments: &self.moments()?,
            ema: &footing.ema.as_ref().map(Ema::named).unwrap_or_default(),
        };
        checkpoint::write(&self.checkpoints_dir, &parts)?;
        self.pace.note_checkpoint(begun);
        Ok(())
    }

    fn has_moved_weights(&self) -> Result<bool> {
        Ok(weights_sha256(&self.footing.params)? != self.footing.state.run.weights_before)
    }

    /// The optimizer's moments by parameter name.
    pub fn moments(&self) -> Result<HashMap<String, Tensor>> {
        self.learner.optimizer.moments()
    }

    /// Training that did not train is a failure, whatever else went well.
    fn ensure_trained(&self) -> Result<()> {
        let run = &self.footing.state.run;
        ensure!(run.guard.n_applied > 0, "the run made no optimizer step: {}", why_no_step(&run.guard));
        ensure!(
            self.has_moved_weights()?,
            "the run made {} optimizer steps and left every weight unchanged",
            run.guard.n_applied
        );
        if let (Some(ema), Some(before)) = (&self.footing.ema, &run.ema_before) {
            ensure!(
                weights_sha256(ema.means())? != *before,
                "the run made {} optimizer steps and left the mean of the weights unchanged",
                run.guard.n_applied
            );
        }
        Ok(())
    }

    fn tell(&self, progress: &dyn Progress) {
        if self.pace.n_batches() == 1 {
            progress.detail(&format!("first step in {:.2} s", self.pace.secs_per_batch()));
        }
        let state = &self.footing.state;
        let run = &state.run;
        let planned = self.planned();
        let (rate, n_left) = (self.samples_per_s(), planned.n_batches.saturating_sub(self.position()));
        let left = self.pace.secs_per_batch() * n_left as f64;
        progress.tick(&Tick {
            stage: "train",
            done: self.before().n_samples + self.n_in_epoch,
            total: planned.n_samples,
            unit: "samples",
            detail: format!(
                "epoch {} train {:.4} {rate:.0} samples/s left {}",
                state.total_epochs + 1,
                run.epoch.loss(),
                duration_text(left)
            ),
        });
    }

    fn samples_per_s(&self) -> f64 {
        self.settings.batch_size as f64 / self.pace.secs_per_batch()
    }
}

fn why_no_step(guard: &Guard) -> String {
    match guard.n_skipped {
        0 => "there was no time for one".to_owned(),
        n => format!("all {n} batches had a loss or gradient that is not finite"),
    }
}
