//! Launches of the linear layer; [`crate::ops::linear_fused`] is the operation.

use candle_core::Result;

use super::machine::{Grid, Machine, Memory, STRIDE, Tiled};

/// Outputs that a forward works on at a time, as in `kernels/linear.cu`.
const CHUNK: usize = 64;

/// Rows through a layer.
#[derive(Clone, Copy)]
pub struct Linear {
    pub n_rows: usize,
    pub n_in: usize,
    pub n_out: usize,
}

/// A matrix whose rows stand `stride` numbers apart.
#[derive(Clone, Copy)]
pub struct Rows {
    pub at: Memory,
    pub stride: usize,
}

/// Which rows count: the first so many of each sample's steps.
#[derive(Clone, Copy)]
pub struct Lengths {
    pub of_samples: Memory,
    pub n_steps: usize,
}

/// The gradients of a layer.
pub struct LinearGradients {
    pub d_x: Option<Memory>,
    /// Of weight `[out, in]` and bias `[out]`, in this order.
    pub parts: Tiled,
}

impl Linear {
    /// `y [rows, out]` of `x [rows, in]`.
    pub fn forward(
        self,
        machine: &mut dyn Machine,
        x: Memory,
        weight: Rows,
        bias: Option<Memory>,
        y: Rows,
    ) -> Result<()> {
        let Linear { n_rows, n_in, n_out } = self;
        let tiled = Tiled::forward(machine, n_rows, (n_in + CHUNK) * STRIDE)?;
        let args = [
            x.into(),
            weight.at.into(),
            weight.stride.into(),
            bias.into(),
            n_rows.into(),
            n_in.into(),
            n_out.into(),
            tiled.spill.into(),
            y.at.into(),
            y.stride.into(),
        ];
        machine.launch("linear_forward", tiled.grid, &args)
    }

    /// From `dy [rows, out]` to the gradients; that of `x` if it is wanted.
    pub fn backward(
        self,
        machine: &mut dyn Machine,
        x: Rows,
        weight: Rows,
        dy: Rows,
        lengths: Option<Lengths>,
        wants_d_x: bool,
    ) -> Result<LinearGradients> {
        let Linear { n_rows, n_in, n_out } = self;
        let workspace = (n_in + n_out) * STRIDE;
        let parts = Tiled::backward(machine, n_rows, 1, workspace, n_out * n_in + n_out)?;
        let d_x = wants_d_x.then(|| machine.alloc(n_rows * n_in)).transpose()?;
        let [grads_at, grads] = parts.grads();
        let args = [
            x.at.into(),
            x.stride.into(),
            weight.at.into(),
            weight.stride.into(),
            dy.at.into(),
            dy.stride.into(),
            n_rows.into(),
            n_in.into(),
            n_out.into(),
            lengths.map(|lengths| lengths.of_samples).into(),
            lengths.map_or(1, |lengths| lengths.n_steps).into(),
            parts.spill.into(),
            grads_at,
            grads,
            d_x.into(),
        ];
        machine.launch("linear_backward", parts.grid, &args)?;
        Ok(LinearGradients { d_x, parts })
    }
}

/// The sum over the rows of each sample: `[samples, per_sample, width]` to `[samples, width]`.
pub fn sum_samples(
    machine: &mut dyn Machine,
    rows: Memory,
    (n_samples, per_sample, width): (usize, usize, usize),
) -> Result<Memory> {
    let sums = machine.alloc(n_samples * width)?;
    let args = [rows.into(), n_samples.into(), per_sample.into(), width.into(), sums.into()];
    machine.launch("sum_samples", Grid::items(n_samples * width), &args)?;
    Ok(sums)
}
