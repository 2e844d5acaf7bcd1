//! Launches of what needs no weights' product: layer normalisation and dropout. [`crate::ops::layer_norm_fused`] and
//! [`crate::ops::dropout`] are the operations.

use candle_core::Result;

use super::machine::{Grid, Machine, Memory, STRIDE, Tiled, ensure_countable, mask_args};
use crate::ops::dropout::Mask;

/// Layer normalisation over rows.
#[derive(Clone, Copy)]
pub struct LayerNorm {
    pub n_rows: usize,
    pub width: usize,
}

impl LayerNorm {
    /// `y [rows, width]` of `x`, weight and bias.
    pub fn forward(self, machine: &mut dyn Machine, [x, weight, bias]: [Memory; 3]) -> Result<Memory> {
        let LayerNorm { n_rows, width } = self;
        let tiled = Tiled::forward(machine, n_rows, (width + 1) * STRIDE)?;
        let y = machine.alloc(n_rows * width)?;
        let args =
            [x.into(), weight.into(), bias.into(), n_rows.into(), width.into(), tiled.spill.into(), y.into()];
        machine.launch("layer_norm_forward", tiled.grid, &args)?;
        Ok(y)
    }

    /// The gradients of `x`, and of weight and bias one after the other.
    pub fn backward(
        self,
        machine: &mut dyn Machine,
        x: Memory,
        weight: Memory,
        dy: Memory,
    ) -> Result<(Memory, Memory)> {
        let LayerNorm { n_rows, width } = self;
        let tiled = Tiled::backward(machine, n_rows, 1, (2 * width + 1) * STRIDE, 2 * width)?;
        let d_x = machine.alloc(n_rows * width)?;
        let [grads_at, parts] = tiled.grads();
        let args = [
            x.into(),
            weight.into(),
            dy.into(),
            n_rows.into(),
            width.into(),
            tiled.spill.into(),
            grads_at,
            parts,
            d_x.into(),
        ];
        machine.launch("layer_norm_back", tiled.grid, &args)?;
        Ok((d_x, tiled.sum(machine)?))
    }
}

/// `x [.., width]` with a mask applied.
pub fn dropout(machine: &mut dyn Machine, x: Memory, width: usize, mask: Mask) -> Result<Memory> {
    ensure_countable(x.len)?;
    let y = machine.alloc(x.len)?;
    let [key_at, key, keep_below, scale] = mask_args(Some(mask));
    let args = [x.into(), x.len.into(), width.into(), key_at, key, keep_below, scale, y.into()];
    machine.launch("dropout", Grid::items(x.len), &args)?;
    Ok(y)
}
