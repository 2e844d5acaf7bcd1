//! What training minimises: the quantile losses of all targets, weighted and summed.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::tft::TftOutput;
use crate::ops::quantile_loss::{QuantileLossOptions, quantile_loss};

/// How a [`multi_quantile_loss`] counts.
#[derive(Clone, Debug, Default)]
pub struct MultiLossOptions {
    /// Twice the pinball loss (pytorch-forecasting's choice).
    pub doubled: bool,
    /// A factor per target; `None`: 1 each.
    pub target_weights: Option<Vec<f64>>,
    /// A factor per forecast step, `[B, H]`, for all targets. Not normalised.
    pub sample_weights: Option<Tensor>,
    /// The valid forecast steps of each sample; `None`: all.
    pub decoder_lengths: Option<Vec<usize>>,
    /// Quantiles of its own for every target, in place of those given for all.
    pub target_quantiles: Option<Vec<Vec<f64>>>,
}

/// The loss of a batch.
pub struct MultiLoss {
    /// The weighted sum over targets, a scalar.
    pub total: Tensor,
    /// Each target's own loss before its weight, scalars.
    pub per_target: Vec<Tensor>,
}

/// The weighted sum of the targets' mean quantile losses.
///
/// - Shapes: a forecast `[B, H, Q]` and a target `[B, H]` each, with a `Q` of its own if `options` says so.
/// - Units: those of the targets, so a target in large units dominates unless it is scaled or weighted.
/// - Errors: numbers of targets or shapes that do not fit.
pub fn multi_quantile_loss(
    output: &TftOutput,
    targets: &[Tensor],
    quantiles: &[f64],
    options: &MultiLossOptions,
) -> Result<MultiLoss> {
    let (n_forecasts, n_targets) = (output.prediction.len(), targets.len());
    ensure!(n_forecasts == n_targets, "{n_forecasts} forecast targets, {n_targets} observed ones");
    if let Some(weights) = &options.target_weights {
        ensure!(weights.len() == n_targets, "{} target weights for {n_targets} targets", weights.len());
    }
    if let Some(each) = &options.target_quantiles {
        ensure!(each.len() == n_targets, "quantiles for {} targets, not {n_targets}", each.len());
    }
    let single = QuantileLossOptions {
        doubled: options.doubled,
        sample_weights: options.sample_weights.as_ref(),
        lengths: options.decoder_lengths.as_deref(),
    };
    let mut per_target = Vec::with_capacity(n_targets);
    let mut total: Option<Tensor> = None;
    for (i, (forecast, target)) in output.prediction.iter().zip(targets).enumerate() {
        let quantiles = options.target_quantiles.as_ref().map_or(quantiles, |each| &each[i]);
        let loss =
            quantile_loss(forecast, target, quantiles, &single).with_context(|| format!("target {i}"))?;
        let weight = options.target_weights.as_ref().map_or(1.0, |weights| weights[i]);
        let weighted = (&loss * weight)?;
        total = Some(match total {
            Some(total) => (total + weighted)?,
            None => weighted,
        });
        per_target.push(loss);
    }
    Ok(MultiLoss { total: total.context("no target")?, per_target })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn every_target_may_have_quantiles_of_its_own() {
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).expect("a tensor")
        };
        let empty = tensor(&[], &[1, 0]);
        let output = TftOutput {
            prediction: vec![tensor(&[1.0], &[1, 1, 1]), tensor(&[1.0, 3.0], &[1, 1, 2])],
            encoder_attention: empty.clone(),
            decoder_attention: empty.clone(),
            static_variables: empty.clone(),
            encoder_variables: empty.clone(),
            decoder_variables: empty,
        };
        let targets = [tensor(&[2.0], &[1, 1]), tensor(&[2.0], &[1, 1])];
        let loss = |quantiles: &[&[f64]]| {
            let target_quantiles = Some(quantiles.iter().map(|list| list.to_vec()).collect());
            let options = MultiLossOptions { target_quantiles, ..Default::default() };
            multi_quantile_loss(&output, &targets, &[], &options)
        };
        // The median misses by 1 from below; 0.1 by 1 from below and 0.8 by 1 from above cost 0.1 and 0.2.
        let total = loss(&[&[0.5], &[0.1, 0.8]]).unwrap().total.to_scalar::<f32>().unwrap();
        assert!((total - 0.65).abs() < 1e-6, "{total}");
        assert!(loss(&[&[0.5]]).is_err_and(|error| error.to_string().contains("1 targets, not 2")));
        assert!(loss(&[&[0.5], &[0.5]]).is_err());
    }
}
