//! The quantile loss on a GPU: one operation, three launches; [`crate::ops::quantile_loss`] says what it computes.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::machine::{Arg, Grid, Machine, Memory, PARTS, THREADS, ensure_countable};

/// How forecasts are counted.
#[derive(Clone)]
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

/// What all launches read.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// `[B, H, Q]`
    pub forecast: Memory,
    /// `[B, H]`
    pub target: Memory,
    /// `[B, H]`
    pub weights: Option<Memory>,
}

impl QuantileLoss {
    fn n(&self) -> usize {
        self.batch * self.horizon * self.quantiles.len()
    }

    fn args(&self, machine: &mut dyn Machine, inputs: Inputs) -> Result<Vec<Arg>> {
        ensure_countable(self.n())?;
        let quantiles: Vec<u32> = self.quantiles.iter().map(|quantile| quantile.to_bits()).collect();
        let lengths = self.lengths.as_deref().map(|lengths| machine.upload(lengths)).transpose()?;
        let memory = [inputs.forecast.into(), inputs.target.into(), inputs.weights.into(), lengths.into()];
        let sizes = [self.n(), self.horizon, self.quantiles.len()].map(Arg::from);
        Ok([&memory[..], &[machine.upload(&quantiles)?.into()], &sizes].concat())
    }

    /// The loss, and what a backward multiplies slopes by: a number each.
    pub fn forward(&self, machine: &mut dyn Machine, inputs: Inputs) -> Result<[Memory; 2]> {
        let blocks = self.n().div_ceil(THREADS).clamp(1, PARTS);
        let parts = machine.alloc(2 * blocks)?;
        let mut args = self.args(machine, inputs)?;
        args.push(parts.into());
        let grid = Grid { blocks: (blocks, 1), threads: THREADS, shared: 2 * THREADS };
        machine.launch("quantile_loss_parts", grid, &args)?;
        let [loss, scale] = [machine.alloc(1)?, machine.alloc(1)?];
        let n_steps = self.n_steps.unwrap_or(0) as f32;
        let args = [
            parts.into(),
            blocks.into(),
            (self.factor as f32).into(),
            n_steps.into(),
            loss.into(),
            scale.into(),
        ];
        machine.launch("quantile_loss_sum", Grid { blocks: (1, 1), threads: 1, shared: 0 }, &args)?;
        Ok([loss, scale])
    }

    /// The gradient of the forecast from that of the loss.
    pub fn backward(
        &self,
        machine: &mut dyn Machine,
        inputs: Inputs,
        scale: Memory,
        d_loss: Memory,
    ) -> Result<Memory> {
        let d_forecast = machine.alloc(self.n())?;
        let mut args = self.args(machine, inputs)?;
        args.extend([Arg::from(scale), d_loss.into(), d_forecast.into()]);
        machine.launch("quantile_loss_backward", Grid::items(self.n()), &args)?;
        Ok(d_forecast)
    }

    /// The loss of tensors on a GPU; targets and weights, one behind the other in `against`, get no gradient.
    pub fn apply(self, forecast: &Tensor, target: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
        let against = match weights {
            Some(weights) => Tensor::cat(&[&target.flatten_all()?, &weights.flatten_all()?], 0)?,
            None => target.flatten_all()?,
        };
        let op = Operation { loss: self, has_weights: weights.is_some(), scale: OnceLock::new() };
        forecast.contiguous()?.apply_op2(&against.detach().contiguous()?, op)
    }
}

struct Operation {
    loss: QuantileLoss,
    has_weights: bool,
    /// Left by the forward for the backward.
    scale: OnceLock<Tensor>,
}

impl Operation {
    fn inputs(&self, forecast: Memory, against: Memory) -> Inputs {
        let n_steps = self.loss.batch * self.loss.horizon;
        Inputs { forecast, target: against, weights: self.has_weights.then(|| against.from(n_steps)) }
    }
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "quantile-loss"
    }

    fn cpu_fwd(
        &self,
        _s1: &CpuStorage,
        _l1: &Layout,
        _s2: &CpuStorage,
        _l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("the quantile loss of a GPU got tensors of the CPU")
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let [loss, scale] = super::forward([(s1, l1), (s2, l2)], |machine, [forecast, against]| {
            self.loss.forward(machine, self.inputs(forecast, against))
        })?;
        let _ = self.scale.set(super::tensor(scale, 1));
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
        let args = [forecast, against, scale, &grad.contiguous()?];
        let [d_forecast] = super::over(args, |machine, [forecast, against, scale, d_loss]| {
            let inputs = self.inputs(forecast, against);
            Ok([self.loss.backward(machine, inputs, scale, d_loss)?])
        })?;
        Ok((Some(super::tensor(d_forecast, forecast.shape())), None))
    }
}
