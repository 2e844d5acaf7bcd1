//! The two normalisations: plain layer norm, and the stretched skip connection.

use anyhow::Result;
use candle_core::{D, Tensor};
use candle_nn::ops::sigmoid;

use super::layout::{Initial, Layout};
use super::params::Scope;
use crate::ops::{layer_norm, stretch};

/// Layer normalisation with its weight and bias.
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub(super) fn declare(layout: &mut Layout, name: &str, width: usize) {
        layout.add(format!("{name}.weight"), &[width], Initial::Ones);
        layout.add(format!("{name}.bias"), &[width], Initial::Zeros);
    }

    pub(super) fn load(scope: &Scope) -> Result<Self> {
        Ok(Norm { weight: scope.tensor("weight")?, bias: scope.tensor("bias")? })
    }

    /// - Shapes: `x [.., N]` -> `[.., N]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias)
    }
}

/// Brings a vector to another width: linear interpolation, a gate per output (`2 * sigmoid(mask)`, 1 at the
/// start), layer norm. Equal widths keep gate and norm.
pub struct ResampleNorm {
    matrix: Option<Tensor>,
    mask: Tensor,
    norm: Norm,
}

impl ResampleNorm {
    pub(super) fn declare(layout: &mut Layout, name: &str, width: usize) {
        layout.add(format!("{name}.mask"), &[width], Initial::Zeros);
        Norm::declare(layout, &format!("{name}.norm"), width);
    }

    /// From the parameters of a block that takes inputs of width `from`.
    pub(super) fn load(scope: &Scope, from: usize) -> Result<Self> {
        let mask = scope.tensor("mask")?;
        let to = mask.dim(0)?;
        let matrix = (from != to).then(|| stretch::matrix(from, to, mask.device())).transpose()?;
        Ok(ResampleNorm { matrix, mask, norm: Norm::load(&scope.at("norm"))? })
    }

    /// - Shapes: `x [.., from]` -> `[.., to]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        debug_assert!(self.matrix.is_some() || x.dim(D::Minus1)? == self.mask.dim(0)?);
        let gate = (sigmoid(&self.mask)? * 2.0)?;
        let stretched = match &self.matrix {
            Some(matrix) => stretch(x, matrix)?,
            None => x.clone(),
        };
        Ok(self.norm.forward(&stretched.broadcast_mul(&gate)?)?)
    }
}
