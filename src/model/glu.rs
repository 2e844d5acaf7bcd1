//! The gated linear unit, and the gated skip connections made of it (Lim et al., equations 3 to 5).

use anyhow::{Result, bail};
use candle_core::Tensor;

use super::layout::{Initial, Layout};
use super::norm;
use super::params::{Params, Scope};
use crate::ops::{Dropout, GateSizes, GateWeights, gate_add_norm};

/// `LN(GLU(x) + skip)`.
pub struct GateAddNorm {
    weights: GateWeights,
}

impl GateAddNorm {
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        let &[twice, n_in] = &scope.place("glu.fc.weight")?.shape[..] else {
            bail!("the weight of a gate is no matrix")
        };
        let values = scope.packed("glu.fc.weight", "add_norm.norm.bias")?;
        Ok(GateAddNorm { weights: GateWeights::new(values, GateSizes { n_in, n_out: twice / 2 })? })
    }

    /// The gate behind the LSTM, whose parameters have names of their own. One module serves both parts.
    pub(super) fn load_post_lstm(params: &Params, hidden: usize) -> Result<Self> {
        let values =
            params.packed("post_lstm_gate_encoder.fc.weight", "post_lstm_add_norm_encoder.norm.bias")?;
        Ok(GateAddNorm { weights: GateWeights::new(values, GateSizes { n_in: hidden, n_out: hidden })? })
    }

    pub(super) fn weights(&self) -> &GateWeights {
        &self.weights
    }

    /// - Shapes: `x [.., in]`, `skip [.., out]` -> `[.., out]`. Dropout acts on `x`.
    pub fn forward(&self, x: &Tensor, skip: &Tensor, dropout: &Dropout) -> candle_core::Result<Tensor> {
        gate_add_norm(x, skip, &self.weights, dropout.site())
    }
}

fn declare_glu(layout: &mut Layout, name: &str, from: usize, to: usize) {
    layout.add(format!("{name}.fc.weight"), &[2 * to, from], Initial::xavier(from, 2 * to));
    layout.add(format!("{name}.fc.bias"), &[2 * to], Initial::Zeros);
}

/// Declares the parameters of a [`GateAddNorm`].
pub(super) fn declare_gate_add_norm(layout: &mut Layout, name: &str, from: usize, to: usize) {
    layout.in_block(name, |layout| {
        declare_glu(layout, &format!("{name}.glu"), from, to);
        norm::declare(layout, &format!("{name}.add_norm.norm"), to);
    });
}

/// Declares the gate behind the LSTM, under its encoder and its decoder names.
pub(super) fn declare_post_lstm(layout: &mut Layout, hidden: usize) {
    layout.in_block("post_lstm", |layout| {
        declare_glu(layout, "post_lstm_gate_encoder", hidden, hidden);
        norm::declare(layout, "post_lstm_add_norm_encoder.norm", hidden);
    });
    layout.alias("post_lstm_gate_decoder", "post_lstm_gate_encoder");
    layout.alias("post_lstm_add_norm_decoder", "post_lstm_add_norm_encoder");
}
