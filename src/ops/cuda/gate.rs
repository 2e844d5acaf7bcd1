//! Launches of the gated skip connection; [`crate::ops::gate_fused`] is the operation.

use candle_core::Result;

use super::machine::{Machine, Memory, STRIDE, Tiled, mask_args};
use crate::ops::dropout::Mask;

/// A gate over rows.
#[derive(Clone, Copy)]
pub struct Gate {
    pub n_rows: usize,
    pub n_in: usize,
    pub n_out: usize,
    pub mask: Option<Mask>,
}

pub struct Gradients {
    pub d_x: Memory,
    pub d_skip: Memory,
    pub d_values: Memory,
}

impl Gate {
    fn workspace(self) -> usize {
        (2 * self.n_in + 4 * self.n_out + 1) * STRIDE
    }

    /// `y [rows, out]` of `x [rows, in]` and `skip [rows, out]`; `values` are the packed parameters.
    pub fn forward(
        self,
        machine: &mut dyn Machine,
        x: Memory,
        skip: Memory,
        values: Memory,
    ) -> Result<Memory> {
        let tiled = Tiled::forward(machine, self.n_rows, self.workspace())?;
        let y = machine.alloc(self.n_rows * self.n_out)?;
        let [key_at, key, keep_below, scale] = mask_args(self.mask);
        let args = [
            x.into(),
            skip.into(),
            values.into(),
            self.n_rows.into(),
            self.n_in.into(),
            self.n_out.into(),
            key_at,
            key,
            keep_below,
            scale,
            tiled.spill.into(),
            y.into(),
        ];
        machine.launch("gate_forward", tiled.grid, &args)?;
        Ok(y)
    }

    pub fn backward(
        self,
        machine: &mut dyn Machine,
        [x, skip, values]: [Memory; 3],
        dy: Memory,
    ) -> Result<Gradients> {
        let Gate { n_rows, n_in, n_out, mask } = self;
        let n_values = 2 * n_out * n_in + 4 * n_out;
        let tiled = Tiled::backward(machine, n_rows, 1, self.workspace(), n_values)?;
        let (d_x, d_skip) = (machine.alloc(n_rows * n_in)?, machine.alloc(n_rows * n_out)?);
        let [key_at, key, keep_below, scale] = mask_args(mask);
        let [grads_at, parts] = tiled.grads();
        let args = [
            x.into(),
            skip.into(),
            values.into(),
            dy.into(),
            n_rows.into(),
            n_in.into(),
            n_out.into(),
            key_at,
            key,
            keep_below,
            scale,
            tiled.spill.into(),
            grads_at,
            parts,
            d_x.into(),
            d_skip.into(),
        ];
        machine.launch("gate_backward", tiled.grid, &args)?;
        Ok(Gradients { d_x, d_skip, d_values: tiled.sum(machine)? })
    }
}
