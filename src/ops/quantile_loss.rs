//! The quantile (pinball) loss, plain and doubled.
//!
//! [`super::quantile_loss_fused`] is one operation for f32; [`quantile_loss_plain`] serves elsewhere and is its oracle.

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};

use super::has_fused_form;
use super::quantile_loss_fused::QuantileLoss;

/// What the summed costs are divided by, besides the number of quantiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DivideBy {
    /// The number of valid steps: weights are not normalised, weights of 2 double the loss (pytorch-forecasting's
    /// choice).
    #[default]
    ValidSteps,
    /// The sum of the weights of the valid steps: weights of 1 and 0 give the mean over the steps that have a 1.
    /// Where that sum is 0 the loss is 0, without a gradient.
    Weights,
}

/// How a [`quantile_loss`] counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuantileLossOptions<'a> {
    /// Twice the pinball loss, so that the median's share is the absolute error (pytorch-forecasting's choice).
    pub doubled: bool,
    pub divide_by: DivideBy,
    /// A factor per forecast step, `[B, H]`, not negative. `None`: 1 each.
    pub sample_weights: Option<&'a Tensor>,
    /// The valid steps of each sample; later ones count neither in the sum nor in the mean. `None`: all valid.
    pub lengths: Option<&'a [usize]>,
}

/// Mean quantile (pinball) loss of a batch of forecasts over quantiles and steps: the valid ones, or by weight.
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
    let (batch, horizon, n_quantiles) = forecast.dims3()?;
    let n_expected = quantiles.len();
    ensure!(n_quantiles == n_expected, "{n_quantiles} quantile outputs, but {n_expected} quantiles");
    ensure!(
        target.dims() == [batch, horizon],
        "targets {:?}, forecasts {:?}",
        target.dims(),
        forecast.dims()
    );
    let form = if has_fused_form(forecast) { quantile_loss_fused } else { quantile_loss_plain };
    form(forecast, target, quantiles, options)
}

/// [`quantile_loss`] in tensor operations, on any device and in any precision.
pub fn quantile_loss_plain(
    forecast: &Tensor,
    target: &Tensor,
    quantiles: &[f64],
    options: &QuantileLossOptions,
) -> Result<Tensor> {
    let (batch, horizon, n_quantiles) = forecast.dims3()?;
    let costs = pinball(forecast, target, quantiles)?;
    let costs = match options.sample_weights {
        Some(weights) => costs.broadcast_mul(&weights.unsqueeze(D::Minus1)?)?,
        None => costs,
    };
    let valid = options.lengths.map(|lengths| Valid::new(lengths, &costs)).transpose()?;
    let (sum, n_steps) = match &valid {
        Some(valid) => (valid.keep(&costs)?.sum_all()?, valid.n_steps),
        None => (costs.sum_all()?, batch * horizon),
    };
    let factor = if options.doubled { 2.0 } else { 1.0 } / n_quantiles as f64;
    match (options.divide_by, options.sample_weights) {
        (DivideBy::Weights, Some(weights)) => {
            let weights = match &valid {
                Some(valid) => valid.keep(&weights.unsqueeze(D::Minus1)?)?,
                None => weights.clone(),
            };
            Ok(((sum * factor)? / sum_or_one(&weights)?)?)
        }
        _ => Ok((sum * (factor / n_steps as f64))?),
    }
}

/// [`quantile_loss`] in one pass.
fn quantile_loss_fused(
    forecast: &Tensor,
    target: &Tensor,
    quantiles: &[f64],
    options: &QuantileLossOptions,
) -> Result<Tensor> {
    let (batch, horizon, n_quantiles) = forecast.dims3()?;
    let valid = options.lengths.map(|lengths| Valid::new(lengths, forecast)).transpose()?;
    let n_steps = valid.as_ref().map_or(batch * horizon, |valid| valid.n_steps);
    let weights_fit = options.sample_weights.is_none_or(|weights| weights.dims() == [batch, horizon]);
    ensure!(weights_fit, "weights that are not one per step of {batch} samples and {horizon} steps");
    let by_weights = options.divide_by == DivideBy::Weights && options.sample_weights.is_some();
    let some_valid = options.lengths.filter(|_| n_steps < batch * horizon);
    let loss = QuantileLoss {
        batch,
        horizon,
        quantiles: quantiles.iter().map(|&quantile| quantile as f32).collect(),
        factor: if options.doubled { 2.0 } else { 1.0 } / n_quantiles as f64,
        n_steps: (!by_weights).then_some(n_steps),
        lengths: some_valid.map(|lengths| lengths.iter().map(|&length| length as u32).collect()),
    };
    Ok(loss.apply(forecast, target, options.sample_weights)?)
}

/// `[B, H, Q]`: the cost of each forecast.
fn pinball(forecast: &Tensor, target: &Tensor, quantiles: &[f64]) -> Result<Tensor> {
    let quantiles = Tensor::new(quantiles, forecast.device())?.to_dtype(forecast.dtype())?;
    let error = target.unsqueeze(D::Minus1)?.broadcast_sub(forecast)?;
    let too_low = error.broadcast_mul(&quantiles)?;
    let too_high = error.broadcast_mul(&(&quantiles - 1.0)?)?;
    Ok(too_low.maximum(&too_high)?)
}

/// The sum of `weights`, or 1 where that is 0: a divisor.
fn sum_or_one(weights: &Tensor) -> Result<Tensor> {
    let sum = weights.detach().sum_all()?;
    Ok((&sum + sum.eq(0.0)?.to_dtype(sum.dtype())?)?)
}

