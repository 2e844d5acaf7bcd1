//! The gated skip connection as one operation, tile by tile, for f32.
//!
//! Nothing is kept between forward and backward: a tile is computed anew where its gradient is due, which takes less
//! time than writing it to memory and reading it back. On a GPU it is the launches of [`super::cuda::gate`].
//! [`super::gate::gate_add_norm_plain`] is the oracle.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};

use super::cuda;
use super::dropout::Mask;
use super::gate::{GateSizes, GateWeights};
use super::grn_tile::{Pair, norm_backward};
use super::host::{contiguous, host_values};
use super::linear_fused::add_gradients;
use super::pack::Places;
use super::rows::{Output, Rows, TileRows};
use super::simd::{Init, Matrix, ROWS, Simd};
use super::split::sum_in_order;

/// `LN(GLU(x) + skip)`; shapes as in [`super::gate_add_norm`], which has checked them.
pub fn gate_add_norm_fused(
    x: &Tensor,
    skip: &Tensor,
    weights: &GateWeights,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let gate = Gate::new(weights.sizes, mask);
    x.contiguous()?.apply_op3(&skip.contiguous()?, &weights.values.contiguous()?, gate)
}

pub(super) struct Gate {
    pub sizes: GateSizes,
    mask: Option<Mask>,
    /// Where the parameters lie.
    pub linear: Pair,
    pub norm: Pair,
}

/// Working memory of one part: the tiles of its rows.
pub(super) struct GateTiles {
    /// The input, what is dropped dropped.
    pub x: Vec<f32>,
    pub skip: Vec<f32>,
    factors: Vec<f32>,
    /// Values and opened gates; in the backward their gradients.
    linear: Vec<f32>,
    /// The sum with the skip, normalised.
    normal: Vec<f32>,
    inverse: Vec<f32>,
    pub y: Vec<f32>,
    rows: Vec<f32>,
}

impl Gate {
    pub fn new(sizes: GateSizes, mask: Option<Mask>) -> Self {
        let mut places = Places::default();
        let linear = places.pair(2 * sizes.n_out * sizes.n_in, 2 * sizes.n_out);
        Gate { sizes, mask, linear, norm: places.pair(sizes.n_out, sizes.n_out) }
    }

    /// Single parameters.
    pub fn n_values(&self) -> usize {
        self.norm.bias.end
    }

    fn on_gpu(&self, n_skip: usize) -> cuda::gate::Gate {
        let GateSizes { n_in, n_out } = self.sizes;
        cuda::gate::Gate { n_rows: n_skip / n_out, n_in, n_out, mask: self.mask }
    }

    pub fn tiles(&self) -> GateTiles {
        let GateSizes { n_in, n_out } = self.sizes;
        let tile = |n: usize| vec![0f32; n * ROWS];
        GateTiles {
            x: tile(n_in),
            skip: tile(n_out),
            factors: tile(n_in),
            linear: tile(2 * n_out),
            normal: tile(n_out),
            inverse: tile(1),
            y: tile(n_out),
            rows: tile(n_in),
        }
    }

    /// Reads a tile of both inputs and leaves the result in `y`.
    fn forward(
        &self,
        simd: Simd,
        values: &[f32],
        (x, skip): (&[f32], &[f32]),
        tile: TileRows,
        own: &mut GateTiles,
    ) {
        let GateSizes { n_in, n_out } = self.sizes;
        tile.load(simd, x, n_in, &mut own.x);
        tile.load(simd, skip, n_out, &mut own.skip);
        if let Some(mask) = self.mask {
            mask.factors(simd, tile.first, n_in, &mut own.factors);
            simd.multiply(&own.factors, &mut own.x);
        }
        self.run(simd, values, own);
    }

    /// From `x` and `skip` to `y`.
    pub fn run(&self, simd: Simd, values: &[f32], own: &mut GateTiles) {
        let GateSizes { n_in, n_out } = self.sizes;
        let bias = Init::Bias(&values[self.linear.bias.clone()]);
        let weight = Matrix::rows(&values[self.linear.weight.clone()], n_in);
        simd.product(weight, (2 * n_out, n_in), &own.x, bias, &mut own.linear);
        let norm = (&values[self.norm.weight.clone()], &values[self.norm.bias.clone()]);
        let outputs = (&mut own.normal[..], &mut own.y[..]);
        simd.gated_norm(&mut own.linear, n_out, &own.skip, norm, &mut own.inverse, outputs);
    }

