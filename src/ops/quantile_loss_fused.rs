//! The quantile loss as one operation with a hand-written backward, for f32 on the CPU.
//!
//! One pass over the forecasts each way, where the composition of tensor operations makes ten and as many copies.
//! Only the forecast has a gradient. [`super::quantile_loss::quantile_loss_plain`] is the oracle.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{contiguous, host_values};
use super::quantile_loss::{QuantileLossOptions, count_valid};

/// [`super::quantile_loss()`], fused.
///
/// - Errors: anything but f32 on the CPU; shapes or lengths that do not fit.
pub fn quantile_loss_fused(
    forecast: &Tensor,
    target: &Tensor,
    quantiles: &[f64],
    options: &QuantileLossOptions,
) -> Result<Tensor> {
    let n_valid = count_valid(forecast, target, quantiles, options)?;
    let (n_samples, horizon) = target.dims2()?;
    let loss = QuantileLoss {
        target: target.detach().contiguous()?,
        weights: options.sample_weights.map(|weights| weights.detach().contiguous()).transpose()?,
        quantiles: quantiles.iter().map(|&quantile| quantile as f32).collect(),
        lengths: options.lengths.map_or_else(|| vec![horizon; n_samples], <[usize]>::to_vec),
        horizon,
        scale: options.factor() / (n_valid * quantiles.len()) as f64,
    };
    Ok(forecast.contiguous()?.apply_op1(loss)?)
}

struct QuantileLoss {
    /// `[B, H]`
    target: Tensor,
    /// `[B, H]`
    weights: Option<Tensor>,
    quantiles: Vec<f32>,
    lengths: Vec<usize>,
    horizon: usize,
    /// What the sum of all costs is multiplied by.
    scale: f64,
}

impl CustomOp1 for QuantileLoss {
    fn name(&self) -> &'static str {
        "quantile-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let forecast = contiguous(storage, layout)?;
        let mut sum = 0f64;
        self.for_each_step(|at, target, weight| {
            sum += f64::from(weight) * f64::from(self.cost(self.step(forecast, at), target));
        })?;
        Ok((CpuStorage::F32(vec![(sum * self.scale) as f32]), ().into()))
    }

    fn bwd(&self, forecast: &Tensor, _loss: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let scale = self.scale as f32 * grad.to_scalar::<f32>()?;
        let values = host_values(forecast);
        let (values, n) = (values.slice()?, self.quantiles.len());
        let mut slopes = vec![0f32; values.len()];
        self.for_each_step(|at, target, weight| {
            let slopes = &mut slopes[at * n..(at + 1) * n];
            self.slopes(self.step(values, at), target, weight * scale, slopes);
        })?;
        Ok(Some(Tensor::from_vec(slopes, forecast.shape(), forecast.device())?))
    }
}

impl QuantileLoss {
    /// Calls `visit(step of all samples, target, weight)` for the valid steps, in order.
    fn for_each_step(&self, mut visit: impl FnMut(usize, f32, f32)) -> CandleResult<()> {
        let (targets, weights) = (host_values(&self.target), self.weights.as_ref().map(host_values));
        let targets = targets.slice()?;
        let weights = weights.as_ref().map(|weights| weights.slice()).transpose()?;
        for (sample, &length) in self.lengths.iter().enumerate() {
            for at in sample * self.horizon..sample * self.horizon + length {
                visit(at, targets[at], weights.map_or(1.0, |weights| weights[at]));
            }
        }
        Ok(())
    }

    fn step<'a>(&self, forecast: &'a [f32], at: usize) -> &'a [f32] {
        &forecast[at * self.quantiles.len()..][..self.quantiles.len()]
    }

    /// The cost of one step, over its quantiles.
    fn cost(&self, forecast: &[f32], target: f32) -> f32 {
        let mut sum = 0.0;
        for (&forecast, &quantile) in forecast.iter().zip(&self.quantiles) {
            let error = target - forecast;
            // NaN takes the second branch and stays NaN.
            sum += if error > 0.0 { quantile * error } else { (quantile - 1.0) * error };
        }
        sum
    }

    /// The slopes of `scale` times the cost of one step. At an error of zero they are the mean of both sides'.
    fn slopes(&self, forecast: &[f32], target: f32, scale: f32, slopes: &mut [f32]) {
        for ((slope, &forecast), &quantile) in slopes.iter_mut().zip(forecast).zip(&self.quantiles) {
            let error = target - forecast;
            let side = match error.partial_cmp(&0.0) {
                Some(std::cmp::Ordering::Greater) => -quantile,
                Some(std::cmp::Ordering::Less) => 1.0 - quantile,
                Some(std::cmp::Ordering::Equal) => 0.5 - quantile,
                None => error,
            };
            *slope = scale * side;
        }
    }
}