/// The steps that lie within their sample's length.
struct Valid {
    /// `[B, H, 1]`, 1 or 0; none where all are valid.
    mask: Option<Tensor>,
    n_steps: usize,
}

impl Valid {
    /// - Shapes: `costs [B, H, Q]`, `B` lengths.
    fn new(lengths: &[usize], costs: &Tensor) -> Result<Self> {
        let (batch, horizon, _) = costs.dims3()?;
        ensure!(lengths.len() == batch, "{} decoder lengths for {batch} samples", lengths.len());
        let fits = lengths.iter().all(|&length| length <= horizon);
        ensure!(fits, "a decoder length exceeds the {horizon} steps");
        let n_steps = lengths.iter().sum::<usize>();
        ensure!(n_steps > 0, "no step of the batch is valid");
        if n_steps == batch * horizon {
            return Ok(Self { mask: None, n_steps });
        }
        let valid = lengths.iter().flat_map(|&length| (0..horizon).map(move |step| u8::from(step < length)));
        let mask = Tensor::from_vec(valid.collect(), (batch, horizon, 1), costs.device())?;
        Ok(Self { mask: Some(mask), n_steps })
    }

    /// `x [B, H, _]` with 0 at the steps that are not valid. Chosen, not multiplied: whatever stands at a padded
    /// step (NaN as well) stays out.
    fn keep(&self, x: &Tensor) -> Result<Tensor> {
        match &self.mask {
            Some(mask) => Ok(mask.broadcast_as(x.shape())?.where_cond(x, &x.zeros_like()?)?),
            None => Ok(x.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_forms_agree, assert_gradients, noise};

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn case(options: &QuantileLossOptions, expected: f32) {
        // Two samples of two steps, quantiles 0.1 and 0.5. Costs by hand: errors 1, -1 | 2, 0 || 0, 3 | -4, -2.
        let forecast = tensor(&[0.0, 2.0, 1.0, 3.0, 5.0, 2.0, 14.0, 12.0], &[2, 2, 2]);
        let target = tensor(&[1.0, 3.0, 5.0, 10.0], &[2, 2]);
        let loss = quantile_loss(&forecast, &target, &[0.1, 0.5], options).unwrap();
        assert_close(&[loss.to_scalar::<f32>().unwrap()], &[expected], 1e-6);
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
        let weighted = QuantileLossOptions { sample_weights: Some(&weights), ..plain };
        case(&weighted, 3.7 / 8.0);
        let by_weights = QuantileLossOptions { divide_by: DivideBy::Weights, ..weighted };
        case(&by_weights, 3.7 / (2.0 * 3.5));
        case(&QuantileLossOptions { doubled: true, ..by_weights }, 3.7 / 3.5);
        case(&QuantileLossOptions { lengths: Some(&[2, 1]), ..by_weights }, 1.4 / (2.0 * 3.0));
        // Without weights there is nothing else to divide by than the steps.
        case(&QuantileLossOptions { divide_by: DivideBy::Weights, ..plain }, 6.9 / 8.0);
        let nothing = tensor(&[0.0; 4], &[2, 2]);
        case(&QuantileLossOptions { sample_weights: Some(&nothing), ..by_weights }, 0.0);
    }

    #[test]
    fn what_stands_at_a_padded_step_does_not_matter() {
        let target = tensor(&[1.0, f32::NAN], &[1, 2]);
        let forecast = Var::from_tensor(&tensor(&[0.5, f32::INFINITY], &[1, 2, 1])).unwrap();
        let options = QuantileLossOptions { lengths: Some(&[1]), ..Default::default() };
        let loss = quantile_loss(&forecast, &target, &[0.5], &options).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.25);
    }

    #[test]
    fn misfits_are_refused() {
        let (forecast, target) = (noise("f", &[2, 3, 2]), noise("t", &[2, 3]));
        let options = QuantileLossOptions::default();
        assert!(quantile_loss(&forecast, &target, &[0.5], &options).is_err());
        assert!(quantile_loss(&forecast, &noise("t", &[3, 2]), &[0.1, 0.5], &options).is_err());
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
        for divide_by in [DivideBy::ValidSteps, DivideBy::Weights] {
            let sample_weights = Some(&weights);
            let options =
                QuantileLossOptions { doubled: true, divide_by, sample_weights, lengths: Some(&lengths) };
            assert_gradients(&vars, 2e-3, || {
                quantile_loss(&vars[0], &target, &[0.1, 0.5, 0.9], &options).map_err(candle_core::Error::msg)
            });
        }
    }

    #[test]
    fn the_forms_agree_in_value_and_gradient() {
        let vars = [Var::from_tensor(&noise("forecast", &[5, 7, 3])).unwrap()];
        let (target, weights) = (&noise("target", &[5, 7]), noise("weights", &[5, 7]).abs().unwrap());
        let lengths = [7, 0, 3, 1, 7];
        for divide_by in [DivideBy::ValidSteps, DivideBy::Weights] {
            for sample_weights in [None, Some(&weights)] {
                for lengths in [None, Some(&lengths[..])] {
                    let options = QuantileLossOptions { doubled: false, divide_by, sample_weights, lengths };
                    let [fused, plain] = [quantile_loss, quantile_loss_plain].map(|form| {
                        let quantiles = [0.1, 0.5, 0.9];
                        move |vars: &[Var]| form(&vars[0], target, &quantiles, &options).unwrap()
                    });
                    assert_forms_agree(&vars, &fused, &plain, 1e-6);
                }
            }
        }
    }
}