    /// Follows a [`forward`](Self::forward) of the same tile: from the gradient in `y` to those of both inputs, in `x`
    /// and `skip`; those of the parameters are added to `grads`.
    fn backward(&self, simd: Simd, values: &[f32], own: &mut GateTiles, grads: &mut [f32]) {
        let GateSizes { n_in, n_out } = self.sizes;
        let behind = (&own.y[..], &own.normal[..], &own.inverse[..]);
        norm_backward(simd, &self.norm, values, grads, behind, n_out, &mut own.skip);
        simd.glu_backward(&own.skip, &mut own.linear, n_out);
        simd.store_rows(&own.x, n_in, &mut own.rows, n_in, ROWS);
        add_gradients(simd, &own.linear, &own.rows, (2 * n_out, n_in), &self.linear, grads);
        let back = Matrix::columns(&values[self.linear.weight.clone()], n_in);
        simd.product(back, (n_in, 2 * n_out), &own.linear, Init::Zero, &mut own.x);
        if self.mask.is_some() {
            simd.multiply(&own.factors, &mut own.x);
        }
    }
}

impl CustomOp3 for Gate {
    fn name(&self) -> &'static str {
        "gate-add-norm"
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
        let (x, skip, values) = (contiguous(s1, l1)?, contiguous(s2, l2)?, contiguous(s3, l3)?);
        let (simd, n_out) = (Simd::best(), self.sizes.n_out);
        let mut y = vec![0f32; skip.len()];
        Rows::free(skip.len() / n_out).in_parts([Output::PerRow(&mut y, n_out)], |part, [y]| {
            let mut own = self.tiles();
            for tile in part.tiles() {
                self.forward(simd, values, (x, skip), tile, &mut own);
                tile.store(simd, &own.y, n_out, y);
            }
        });
        Ok((CpuStorage::F32(y), l2.shape().clone()))
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
        let gate = self.on_gpu(l2.shape().elem_count());
        let [y] = cuda::forward([(s1, l1), (s2, l2), (s3, l3)], |machine, [x, skip, values]| {
            Ok([gate.forward(machine, x, skip, values)?])
        })?;
        Ok((y, l2.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        skip: &Tensor,
        params: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if x.device().is_cuda() {
            let gate = self.on_gpu(skip.elem_count());
            let [d_x, d_skip, d_params] =
                cuda::over([x, skip, params, &grad], |machine, [x, skip, values, dy]| {
                    let grads = gate.backward(machine, [x, skip, values], dy)?;
                    Ok([grads.d_x, grads.d_skip, grads.d_values])
                })?;
            let (d_x, d_skip) = (cuda::tensor(d_x, x.shape()), cuda::tensor(d_skip, skip.shape()));
            return Ok((Some(d_x), Some(d_skip), Some(cuda::tensor(d_params, params.shape()))));
        }
        let [xs, skips, values, dy] = [x, skip, params, &grad].map(host_values);
        let (xs, skips, values, dy) = (xs.slice()?, skips.slice()?, values.slice()?, dy.slice()?);
        let (simd, GateSizes { n_in, n_out }) = (Simd::best(), self.sizes);
        let (mut d_x, mut d_skip) = (vec![0f32; xs.len()], vec![0f32; skips.len()]);
        let outputs = [Output::PerRow(&mut d_x, n_in), Output::PerRow(&mut d_skip, n_out)];
        let parts = Rows::free(skips.len() / n_out).in_parts(outputs, |part, [d_x, d_skip]| {
            let (mut own, mut grads) = (self.tiles(), vec![0f32; values.len()]);
            for tile in part.tiles() {
                self.forward(simd, values, (xs, skips), tile, &mut own);
                tile.load(simd, dy, n_out, &mut own.y);
                self.backward(simd, values, &mut own, &mut grads);
                tile.store(simd, &own.x, n_in, d_x);
                tile.store(simd, &own.skip, n_out, d_skip);
            }
            grads
        });
        let d_x = Tensor::from_vec(d_x, x.shape(), &Device::Cpu)?;
        let d_skip = Tensor::from_vec(d_skip, skip.shape(), &Device::Cpu)?;
        let d_params = Tensor::from_vec(sum_in_order(simd, parts), params.shape(), &Device::Cpu)?;
        Ok((Some(d_x), Some(d_skip), Some(d_params)))
    }
}
