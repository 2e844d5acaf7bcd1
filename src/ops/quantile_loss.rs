//! The quantile (pinball) loss, plain and doubled: a fused operation for f32 on the CPU, and the composition of tensor
//! operations elsewhere and as its oracle.

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};

use super::host::is_host_f32;
use super::quantile_loss_fused::quantile_loss_fused;

/// How a [`quantile_loss`] counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuantileLossOptions<'a> {
    /// Twice the pinball loss, so that the median's share is the absolute error (pytorch-forecasting's choice).
    pub doubled: bool,
    /// A factor per forecast step, `[B, H]`. Weights are not normalised: weights of 2 double the loss.
    pub sample_weights: Option<&'a Tensor>,
    /// The valid steps of each sample; later ones count neither in the sum nor in the mean. `None`: all valid.
    pub lengths: Option<&'a [usize]>,
}

impl QuantileLossOptions<'_> {
    /// What the mean is multiplied by.
    pub(super) fn factor(&self) -> f64 {
        if self.doubled { 2.0 } else { 1.0 }
    }
}

/// Mean quantile (pinball) loss of a batch of forecasts over valid steps and quantiles.
///
/// With error `e = target - forecast`, quantile `q` costs `max(q*e, (q-1)*e)`: at `q = 0.9` a forecast that is
/// too low costs nine times one that is too high by the same amount, which is what pulls that output up to the
/// 90th percentile.
///
/// - Shapes: `forecast [B, H, Q]`, `target [B, H]`, `Q` quantiles -> scalar.
/// - Units: those of `target`.
/// - Errors: a shape that does not fit; a length beyond `H`; no valid step at all.
/// - Source: Lim et al., arXiv:1912.09363, "Loss Functions".
pub fn quantile_loss(
    forecast: &Tensor,
    target: &Tensor,
    quantiles: &[f64],
    options: &QuantileLossOptions,
) -> Result<Tensor> {
    let others = [Some(target), options.sample_weights];
    let can_fuse = others.into_iter().flatten().all(|other| is_host_f32(other) && !other.track_op());
    let form = if is_host_f32(forecast) && can_fuse { quantile_loss_fused } else { quantile_loss_plain };
    form(forecast, target, quantiles, options)
}

/// [`quantile_loss`] in tensor operations, on any device and in any precision; the target and the weights may have
/// gradients as well.
pub fn quantile_loss_plain(
    forecast: &Tensor,
    target: &Tensor,
    quantiles: &[f64],
    options: &QuantileLossOptions,
) -> Result<Tensor> {
    let n_valid = count_valid(forecast, target, quantiles, options)?;
    let costs = pinball(forecast, target, quantiles)?;
    let costs = match options.sample_weights {
        Some(weights) => costs.broadcast_mul(&weights.unsqueeze(D::Minus1)?)?,
        None => costs,
    };
    let sum = sum_valid(&costs, n_valid, options.lengths)?;
    Ok((sum * (options.factor() / (n_valid * quantiles.len()) as f64))?)
}

/// The number of valid steps.
///
/// - Errors: anything that does not fit together; no valid step at all.
pub(super) fn count_valid(
    forecast: &Tensor,
    target: &Tensor,
    quantiles: &[f64],
    options: &QuantileLossOptions,
) -> Result<usize> {
    let (batch, horizon, n_quantiles) = forecast.dims3()?;
    let n_expected = quantiles.len();
    ensure!(n_quantiles == n_expected, "{n_quantiles} quantile outputs, but {n_expected} quantiles");
    let (forecasts, targets) = (forecast.dims(), target.dims());
    ensure!(targets == [batch, horizon], "targets {targets:?}, forecasts {forecasts:?}");
    if let Some(weights) = options.sample_weights {
        ensure!(weights.dims() == targets, "weights {:?}, targets {targets:?}", weights.dims());
    }
    let n_valid = match options.lengths {
        None => batch * horizon,
        Some(lengths) => {
            ensure!(lengths.len() == batch, "{} decoder lengths for {batch} samples", lengths.len());
            let fits = lengths.iter().all(|&length| length <= horizon);
            ensure!(fits, "a decoder length exceeds the {horizon} steps");
            lengths.iter().sum()
        }
    };
    ensure!(n_valid > 0, "no step of the batch is valid");
    Ok(n_valid)
}

