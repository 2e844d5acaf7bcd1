//! Interpretable multi-head attention: every head has its own view, all share one set of values (Lim et al.,
//! equations 13 to 16), so their average can be read as one attention.
//!
//! Here are its parameters and projections; what happens between them is [`crate::ops::attention()`].

use anyhow::Result;
use candle_core::Tensor;

use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::params::Params;
use crate::ops::passage::{FromAttention, ToAttention};
use crate::ops::{AttentionMask, Dropout, GateWeights, GrnWeights, attention, attention_weights};

/// The attention of the forecast steps to all steps.
pub struct Attention {
    /// Of all heads, and so are the keys.
    queries: Linear,
    keys: Linear,
    value: Linear,
    output: Linear,
}

impl Attention {
    pub(super) fn declare(layout: &mut Layout, name: &str, hidden: usize, n_heads: usize) {
        let width = hidden / n_heads;
        let linear = |layout: &mut Layout, part: &str| {
            layout.add(format!("{name}.{part}.weight"), &[width, hidden], Initial::xavier(hidden, width));
            layout.add_behind(format!("{name}.{part}.bias"), &[width], Initial::Zeros);
        };
        layout.in_block(&format!("{name}.v_layer"), |layout| linear(layout, "v_layer"));
        for part in ["q_layers", "k_layers"] {
            layout.in_block(&format!("{name}.{part}"), |layout| {
                (0..n_heads).for_each(|head| linear(layout, &format!("{part}.{head}")));
            });
        }
        layout.add(format!("{name}.w_h.weight"), &[hidden, width], Initial::xavier(width, hidden));
    }

    pub(super) fn load(params: &Params, name: &str, n_heads: usize) -> Result<Self> {
        let scope = params.scope(name);
        Ok(Attention {
            queries: Linear::load_joined(&scope.at("q_layers"), n_heads)?,
            keys: Linear::load_joined(&scope.at("k_layers"), n_heads)?,
            value: Linear::load(&scope.at("v_layer"))?,
            output: Linear::load(&scope.at("w_h"))?,
        })
    }

    /// Attends from `x_query` to `x`.
    ///
    /// - Shapes: `x_query [B, H, D]`, `x [B, T, D]` -> `[B, H, D]`.
    pub fn forward(
        &self,
        x_query: &Tensor,
        x: &Tensor,
        mask: &AttentionMask,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let (queries, keys) = self.project(x_query, x)?;
        let mean = attention(&queries, &keys, &self.value.forward(x)?, mask, dropout)?;
        Ok(dropout.apply(&self.output.forward(&mean)?)?)
    }

    /// The blocks before and behind [`crate::ops::attention()`], with those of the network around them.
    pub(super) fn passages<'a>(
        &'a self,
        (gate, enrichment): (&'a GateWeights, &'a GrnWeights),
        (post, feed_forward, pre_output): (&'a GateWeights, &'a GrnWeights, &'a GateWeights),
        heads: &'a [Linear],
    ) -> (ToAttention<'a>, FromAttention<'a>) {
        let to = ToAttention {
            gate,
            enrichment,
            queries: self.queries.weights(),
            keys: self.keys.weights(),
            values: self.value.weights(),
        };
        let heads = heads.iter().map(Linear::weights).collect();
        let output = self.output.weights();
        (to, FromAttention { output, gate: post, feed_forward, pre_output, heads })
    }

    /// What each head looks at, for people: no gradient flows back.
    ///
    /// - Shapes: as in [`Attention::forward`] -> `[B, H, A, T]`.
    pub fn weights(&self, x_query: &Tensor, x: &Tensor, mask: &AttentionMask) -> Result<Tensor> {
        let (queries, keys) = self.project(&x_query.detach(), &x.detach())?;
        let weights = attention_weights(&queries.detach(), &keys.detach(), self.value.n_outputs(), mask)?;
        Ok(weights.transpose(1, 2)?)
    }

    /// Queries `[B, H, A d]` and keys `[B, T, A d]` of all heads.
    fn project(&self, x_query: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.queries.forward(x_query)?, self.keys.forward(x)?))
    }
}
