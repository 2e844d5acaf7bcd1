//! The gated residual network over vectors as one operation, tile by tile, for f32.
//!
//! A tile goes through all layers while it is in the cache; what lies behind the first layer and the raw skip is
//! [`super::grn_tile`]'s. Nothing is kept between forward and backward: a tile is computed anew where its gradient is
//! due, which takes less time than writing five activations to memory and reading them back. With a context a tile
//! never spans two samples. On a GPU it is the launches of [`super::cuda::grn`]. [`super::grn::grn_plain`] is the oracle.
//!
//! A stretched skip is linear up to its norm: interpolation and gate are multiplied into one matrix before the work and
//! taken apart after it.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail,
};

use super::cuda;
use super::dropout::Mask;
use super::grn::{GrnSizes, GrnWeights};
use super::grn_tile::{GrnRanges, GrnTile, Pair, Skip};
use super::host::{contiguous, host_values};
use super::pack::Places;
use super::rows::{Output, Rows, TileRows};
use super::simd::{Init, Matrix, ROWS, Simd};
use super::split::sum_in_order;
use super::stretch::Stretch;

/// The whole block; shapes as in [`super::grn()`], which has checked them.
pub fn grn_fused(
    x: &Tensor,
    context: Option<&Tensor>,
    weights: &GrnWeights,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let (x, params) = (x.contiguous()?, weights.values.contiguous()?);
    let is_recorded = x.track_op() || params.track_op() || context.is_some_and(Tensor::track_op);
    let grn = Grn { merged: mask.is_none() && !is_recorded, ..Grn::new(weights.sizes, mask) };
    match context {
        Some(context) => x.apply_op3(&context.contiguous()?, &params, grn),
        None => x.apply_op2(&params, grn),
    }
}

pub(super) struct Grn {
    pub n_in: usize,
    mask: Option<Mask>,
    /// Second layer and gate as one: nothing is dropped between them, and there is no way back.
    merged: bool,
    /// Where the parameters lie: the first layer, and what follows it.
    pub first: Pair,
    pub tail: GrnRanges,
    pub skip: Option<SkipPlaces>,
}

/// A stretched skip's place among the parameters, and behind them that of its matrix `[to, from]`.
pub(super) struct SkipPlaces {
    pub mask: Range<usize>,
    matrix: Range<usize>,
}

/// Working memory of one part.
pub(super) struct GrnTiles {
    grn: GrnTile,
    /// The inputs of a stretched skip; others are read as the skip they are.
    x: Vec<f32>,
    x_rows: Vec<f32>,
    pub y: Vec<f32>,
    bias: Vec<f32>,
    d_bias: Vec<f32>,
}

/// The gradients of input, context and parameters.
type Gradients = (Vec<f32>, Vec<f32>, Vec<f32>);

impl Grn {
    pub fn new(sizes: GrnSizes, mask: Option<Mask>) -> Self {
        let (GrnSizes { n_in, hidden, n_out }, is_stretched) = (sizes, sizes.is_stretched());
        let mut places = Places::default();
        let mask_place = is_stretched.then(|| places.next(n_out));
        let skip_norm = is_stretched.then(|| places.pair(n_out, n_out));
        let first = places.pair(hidden * n_in, hidden);
        let second = places.pair(hidden * hidden, hidden);
        let (gate, norm) = (places.pair(2 * n_out * hidden, 2 * n_out), places.pair(n_out, n_out));
        let skip = mask_place.map(|mask| SkipPlaces { mask, matrix: places.next(n_out * n_in) });
        let tail = GrnRanges { hidden, out: n_out, second, gate, norm, skip_norm, merged: None };
        Grn { n_in, mask, merged: false, first, tail, skip }
    }

    /// Single parameters.
    pub fn n_values(&self) -> usize {
        self.tail.norm.bias.end
    }

    /// How the rows of `x` hang together: by sample if samples have a context.
    fn rows(&self, x: &[f32], context: Option<&[f32]>) -> Rows {
        let n_rows = x.len() / self.n_in;
        match context.map(|context| context.len() / self.tail.hidden) {
            Some(n_samples) => Rows::of_samples(n_rows, n_rows / n_samples.max(1)),
            None => Rows::free(n_rows),
        }
    }

