//! A linear layer as one operation, tile by tile, for f32; on a GPU the launches of [`super::cuda::linear`].
//! [`super::linear::linear_plain`] is the oracle.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail,
};

use super::cuda;
use super::cuda::machine::{Machine, Memory};
use super::grn_tile::Pair;
use super::host::{contiguous, host_values};
use super::pack::Places;
use super::rows::{Output, Rows};
use super::simd::{Init, Matrix, ROWS, Simd};
use super::split::sum_in_order;

/// `x Wᵀ + b`; shapes as in [`super::linear()`], which has checked them.
pub fn linear_fused(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Linear),
        None => x.apply_op2(&weight, Linear),
    }
}

/// Adds what a tile contributes to the gradients of a layer's weight `[out, in]` and bias: `dy` is the gradient behind
/// it as a tile, `x` its inputs as [`ROWS`] rows.
pub(super) fn add_gradients(
    simd: Simd,
    dy: &[f32],
    x: &[f32],
    (n_out, n_in): (usize, usize),
    layer: &Pair,
    grads: &mut [f32],
) {
    simd.outer(dy, x, n_in, (n_out, n_in), &mut grads[layer.weight.clone()]);
    simd.add_row_sums(dy, n_out, &mut grads[layer.bias.clone()]);
}

struct Linear;

/// A layer's own copy of its parameters, for tiles that come from other blocks.
pub(super) struct OwnLinear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    n_in: usize,
    pub n_out: usize,
}

impl OwnLinear {
    pub fn of((weight, bias): &(Tensor, Option<Tensor>)) -> Result<Self> {
        let (n_out, n_in) = weight.dims2()?;
        let copy = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        Ok(OwnLinear { weight: copy(weight)?, bias: bias.as_ref().map(copy).transpose()?, n_in, n_out })
    }

    /// From a tile of inputs to one of outputs.
    pub fn run(&self, simd: Simd, x: &[f32], y: &mut [f32]) {
        let init = self.bias.as_deref().map_or(Init::Zero, Init::Bias);
        simd.product(Matrix::rows(&self.weight, self.n_in), (self.n_out, self.n_in), x, init, y);
    }
}

/// `[.., in]` through `weight [out, in]`.
fn forward(x: &[f32], weight: &[f32], (n_out, n_in): (usize, usize), bias: Option<&[f32]>) -> Vec<f32> {
    let (simd, rows) = (Simd::best(), Rows::free(x.len() / n_in));
    let mut y = vec![0f32; x.len() / n_in * n_out];
    let init = bias.map_or(Init::Zero, Init::Bias);
    rows.in_parts([Output::PerRow(&mut y, n_out)], |part, [y]| {
        let (mut x_tile, mut y_tile) = (vec![0f32; n_in * ROWS], vec![0f32; n_out * ROWS]);
        for tile in part.tiles() {
            tile.load(simd, x, n_in, &mut x_tile);
            simd.product(Matrix::rows(weight, n_in), (n_out, n_in), &x_tile, init, &mut y_tile);
            tile.store(simd, &y_tile, n_out, y);
        }
    });
    y
}

/// The gradients of input, weight and bias; that of an input that nobody asks about is left out.
fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor, Tensor)> {
    let simd = Simd::best();
    let (n_out, n_in) = weight.dims2()?;
    let grad = grad.contiguous()?;
    if x.device().is_cuda() {
        return backward_on_gpu(x, weight, &grad);
    }
    let [xs, weights, dy] = [x, weight, &grad].map(host_values);
    let (xs, weights, dy) = (xs.slice()?, weights.slice()?, dy.slice()?);
    let layer = Places::default().pair(n_out * n_in, n_out);
    let rows = Rows::free(xs.len() / n_in);
    let mut d_x = vec![0f32; if x.track_op() { xs.len() } else { 0 }];
    let width = if x.track_op() { n_in } else { 0 };
    let parts = rows.in_parts([Output::PerRow(&mut d_x, width)], |part, [d_x]| {
        let (mut dy_tile, mut x_tile) = (vec![0f32; n_out * ROWS], vec![0f32; n_in * ROWS]);
        let mut grads = vec![0f32; layer.bias.end];
        for tile in part.tiles() {
            tile.load(simd, dy, n_out, &mut dy_tile);
            let inputs = tile.whole(xs, n_in, &mut x_tile);
            add_gradients(simd, &dy_tile, inputs, (n_out, n_in), &layer, &mut grads);
            if width > 0 {
                let back = Matrix::columns(weights, n_in);
                simd.product(back, (n_in, n_out), &dy_tile, Init::Zero, &mut x_tile);
                tile.store(simd, &x_tile, n_in, d_x);
            }
        }
        grads
    });
    let mut d_weight = sum_in_order(simd, parts);
    let d_bias = Tensor::from_vec(d_weight.split_off(n_out * n_in), n_out, &Device::Cpu)?;
    let d_weight = Tensor::from_vec(d_weight, (n_out, n_in), &Device::Cpu)?;
    let d_x = x.track_op().then(|| Tensor::from_vec(d_x, x.shape(), &Device::Cpu)).transpose()?;
    Ok((d_x, d_weight, d_bias))
}

