//! The first weights of the output layers: ordered quantiles from the first step on.
//!
//! The reference draws every quantile's weights alone, so that a young network's quantiles cross nearly half of the
//! time and its band is as wide as chance made it. Scaled targets have centre 0 and scale 1, which is worth saying
//! at the start: every quantile begins with the same weights, and with the bias of its level in a distribution of
//! that centre and scale. Training is free to move them from there.

use anyhow::Result;
use candle_core::Tensor;

use crate::model::Params;

const PREFIX: &str = "output_layer.";

/// Gives the output layers of fresh `params` one row of weights for all quantiles, and the biases of `quantiles`.
///
/// - Shapes: `output_layer[.i].weight [Q, H]`, `output_layer[.i].bias [Q]`.
/// - Errors: a layer does not have one output per quantile.
pub fn order_quantiles(params: &Params, quantiles: &[f64]) -> Result<()> {
    for (name, values) in params.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let n_outputs = values.dim(0)?;
        anyhow::ensure!(
            n_outputs == quantiles.len(),
            "{name} has {n_outputs} outputs for {} quantiles",
            quantiles.len()
        );
        if name.ends_with("weight") {
            params.set(name, &values.narrow(0, 0, 1)?.broadcast_as(values.shape())?.force_contiguous()?)?;
        } else {
            let biases: Vec<f32> = quantiles.iter().map(|level| level_of(*level) as f32).collect();
            params.set(name, &Tensor::new(biases.as_slice(), values.device())?)?;
        }
    }
    Ok(())
}

/// The quantile of a distribution of centre 0 and scale 1: the normal one, by its logistic approximation
/// (off by less than 0.25 between the levels 0.02 and 0.98).
fn level_of(quantile: f64) -> f64 {
    (quantile / (1.0 - quantile)).ln() / 1.702
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_a_normal_distribution() {
        for (quantile, expected) in [(0.02, -2.054), (0.1, -1.282), (0.5, 0.0), (0.75, 0.674), (0.98, 2.054)]
        {
            let got = level_of(quantile);
            assert!((got - expected).abs() < 0.25, "{quantile}: {got}, the normal one is {expected}");
        }
    }
}
