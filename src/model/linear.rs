//! A linear layer, and several of the same inputs as one.

use anyhow::{Result, bail};
use candle_core::Tensor;

use super::params::Scope;
use crate::ops::{LinearWeights, linear};

/// `x Wᵀ + b`, over the last axis of anything.
pub struct Linear {
    weights: LinearWeights,
}

/// Weight and bias of a norm.
pub(super) fn load_pair(scope: &Scope) -> Result<(Tensor, Tensor)> {
    Ok((scope.tensor("weight")?, scope.tensor("bias")?))
}

impl Linear {
    /// From `weight [out, in]` and, if there is one, `bias [out]`.
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        let last = if scope.has("bias") { "bias" } else { "weight" };
        let weights = LinearWeights::new(scope.packed("weight", last)?, sizes(scope)?, scope.has("bias"))?;
        Ok(Linear { weights })
    }

    /// The layers `0` to `n` of a scope, which read the same inputs, as one whose outputs are theirs in a row: their weights
    /// lie one after the other, and so do their biases.
    pub(super) fn load_joined(scope: &Scope, n: usize) -> Result<Self> {
        let (n_out, n_in) = sizes(&scope.at("0"))?;
        let values = scope.packed("0.weight", &format!("{}.bias", n - 1))?;
        Ok(Linear { weights: LinearWeights::new(values, (n * n_out, n_in), true)? })
    }

    /// Its parameters.
    pub(super) fn weights(&self) -> &LinearWeights {
        &self.weights
    }

    /// Width of the output.
    pub fn n_outputs(&self) -> usize {
        self.weights.n_out()
    }

    /// - Shapes: `x [.., in]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        linear(x, &self.weights)
    }
}

/// Outputs and inputs of a layer.
fn sizes(scope: &Scope) -> Result<(usize, usize)> {
    match scope.place("weight")?.shape[..] {
        [n_out, n_in] => Ok((n_out, n_in)),
        _ => bail!("the weight of a layer is no matrix"),
    }
}
