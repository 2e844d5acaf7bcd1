//! The two normalisations: plain layer norm, and the stretched skip connection.

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};

use super::layout::{Initial, Layout};
use super::linear::load_pair;
use super::params::Scope;
use crate::ops::{ResampleWeights, resample_norm};

/// Declares the weight and bias of a layer norm.
pub(super) fn declare(layout: &mut Layout, name: &str, width: usize) {
    layout.add(format!("{name}.weight"), &[width], Initial::Ones);
    layout.add(format!("{name}.bias"), &[width], Initial::Zeros);
}

/// The parameters of a stretched skip.
pub(super) fn load_resample(scope: &Scope) -> Result<ResampleWeights> {
    Ok(ResampleWeights { mask: scope.tensor("mask")?, norm: load_pair(&scope.at("norm"))? })
}

/// Brings a vector to another width: linear interpolation, a gate per output (`2 * sigmoid(mask)`, 1 at the
/// start), layer norm. Equal widths keep gate and norm.
pub struct ResampleNorm {
    from: usize,
    weights: ResampleWeights,
}

impl ResampleNorm {
    pub(super) fn declare(layout: &mut Layout, name: &str, width: usize) {
        layout.add(format!("{name}.mask"), &[width], Initial::Zeros);
        declare(layout, &format!("{name}.norm"), width);
    }

    /// From the parameters of a block that takes inputs of width `from`.
    pub(super) fn load(scope: &Scope, from: usize) -> Result<Self> {
        Ok(ResampleNorm { from, weights: load_resample(scope)? })
    }

    /// - Shapes: `x [.., from]` -> `[.., to]`.
    /// - Errors: inputs of another width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dim(D::Minus1)?;
        ensure!(width == self.from, "a skip from {} features with inputs of {width}", self.from);
        Ok(resample_norm(x, &self.weights)?)
    }
}
