//! The quantile loss as one operation: one pass over the forecasts there, one back. [`super::quantile_loss()`] says what
//! it computes and holds its oracle.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};

use super::cuda;
use super::host::{contiguous, host_values};

/// How forecasts are counted.
#[derive(Clone, Debug)]
pub struct QuantileLoss {
    pub batch: usize,
    pub horizon: usize,
    pub quantiles: Vec<f32>,
    /// The sum of the costs is multiplied by it.
    pub factor: f64,
    /// What the sum is divided by, the sum of the weights if `None`.
    pub n_steps: Option<usize>,
    /// The valid steps of each sample, if not all are.
    pub lengths: Option<Vec<u32>>,
}

impl QuantileLoss {
    /// The loss `[]` of `forecast [B, H, Q]`; `target` and `weights`, `[B, H]`, get no gradient.
    pub fn apply(self, forecast: &Tensor, target: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
        let against = match weights {
            Some(weights) => Tensor::cat(&[&target.flatten_all()?, &weights.flatten_all()?], 0)?,
            None => target.flatten_all()?,
        };
        let scale = OnceLock::new();
        let op = Operation { loss: self, has_weights: weights.is_some(), scale };
        forecast.contiguous()?.apply_op2(&against.detach().contiguous()?, op)
    }

    /// The valid steps, each with what it costs and how it counts.
    fn steps<'a>(&'a self, forecast: &'a [f32], against: Against<'a>) -> impl Iterator<Item = Step<'a>> {
        let is_valid = |step: usize| match &self.lengths {
            Some(lengths) => step % self.horizon < lengths[step / self.horizon] as usize,
            None => true,
        };
        let steps = forecast.chunks_exact(self.quantiles.len()).zip(against.target).enumerate();
        steps.filter(move |(number, _)| is_valid(*number)).map(move |(number, (forecast, &target))| {
            let weight = against.weights.map_or(1.0, |weights| weights[number]);
            Step { number, forecast, target, weight }
        })
    }

    /// The loss, and what a slope is multiplied by.
    fn forward(&self, forecast: &[f32], against: Against<'_>) -> (f64, f64) {
        let (mut costs, mut counted) = (0.0, 0.0);
        for step in self.steps(forecast, against) {
            let errors = step.forecast.iter().map(|forecast| step.target - forecast);
            let cost = |(error, quantile): (f32, &f32)| larger(error * quantile, error * (quantile - 1.0));
            costs += f64::from(step.weight * errors.zip(&self.quantiles).map(cost).sum::<f32>());
            counted += f64::from(step.weight);
        }
        let divisor = match self.n_steps {
            Some(n_steps) => n_steps as f64,
            None if counted == 0.0 => 1.0,
            None => counted,
        };
        (costs * self.factor / divisor, self.factor / divisor)
    }

    /// The gradient of the forecast, from that of the loss times what [`forward`](Self::forward) says.
    fn backward(&self, forecast: &[f32], against: Against<'_>, scale: f32) -> Vec<f32> {
        let (mut d_forecast, n_quantiles) = (vec![0f32; forecast.len()], self.quantiles.len());
        for step in self.steps(forecast, against) {
            let slopes = &mut d_forecast[step.number * n_quantiles..][..n_quantiles];
            for ((d, forecast), quantile) in slopes.iter_mut().zip(step.forecast).zip(&self.quantiles) {
                *d = scale * step.weight * slope(step.target - forecast, *quantile);
            }
        }
        d_forecast
    }
}

/// Targets, and how much each counts.
#[derive(Clone, Copy)]
struct Against<'a> {
    target: &'a [f32],
    weights: Option<&'a [f32]>,
}

struct Step<'a> {
    number: usize,
    forecast: &'a [f32],
    target: f32,
    weight: f32,
}

/// NaN if either is.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// Of a cost by its forecast; at an error of 0 it lies half way between those on either side.
fn slope(error: f32, quantile: f32) -> f32 {
    if error > 0.0 {
        -quantile
    } else if error < 0.0 {
        1.0 - quantile
    } else if error == 0.0 {
        0.5 - quantile
    } else {
        error
    }
}

struct Operation {
    loss: QuantileLoss,
    has_weights: bool,
    /// `[1]`, left by the forward for the backward.
    scale: OnceLock<Tensor>,
}

impl Operation {
    fn against<'a>(&self, values: &'a [f32]) -> Against<'a> {
        let (target, weights) = values.split_at(self.loss.batch * self.loss.horizon);
        Against { target, weights: self.has_weights.then_some(weights) }
    }

    fn gpu_inputs(
        &self,
        forecast: cuda::machine::Memory,
        against: cuda::machine::Memory,
    ) -> cuda::quantile_loss::Inputs {
        let n_steps = self.loss.batch * self.loss.horizon;
        let weights = self.has_weights.then(|| against.from(n_steps));
        cuda::quantile_loss::Inputs { forecast, target: against, weights }
    }
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "quantile-loss"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (loss, scale) = self.loss.forward(contiguous(s1, l1)?, self.against(contiguous(s2, l2)?));
        let _ = self.scale.set(Tensor::new(&[scale as f32], &Device::Cpu)?);
        Ok((CpuStorage::F32(vec![loss as f32]), ().into()))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let [loss, scale] = cuda::forward([(s1, l1), (s2, l2)], |machine, [forecast, against]| {
            self.loss.gpu_forward(machine, self.gpu_inputs(forecast, against))
        })?;
        let _ = self.scale.set(cuda::tensor(scale, 1));
        Ok((loss, ().into()))
    }

    fn bwd(
        &self,
        forecast: &Tensor,
        against: &Tensor,
        _loss: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(scale) = self.scale.get() else { bail!("quantile loss: a backward without a forward") };
        if forecast.device().is_cpu() {
            let scale = scale.get(0)?.to_scalar::<f32>()? * grad.to_scalar::<f32>()?;
            let [forecasts, against] = [forecast, against].map(host_values);
            let d = self.loss.backward(forecasts.slice()?, self.against(against.slice()?), scale);
            return Ok((Some(Tensor::from_vec(d, forecast.shape(), &Device::Cpu)?), None));
        }
        let args = [forecast, against, scale, &grad.contiguous()?];
        let [d_forecast] = cuda::over(args, |machine, [forecast, against, scale, d_loss]| {
            let inputs = self.gpu_inputs(forecast, against);
            Ok([self.loss.gpu_backward(machine, inputs, scale, d_loss)?])
        })?;
        Ok((Some(cuda::tensor(d_forecast, forecast.shape())), None))
    }
}
