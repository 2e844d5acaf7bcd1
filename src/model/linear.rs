//! A linear layer, and what several of them share.

use anyhow::Result;
use candle_core::{D, Tensor};

use super::params::Scope;

/// `x Wᵀ + b`, over the last axis of anything.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
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

    /// Output rows `start..start + len` as a layer of their own.
    pub fn rows(&self, start: usize, len: usize) -> candle_core::Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.narrow(0, start, len)).transpose()?;
        Ok(Linear { weight: self.weight.narrow(0, start, len)?, bias })
    }

    /// The parameters of a layer with a bias; `None` without one.
    pub fn weight_and_bias(&self) -> Option<(Tensor, Tensor)> {
        Some((self.weight.clone(), self.bias.clone()?))
    }

    /// Width of the output.
    pub fn n_outputs(&self) -> candle_core::Result<usize> {
        self.weight.dim(0)
    }

    /// - Shapes: `x [.., in]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (n_inputs, n_outputs) = (x.dim(D::Minus1)?, self.n_outputs()?);
        let mut shape = x.dims().to_vec();
        let n_rows = shape.iter().product::<usize>() / n_inputs;
        shape[x.rank() - 1] = n_outputs;
        let y = x.reshape((n_rows, n_inputs))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape(shape)
    }
}