fn forward_on_gpu(
    machine: &mut dyn Machine,
    [x, weight]: [Memory; 2],
    bias: Option<Memory>,
    (n_out, n_in): (usize, usize),
) -> Result<Memory> {
    let n_rows = x.len / n_in;
    let y = machine.alloc(n_rows * n_out)?;
    let rows = |at, stride| cuda::linear::Rows { at, stride };
    let linear = cuda::linear::Linear { n_rows, n_in, n_out };
    linear.forward(machine, x, rows(weight, n_in), bias, rows(y, n_out))?;
    Ok(y)
}

fn backward_on_gpu(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor, Tensor)> {
    let ((n_out, n_in), has_d_x) = (weight.dims2()?, x.track_op());
    let linear = cuda::linear::Linear { n_rows: x.elem_count() / n_in, n_in, n_out };
    let rows = |at, stride| cuda::linear::Rows { at, stride };
    let run = |machine: &mut dyn Machine, [x, weight, dy]: [Memory; 3]| {
        let (inputs, dy) = (rows(x, n_in), rows(dy, n_out));
        linear.backward(machine, inputs, rows(weight, n_in), dy, None, has_d_x)
    };
    let args = [x, weight, grad];
    let (d_x, sums) = if has_d_x {
        let [d_x, sums] = cuda::over(args, |machine, all| {
            let grads = run(machine, all)?;
            let Some(d_x) = grads.d_x else { bail!("linear: no gradient of the input") };
            Ok([d_x, grads.parts.sum(machine)?])
        })?;
        (Some(cuda::tensor(d_x, x.shape())), sums)
    } else {
        let [sums] = cuda::over(args, |machine, all| Ok([run(machine, all)?.parts.sum(machine)?]))?;
        (None, sums)
    };
    let sums = cuda::tensor(sums, n_out * n_in + n_out);
    let d_weight = sums.narrow(0, 0, n_out * n_in)?.reshape((n_out, n_in))?;
    Ok((d_x, d_weight, sums.narrow(0, n_out * n_in, n_out)?))
}

/// The shape of the output, and the widths `(out, in)`.
fn shapes(x: &Layout, weight: &Layout) -> Result<(Shape, (usize, usize))> {
    let sizes = weight.shape().dims2()?;
    let mut shape = x.dims().to_vec();
    shape[x.dims().len() - 1] = sizes.0;
    Ok((shape.into(), sizes))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (shape, sizes) = shapes(l1, l2)?;
        let y = forward(contiguous(s1, l1)?, contiguous(s2, l2)?, sizes, None);
        Ok((CpuStorage::F32(y), shape))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (shape, sizes) = shapes(l1, l2)?;
        let [y] = cuda::forward([(s1, l1), (s2, l2)], |machine, inputs| {
            Ok([forward_on_gpu(machine, inputs, None, sizes)?])
        })?;
        Ok((y, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (d_x, d_weight, _) = backward(x, weight, grad)?;
        Ok((d_x, Some(d_weight)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (shape, sizes) = shapes(l1, l2)?;
        let bias = contiguous(s3, l3)?;
        let y = forward(contiguous(s1, l1)?, contiguous(s2, l2)?, sizes, Some(bias));
        Ok((CpuStorage::F32(y), shape))
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
        let (shape, sizes) = shapes(l1, l2)?;
        let [y] = cuda::forward([(s1, l1), (s2, l2), (s3, l3)], |machine, [x, weight, bias]| {
            Ok([forward_on_gpu(machine, [x, weight], Some(bias), sizes)?])
        })?;
        Ok((y, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (d_x, d_weight, d_bias) = backward(x, weight, grad)?;
        Ok((d_x, Some(d_weight), Some(d_bias)))
    }
}
