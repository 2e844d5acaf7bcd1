//! Layer normalisation as one operation with a hand-written backward, for f32.
//!
//! Rows are worked on in blocks of a fixed size, and the sums over rows are added up block by block, so that the
//! number of threads changes nothing. The backward computes mean and deviation anew instead of keeping them.
//! On a GPU it is the launches of [`super::cuda::rowwise`]. [`super::layer_norm::layer_norm_plain`] is the oracle.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::cuda::rowwise;
use super::host::contiguous;
use super::layer_norm::EPSILON;

/// Layer normalisation over the last axis; shapes as in [`super::layer_norm()`].
pub fn layer_norm_fused(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm)
}

/// Rows of one unit of work.
const BLOCK: usize = 512;

struct LayerNorm;

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
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
        let (x, weight, bias) = (contiguous(s1, l1)?, contiguous(s2, l2)?, contiguous(s3, l3)?);
        let width = width_of(l1, l2, l3)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                normalise(x, weight, bias, y);
            }
        });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
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
        let width = width_of(l1, l2, l3)?;
        let norm = rowwise::LayerNorm { n_rows: l1.shape().elem_count() / width, width };
        let args = [(s1, l1), (s2, l2), (s3, l3)];
        let [y] = cuda::forward(args, |machine, inputs| Ok([norm.forward(machine, inputs)?]))?;
        Ok((y, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if x.device().is_cuda() {
            return backward_on_gpu(x, weight, &grad.contiguous()?);
        }
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (xs, ws, gs) = (values(x)?, values(weight)?, values(grad)?);
        let (width, block) = (ws.len(), BLOCK * ws.len());
        let mut d_x = vec![0f32; xs.len()];
        let parts: Vec<[Vec<f32>; 2]> = d_x
            .par_chunks_mut(block)
            .zip(xs.par_chunks(block).zip(gs.par_chunks(block)))
            .map(|(d_x, (x, grad))| block_gradients(x, &ws, grad, d_x))
            .collect();
        let [d_weight, d_bias] = [0, 1].map(|which| {
            let mut sum = vec![0f32; width];
            parts.iter().for_each(|part| sum.iter_mut().zip(&part[which]).for_each(|(s, v)| *s += v));
            Tensor::from_vec(sum, width, &Device::Cpu)
        });
        Ok((Some(Tensor::from_vec(d_x, x.shape(), &Device::Cpu)?), Some(d_weight?), Some(d_bias?)))
    }
}

/// - Errors: weight and bias are not of the rows' width.
fn width_of(x: &Layout, weight: &Layout, bias: &Layout) -> Result<usize> {
    let width = weight.shape().elem_count();
    if width == 0 || x.dims().last() != Some(&width) || bias.shape().elem_count() != width {
        bail!("layer norm of {:?} with weight {:?} and bias {:?}", x.dims(), weight.dims(), bias.dims());
    }
    Ok(width)
}

fn backward_on_gpu(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
    let width = weight.elem_count();
    let norm = rowwise::LayerNorm { n_rows: x.elem_count() / width, width };
    let [d_x, d_values] = cuda::over([x, weight, grad], |machine, [x, weight, dy]| {
        let (d_x, d_values) = norm.backward(machine, x, weight, dy)?;
        Ok([d_x, d_values])
    })?;
    let d_values = cuda::tensor(d_values, 2 * width);
    let half = |start| d_values.narrow(0, start, width);
    Ok((Some(cuda::tensor(d_x, x.shape())), Some(half(0)?), Some(half(width)?)))
}

/// Mean and inverse deviation of a row.
#[inline]
fn moments(x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
    (mean, 1.0 / (variance + EPSILON as f32).sqrt())
}

fn normalise(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let (mean, scale) = moments(x);
    for (y, (x, (weight, bias))) in y.iter_mut().zip(x.iter().zip(weight.iter().zip(bias))) {
        *y = (x - mean) * scale * weight + bias;
    }
}

/// The gradients of a block of rows: into `d_x`, and the block's share of those of weight and bias.
///
/// With the normalised row `n`, the scale `s` and `g = grad * weight`, a row's gradient is
/// `s * (g - mean(g) - n * mean(g * n))`.
fn block_gradients(x: &[f32], weight: &[f32], grad: &[f32], d_x: &mut [f32]) -> [Vec<f32>; 2] {
    let width = weight.len();
    let (mut d_weight, mut d_bias) = (vec![0f32; width], vec![0f32; width]);
    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
    for (d_x, (x, grad)) in d_x.chunks_exact_mut(width).zip(rows) {
        let (mean, scale) = moments(x);
        let (mut mean_g, mut mean_gn) = (0f32, 0f32);
        for k in 0..width {
            let normalised = (x[k] - mean) * scale;
            d_weight[k] += grad[k] * normalised;
            d_bias[k] += grad[k];
            mean_g += grad[k] * weight[k];
            mean_gn += grad[k] * weight[k] * normalised;
        }
        mean_g /= width as f32;
        mean_gn /= width as f32;
        for k in 0..width {
            let normalised = (x[k] - mean) * scale;
            d_x[k] = scale * (grad[k] * weight[k] - mean_g - normalised * mean_gn);
        }
    }
    [d_weight, d_bias]
}
