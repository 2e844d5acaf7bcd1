//! The gated residual network: the block that decides how much of a nonlinearity a variable needs (Lim et al.,
//! equations 2 to 4).

use anyhow::Result;
use candle_core::Tensor;

use super::glu::{GateAddNorm, declare_gate_add_norm};
use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::norm::ResampleNorm;
use super::params::Scope;
use crate::ops::Dropout;

/// `LN(GLU(W2 ELU(W1 x + Wc c)) + skip)`, where the skip is `x`, stretched if the widths differ.
pub struct Grn {
    resample: Option<ResampleNorm>,
    first: Linear,
    context: Option<Linear>,
    second: Linear,
    gate: GateAddNorm,
}

/// Declares the parameters of a GRN with widths `[in, hidden, out]` and, if any, a context of that width.
pub(super) fn declare(
    layout: &mut Layout,
    name: &str,
    [from, hidden, to]: [usize; 3],
    context: Option<usize>,
) {
    if from != to {
        ResampleNorm::declare(layout, &format!("{name}.resample_norm"), to);
    }
    layout.add(format!("{name}.fc1.weight"), &[hidden, from], Initial::he(from));
    layout.add(format!("{name}.fc1.bias"), &[hidden], Initial::Zeros);
    if let Some(context) = context {
        let initial = Initial::xavier(context, hidden);
        layout.add(format!("{name}.context.weight"), &[hidden, context], initial);
    }
    layout.add(format!("{name}.fc2.weight"), &[hidden, hidden], Initial::he(hidden));
    layout.add(format!("{name}.fc2.bias"), &[hidden], Initial::Zeros);
    declare_gate_add_norm(layout, &format!("{name}.gate_norm"), hidden, to);
}

impl Grn {
    /// With a stretched skip and a context if their parameters are there.
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        let from = scope.tensor("fc1.weight")?.dim(1)?;
        let resample = scope.has("resample_norm.mask");
        let resample = resample.then(|| ResampleNorm::load(&scope.at("resample_norm"), from)).transpose()?;
        let context = scope.has("context.weight").then(|| Linear::load(&scope.at("context"))).transpose()?;
        Ok(Grn {
            resample,
            first: Linear::load(&scope.at("fc1"))?,
            context,
            second: Linear::load(&scope.at("fc2"))?,
            gate: GateAddNorm::load(&scope.at("gate_norm"))?,
        })
    }

    /// - Shapes: `x [.., in]`, `context [.., D]` with axes of 1 where it is the same for all -> `[.., out]`.
    pub fn forward(&self, x: &Tensor, context: Option<&Tensor>, dropout: &Dropout) -> Result<Tensor> {
        let skip = match &self.resample {
            Some(resample) => resample.forward(x)?,
            None => x.clone(),
        };
        let mut inner = self.first.forward(x)?;
        if let (Some(layer), Some(context)) = (&self.context, context) {
            inner = inner.broadcast_add(&layer.forward(context)?)?;
        }
        let inner = self.second.forward(&inner.elu(1.0)?)?;
        Ok(self.gate.forward(&inner, &skip, dropout)?)
    }
}
