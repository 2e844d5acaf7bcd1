//! The quantile loss on a GPU: three launches.

use candle_core::Result;

use super::machine::{Arg, Grid, Machine, Memory, PARTS, THREADS, ensure_countable};
use crate::ops::quantile_loss_fused::QuantileLoss;

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
        Ok([&memory[..], &[machine.table(&quantiles)?.into()], &sizes].concat())
    }

    /// The loss, and what a backward multiplies slopes by: a number each.
    pub fn gpu_forward(&self, machine: &mut dyn Machine, inputs: Inputs) -> Result<[Memory; 2]> {
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
    pub fn gpu_backward(
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
}
