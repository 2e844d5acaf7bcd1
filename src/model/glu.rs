//! The gated linear unit, and the gated skip connections made of it (Lim et al., equations 3 to 5).

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::ops::sigmoid;

use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::norm::Norm;
use super::params::{Params, Scope};
use crate::ops::Dropout;

/// Half of a linear layer's outputs, each scaled by the sigmoid of its partner in the other half.
pub struct Glu {
    linear: Linear,
}

impl Glu {
    pub(super) fn declare(layout: &mut Layout, name: &str, from: usize, to: usize) {
        layout.add(format!("{name}.fc.weight"), &[2 * to, from], Initial::xavier(from, 2 * to));
        layout.add(format!("{name}.fc.bias"), &[2 * to], Initial::Zeros);
    }

    pub(super) fn load(scope: &Scope) -> Result<Self> {
        Ok(Glu { linear: Linear::load(&scope.at("fc"))? })
    }

    /// - Shapes: `x [.., in]` -> `[.., out]`. Dropout acts on `x`.
    pub fn forward(&self, x: &Tensor, dropout: &Dropout) -> candle_core::Result<Tensor> {
        let x = dropout.apply(x)?;
        let width = self.linear.n_outputs()? / 2;
        // The weights are split rather than the result: the backward of a slice pads it to full size again.
        let value = self.linear.rows(0, width)?.forward(&x)?;
        let gate = self.linear.rows(width, width)?.forward(&x)?;
        value * sigmoid(&gate)?
    }
}

/// `LN(GLU(x) + skip)`.
pub struct GateAddNorm {
    glu: Glu,
    norm: Norm,
}

impl GateAddNorm {
    pub(super) fn load(scope: &Scope) -> Result<Self> {
        Ok(GateAddNorm { glu: Glu::load(&scope.at("glu"))?, norm: Norm::load(&scope.at("add_norm.norm"))? })
    }

    /// The gate behind the LSTM, whose parameters have names of their own. One module serves both parts.
    pub(super) fn load_post_lstm(params: &Params) -> Result<Self> {
        Ok(GateAddNorm {
            glu: Glu::load(&params.scope("post_lstm_gate_encoder"))?,
            norm: Norm::load(&params.scope("post_lstm_add_norm_encoder.norm"))?,
        })
    }

    /// - Shapes: `x [.., in]`, `skip [.., out]` -> `[.., out]`. Dropout acts on `x`.
    pub fn forward(&self, x: &Tensor, skip: &Tensor, dropout: &Dropout) -> candle_core::Result<Tensor> {
        self.norm.forward(&(self.glu.forward(x, dropout)? + skip)?)
    }
}

/// Declares the parameters of a [`GateAddNorm`].
pub(super) fn declare_gate_add_norm(layout: &mut Layout, name: &str, from: usize, to: usize) {
    Glu::declare(layout, &format!("{name}.glu"), from, to);
    Norm::declare(layout, &format!("{name}.add_norm.norm"), to);
}

/// Declares the gate behind the LSTM, under its encoder and its decoder names.
pub(super) fn declare_post_lstm(layout: &mut Layout, hidden: usize) {
    Glu::declare(layout, "post_lstm_gate_encoder", hidden, hidden);
    Norm::declare(layout, "post_lstm_add_norm_encoder.norm", hidden);
    layout.alias("post_lstm_gate_decoder", "post_lstm_gate_encoder");
    layout.alias("post_lstm_add_norm_decoder", "post_lstm_add_norm_encoder");
}
