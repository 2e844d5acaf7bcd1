//! The gated residual network: the block that decides how much of a nonlinearity a variable needs (Lim et al.,
//! equations 2 to 4).

use anyhow::Result;
use candle_core::Tensor;

use super::glu::declare_gate_add_norm;
use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::norm::ResampleNorm;
use super::params::Scope;
use crate::ops::{Dropout, GrnSizes, GrnWeights, grn};

/// The block with its parameters and, if it takes one, the layer its context goes through.
pub struct Grn {
    weights: GrnWeights,
    context: Option<Linear>,
}

/// Declares the parameters of a GRN with widths `[in, hidden, out]` and, if any, a context of that width.
pub(super) fn declare(
    layout: &mut Layout,
    name: &str,
    [from, hidden, to]: [usize; 3],
    context: Option<usize>,
) {
    layout.in_block(name, |layout| {
        if from != to {
            ResampleNorm::declare(layout, &format!("{name}.resample_norm"), to);
        }
        layout.add(format!("{name}.fc1.weight"), &[hidden, from], Initial::he(from));
        layout.add(format!("{name}.fc1.bias"), &[hidden], Initial::Zeros);
        if let Some(context) = context {
            let (own, initial) = (format!("{name}.context"), Initial::xavier(context, hidden));
            layout.add_to(&own, format!("{own}.weight"), &[hidden, context], initial);
        }
        layout.add(format!("{name}.fc2.weight"), &[hidden, hidden], Initial::he(hidden));
        layout.add(format!("{name}.fc2.bias"), &[hidden], Initial::Zeros);
        declare_gate_add_norm(layout, &format!("{name}.gate_norm"), hidden, to);
    });
}

/// The parameters of a block, without those of its context.
pub(super) fn load_weights(scope: &Scope) -> Result<GrnWeights> {
    let sizes = load_sizes(scope)?;
    let first = if sizes.is_stretched() { "resample_norm.mask" } else { "fc1.weight" };
    Ok(GrnWeights::new(scope.packed(first, "gate_norm.add_norm.norm.bias")?, sizes)?)
}

/// The widths of a block.
pub(super) fn load_sizes(scope: &Scope) -> Result<GrnSizes> {
    let width = |name: &str, dim: usize| Ok::<_, anyhow::Error>(scope.place(name)?.shape[dim]);
    let (n_in, hidden) = (width("fc1.weight", 1)?, width("fc1.weight", 0)?);
    Ok(GrnSizes { n_in, hidden, n_out: width("gate_norm.add_norm.norm.bias", 0)? })
}

impl Grn {
    /// With a context if its parameters are there.
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        let context = scope.has("context.weight").then(|| Linear::load(&scope.at("context"))).transpose()?;
        Ok(Grn { weights: load_weights(scope)?, context })
    }

    /// The parameters, without those of the context.
    pub(super) fn weights(&self) -> &GrnWeights {
        &self.weights
    }

    /// A context as the block takes it; `None` for a block without one.
    pub(super) fn project(&self, context: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.context.as_ref().map(|layer| layer.forward(context)).transpose()
    }

    /// - Shapes: `x [B, .., in]`, `context [B, 1, .., D]`, the same for all rows of a sample -> `[B, .., out]`.
    pub fn forward(&self, x: &Tensor, context: Option<&Tensor>, dropout: &Dropout) -> Result<Tensor> {
        let projected = context.map(|context| self.project(context)).transpose()?.flatten();
        Ok(grn(x, projected.as_ref(), &self.weights, dropout.site())?)
    }
}
