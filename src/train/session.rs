//! The loop: batch after batch through the network, until the epochs are done, time is up or a signal comes.
//!
//! Every number that a batch depends on is a function of the [`State`]: which samples (seed, epoch), which
//! dropout and which samples pose as strangers (seed, batch), which learning rate (position in the run). What a
//! checkpoint holds is therefore all there is, and a run that was killed continues to the same bits on the CPU.
//!
//! The one exception is a limit that bites: once the measured speed says that the run cannot finish in time, the
//! learning rate is planned for the batches that still fit, and those depend on the wall clock. A run that ends before
//! its limit never looks at it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::artifact::weights_sha256;
use super::checkpoint::{self, Ending, EpochPosition, State};
use super::lineage::{Footing, Material};
use super::lr_schedule::learning_rate;
use super::optimizer::{AdamW, AdamWSettings};
use super::order::epoch_order;
use crate::config::{Config, TrainingConfig};
use crate::dataset::{Batch, Dataset, SampleKey};
use crate::error::Refusal;
use crate::model::{Mode, Tft, TftOutput};
use crate::ops::quantile_loss;
use crate::ops::quantile_loss::QuantileLossOptions;
use crate::ops::random::Key;
use crate::progress::{Progress, Tick};

/// Share of training samples whose server poses as unknown, so that servers never seen can be served.
const STRANGER_SHARE: f64 = 0.05;
/// Batches after which the measured speed is trusted for planning.
const BATCHES_TO_TRUST: u64 = 16;

/// A run in progress.
pub struct Session<'a> {
    pub footing: Footing,
    settings: &'a TrainingConfig,
    device: Device,
    checkpoints_dir: PathBuf,
    dataset: Dataset,
    keys: Vec<SampleKey>,
    network: Tft,
    optimizer: AdamW,
    pace: Pace,
}

