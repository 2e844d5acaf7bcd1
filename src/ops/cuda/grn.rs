//! Launches of the gated residual network; [`crate::ops::grn_fused`] is the operation.

use candle_core::Result;

use super::linear::sum_samples;
use super::machine::{Machine, Memory, STRIDE, Tiled, mask_args};
use crate::ops::dropout::Mask;

/// A block over rows.
#[derive(Clone, Copy)]
pub struct Grn {
    pub n_rows: usize,
    /// Samples, if each has a context; rows are theirs in equal shares.
    pub n_samples: Option<usize>,
    pub n_in: usize,
    pub hidden: usize,
    /// Where it is not `n_in`, the skip is stretched.
    pub n_out: usize,
    pub mask: Option<Mask>,
}

pub struct Gradients {
    pub d_x: Memory,
    /// `[samples, hidden]`
    pub d_context: Option<Memory>,
    pub d_values: Memory,
}

impl Grn {
    fn n_values(self) -> usize {
        let Grn { n_in, hidden, n_out, .. } = self;
        let skip = if n_in == n_out { 0 } else { 3 * n_out };
        hidden * n_in + hidden + tail_len(hidden, n_out) + skip
    }

    fn per_sample(self) -> usize {
        self.n_samples.map_or(1, |n_samples| self.n_rows / n_samples.max(1)).max(1)
    }

    /// `y [rows, out]` of `x [rows, in]`; `values` are the packed parameters.
    pub fn forward(
        self,
        machine: &mut dyn Machine,
        x: Memory,
        context: Option<Memory>,
        values: Memory,
    ) -> Result<Memory> {
        let Grn { n_rows, n_in, hidden, n_out, mask, .. } = self;
        let tiled = Tiled::forward(machine, n_rows, n_in * STRIDE + forward_len(hidden, n_out))?;
        let y = machine.alloc(n_rows * n_out)?;
        let [key_at, key, keep_below, scale] = mask_args(mask);
        let args = [
            x.into(),
            context.into(),
            values.into(),
            n_rows.into(),
            self.per_sample().into(),
            n_in.into(),
            hidden.into(),
            n_out.into(),
            key_at,
            key,
            keep_below,
            scale,
            tiled.spill.into(),
            y.into(),
        ];
        machine.launch("grn_forward", tiled.grid, &args)?;
        Ok(y)
    }

    pub fn backward(
        self,
        machine: &mut dyn Machine,
        x: Memory,
        context: Option<Memory>,
        values: Memory,
        dy: Memory,
    ) -> Result<Gradients> {
        let Grn { n_rows, n_in, hidden, n_out, mask, .. } = self;
        let workspace = 2 * n_in * STRIDE + backward_len(hidden, n_out);
        let tiled = Tiled::backward(machine, n_rows, 1, workspace, self.n_values())?;
        let d_x = machine.alloc(n_rows * n_in)?;
        let d_first = context.map(|_| machine.alloc(n_rows * hidden)).transpose()?;
        let [key_at, key, keep_below, scale] = mask_args(mask);
        let [grads_at, parts] = tiled.grads();
        let args = [
            x.into(),
            context.into(),
            values.into(),
            dy.into(),
            n_rows.into(),
            self.per_sample().into(),
            n_in.into(),
            hidden.into(),
            n_out.into(),
            key_at,
            key,
            keep_below,
            scale,
            tiled.spill.into(),
            grads_at,
            parts,
            self.n_values().into(),
            d_x.into(),
            d_first.into(),
        ];
        machine.launch("grn_backward", tiled.grid, &args)?;
        let sizes = (self.n_samples.unwrap_or(0), self.per_sample(), hidden);
        let d_context = d_first.map(|rows| sum_samples(machine, rows, sizes)).transpose()?;
        Ok(Gradients { d_x, d_context, d_values: tiled.sum(machine)? })
    }
}

/// Parameters behind a block's first layer, but for a stretched skip's: as `tail_at` of `kernels/grn_tile.cuh` packs them.
pub fn tail_len(hidden: usize, n_out: usize) -> usize {
    hidden * hidden + hidden + 2 * n_out * hidden + 2 * n_out + 2 * n_out
}

/// Working memory of a block's tiles, as `GrnTile` of `kernels/grn_tile.cuh` lays it out.
pub fn forward_len(hidden: usize, n_out: usize) -> usize {
    (2 * hidden + 4 * n_out + 2) * STRIDE
}

pub fn backward_len(hidden: usize, n_out: usize) -> usize {
    forward_len(hidden, n_out) + (2 * hidden + 2 * n_out) * STRIDE
}
