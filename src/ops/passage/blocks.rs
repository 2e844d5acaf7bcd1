//! Blocks with their own copies of their parameters, for tiles that come from other blocks.

use candle_core::Result;

use crate::ops::gate::GateWeights;
use crate::ops::gate_fused::{Gate, GateTiles};
use crate::ops::grn::GrnWeights;
use crate::ops::grn_fused::{Grn, GrnTiles};
use crate::ops::grn_tile::GrnRanges;
use crate::ops::linear::LinearWeights;
use crate::ops::simd::{Init, Matrix, ROWS, Simd};

/// A linear layer.
pub struct OwnLinear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    n_in: usize,
    pub n_out: usize,
}

impl OwnLinear {
    pub fn of(weights: &LinearWeights) -> Result<Self> {
        let LinearWeights { n_out, n_in, has_bias, .. } = *weights;
        let mut weight: Vec<f32> = weights.values.to_vec1()?;
        let bias = weight.split_off(weights.bias_at());
        Ok(OwnLinear { weight, bias: has_bias.then_some(bias), n_in, n_out })
    }

    /// From a tile of inputs to one of outputs.
    pub fn run(&self, simd: Simd, x: &[f32], y: &mut [f32]) {
        let init = self.bias.as_deref().map_or(Init::Zero, Init::Bias);
        simd.product(Matrix::rows(&self.weight, self.n_in), (self.n_out, self.n_in), x, init, y);
    }
}

/// A gated skip connection.
pub struct OwnGate {
    gate: Gate,
    values: Vec<f32>,
}

impl OwnGate {
    pub fn of(weights: &GateWeights) -> Result<Self> {
        Ok(OwnGate { gate: Gate::new(weights.sizes, None), values: weights.values.to_vec1()? })
    }

    /// Width of the output.
    pub fn n_out(&self) -> usize {
        self.gate.sizes.n_out
    }

    pub fn tiles(&self) -> GateTiles {
        self.gate.tiles()
    }

    /// Reads `n` rows of both inputs, from the `first` on.
    pub fn load(&self, simd: Simd, [x, skip]: [&[f32]; 2], first: usize, n: usize, own: &mut GateTiles) {
        load_rows(simd, x, self.gate.sizes.n_in, (first, n), &mut own.x);
        self.load_skip(simd, skip, first, n, own);
    }

    /// Reads `n` rows of the skip, from the `first` on.
    pub fn load_skip(&self, simd: Simd, skip: &[f32], first: usize, n: usize, own: &mut GateTiles) {
        load_rows(simd, skip, self.gate.sizes.n_out, (first, n), &mut own.skip);
    }

    /// From `x` and `skip` to `y`.
    pub fn run(&self, simd: Simd, own: &mut GateTiles) {
        self.gate.run(simd, &self.values, own);
    }
}

fn load_rows(simd: Simd, rows: &[f32], width: usize, (first, n): (usize, usize), tile: &mut [f32]) {
    let (own, behind) = rows[first * width..].split_at(n * width);
    simd.prefetch(&behind[..behind.len().min(ROWS * width)]);
    simd.load_rows(own, width, n, width, tile);
}

/// A gated residual network, its second layer and its gate merged.
pub struct OwnGrn {
    grn: Grn,
    tail: GrnRanges,
    values: Vec<f32>,
}

impl OwnGrn {
    pub fn of(weights: &GrnWeights) -> Result<Self> {
        let grn = Grn::new(weights.sizes, None);
        let params: Vec<f32> = weights.values.to_vec1()?;
        let (mut values, mut tail) = (grn.values(&params).into_owned(), grn.tail.clone());
        tail.merge(Simd::best(), &mut values);
        Ok(OwnGrn { grn, tail, values })
    }

    /// Width of a context.
    pub fn hidden(&self) -> usize {
        self.tail.hidden
    }

    pub fn tiles(&self) -> GrnTiles {
        self.grn.tiles()
    }

    /// From a tile of inputs to `y`; the context is one for all rows.
    pub fn run(&self, simd: Simd, x: &[f32], context: Option<&[f32]>, own: &mut GrnTiles) {
        let n = self.grn.n_in * ROWS;
        self.grn.inputs(own)[..n].copy_from_slice(&x[..n]);
        self.grn.run(simd, (&self.values, &self.tail), context, None, own);
    }
}
