//! The gated linear unit, and the gated skip connections made of it (Lim et al., equations 3 to 5).

use anyhow::Result;
use candle_core::Tensor;

use super::layout::{Initial, Layout};
use super::linear::load_pair;
use super::norm;
use super::params::{Params, Scope};
use crate::ops::{Dropout, GateWeights, gate_add_norm};

/// `LN(GLU(x) + skip)`.
pub struct GateAddNorm {
    weights: GateWeights,
}

impl GateAddNorm {
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        let (gate, norm) = (load_pair(&scope.at("glu.fc"))?, load_pair(&scope.at("add_norm.norm"))?);
        Ok(GateAddNorm { weights: GateWeights { gate, norm } })
    }

    /// The gate behind the LSTM, whose parameters have names of their own. One module serves both parts.
    pub(super) fn load_post_lstm(params: &Params) -> Result<Self> {
        let gate = load_pair(&params.scope("post_lstm_gate_encoder.fc"))?;
        let norm = load_pair(&params.scope("post_lstm_add_norm_encoder.norm"))?;
        Ok(GateAddNorm { weights: GateWeights { gate, norm } })
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
    declare_glu(layout, &format!("{name}.glu"), from, to);
    norm::declare(layout, &format!("{name}.add_norm.norm"), to);
}

/// Declares the gate behind the LSTM, under its encoder and its decoder names.
pub(super) fn declare_post_lstm(layout: &mut Layout, hidden: usize) {
    declare_glu(layout, "post_lstm_gate_encoder", hidden, hidden);
    norm::declare(layout, "post_lstm_add_norm_encoder.norm", hidden);
    layout.alias("post_lstm_gate_decoder", "post_lstm_gate_encoder");
    layout.alias("post_lstm_add_norm_decoder", "post_lstm_add_norm_encoder");
}
