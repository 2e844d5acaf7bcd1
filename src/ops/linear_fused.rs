//! A linear layer as one operation, tile by tile, for f32; on a GPU the launches of [`super::cuda::linear`].
//! [`super::linear::linear_plain`] is the oracle.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};

use super::cuda;
use super::cuda::machine::{Machine, Memory, Stretch};
use super::grn_tile::Pair;
use super::host::{contiguous, host_values};
use super::linear::LinearWeights;
use super::pack::Places;
use super::rows::{Output, Rows};
use super::simd::{Init, Matrix, ROWS, Simd};
use super::split::sum_in_order;

/// `x Wᵀ + b`; shapes as in [`super::linear()`], which has checked them.
pub fn linear_fused(x: &Tensor, weights: &LinearWeights) -> Result<Tensor> {
    let LinearWeights { values, n_out, n_in, has_bias } = weights;
    let op = Linear { n_out: *n_out, n_in: *n_in, has_bias: *has_bias };
    x.contiguous()?.apply_op2(&values.contiguous()?, op)
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

#[derive(Clone, Copy)]
struct Linear {
    n_out: usize,
    n_in: usize,
    has_bias: bool,
}

impl Linear {
    /// Numbers in front of the bias.
    fn bias_at(self) -> usize {
        self.n_out * self.n_in
    }

    /// `[.., in]` through the layer.
    fn forward(self, x: &[f32], values: &[f32]) -> Vec<f32> {
        let Linear { n_out, n_in, has_bias } = self;
        let (simd, rows) = (Simd::best(), Rows::free(x.len() / n_in));
        let (weight, bias) = values.split_at(self.bias_at());
        let mut y = vec![0f32; x.len() / n_in * n_out];
        let init = if has_bias { Init::Bias(bias) } else { Init::Zero };
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

    /// The gradients of the input, which is left out if nobody asks about it, and of the parameters.
    fn backward(self, x: &Tensor, values: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let (simd, Linear { n_out, n_in, has_bias }) = (Simd::best(), self);
        let grad = grad.contiguous()?;
        if x.device().is_cuda() {
            return self.backward_on_gpu(x, values, &grad);
        }
        let [xs, weights, dy] = [x, values, &grad].map(host_values);
        let (xs, weights, dy) = (xs.slice()?, weights.slice()?, dy.slice()?);
        let layer = Places::default().pair(self.bias_at(), n_out);
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
                    let back = Matrix::columns(&weights[..self.bias_at()], n_in);
                    simd.product(back, (n_in, n_out), &dy_tile, Init::Zero, &mut x_tile);
                    tile.store(simd, &x_tile, n_in, d_x);
                }
            }
            grads
        });
        let mut d_values = sum_in_order(simd, parts);
        if !has_bias {
            d_values.truncate(self.bias_at());
        }
        let d_values = Tensor::from_vec(d_values, values.shape(), &Device::Cpu)?;
        let d_x = x.track_op().then(|| Tensor::from_vec(d_x, x.shape(), &Device::Cpu)).transpose()?;
        Ok((d_x, d_values))
    }

    fn on_gpu(self, x: &Shape) -> cuda::linear::Linear {
        let Linear { n_out, n_in, .. } = self;
        cuda::linear::Linear { n_rows: x.elem_count() / n_in, n_in, n_out }
    }

    fn forward_on_gpu(
        self,
        machine: &mut dyn Machine,
        [x, values]: [Memory; 2],
        shape: &Shape,
    ) -> Result<Memory> {
        let linear = self.on_gpu(shape);
        let y = machine.alloc(linear.n_rows * self.n_out)?;
        let bias = self.has_bias.then(|| values.from(self.bias_at()));
        linear.forward(machine, x, rows(values, self.n_in), bias, rows(y, self.n_out))?;
        Ok(y)
    }

    fn backward_on_gpu(self, x: &Tensor, values: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let (has_d_x, n_values) = (x.track_op(), values.elem_count());
        let run = |machine: &mut dyn Machine, [x_values, weights, dy]: [Memory; 3]| -> Result<_> {
            let (inputs, weights, dy) =
                (rows(x_values, self.n_in), rows(weights, self.n_in), rows(dy, self.n_out));
            let grads = self.on_gpu(x.shape()).backward(machine, inputs, weights, dy, None, has_d_x)?;
            let d_values = machine.alloc(n_values)?;
            let all = Stretch { row: 0, some: 0..n_values, to: 0 };
            grads.parts.sum_stretches(machine, &[all], d_values)?;
            Ok((grads.d_x, d_values))
        };
        let args = [x, values, grad];
        let (d_x, d_values) = if has_d_x {
            let [d_x, d_values] = cuda::over(args, |machine, all| {
                let (Some(d_x), d_values) = run(machine, all)? else {
                    bail!("linear: no gradient of the input")
                };
                Ok([d_x, d_values])
            })?;
            (Some(cuda::tensor(d_x, x.shape())), d_values)
        } else {
            let [d_values] = cuda::over(args, |machine, all| Ok([run(machine, all)?.1]))?;
            (None, d_values)
        };
        Ok((d_x, cuda::tensor(d_values, n_values)))
    }

    fn output_shape(self, x: &Layout) -> Shape {
        let mut shape = x.dims().to_vec();
        shape[x.dims().len() - 1] = self.n_out;
        shape.into()
    }
}

fn rows(at: Memory, stride: usize) -> cuda::linear::Rows {
    cuda::linear::Rows { at, stride }
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
        let y = self.forward(contiguous(s1, l1)?, contiguous(s2, l2)?);
        Ok((CpuStorage::F32(y), self.output_shape(l1)))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let [y] = cuda::forward([(s1, l1), (s2, l2)], |machine, inputs| {
            Ok([self.forward_on_gpu(machine, inputs, l1.shape())?])
        })?;
        Ok((y, self.output_shape(l1)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        values: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (d_x, d_values) = self.backward(x, values, grad)?;
        Ok((d_x, Some(d_values)))
    }
}
