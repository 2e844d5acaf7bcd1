//! The loop: batch after batch through the network, until the epochs are done, time is up or a signal comes.
//!
//! Every number that a batch depends on is a function of the [`State`]: which samples (seed, epoch), which
//! dropout and which samples pose as strangers (seed, batch), which learning rate (position in the run). What a
//! checkpoint holds is therefore all there is, and a run that was killed continues to the same bits on the CPU.
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
use super::checkpoint::{self, Ending, EpochPosition, Parts, State};
use super::ema::Ema;
use super::guard::Guard;
use super::lineage::{Footing, Material};
use super::lr_schedule::learning_rate;
use super::order::epoch_order;
use super::pace::{Pace, duration_text};
use super::step::Learner;
use crate::config::{Config, TrainingConfig};
use crate::dataset::{Dataset, SampleKey};
use crate::error::Refusal;
use crate::ops::random::Key;
use crate::progress::{Progress, Tick};

/// Share of training samples whose server poses as unknown, so that servers never seen can be served.
const STRANGER_SHARE: f64 = 0.05;

/// A run in progress.
pub struct Session<'a> {
    pub footing: Footing,
    settings: &'a TrainingConfig,
    device: Device,
    checkpoints_dir: PathBuf,
    dataset: Dataset,
    keys: Vec<SampleKey>,
    learner: Learner,
    pace: Pace,
}

/// Why an epoch's loop was left.
enum Left {
    AtItsEnd,
    OutOfTime,
    Stopped,
}

impl<'a> Session<'a> {
    /// Puts data, network and optimizer on the device.
    ///
    /// - Errors: the window has no training sample ([`Refusal::NotEnoughData`]); parts do not fit together.
    pub fn new(
        mut footing: Footing,
        material: &Material<'_>,
        config: &'a Config,
        device: &Device,
        checkpoints_dir: PathBuf,
        limit: Option<Duration>,
    ) -> Result<Self> {
        let settings = &config.training;
        let max_gap_steps = config.window.max_gap_steps;
        let dataset = Dataset::new(material.grid.clone(), footing.preprocessing.clone(), max_gap_steps)?;
        let keys = dataset.train_keys(material.split);
        if keys.is_empty() {
            let reasons = vec!["the window holds no training sample without a long gap".to_owned()];
            return Err(Refusal::NotEnoughData { reasons }.into());
        }
        fix_sizes(&mut footing.state, keys.len(), settings)?;
        let (network, sizes) = ((&footing.config, &footing.params), (&config.model, settings));
        let mut learner = Learner::new(network, &footing.preprocessing, sizes, device)?;
        if let Some(moments) = footing.moments.take() {
            let n_steps = footing.state.moment_steps;
            learner.optimizer.restore(&moments, n_steps).context("continue the optimizer")?;
        }
        let pace = Pace::begin(limit, footing.state.run.duration_secs);
        let device = device.clone();
        Ok(Self { footing, settings, device, checkpoints_dir, dataset, keys, learner, pace })
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
            match self.run_epoch(stop, progress)? {
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
        let state = &self.footing.state;
        let order =
            epoch_order(self.keys.len(), self.settings.samples_per_epoch, state.seed, state.total_epochs);
        let n_done = state.run.epoch.batches_done as usize;
        for places in order.chunks(self.settings.batch_size).skip(n_done) {
            if stop.load(Ordering::SeqCst) {
                return Ok(Left::Stopped);
            }
            if self.pace.is_out_of_time() {
                return Ok(Left::OutOfTime);
            }
            let keys: Vec<SampleKey> = places.iter().map(|place| self.keys[*place as usize]).collect();
            self.train_batch(&keys)?;
            self.tell(progress);
        }
        Ok(Left::AtItsEnd)
    }

    /// One batch: forward, backward, a checkpoint if it is time, and a step; nothing of it but the first two if loss
    /// or gradient are not finite.
    fn train_batch(&mut self, keys: &[SampleKey]) -> Result<()> {
        let (seed, number) = (self.footing.state.seed, self.footing.state.total_batches);
        let strangers = Key::new(seed).name("strangers").number(number);
        let is_stranger = |place: usize| strangers.uniform(place as u64) < STRANGER_SHARE;
        let batch = self.dataset.batch_with_strangers(keys, is_stranger, &self.device)?;
        let look = self.learner.look(&batch, seed, number)?;
        if Guard::is_finite(look.loss, look.norm)
            && self.pace.is_checkpoint_due(self.settings.checkpoint_secs)
        {
            self.checkpoint()?;
        }
        let rate = learning_rate(self.settings.learning_rate, self.position(), self.n_planned());
        let state = &mut self.footing.state;
        let is_good = state.run.guard.admit(look.loss, look.norm, state.run.batches_planned())?;
        if is_good {
            self.learner.step(&look, rate)?;
            state.total_steps += 1;
            state.moment_steps = self.learner.optimizer.n_steps();
            if let Some(ema) = &mut self.footing.ema {
                ema.update(&self.footing.params, self.settings.ema_decay)?;
                state.ema_steps = ema.n_steps();
            }
        }
        state.total_batches += 1;
        state.run.epoch.advance(keys.len(), is_good.then_some(look.loss));
        if is_good {
            self.learner.objective.count(&mut state.run.epoch_targets, &look.per_target);
        }
        self.pace.note_batch();
        Ok(())
    }

    fn position(&self) -> u64 {
        self.footing.state.run.batches_done()
    }

    /// Batches the learning rate is planned for: the whole run, or what the measured speed allows in time, so
    /// that a run cut short by its deadline has cooled down when it ends.
    fn n_planned(&self) -> u64 {
        let n_planned = self.footing.state.run.batches_planned();
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
        self.learner.moments()
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
        let state = &self.footing.state;
        let run = &state.run;
        let in_epoch = (run.epoch.batches_done * self.settings.batch_size as u64).min(run.n_samples);
        let (rate, n_left) = (self.samples_per_s(), run.batches_planned().saturating_sub(self.position()));
        let left = self.pace.secs_per_batch() * n_left as f64;
        progress.tick(&Tick {
            stage: "train",
            done: u64::from(run.epochs_done) * run.n_samples + in_epoch,
            total: u64::from(run.epochs_planned) * run.n_samples,
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

/// Notes the size of an epoch, or checks that a continued one has it.
fn fix_sizes(state: &mut State, n_keys: usize, settings: &TrainingConfig) -> Result<()> {
    let n_taken = match settings.samples_per_epoch {
        0 => n_keys,
        n => n.min(n_keys),
    };
    let n_samples = n_taken as u64;
    let n_batches = n_taken.div_ceil(settings.batch_size) as u64;
    let run = &mut state.run;
    let (is_new, found) = (run.n_batches == 0, (run.n_samples, run.n_batches));
    ensure!(
        is_new || found == (n_samples, n_batches),
        "the epoch in the checkpoint has {} samples, the window gives {n_samples}",
        run.n_samples
    );
    (run.n_samples, run.n_batches) = (n_samples, n_batches);
    Ok(())
}

fn why_no_step(guard: &Guard) -> String {
    match guard.n_skipped {
        0 => "there was no time for one".to_owned(),
        n => format!("all {n} batches had a loss or gradient that is not finite"),
    }
}
