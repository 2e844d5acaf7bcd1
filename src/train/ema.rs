//! A running mean of the weights (EMA): what is served, where `training.ema_decay` is above 0.
//!
//! The weights of single steps jitter around where training is heading; their mean over the last
//! `1 / (1 - decay)` steps or so does not. The mean never feeds back into training: gradients, moments and the
//! lineage's weights are the same with and without it.
//!
//! It begins as the weights it starts from, with `t = 0`, and after every optimizer step is
//!
//! ```text
//! mean = d mean + (1 - d) weights        d = min(decay, (1 + t) / (10 + t)), then t = t + 1
//! ```
//!
//! so that a young mean forgets its start quickly (`d` is 0.1 at first, 0.5 after 8 steps, 0.9 after 80) and needs
//! no correction for a bias towards zero: it is a weighted mean of weights at every moment. A skipped step does not
//! count. Both the means and `t` are part of a checkpoint.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::artifact::named_weights;
use super::flat::Flat;
use super::optimizer::Mean;
use crate::model::{Params, TftConfig};

/// The running mean of one network's weights.
pub struct Ema {
    means: Params,
    flat: Flat,
    n_steps: u64,
}

impl Ema {
    /// Begins at the values that `weights` has now.
    pub fn begin(config: &TftConfig, weights: &Params, device: &Device) -> Result<Self> {
        Self::restore(config, &named_weights(weights), 0, device)
    }

    /// Continues from the means of [`Ema::named`] after `n_steps` steps.
    ///
    /// - Errors: a mean is missing or has another shape than its parameter; it is named.
    pub fn restore(
        config: &TftConfig,
        means: &HashMap<String, Tensor>,
        n_steps: u64,
        device: &Device,
    ) -> Result<Self> {
        let means = Params::from_tensors(config, means, device).context("load the mean of the weights")?;
        let flat = Flat::new(&means)?;
        Ok(Self { means, flat, n_steps })
    }

    /// What an optimizer step takes its weights into: see [`AdamW::step`](super::optimizer::AdamW::step).
    pub fn mean(&self, decay: f64) -> Mean<'_> {
        Mean { means: &self.flat, decay, n_steps: self.n_steps }
    }

    /// Counts a step that was taken in.
    pub fn count(&mut self) {
        self.n_steps += 1;
    }

    /// The means as the parameters of a network.
    pub fn means(&self) -> &Params {
        &self.means
    }

    /// The means by parameter name, sharing their values.
    pub fn named(&self) -> HashMap<String, Tensor> {
        named_weights(&self.means)
    }

    /// Steps behind the means.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }
}
