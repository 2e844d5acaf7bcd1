//! One training step: a batch through the network, backward, and along the gradient.
//!
//! Between [`Learner::look`] and [`Learner::step`] lies the moment at which a checkpoint may be written. A step along a loss
//! or gradient that is not finite is not taken, on the CPU by the host's decision, on a GPU by the device's: nobody waits
//! for it, and what happened is read some steps later, all at once.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::ema::Ema;
use super::guard::Guard;
use super::objective::Objective;
use super::optimizer::{AdamW, AdamWSettings, Mean};
use crate::config::{ModelConfig, TrainingConfig};
use crate::dataset::{Batch, Preprocessing};
use crate::model::{Mode, Params, Tft, TftConfig};
use crate::ops::adamw::StepPlan;

/// A network that learns: with its loss and its optimizer.
pub struct Learner {
    network: Tft,
    pub objective: Objective,
    pub optimizer: AdamW,
}

/// What a batch says of the weights as they are. On a GPU it may still be on its way: reading it waits.
pub struct Look {
    /// What is minimised, `[]`.
    loss: Tensor,
    /// `[P]`, in the order of the optimizer's parameters.
    gradient: Tensor,
    /// As [`super::objective::Measured::per_target`].
    per_target: Tensor,
}

/// Where on a GPU a step finds what the host says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanAddresses {
    /// The key of its masks.
    pub key: u64,
    /// As [`StepPlan::At`].
    pub plan: u64,
}

/// A look in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What is minimised.
    pub loss: f64,
    /// The 2-norm of the gradient.
    pub norm: f64,
    pub per_target: Vec<f32>,
}

/// What a step was taken along, or was not.
pub enum Taken {
    /// The host has looked, and decided.
    Known(Told),
    /// A GPU has decided: loss, squared norm and what is told per target, still to be read.
    OnDevice(Tensor),
}

impl Told {
    /// Whether a step may be taken along it.
    pub fn is_finite(&self) -> bool {
        Guard::is_finite(self.loss, self.norm)
    }

    fn of(numbers: &[f32]) -> Self {
        let norm = f64::from(numbers[1]).sqrt();
        Told { loss: f64::from(numbers[0]), norm, per_target: numbers[2..].to_vec() }
    }
}

impl Look {
    /// The numbers, in one transfer from the device.
    pub fn read(&self) -> Result<Told> {
        let sum_of_squares = self.gradient.sqr()?.sum_all()?;
        let both = Tensor::stack(&[self.loss.to_dtype(DType::F32)?, sum_of_squares], 0)?;
        Ok(Told::of(&Tensor::cat(&[both, self.per_target.flatten_all()?], 0)?.to_vec1::<f32>()?))
    }
}

impl Learner {
    /// Puts network, loss and an optimizer without momentum together; `params` stay the caller's, too.
    ///
    /// - Errors: the config does not fit the parameters.
    pub fn new(
        (config, params): (&TftConfig, &Params),
        preprocessing: &Preprocessing,
        (model, training): (&ModelConfig, &TrainingConfig),
        device: &Device,
    ) -> Result<Self> {
        let adam = AdamWSettings::new(training.weight_decay, training.gradient_clip);
        Ok(Self {
            network: Tft::new(config, params).context("build the network")?,
            objective: Objective::new(preprocessing, model),
            optimizer: AdamW::new(params, adam, device)?,
        })
    }

    /// Forward and backward of a batch, with the dropout of `seed` and the batch's number. Nothing moves.
    ///
    /// - Errors: the batch does not fit the network, or the device fails. Numbers that are not finite are no error.
    pub fn look(&self, batch: &Batch, seed: u64, number: u64) -> Result<Look> {
        self.look_with(batch, &Mode::Train { seed, step: number })
    }

    fn look_with(&self, batch: &Batch, mode: &Mode) -> Result<Look> {
        let output = self.network.forward(&batch.input, mode)?;
        let measured = self.objective.measure(&output, batch)?;
        let gradient = self.optimizer.gradient(&measured.loss.backward()?)?;
        Ok(Look { loss: measured.loss.detach(), gradient, per_target: measured.per_target })
    }

    /// Moves the weights along a gradient, and their mean, if there is one, after them; nothing of it if loss or gradient are
    /// not finite. A GPU is not waited for: see [`Learner::read`].
    pub fn step(&mut self, look: &Look, learning_rate: f64, ema: Option<(&mut Ema, f64)>) -> Result<Taken> {
        if look.gradient.device().is_cuda() {
            let mean_decay = ema.as_ref().map_or(0.0, |(_, decay)| *decay);
            let plan = StepPlan::Now { learning_rate, mean_decay };
            let mean = ema.as_ref().map(|(ema, decay)| ema.mean(*decay));
            return Ok(Taken::OnDevice(self.step_on_device(look, plan, mean)?));
        }
        let told = look.read()?;
        if told.is_finite() {
            let mean = ema.as_ref().map(|(ema, decay)| ema.mean(*decay));
            self.optimizer.step(&look.gradient, told.norm, learning_rate, mean)?;
            if let Some((ema, _)) = ema {
                ema.count();
            }
        }
        Ok(Taken::Known(told))
    }

    /// What was told of the step: loss, squared norm, and what is told per target.
    fn step_on_device(&mut self, look: &Look, plan: StepPlan, mean: Option<Mean<'_>>) -> Result<Tensor> {
        let told = self.optimizer.step_if_finite(&look.gradient, &look.loss, plan, mean)?;
        Ok(Tensor::cat(&[&told, &look.per_target.flatten_all()?], 0)?)
    }

    /// A whole step whose key and plan lie on a GPU: launches that are the same every time. What is told goes to `told`.
    pub(super) fn planned_step(
        &mut self,
        batch: &Batch,
        at: PlanAddresses,
        told: &Tensor,
        mean: Option<Mean<'_>>,
    ) -> Result<()> {
        let look = self.look_with(batch, &Mode::TrainOnDevice { key_at: at.key })?;
        let all = self.step_on_device(&look, StepPlan::At(at.plan), mean)?;
        Ok(told.slice_set(&all, 0, 0)?)
    }

    /// Numbers that are told of a step.
    pub(super) fn n_told(&self) -> usize {
        2 + self.objective.n_told()
    }

    /// What was told of steps, in their order; those of a GPU are read in one transfer, and counted.
    pub fn read(&mut self, taken: Vec<Taken>, mut ema: Option<&mut Ema>) -> Result<Vec<Told>> {
        let on_device = taken.iter().filter_map(|one| match one {
            Taken::OnDevice(told) => Some(told.clone()),
            Taken::Known(_) => None,
        });
        let on_device: Vec<Tensor> = on_device.collect();
        let rows: Vec<Vec<f32>> = match on_device.is_empty() {
            true => Vec::new(),
            false => Tensor::stack(&on_device, 0)?.to_vec2()?,
        };
        let mut rows = rows.into_iter();
        let mut all = Vec::with_capacity(taken.len());
        for one in taken {
            all.push(match one {
                Taken::Known(told) => told,
                Taken::OnDevice(_) => {
                    let told = Told::of(&rows.next().context("as many rows as steps")?);
                    if told.is_finite() {
                        self.optimizer.count();
                        ema.iter_mut().for_each(|ema| ema.count());
                    }
                    told
                }
            });
        }
        Ok(all)
    }
}
