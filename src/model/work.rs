//! How much arithmetic a network is: the matrix products that one sample takes.
//!
//! Read off the parameters: each matrix is one product per step of the part it belongs to. What stands before the
//! first nonlinearity of a real input is multiplied out and counted so (see [`crate::ops::vsn`]); look-ups,
//! exponentials, norms and sums are not matrix products and not counted. A backward is twice its forward: one product
//! for the gradient of the inputs, one for that of the weights.

use anyhow::Result;

use super::config::TftConfig;
use super::layout::Layout;

/// `rows` vectors of `n_in` numbers times a matrix `[n_out, n_in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub rows: usize,
    pub n_in: usize,
    pub n_out: usize,
}

impl Product {
    /// Floating point operations, a multiplication and an addition each.
    pub fn flops(&self) -> u64 {
        2 * (self.rows * self.n_in * self.n_out) as u64
    }
}

/// The products of one sample's forward pass.
///
/// - Errors: the config is not valid.
pub fn products(config: &TftConfig, encoder_length: usize, horizon: usize) -> Result<Vec<Product>> {
    let steps = Steps { encoder: encoder_length, decoder: horizon };
    let layout = Layout::of(config)?;
    let matrices = layout.declarations().iter().filter_map(|parameter| match parameter.shape[..] {
        [n_out, n_in] => matrix(config, &parameter.name, (n_out, n_in), steps),
        _ => None,
    });
    let width = config.hidden_size / config.attention_head_size;
    // A forecast step sees the history and, on average, half of the forecast.
    let seen = encoder_length + horizon.div_ceil(2);
    let rows = horizon * config.attention_head_size;
    let attention = [Product { rows, n_in: width, n_out: seen }, Product { rows, n_in: seen, n_out: width }];
    Ok(matrices.chain(attention).filter(|product| product.flops() > 0).collect())
}

#[derive(Clone, Copy)]
struct Steps {
    encoder: usize,
    decoder: usize,
}

/// The product a matrix stands for; none for tables and for what is multiplied out.
fn matrix(config: &TftConfig, name: &str, (n_out, n_in): (usize, usize), steps: Steps) -> Option<Product> {
    let Steps { encoder, decoder } = steps;
    let part = name.split('.').next().unwrap_or_default();
    let (rows, n_reals) = match part {
        "input_embeddings" | "prescalers" => return None,
        "encoder_variable_selection" => (encoder, config.time_varying_reals_encoder.len()),
        "decoder_variable_selection" => (decoder, config.time_varying_reals_decoder.len()),
        "static_variable_selection" => (1, config.static_reals.len()),
        "lstm_encoder" => (encoder, 0),
        "lstm_decoder" => (decoder, 0),
        "post_lstm_gate_encoder" | "post_lstm_add_norm_encoder" | "static_enrichment" => {
            (encoder + decoder, 0)
        }
        "multihead_attn" if name.contains("k_layers") || name.contains("v_layer") => (encoder + decoder, 0),
        "multihead_attn" | "post_attn_gate_norm" | "pos_wise_ff" | "pre_output_gate_norm" => (decoder, 0),
        _ if part.starts_with("output_layer") => (decoder, 0),
        // The contexts of a sample.
        _ => (1, 0),
    };
    let is_first = name.ends_with(".fc1.weight");
    if name.contains(".single_variable_grns.") && is_first {
        return None;
    }
    let n_in = if name.contains(".flattened_grn.fc1.") { n_reals } else { n_in };
    let rows = if name.ends_with(".context.weight") { 1 } else { rows };
    Some(Product { rows, n_in, n_out })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Params;
    use candle_core::Device;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn config() -> TftConfig {
        TftConfig {
            hidden_size: 8,
            hidden_continuous_size: 4,
            attention_head_size: 2,
            x_reals: names(&["cpu", "hour"]),
            time_varying_reals_encoder: names(&["cpu", "hour"]),
            time_varying_reals_decoder: names(&["hour"]),
            output_sizes: vec![3],
            ..TftConfig::default()
        }
    }

    fn total(products: &[Product]) -> u64 {
        products.iter().map(Product::flops).sum()
    }

    #[test]
    fn a_small_network_counted_by_hand() {
        // Per step, in multiplications. Each variable: 4 x 4 and the gates 4 x 16. Their weights in the encoder: the
        // first layer from 2 reals to min(8, 2) = 2, 2 x 2, gates 2 x 4; the decoder's single variable needs none.
        let singles = 16 + 64;
        let encoder_selection = 2 * singles + (2 * 2 + 2 * 2 + 2 * 4);
        let lstm = 2 * 8 * 32;
        let gate = 8 * 16;
        let enrichment = 2 * 8 * 8 + gate;
        let (key, value, query) = (8 * 8, 8 * 4, 8 * 8);
        let every_step = lstm + gate + enrichment + key + value;
        let forecast_step = query + 4 * 8 + gate + enrichment + gate + 8 * 3;
        // Five steps back and two ahead: seen are 5 + 1, with 2 heads of 4.
        let attention = 2 * (2 * 2 * 4 * 6);
        let contexts = 4 * enrichment + 8 * 2 + 8 * 8;
        let expected = 5 * (encoder_selection + every_step)
            + 2 * (singles + every_step + forecast_step)
            + attention
            + contexts;
        assert_eq!(total(&products(&config(), 5, 2).unwrap()), 2 * expected as u64);
    }

    #[test]
    fn every_matrix_of_the_network_has_a_known_part() {
        let config = TftConfig {
            output_sizes: vec![3, 3],
            output_transformations: vec![Default::default(); 2],
            ..config()
        };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let known = [
            "input_embeddings",
            "prescalers",
            "encoder_variable_selection",
            "decoder_variable_selection",
            "static_variable_selection",
            "static_context",
            "lstm_encoder",
            "lstm_decoder",
            "post_lstm",
            "static_enrichment",
            "multihead_attn",
            "post_attn_gate_norm",
            "pos_wise_ff",
            "pre_output_gate_norm",
            "output_layer",
        ];
        for (name, _) in params.iter() {
            assert!(known.iter().any(|part| name.starts_with(part)), "{name} is counted for one row only");
        }
        let (one, two) = (products(&config, 5, 2).unwrap(), products(&config, 10, 4).unwrap());
        assert!(total(&two) > 19 * total(&one) / 10, "twice the steps are about twice the work");
    }
}