    /// The parameters, and the skip's matrix if there is one.
    pub fn values<'a>(&self, params: &'a [f32]) -> Cow<'a, [f32]> {
        let Some(skip) = &self.skip else { return Cow::Borrowed(params) };
        let mut values = params.to_vec();
        values.resize(skip.matrix.end, 0.0);
        let (params, matrix) = values.split_at_mut(skip.matrix.start);
        let stretch = Stretch::new(self.n_in, self.tail.out);
        for (i, (row, &mask)) in matrix.chunks_mut(self.n_in).zip(&params[skip.mask.clone()]).enumerate() {
            stretch.inputs_of(i).iter().for_each(|&(at, weight)| row[at] += weight * 2.0 * sigmoid(mask));
        }
        Cow::Owned(values)
    }

    /// The gradients of the parameters from those of parameters and matrix.
    fn without_matrix(&self, params: &[f32], mut grads: Vec<f32>) -> Vec<f32> {
        let Some(skip) = &self.skip else { return grads };
        let matrix = grads.split_off(skip.matrix.start);
        let stretch = Stretch::new(self.n_in, self.tail.out);
        for (i, row) in matrix.chunks(self.n_in).enumerate() {
            let d_gate: f32 = stretch.inputs_of(i).iter().map(|&(at, weight)| weight * row[at]).sum();
            let opened = sigmoid(params[skip.mask.start + i]);
            grads[skip.mask.start + i] = d_gate * 2.0 * opened * (1.0 - opened);
        }
        grads
    }

    pub fn tiles(&self) -> GrnTiles {
        let GrnRanges { hidden, out, .. } = self.tail;
        let tile = |n: usize| vec![0f32; n * ROWS];
        GrnTiles {
            grn: GrnTile::new(hidden, out),
            x: tile(if self.skip.is_some() { self.n_in } else { 0 }),
            x_rows: tile(self.n_in),
            y: tile(out),
            bias: vec![0f32; hidden],
            d_bias: vec![0f32; hidden],
        }
    }

    /// Reads a tile and leaves the result in `y`; `context` is that of the tile's sample.
    fn forward_tile(
        &self,
        simd: Simd,
        (values, tail): (&[f32], &GrnRanges),
        (x, context): (&[f32], Option<&[f32]>),
        tile: TileRows,
        own: &mut GrnTiles,
    ) {
        let context = context.map(|context| &context[tile.unit * self.tail.hidden..][..self.tail.hidden]);
        tile.load(simd, x, self.n_in, self.inputs(own));
        let mask = self.mask.map(|mask| (mask, tile.first));
        self.run(simd, (values, tail), context, mask, own);
    }

    /// Where a tile of the inputs goes.
    pub fn inputs<'a>(&self, own: &'a mut GrnTiles) -> &'a mut [f32] {
        if self.skip.is_some() { &mut own.x } else { &mut own.grn.skip }
    }

    /// From the [`inputs`](Self::inputs) to `y`; a mask comes with the number of the first row.
    pub fn run(
        &self,
        simd: Simd,
        (values, tail): (&[f32], &GrnRanges),
        context: Option<&[f32]>,
        mask: Option<(Mask, usize)>,
        own: &mut GrnTiles,
    ) {
        let (n_in, hidden, n_out) = (self.n_in, self.tail.hidden, self.tail.out);
        own.bias.copy_from_slice(&values[self.first.bias.clone()]);
        if let Some(context) = context {
            simd.add(context, &mut own.bias);
        }
        let weight = Matrix::rows(&values[self.first.weight.clone()], n_in);
        let (bias, GrnTile { first, skip, .. }) = (Init::Bias(&own.bias), &mut own.grn);
        match &self.skip {
            Some(places) => {
                simd.product(weight, (hidden, n_in), &own.x, bias, first);
                let matrix = Matrix::rows(&values[places.matrix.clone()], n_in);
                simd.product(matrix, (n_out, n_in), &own.x, Init::Zero, skip);
            }
            None => simd.product(weight, (hidden, n_in), skip, bias, first),
        }
        own.grn.forward(simd, tail, values, Skip::Tile, mask, &mut own.y);
    }

    /// Follows a [`forward_tile`](Self::forward_tile) of the same tile: from the gradient in `y` to that of the first
    /// bias in `d_bias`, that of the rows in `d_x`, a part's output, and those of the parameters, added to `grads`.
    fn backward_tile(
        &self,
        simd: Simd,
        values: &[f32],
        (x, d_x): (&[f32], &mut [f32]),
        tile: TileRows,
        own: &mut GrnTiles,
        grads: &mut [f32],
    ) {
        let (n_in, hidden, n_out) = (self.n_in, self.tail.hidden, self.tail.out);
        own.grn.backward(simd, &self.tail, values, self.mask.is_some(), &own.y, grads);
        let GrnTile { d_first, d_skip, .. } = &mut own.grn;
        let x_rows = tile.whole(x, n_in, &mut own.x_rows);
        simd.outer(d_first, x_rows, n_in, (hidden, n_in), &mut grads[self.first.weight.clone()]);
        own.d_bias.fill(0.0);
        simd.add_row_sums(d_first, hidden, &mut own.d_bias);
        simd.add(&own.d_bias, &mut grads[self.first.bias.clone()]);
        let back = Matrix::columns(&values[self.first.weight.clone()], n_in);
        match &self.skip {
            Some(places) => {
                let matrix = places.matrix.clone();
                simd.outer(d_skip, x_rows, n_in, (n_out, n_in), &mut grads[matrix.clone()]);
                let matrix = Matrix::columns(&values[matrix], n_in);
                simd.product(matrix, (n_in, n_out), d_skip, Init::Zero, &mut own.x);
                simd.product(back, (n_in, hidden), d_first, Init::Output, &mut own.x);
                tile.store(simd, &own.x, n_in, d_x);
            }
            None => {
                simd.product(back, (n_in, hidden), d_first, Init::Output, d_skip);
                tile.store(simd, d_skip, n_in, d_x);
            }
        }
    }

    fn forward(&self, x: &[f32], context: Option<&[f32]>, params: &[f32]) -> Vec<f32> {
        let (simd, n_out, mut values) = (Simd::best(), self.tail.out, self.values(params));
        let mut tail = self.tail.clone();
        if self.merged {
            tail.merge(simd, values.to_mut());
        }
        let mut y = vec![0f32; x.len() / self.n_in * n_out];
        self.rows(x, context).in_parts([Output::PerRow(&mut y, n_out)], |part, [y]| {
            let mut own = self.tiles();
            for tile in part.tiles() {
                self.forward_tile(simd, (&values, &tail), (x, context), tile, &mut own);
                tile.store(simd, &own.y, n_out, y);
            }
        });
        y
    }

    fn backward(&self, x: &[f32], context: Option<&[f32]>, params: &[f32], dy: &[f32]) -> Gradients {
        let (simd, values) = (Simd::best(), self.values(params));
        let mut d_x = vec![0f32; x.len()];
        let mut d_context = vec![0f32; context.map_or(0, <[f32]>::len)];
        let per_unit = if context.is_some() { self.tail.hidden } else { 0 };
        let outputs = [Output::PerRow(&mut d_x, self.n_in), Output::PerUnit(&mut d_context, per_unit)];
        let parts = self.rows(x, context).in_parts(outputs, |part, [d_x, d_context]| {
            let (mut own, mut grads) = (self.tiles(), vec![0f32; values.len()]);
            for tile in part.tiles() {
                self.forward_tile(simd, (&values, &self.tail), (x, context), tile, &mut own);
                tile.load(simd, dy, self.tail.out, &mut own.y);
                self.backward_tile(simd, &values, (x, d_x), tile, &mut own, &mut grads);
                if per_unit > 0 {
                    simd.add(&own.d_bias, &mut d_context[tile.unit_here * per_unit..][..per_unit]);
                }
            }
            grads
        });
        (d_x, d_context, self.without_matrix(params, sum_in_order(simd, parts)))
    }

    /// The same on a GPU, over inputs of a shape; `n_context` is the number of numbers in the context.
    fn on_gpu(&self, x: &Shape, n_context: Option<usize>) -> cuda::grn::Grn {
        let GrnRanges { hidden, out, .. } = self.tail;
        cuda::grn::Grn {
            n_rows: x.elem_count() / self.n_in,
            n_samples: n_context.map(|n| n / hidden),
            n_in: self.n_in,
            hidden,
            n_out: out,
            mask: self.mask,
        }
    }

    fn output_shape(&self, x: &Layout) -> Shape {
        let mut shape = x.dims().to_vec();
        shape[x.dims().len() - 1] = self.tail.out;
        shape.into()
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp2 for Grn {
    fn name(&self) -> &'static str {
        "grn"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(contiguous(s1, l1)?, None, contiguous(s2, l2)?);
        Ok((CpuStorage::F32(y), self.output_shape(l1)))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let grn = self.on_gpu(l1.shape(), None);
        let [y] = cuda::forward([(s1, l1), (s2, l2)], |machine, [x, values]| {
            Ok([grn.forward(machine, x, None, values)?])
        })?;
        Ok((y, self.output_shape(l1)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if x.device().is_cuda() {
            let grn = self.on_gpu(x.shape(), None);
            let [d_x, d_params] = cuda::over([x, params, &grad], |machine, [x, values, dy]| {
                let grads = grn.backward(machine, x, None, values, dy)?;
                Ok([grads.d_x, grads.d_values])
            })?;
            let d_params = cuda::tensor(d_params, params.shape());
            return Ok((Some(cuda::tensor(d_x, x.shape())), Some(d_params)));
        }
        let [xs, values, dy] = [x, params, &grad].map(host_values);
        let (d_x, _, d_params) = self.backward(xs.slice()?, None, values.slice()?, dy.slice()?);
        Ok((Some(like(x, d_x)?), Some(like(params, d_params)?)))
    }
}

impl CustomOp3 for Grn {
    fn name(&self) -> &'static str {
        "grn"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let context = contiguous(s2, l2)?;
        let y = self.forward(contiguous(s1, l1)?, Some(context), contiguous(s3, l3)?);
        Ok((CpuStorage::F32(y), self.output_shape(l1)))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let grn = self.on_gpu(l1.shape(), Some(l2.shape().elem_count()));
        let [y] = cuda::forward([(s1, l1), (s2, l2), (s3, l3)], |machine, [x, context, values]| {
            Ok([grn.forward(machine, x, Some(context), values)?])
        })?;
        Ok((y, self.output_shape(l1)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        context: &Tensor,
        params: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if x.device().is_cuda() {
            let grn = self.on_gpu(x.shape(), Some(context.elem_count()));
            let [d_x, d_context, d_params] =
                cuda::over([x, context, params, &grad], |machine, [x, context, values, dy]| {
                    let grads = grn.backward(machine, x, Some(context), values, dy)?;
                    let Some(d_context) = grads.d_context else { bail!("grn: no gradient of the context") };
                    Ok([grads.d_x, d_context, grads.d_values])
                })?;
            let (d_x, d_params) = (cuda::tensor(d_x, x.shape()), cuda::tensor(d_params, params.shape()));
            return Ok((Some(d_x), Some(cuda::tensor(d_context, context.shape())), Some(d_params)));
        }
        let [xs, contexts, values, dy] = [x, context, params, &grad].map(host_values);
        let contexts = Some(contexts.slice()?);
        let (d_x, d_context, d_params) = self.backward(xs.slice()?, contexts, values.slice()?, dy.slice()?);
        Ok((Some(like(x, d_x)?), Some(like(context, d_context)?), Some(like(params, d_params)?)))
    }
}

fn like(tensor: &Tensor, values: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
}