/// `[B, H, Q]`: the cost of each forecast.
fn pinball(forecast: &Tensor, target: &Tensor, quantiles: &[f64]) -> Result<Tensor> {
    let quantiles = Tensor::new(quantiles, forecast.device())?.to_dtype(forecast.dtype())?;
    let error = target.unsqueeze(D::Minus1)?.broadcast_sub(forecast)?;
    let too_low = error.broadcast_mul(&quantiles)?;
    let too_high = error.broadcast_mul(&(&quantiles - 1.0)?)?;
    Ok(too_low.maximum(&too_high)?)
}

/// The sum over the steps that lie within their sample's length.
fn sum_valid(costs: &Tensor, n_valid: usize, lengths: Option<&[usize]>) -> Result<Tensor> {
    let (batch, horizon, _) = costs.dims3()?;
    let Some(lengths) = lengths.filter(|_| n_valid < batch * horizon) else {
        return Ok(costs.sum_all()?);
    };
    let valid = lengths.iter().flat_map(|&length| (0..horizon).map(move |step| u8::from(step < length)));
    let valid = Tensor::from_vec(valid.collect(), (batch, horizon, 1), costs.device())?;
    // Chosen, not multiplied: whatever stands at a padded step (NaN as well) stays out.
    let costs = valid.broadcast_as(costs.shape())?.where_cond(costs, &costs.zeros_like()?)?;
    Ok(costs.sum_all()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    type Form = fn(&Tensor, &Tensor, &[f64], &QuantileLossOptions) -> Result<Tensor>;
    const FORMS: [Form; 2] = [quantile_loss_plain, quantile_loss_fused];

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn case(options: &QuantileLossOptions, expected: f32) {
        // Two samples of two steps, quantiles 0.1 and 0.5. Costs by hand: errors 1, -1 | 2, 0 || 0, 3 | -4, -2.
        let forecast = tensor(&[0.0, 2.0, 1.0, 3.0, 5.0, 2.0, 14.0, 12.0], &[2, 2, 2]);
        let target = tensor(&[1.0, 3.0, 5.0, 10.0], &[2, 2]);
        for form in FORMS {
            let loss = form(&forecast, &target, &[0.1, 0.5], options).unwrap();
            assert_close(&[loss.to_scalar::<f32>().unwrap()], &[expected], 1e-6);
        }
    }

    #[test]
    fn values_by_hand() {
        // 0.1, 0.5 | 0.2, 0 || 0, 1.5 | 3.6, 1
        let plain = QuantileLossOptions::default();
        case(&plain, 6.9 / 8.0);
        case(&QuantileLossOptions { doubled: true, ..plain }, 13.8 / 8.0);
        case(&QuantileLossOptions { lengths: Some(&[2, 1]), ..plain }, 2.3 / 6.0);
        case(&QuantileLossOptions { lengths: Some(&[2, 2]), ..plain }, 6.9 / 8.0);
        let weights = tensor(&[2.0, 1.0, 0.0, 0.5], &[2, 2]);
        case(&QuantileLossOptions { sample_weights: Some(&weights), ..plain }, 3.7 / 8.0);
    }

    #[test]
    fn what_stands_at_a_padded_step_does_not_matter() {
        let target = tensor(&[1.0, f32::NAN], &[1, 2]);
        let forecast = Var::from_tensor(&tensor(&[0.5, f32::INFINITY], &[1, 2, 1])).unwrap();
        let options = QuantileLossOptions { lengths: Some(&[1]), ..Default::default() };
        for form in FORMS {
            let loss = form(&forecast, &target, &[0.5], &options).unwrap();
            assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.25);
            let broken = form(&forecast, &target, &[0.5], &QuantileLossOptions::default()).unwrap();
            assert!(!broken.to_scalar::<f32>().unwrap().is_finite());
        }
        let loss = quantile_loss_fused(&forecast, &target, &[0.5], &options).unwrap();
        assert_eq!(values(loss.backward().unwrap().get(&forecast).unwrap()), [-0.5, 0.0]);
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_gradient() {
        for (batch, horizon, n_quantiles) in [(1, 1, 1), (3, 17, 5), (64, 96, 3), (5, 33, 16)] {
            let quantiles: Vec<f64> =
                (1..=n_quantiles).map(|i| i as f64 / (n_quantiles + 1) as f64).collect();
            let target = noise("target", &[batch, horizon]);
            let weights = noise("weights", &[batch, horizon]).abs().unwrap();
            let lengths: Vec<usize> = (0..batch).map(|i| horizon - i % horizon).collect();
            // Some forecasts hit their target exactly: both sides of the kink count there.
            let hits = (target.unsqueeze(D::Minus1).unwrap().gt(1.0).unwrap(), [batch, horizon, n_quantiles]);
            let exact = target.unsqueeze(D::Minus1).unwrap().broadcast_as(&hits.1).unwrap();
            let forecast = hits.0.broadcast_as(&hits.1).unwrap().where_cond(&exact, &noise("f", &hits.1));
            let forecast = Var::from_tensor(&forecast.unwrap()).unwrap();
            for (sample_weights, lengths) in [(None, None), (Some(&weights), Some(&*lengths))] {
                let options = QuantileLossOptions { doubled: true, sample_weights, lengths };
                let run = |form: Form| {
                    let loss = form(&forecast, &target, &quantiles, &options).unwrap();
                    // The gradient that comes in is not 1.
                    let grads = (&loss * 3.0).unwrap().backward().unwrap();
                    (loss.to_scalar::<f32>().unwrap(), values(grads.get(&forecast).unwrap()))
                };
                let (plain, fused) = (run(quantile_loss_plain), run(quantile_loss_fused));
                assert_close(&[fused.0], &[plain.0], 2e-6 * plain.0.abs().max(1.0));
                let largest = plain.1.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert_close(&fused.1, &plain.1, 1e-6 * largest);
            }
        }
    }

    #[test]
    fn a_target_that_is_trained_has_its_gradient() {
        let (forecast, target) = (tensor(&[0.0, 2.0], &[1, 2, 1]), tensor(&[1.0, 1.0], &[1, 2]));
        let target = Var::from_tensor(&target).unwrap();
        let loss = quantile_loss(&forecast, &target, &[0.1], &QuantileLossOptions::default()).unwrap();
        assert_close(&values(loss.backward().unwrap().get(&target).unwrap()), &[0.05, -0.45], 1e-6);
    }

    #[test]
    fn misfits_are_refused() {
        let (forecast, target) = (noise("f", &[2, 3, 2]), noise("t", &[2, 3]));
        let options = QuantileLossOptions::default();
        assert!(quantile_loss(&forecast, &target, &[0.5], &options).is_err());
        assert!(quantile_loss(&forecast, &noise("t", &[3, 2]), &[0.1, 0.5], &options).is_err());
        let turned = noise("w", &[3, 2]);
        let misfit = QuantileLossOptions { sample_weights: Some(&turned), ..options };
        assert!(quantile_loss(&forecast, &target, &[0.1, 0.5], &misfit).is_err());
        for lengths in [&[0usize, 0][..], &[4, 1], &[1], &[3]] {
            let options = QuantileLossOptions { lengths: Some(lengths), ..options };
            assert!(quantile_loss(&forecast, &target, &[0.1, 0.5], &options).is_err(), "{lengths:?}");
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = [Var::from_tensor(&noise("forecast", &[2, 3, 3])).unwrap()];
        let (target, weights) = (noise("target", &[2, 3]), noise("weights", &[2, 3]).abs().unwrap());
        let lengths = [3, 2];
        let options =
            QuantileLossOptions { doubled: true, sample_weights: Some(&weights), lengths: Some(&lengths) };
        for form in FORMS {
            assert_gradients(&vars, 2e-3, || {
                form(&vars[0], &target, &[0.1, 0.5, 0.9], &options).map_err(candle_core::Error::msg)
            });
        }
    }
}
