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
/// - Shapes: a forecast `[B, H, Q]` and a target `[B, H]` each; the same quantiles for all.
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
    let single = QuantileLossOptions {
        doubled: options.doubled,
        sample_weights: options.sample_weights.as_ref(),
        lengths: options.decoder_lengths.as_deref(),
    };
    let mut per_target = Vec::with_capacity(n_targets);
    let mut total: Option<Tensor> = None;
    for (i, (forecast, target)) in output.prediction.iter().zip(targets).enumerate() {
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
