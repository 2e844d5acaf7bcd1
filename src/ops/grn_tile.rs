//! The gated residual network on one tile, behind its first layer: forward, and the backward that follows it.
//!
//! `y = LN(GLU(dropout(W2 ELU(u) + b2)) + skip)`, where `u` (the first layer with its context) and the raw skip come from
//! whoever knows the inputs: a GRN over vectors, or a variable whose embedding is a line. The skip has a norm of its own
//! where the block changes the width. Weights and their gradients lie in two buffers of the same order, so one set of
//! ranges serves both.

use std::ops::Range;

use super::dropout::Mask;
use super::simd::{Init, Line, Matrix, ROWS, Simd};

/// Weight and bias of something in a buffer.
#[derive(Clone, Debug)]
pub struct Pair {
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

/// Sizes of a block, and where its parameters lie.
#[derive(Clone, Debug)]
pub struct GrnRanges {
    pub hidden: usize,
    pub out: usize,
    /// `[hidden, hidden]`
    pub second: Pair,
    /// `[2 out, hidden]`
    pub gate: Pair,
    /// `[out]`
    pub norm: Pair,
    /// `[out]`, where the skip is stretched.
    pub skip_norm: Option<Pair>,
    /// `[2 out, hidden]`, where second layer and gate are one: see [`GrnRanges::merge`].
    pub merged: Option<Pair>,
}

/// What a block adds to its gated half.
pub enum Skip<'a> {
    /// [`GrnTile::skip`], which is normalised if the block has a norm for it.
    Tile,
    /// The features of a line at one `x` per row; only for a block that has a norm for its skip.
    Line(Line<'a>, &'a [f32]),
}

impl GrnRanges {
    /// Multiplies second layer and gate into one matrix, behind the `values` there are: nothing lies between the two
    /// where nothing is dropped. Exact but for rounding, and only for a forward: there is no way back through it.
    pub fn merge(&mut self, simd: Simd, values: &mut Vec<f32>) {
        let (hidden, n_gate) = (self.hidden, 2 * self.out);
        let (start, end) = (values.len(), values.len() + n_gate * hidden);
        values.resize(end + n_gate, 0.0);
        let (values, merged) = values.split_at_mut(start);
        let (matrix, biases) = merged.split_at_mut(n_gate * hidden);
        let gate = Matrix::rows(&values[self.gate.weight.clone()], hidden);
        // Columns of the second layer, a tile of them at a time; the last column is its bias.
        let second = &values[self.second.weight.clone()];
        let (mut x, mut y) = (vec![0.0; hidden * ROWS], vec![0.0; n_gate * ROWS]);
        for from in (0..=hidden).step_by(ROWS) {
            let n = (hidden - from).min(ROWS);
            for (h, x) in x.chunks_exact_mut(ROWS).enumerate() {
                x[..n].copy_from_slice(&second[h * hidden + from..][..n]);
                if n < ROWS {
                    x[n] = values[self.second.bias.start + h];
                }
            }
            simd.product(gate, (n_gate, hidden), &x, Init::Zero, &mut y);
            for (out, y) in y.chunks_exact(ROWS).enumerate() {
                matrix[out * hidden + from..][..n].copy_from_slice(&y[..n]);
                if n < ROWS {
                    biases[out] = y[n] + values[self.gate.bias.start + out];
                }
            }
        }
        self.merged = Some(Pair { weight: start..end, bias: end..end + n_gate });
    }
}

/// Working memory for one tile of blocks up to given sizes.
pub struct GrnTile {
    /// Before the forward: `u`; after it: ELU of it.
    pub first: Vec<f32>,
    /// Before the forward: the raw skip; after it: its normalised values, if it has a norm.
    pub skip: Vec<f32>,
    second: Vec<f32>,
    factors: Vec<f32>,
    linear: Vec<f32>,
    /// The sum in front of the last norm; after the forward, normalised.
    sum: Vec<f32>,
    skip_inverse: Vec<f32>,
    inverse: Vec<f32>,
    spare: Vec<f32>,
    /// After the backward: the gradient of `u`.
    pub d_first: Vec<f32>,
    /// After the backward: the gradient of the raw skip.
    pub d_skip: Vec<f32>,
    d_sum: Vec<f32>,
    d_second: Vec<f32>,
    rows: Vec<f32>,
}

impl GrnTile {
    /// For blocks of up to `hidden` and `out` features.
    pub fn new(hidden: usize, out: usize) -> Self {
        let tile = |n: usize| vec![0.0; n * ROWS];
        GrnTile {
            first: tile(hidden),
            skip: tile(out),
            second: tile(hidden),
            factors: tile(hidden),
            linear: tile(2 * out),
            sum: tile(out),
            skip_inverse: tile(1),
            inverse: tile(1),
            spare: tile(out),
            d_first: tile(hidden),
            d_skip: tile(out),
            d_sum: tile(out),
            d_second: tile(hidden),
            rows: tile(hidden),
        }
    }

    /// From `first` and the skip to `y [out]`. A mask comes with the number of the tile's first row.
    pub fn forward(
        &mut self,
        simd: Simd,
        block: &GrnRanges,
        values: &[f32],
        skip: Skip<'_>,
        mask: Option<(Mask, usize)>,
        y: &mut [f32],
    ) {
        let out = block.out;
        self.gate(simd, block, values, mask);
        let skip = match &block.skip_norm {
            Some(norm) => {
                self.norm_skip(simd, norm, values, skip, out);
                &self.spare
            }
            None => &self.skip,
        };
        let weights = (&values[block.norm.weight.clone()], &values[block.norm.bias.clone()]);
        simd.gated_norm(&mut self.linear, out, skip, weights, &mut self.inverse, (&mut self.sum, y));
    }

