//! A linear layer, and what several of them share.

use anyhow::Result;
use candle_core::Tensor;

use super::params::Scope;
use crate::ops::linear;

/// `x Wᵀ + b`, over the last axis of anything.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Weight and bias of a layer or a norm.
pub(super) fn load_pair(scope: &Scope) -> Result<(Tensor, Tensor)> {
    Ok((scope.tensor("weight")?, scope.tensor("bias")?))
}

impl Linear {
    /// From `weight [out, in]` and, if there is one, `bias [out]`.
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        let bias = if scope.has("bias") { Some(scope.tensor("bias")?) } else { None };
        Ok(Linear { weight: scope.tensor("weight")?, bias })
    }

    /// Several layers of the same inputs as one whose outputs are theirs in a row.
    pub fn joined(layers: &[Linear]) -> candle_core::Result<Self> {
        let join = |tensors: Vec<&Tensor>| Tensor::cat(&tensors, 0);
        let biases: Option<Vec<&Tensor>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let weight = join(layers.iter().map(|layer| &layer.weight).collect())?;
        Ok(Linear { weight, bias: biases.map(join).transpose()? })
    }

    /// The parameters of a layer with a bias; `None` without one.
    pub fn weight_and_bias(&self) -> Option<(Tensor, Tensor)> {
        Some((self.weight.clone(), self.bias.clone()?))
    }

    /// Its parameters.
    pub(super) fn weights(&self) -> (Tensor, Option<Tensor>) {
        (self.weight.clone(), self.bias.clone())
    }

    /// Width of the output.
    pub fn n_outputs(&self) -> candle_core::Result<usize> {
        self.weight.dim(0)
    }

    /// - Shapes: `x [.., in]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        linear(x, &self.weight, self.bias.as_ref())
    }
}
