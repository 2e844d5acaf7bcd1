//! One training step: a batch through the network, backward, and along the gradient.
//!
//! Between [`Learner::look`] and [`Learner::step`] lies the decision whether to take the step at all, which is
//! [`super::guard`]'s, and the moment at which a checkpoint may be written.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::objective::Objective;
use super::optimizer::{AdamW, AdamWSettings, Mean};
use crate::config::{ModelConfig, TrainingConfig};
use crate::dataset::{Batch, Preprocessing};
use crate::model::{Mode, Params, Tft, TftConfig};

/// A network that learns: with its loss and its optimizer.
pub struct Learner {
    network: Tft,
    pub objective: Objective,
    pub optimizer: AdamW,
}

/// What a batch says of the weights as they are.
pub struct Look {
    /// What is minimised.
    pub loss: f64,
    /// The 2-norm of the gradient.
    pub norm: f64,
    /// As [`super::objective::Measured::per_target`].
    pub per_target: Vec<f32>,
    /// `[P]`, in the order of the optimizer's parameters.
    gradient: Tensor,
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
        let output = self.network.forward(&batch.input, &Mode::Train { seed, step: number })?;
        let measured = self.objective.measure(&output, batch)?;
        let gradient = self.optimizer.gradient(&measured.loss.backward()?)?;
        let (loss, norm, per_target) = read_back(&measured.loss, &gradient, &measured.per_target)?;
        Ok(Look { loss, norm, per_target, gradient })
    }

    /// Moves the weights along a gradient, which must be finite, and their mean, if there is one, after them.
    pub fn step(&mut self, look: &Look, learning_rate: f64, mean: Option<Mean<'_>>) -> Result<()> {
        self.optimizer.step(&look.gradient, look.norm, learning_rate, mean)
    }
}

/// The loss, the 2-norm of the gradient, and the numbers `per_target`, in one transfer from the device.
fn read_back(loss: &Tensor, gradient: &Tensor, per_target: &Tensor) -> Result<(f64, f64, Vec<f32>)> {
    let sum_of_squares = gradient.sqr()?.sum_all()?;
    let both = Tensor::stack(&[loss.detach().to_dtype(DType::F32)?, sum_of_squares], 0)?;
    let all: Vec<f32> = Tensor::cat(&[both, per_target.flatten_all()?], 0)?.to_vec1()?;
    Ok((f64::from(all[0]), f64::from(all[1]).sqrt(), all[2..].to_vec()))
}
