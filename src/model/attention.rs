//! Interpretable multi-head attention: every head has its own view, all share one set of values (Lim et al.,
//! equations 13 to 16), so their average can be read as one attention.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::params::Params;
use crate::ops::{Dropout, masked_softmax};

/// The attention of the forecast steps to all steps.
pub struct Attention {
    queries: Vec<Linear>,
    keys: Vec<Linear>,
    value: Linear,
    output: Linear,
    mask_bias: f64,
}

impl Attention {
    pub(super) fn declare(layout: &mut Layout, name: &str, hidden: usize, n_heads: usize) {
        let width = hidden / n_heads;
        let mut linear = |part: &str| {
            layout.add(format!("{name}.{part}.weight"), &[width, hidden], Initial::xavier(hidden, width));
            layout.add(format!("{name}.{part}.bias"), &[width], Initial::Zeros);
        };
        linear("v_layer");
        for part in ["q_layers", "k_layers"] {
            (0..n_heads).for_each(|head| linear(&format!("{part}.{head}")));
        }
        layout.add(format!("{name}.w_h.weight"), &[hidden, width], Initial::xavier(width, hidden));
    }

    pub(super) fn load(params: &Params, name: &str, n_heads: usize, mask_bias: f64) -> Result<Self> {
        let scope = params.scope(name);
        let heads = |part: &str| -> Result<Vec<Linear>> {
            (0..n_heads).map(|head| Linear::load(&scope.at(&format!("{part}.{head}")))).collect()
        };
        Ok(Attention {
            queries: heads("q_layers")?,
            keys: heads("k_layers")?,
            value: Linear::load(&scope.at("v_layer"))?,
            output: Linear::load(&scope.at("w_h"))?,
            mask_bias,
        })
    }

    /// Attends from `x_query` to `x`; returns the result and the weights.
    ///
    /// - Shapes: `x_query [B, H, D]`, `x [B, T, D]`, `masked` (u8, see [`mask`]) broadcasting to `[B, A, H, T]`
    ///   -> `[B, H, D]`, weights `[B, H, A, T]`.
    pub fn forward(
        &self,
        x_query: &Tensor,
        x: &Tensor,
        masked: &Tensor,
        dropout: &Dropout,
    ) -> Result<(Tensor, Tensor)> {
        let (batch, horizon, _) = x_query.dims3()?;
        let (n_steps, n_heads, width) = (x.dim(1)?, self.queries.len(), self.value.n_outputs()?);
        let queries = Linear::joined(&self.queries)?.forward(x_query)?;
        let queries = queries.reshape((batch, horizon, n_heads, width))?.transpose(1, 2)?.contiguous()?;
        let keys = Linear::joined(&self.keys)?.forward(x)?;
        let keys = keys.reshape((batch, n_steps, n_heads, width))?.permute((0, 2, 3, 1))?.contiguous()?;
        let scores = (queries.matmul(&keys)? / (width as f64).sqrt())?;
        let weights = masked_softmax(&scores, masked, self.mask_bias)?;
        // The values are the same for all heads: heads and steps are rows of one product.
        let rows = weights.reshape((batch, n_heads * horizon, n_steps))?;
        let heads = rows.matmul(&self.value.forward(x)?)?.reshape((batch, n_heads, horizon, width))?;
        let mean = dropout.apply(&heads)?.mean(1)?;
        let attended = dropout.apply(&self.output.forward(&mean)?)?;
        Ok((attended, weights.transpose(1, 2)?))
    }
}

/// Which keys a forecast step must not see: 1 is masked.
///
/// History steps beyond a sample's length are masked. Of the forecast steps a causal mask leaves those strictly
/// before the query (its own step is masked, too); otherwise those within the sample's length are left.
///
/// - Shapes: `[B, 1, H, T]` of u8, with `B` 1 if all samples have the same mask.
pub fn mask(
    (encoder_length, horizon): (usize, usize),
    encoder_lengths: &[usize],
    decoder_lengths: &[usize],
    causal: bool,
    device: &Device,
) -> Result<Tensor> {
    let full = encoder_lengths.iter().all(|&length| length == encoder_length)
        && (causal || decoder_lengths.iter().all(|&length| length == horizon));
    let n_masks = if full { 1 } else { encoder_lengths.len() };
    let mut masked = Vec::with_capacity(n_masks * horizon * (encoder_length + horizon));
    for sample in 0..n_masks {
        for query in 0..horizon {
            let limit = if causal { query } else { decoder_lengths[sample] };
            masked.extend((0..encoder_length).map(|key| u8::from(key >= encoder_lengths[sample])));
            masked.extend((0..horizon).map(|key| u8::from(key >= limit)));
        }
    }
    Ok(Tensor::from_vec(masked, (n_masks, 1, horizon, encoder_length + horizon), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(encoder: &[usize], decoder: &[usize], causal: bool, expected: &[&[u8]]) {
        let masked = mask((2, 2), encoder, decoder, causal, &Device::Cpu).unwrap();
        let rows = masked.flatten_to(2).unwrap().to_vec2::<u8>().unwrap();
        assert_eq!(rows, expected.iter().map(|row| row.to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn masks_by_hand() {
        case(&[2, 2], &[2, 2], true, &[&[0, 0, 1, 1], &[0, 0, 0, 1]]);
        case(&[2, 2], &[2, 1], true, &[&[0, 0, 1, 1], &[0, 0, 0, 1]]);
        case(&[1], &[2], true, &[&[0, 1, 1, 1], &[0, 1, 0, 1]]);
        case(&[2, 2], &[2, 2], false, &[&[0, 0, 0, 0], &[0, 0, 0, 0]]);
        let two = [&[0u8, 0, 0, 0][..], &[0, 0, 0, 0], &[0, 1, 0, 1], &[0, 1, 0, 1]];
        case(&[2, 1], &[2, 1], false, &two);
    }
}