    /// The skip through its norm, into `spare`.
    fn norm_skip(&mut self, simd: Simd, norm: &Pair, values: &[f32], skip: Skip<'_>, out: usize) {
        let weights = (&values[norm.weight.clone()], &values[norm.bias.clone()]);
        match skip {
            Skip::Tile => {
                simd.layer_norm(&mut self.skip, out, weights, &mut self.skip_inverse, &mut self.spare);
            }
            Skip::Line(line, x) => {
                let outputs = (&mut self.skip[..], &mut self.spare[..]);
                simd.line_norm(line, x, out, weights, &mut self.skip_inverse, outputs);
            }
        }
    }

    /// From `first` to what the gate works on, in `linear`.
    fn gate(&mut self, simd: Simd, block: &GrnRanges, values: &[f32], mask: Option<(Mask, usize)>) {
        let (hidden, out) = (block.hidden, block.out);
        simd.elu(&mut self.first, hidden);
        if let Some(merged) = &block.merged {
            let (weight, bias) = (&values[merged.weight.clone()], &values[merged.bias.clone()]);
            let weight = Matrix::rows(weight, hidden);
            simd.product(weight, (2 * out, hidden), &self.first, Init::Bias(bias), &mut self.linear);
            return;
        }
        let (weight, bias) = (&values[block.second.weight.clone()], &values[block.second.bias.clone()]);
        let weight = Matrix::rows(weight, hidden);
        simd.product(weight, (hidden, hidden), &self.first, Init::Bias(bias), &mut self.second);
        if let Some((mask, first_row)) = mask {
            mask.factors(simd, first_row, hidden, &mut self.factors);
            simd.multiply(&self.factors[..hidden * ROWS], &mut self.second[..hidden * ROWS]);
        }
        let (weight, bias) = (&values[block.gate.weight.clone()], &values[block.gate.bias.clone()]);
        let weight = Matrix::rows(weight, hidden);
        simd.product(weight, (2 * out, hidden), &self.second, Init::Bias(bias), &mut self.linear);
    }

    /// From `dy [out]` to `d_first` and `d_skip`, adding the gradients of the block's own parameters to `grads`. Follows
    /// a [`forward`](Self::forward) of the same tile.
    pub fn backward(
        &mut self,
        simd: Simd,
        block: &GrnRanges,
        values: &[f32],
        is_masked: bool,
        dy: &[f32],
        grads: &mut [f32],
    ) {
        let (hidden, out) = (block.hidden, block.out);
        norm_backward(simd, &block.norm, values, grads, (dy, &self.sum, &self.inverse), out, &mut self.d_sum);
        match &block.skip_norm {
            Some(norm) => {
                let forward = (&self.d_sum[..], &self.skip[..], &self.skip_inverse[..]);
                norm_backward(simd, norm, values, grads, forward, out, &mut self.d_skip);
            }
            None => self.d_skip[..out * ROWS].copy_from_slice(&self.d_sum[..out * ROWS]),
        }
        simd.glu_backward(&self.d_sum, &mut self.linear, out);
        self.linear_backward(simd, &block.gate, values, grads, (2 * out, hidden));
        if is_masked {
            simd.multiply(&self.factors[..hidden * ROWS], &mut self.d_second[..hidden * ROWS]);
        }
        simd.add_row_sums(&self.d_second, hidden, &mut grads[block.second.bias.clone()]);
        simd.store_rows(&self.first, hidden, &mut self.rows, hidden, ROWS);
        let weight = block.second.weight.clone();
        simd.outer(&self.d_second, &self.rows, hidden, (hidden, hidden), &mut grads[weight.clone()]);
        let weight = Matrix::columns(&values[weight], hidden);
        simd.product(weight, (hidden, hidden), &self.d_second, Init::Zero, &mut self.d_first);
        simd.elu_backward(&self.first, &mut self.d_first, hidden);
    }

    /// Through the gate's layer: from the gradient in `linear` to `d_second`.
    fn linear_backward(
        &mut self,
        simd: Simd,
        gate: &Pair,
        values: &[f32],
        grads: &mut [f32],
        (n_out, n_in): (usize, usize),
    ) {
        simd.add_row_sums(&self.linear, n_out, &mut grads[gate.bias.clone()]);
        simd.store_rows(&self.second, n_in, &mut self.rows, n_in, ROWS);
        simd.outer(&self.linear, &self.rows, n_in, (n_out, n_in), &mut grads[gate.weight.clone()]);
        let weight = Matrix::columns(&values[gate.weight.clone()], n_in);
        simd.product(weight, (n_in, n_out), &self.linear, Init::Zero, &mut self.d_second);
    }
}

/// Through a layer norm: `(dy, normal, inverse)` to `dx`, and the gradients of its weight and bias.
pub(super) fn norm_backward(
    simd: Simd,
    norm: &Pair,
    values: &[f32],
    grads: &mut [f32],
    (dy, normal, inverse): (&[f32], &[f32], &[f32]),
    n: usize,
    dx: &mut [f32],
) {
    simd.add_row_dots(dy, normal, n, &mut grads[norm.weight.clone()]);
    simd.add_row_sums(dy, n, &mut grads[norm.bias.clone()]);
    simd.layer_norm_backward(dy, normal, n, &values[norm.weight.clone()], inverse, dx);
}
