//! The LSTM layers of one part, stacked.

use anyhow::Result;
use candle_core::Tensor;

use super::layout::{Initial, Layout};
use super::params::Params;
use crate::ops::{Dropout, LstmWeights, lstm};

/// Layers that feed each other, with dropout between them.
pub struct StackedLstm {
    layers: Vec<LstmWeights>,
}

/// The state of one layer, `[B, D]` each.
#[derive(Clone)]
pub struct LayerState {
    pub hidden: Tensor,
    pub cell: Tensor,
}

impl StackedLstm {
    pub(super) fn declare(layout: &mut Layout, name: &str, hidden: usize, n_layers: usize) {
        let initial = Initial::inverse_root(hidden);
        for layer in 0..n_layers {
            layout.in_block(&format!("{name}.l{layer}"), |layout| {
                for kind in ["weight_ih", "weight_hh"] {
                    layout.add(format!("{name}.{kind}_l{layer}"), &[4 * hidden, hidden], initial);
                }
                for kind in ["bias_ih", "bias_hh"] {
                    layout.add(format!("{name}.{kind}_l{layer}"), &[4 * hidden], initial);
                }
            });
        }
    }

    pub(super) fn load(params: &Params, name: &str, hidden: usize, n_layers: usize) -> Result<Self> {
        let scope = params.scope(name);
        let load = |layer| {
            let values = scope.packed(&format!("weight_ih_l{layer}"), &format!("bias_hh_l{layer}"))?;
            Ok(LstmWeights::new(values, hidden, hidden)?)
        };
        Ok(StackedLstm { layers: (0..n_layers).map(load).collect::<Result<_>>()? })
    }

    /// Runs all layers from `states` (one per layer); returns the last layer's outputs and the final states.
    ///
    /// - Shapes: `x [B, T, D]` -> `[B, T, D]`, zero at and beyond a sample's length.
    /// - Errors: lengths that do not fit (`None`: all samples have all steps).
    pub fn forward(
        &self,
        x: &Tensor,
        states: &[LayerState],
        lengths: Option<&[usize]>,
        dropout: &Dropout,
    ) -> Result<(Tensor, Vec<LayerState>)> {
        let mut sequence = x.clone();
        let mut finals = Vec::with_capacity(self.layers.len());
        for (i, (weights, state)) in self.layers.iter().zip(states).enumerate() {
            if i > 0 {
                sequence = dropout.apply(&sequence)?;
            }
            let out = lstm(&sequence, weights, &state.hidden, &state.cell, lengths)?;
            sequence = out.sequence;
            finals.push(LayerState { hidden: out.hidden, cell: out.cell });
        }
        Ok((sequence, finals))
    }
}