/// Time in this process.
struct Pace {
    started: Instant,
    /// The limit on this process's training time.
    limit: Option<Duration>,
    /// Training seconds of the run's earlier processes.
    secs_before: f64,
    batches: u64,
    last_checkpoint: Instant,
    checkpoint_cost: Duration,
    /// Whether anything was trained since the last checkpoint.
    is_dirty: bool,
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
        let network = Tft::new(&footing.config, &footing.params).context("build the network")?;
        let adam = AdamWSettings::new(settings.weight_decay, settings.gradient_clip);
        let mut optimizer = AdamW::new(footing.params.iter(), adam, device)?;
        if let Some(moments) = footing.moments.take() {
            optimizer.restore(&moments, footing.state.moment_steps).context("continue the optimizer")?;
        }
        let pace = Pace::begin(limit, footing.state.run.duration_secs);
        let device = device.clone();
        Ok(Self { footing, settings, device, checkpoints_dir, dataset, keys, network, optimizer, pace })
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
        self.pace.is_dirty = true;
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
            if self.pace.last_checkpoint.elapsed().as_secs() >= self.settings.checkpoint_secs {
                self.checkpoint()?;
            }
        }
        Ok(Left::AtItsEnd)
    }

    /// One batch: forward, backward, and a step unless loss or gradient are not finite.
    fn train_batch(&mut self, keys: &[SampleKey]) -> Result<()> {
        let (seed, number) = (self.footing.state.seed, self.footing.state.total_batches);
        let strangers = Key::new(seed).name("strangers").number(number);
        let is_stranger = |place: usize| strangers.uniform(place as u64) < STRANGER_SHARE;
        let batch = self.dataset.batch_with_strangers(keys, is_stranger, &self.device)?;
        let output = self.network.forward(&batch.input, &Mode::Train { seed, step: number })?;
        let loss = batch_loss(&output, &batch, &self.footing.preprocessing.quantiles)?;
        let gradient = self.optimizer.gradient(&loss.backward()?)?;
        let (loss, norm) = read_loss_and_norm(&loss, &gradient)?;
        drop(output);

        let rate = learning_rate(self.settings.learning_rate, self.position(), self.n_planned());
        let state = &mut self.footing.state;
        let is_good = state.run.guard.admit(loss, norm, state.run.batches_planned())?;
        if is_good {
            self.optimizer.step(&gradient, norm, rate)?;
            state.total_steps += 1;
            state.moment_steps = self.optimizer.n_steps();
        }
        state.total_batches += 1;
        state.run.epoch.advance(keys.len(), is_good.then_some(loss));
        self.pace.batches += 1;
        self.pace.is_dirty = true;
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
        self.pace.is_dirty = true;
        progress.note(&format!("epoch {} done, train {loss:.4}", state.total_epochs));
    }

    /// Writes `checkpoints/last`, if anything was trained since the last one.
    fn checkpoint(&mut self) -> Result<()> {
        if !self.pace.is_dirty {
            return Ok(());
        }
        let started = Instant::now();
        let footing = &mut self.footing;
        footing.state.run.duration_secs = self.pace.secs_before + self.pace.started.elapsed().as_secs_f64();
        checkpoint::write(
            &self.checkpoints_dir,
            &footing.state,
            &footing.config,
            &footing.preprocessing,
            &footing.params,
            &self.optimizer.moments()?,
        )?;
        self.pace.checkpoint_cost = started.elapsed();
        self.pace.last_checkpoint = Instant::now();
        self.pace.is_dirty = false;
        Ok(())
    }

    /// Training that did not train is a failure, whatever else went well.
    fn ensure_trained(&self) -> Result<()> {
        let run = &self.footing.state.run;
        ensure!(run.guard.n_applied > 0, "the run made no optimizer step: {}", why_no_step(&run.guard));
        let after = weights_sha256(&self.footing.params)?;
        ensure!(
            after != run.weights_before,
            "the run made {} optimizer steps and left every weight unchanged",
            run.guard.n_applied
        );
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

impl Pace {
    fn begin(limit: Option<Duration>, secs_before: f64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            limit,
            secs_before,
            batches: 0,
            last_checkpoint: now,
            checkpoint_cost: Duration::ZERO,
            is_dirty: false,
        }
    }

    fn secs_per_batch(&self) -> f64 {
        (self.started.elapsed().as_secs_f64() / self.batches.max(1) as f64).max(1e-9)
    }

    /// Seconds left for batches: the limit less what the last checkpoint will take (twice the last one).
    fn secs_left(&self) -> Option<f64> {
        let reserve = 2.0 * self.checkpoint_cost.as_secs_f64();
        self.limit.map(|limit| limit.as_secs_f64() - reserve - self.started.elapsed().as_secs_f64())
    }

    /// Whether another batch would not fit.
    fn is_out_of_time(&self) -> bool {
        let next = if self.batches == 0 { 0.0 } else { self.secs_per_batch() };
        self.secs_left().is_some_and(|left| left < next)
    }

    /// Batches that fit, once the speed is known.
    fn batches_left(&self) -> Option<u64> {
        let left = self.secs_left().filter(|_| self.batches >= BATCHES_TO_TRUST)?;
        Some((left.max(0.0) / self.secs_per_batch()) as u64)
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

/// Mean over targets of the mean pinball loss over the points that were observed, in scaled units: a scalar.
fn batch_loss(output: &TftOutput, batch: &Batch, quantiles: &[f64]) -> Result<Tensor> {
    let n_targets = batch.targets.len();
    let mut sum: Option<Tensor> = None;
    for ((forecast, target), weights) in output.prediction.iter().zip(&batch.targets).zip(&batch.weights) {
        let options = QuantileLossOptions { sample_weights: Some(weights), ..Default::default() };
        let loss = quantile_loss(forecast, target, quantiles, &options)?;
        // The weighted mean above is over all points; what counts is the mean over the observed ones.
        let n_observed = weights.sum_all()?.maximum(1.0)?;
        let loss = (loss * weights.elem_count() as f64)?.div(&n_observed)?;
        sum = Some(match sum {
            Some(sum) => (sum + loss)?,
            None => loss,
        });
    }
    Ok((sum.context("a network without targets")? / n_targets as f64)?)
}

/// The loss and the 2-norm of the gradient, in one transfer from the device.
fn read_loss_and_norm(loss: &Tensor, gradient: &Tensor) -> Result<(f64, f64)> {
    let sum_of_squares = gradient.sqr()?.sum_all()?;
    let both = Tensor::stack(&[loss.detach().to_dtype(DType::F32)?, sum_of_squares], 0)?;
    let both: Vec<f32> = both.to_vec1()?;
    Ok((f64::from(both[0]), f64::from(both[1]).sqrt()))
}

fn why_no_step(guard: &super::guard::Guard) -> String {
    match guard.n_skipped {
        0 => "there was no time for one".to_owned(),
        n => format!("all {n} batches had a loss or gradient that is not finite"),
    }
}

fn duration_text(secs: f64) -> String {
    match secs {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_observed_points_make_the_loss() {
        let tensor =
            |values: &[f32], shape: &[usize]| Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap();
        let nothing = tensor(&[0.0], &[1]);
        let output = TftOutput {
            prediction: vec![tensor(&[1.0, 5.0], &[1, 2, 1]), tensor(&[0.0, 0.0], &[1, 2, 1])],
            attention: None,
            static_variables: nothing.clone(),
            encoder_variables: nothing.clone(),
            decoder_variables: nothing.clone(),
        };
        let zeros = || tensor(&[0.0; 2], &[1, 2, 1]);
        let input = crate::model::TftInput {
            encoder_cont: zeros(),
            decoder_cont: zeros(),
            encoder_cat: zeros(),
            decoder_cat: zeros(),
            encoder_lengths: vec![2],
            decoder_lengths: vec![2],
            target_scale: vec![],
        };
        // Median: half the absolute error of the one observed point (2), and of both points (1 and 3).
        let batch = Batch {
            input,
            targets: vec![tensor(&[3.0, 99.0], &[1, 2]), tensor(&[1.0, -3.0], &[1, 2])],
            weights: vec![tensor(&[1.0, 0.0], &[1, 2]), tensor(&[1.0, 1.0], &[1, 2])],
        };
        let loss = batch_loss(&output, &batch, &[0.5]).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(loss, (1.0 + 1.0) / 2.0);
    }

    #[test]
    fn the_measured_speed_says_how_many_batches_fit() {
        let mut pace = Pace::begin(Some(Duration::from_secs(30)), 0.0);
        pace.started = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
        pace.batches = BATCHES_TO_TRUST - 1;
        assert_eq!(pace.batches_left(), None);
        pace.batches = 40;
        assert_eq!(pace.batches_left(), Some(19)); // a little less than 10 s at 0.5 s each
        assert!(!pace.is_out_of_time());
        pace.checkpoint_cost = Duration::from_millis(4900);
        assert!(pace.is_out_of_time());
        pace.limit = None;
        assert!(!pace.is_out_of_time() && pace.batches_left().is_none());
    }

    #[test]
    fn durations_are_for_people() {
        let texts = [3.4, 400.0, 9000.0].map(duration_text);
        assert_eq!(texts, ["3 s", "7 min", "2.5 h"]);
    }
}
