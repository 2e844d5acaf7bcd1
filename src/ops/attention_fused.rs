//! Attention as one operation with a hand-written backward, for f32; on a GPU the launches of [`super::cuda`].
//!
//! A unit of work is a tile of queries of one head against a block of keys: the scores of such a block are made, used
//! and forgotten while they are in the nearest cache. The forward goes through the keys once, with a running largest
//! score and sum ([`super::attention_forward`]), and keeps those of each query, and what each head saw, for the
//! backward ([`super::attention_backward`]), which makes the scores anew.
//!
//! Samples are independent; parts of the work are whole samples, so threads change nothing in the result.
//! [`super::attention::attention_plain`] is the oracle. In one respect this form is kinder: what stands at a key that
//! no query of a tile may see is not looked at, not even if it is not a number.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};

use super::attention::Sizes;
use super::attention_backward::Backward;
use super::attention_forward::Forward;
use super::attention_mask::{AttentionMask, Block};
use super::cuda;
use super::cuda::machine::{Machine, Memory};
use super::dropout::Mask;
use super::host::contiguous;
use super::simd::{ROWS, Simd};
use super::split::{in_parts_of_three, in_parts_with};

/// The mean of the heads; shapes as in [`super::attention()`], which has checked them.
pub(super) fn attention_fused(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    sizes: Sizes,
    mask: &AttentionMask,
    dropped: Option<Mask>,
) -> Result<Tensor> {
    let problem = Problem { sizes, mask: mask.clone(), dropped };
    let op = Attention { problem, kept: OnceLock::new(), kept_on_gpu: OnceLock::new() };
    queries.contiguous()?.apply_op3(&keys.contiguous()?, &values.contiguous()?, op)
}

struct Attention {
    problem: Problem,
    /// What the forward leaves to the backward, see [`Problem::kept_len`].
    kept: OnceLock<Vec<f32>>,
    /// The same on a GPU.
    kept_on_gpu: OnceLock<Tensor>,
}

/// What does not change from sample to sample.
pub(super) struct Problem {
    pub sizes: Sizes,
    mask: AttentionMask,
    dropped: Option<Mask>,
}

/// The inputs of one sample: `[H, A d]`, `[T, A d]`, `[T, d]`.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub queries: &'a [f32],
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

impl<'a> Inputs<'a> {
    pub fn of_sample(sizes: Sizes, all: [&'a [f32]; 3], sample: usize) -> Self {
        let one = |all: &'a [f32], len: usize| &all[sample * len..(sample + 1) * len];
        let [queries, keys, values] = all;
        Inputs {
            queries: one(queries, sizes.horizon * sizes.joined()),
            keys: one(keys, sizes.n_keys * sizes.joined()),
            values: one(values, sizes.n_keys * sizes.width),
        }
    }
}

impl Problem {
    /// What queries are multiplied by: scores are in powers of two, and softmax is the same to every base.
    pub fn score_scale(&self) -> f32 {
        self.mask.powers_of_two(self.sizes.width).0
    }

    /// What masked scores are replaced by.
    pub fn fill(&self) -> f32 {
        self.mask.powers_of_two(self.sizes.width).1
    }

    pub fn blocks(&self, sample: usize) -> Vec<Block> {
        self.mask.blocks(sample)
    }

    pub fn n_tiles(&self) -> usize {
        self.sizes.horizon.div_ceil(ROWS)
    }

    /// Queries of a tile that exist.
    pub fn n_rows(&self, tile: usize) -> usize {
        (self.sizes.horizon - tile * ROWS).min(ROWS)
    }

    /// Numbers kept per tile and head: the largest score and one over the sum of each query, then what the head saw,
    /// as a tile.
    pub fn kept_len(&self) -> usize {
        (2 + self.sizes.width) * ROWS
    }

    /// Where a tile's queries of a head begin among those of the sample.
    pub fn query_start(&self, tile: usize, head: usize) -> usize {
        tile * ROWS * self.sizes.joined() + head * self.sizes.width
    }

    /// A tile of a head's queries, scaled.
    pub fn load_queries(
        &self,
        simd: Simd,
        inputs: Inputs<'_>,
        (head, tile): (usize, usize),
        queries: &mut [f32],
    ) {
        let rows = &inputs.queries[self.query_start(tile, head)..];
        simd.load_rows(rows, self.sizes.joined(), self.n_rows(tile), self.sizes.width, queries);
        let scale = self.score_scale();
        queries.iter_mut().for_each(|query| *query *= scale);
    }

    /// Whether a key that a query must not see has a weight after all: if its replaced score is near or above the
    /// largest (a query that sees nothing), or if that is not a number.
    pub fn hidden_keys_count(&self, tile: usize, largest: &[f32]) -> bool {
        // Two to this negative power is 0 in f32.
        const VANISHES: f32 = 160.0;
        let fill = self.fill();
        !largest[..self.n_rows(tile)].iter().all(|largest| largest - fill >= VANISHES)
    }

    /// The dropout factors of a tile of a head's output; false if there is no dropout.
    pub fn factors(
        &self,
        simd: Simd,
        (sample, head, tile): (usize, usize, usize),
        factors: &mut [f32],
    ) -> bool {
        let Some(mask) = self.dropped else { return false };
        let first_row = (sample * self.sizes.n_heads + head) * self.sizes.horizon + tile * ROWS;
        mask.factors(simd, first_row, self.sizes.width, factors);
        true
    }
}

/// The same on a GPU.
impl Problem {
    fn on_gpu(&self) -> cuda::attention::Attention {
        let Sizes { batch, horizon, n_keys, n_heads, width } = self.sizes;
        let (scale, fill) = self.mask.powers_of_two(width);
        let (history, dropped) = (n_keys - horizon, self.dropped);
        cuda::attention::Attention { batch, history, horizon, n_heads, width, scale, fill, dropped }
    }

    fn upload_lengths(&self, machine: &mut dyn Machine) -> Result<cuda::attention::Lengths> {
        let mut upload = |lengths: Option<&[usize]>| -> Result<Option<Memory>> {
            let words = lengths.map(|all| all.iter().map(|&length| length as u32).collect::<Vec<_>>());
            words.map(|words| machine.upload(&words)).transpose()
        };
        let (history, future) = self.mask.lengths();
        Ok(cuda::attention::Lengths { history: upload(history)?, future: upload(future)? })
    }

    fn backward_on_gpu(
        &self,
        inputs: [&Tensor; 3],
        kept: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [queries, keys, values] = inputs;
        let [d_q, d_k, d_v] =
            cuda::over([queries, keys, values, kept, grad], |machine, [q, k, v, kept, dy]| {
                let lengths = self.upload_lengths(machine)?;
                self.on_gpu().backward(machine, [q, k, v], lengths, kept, dy)
            })?;
        let like = |storage, tensor: &Tensor| Some(cuda::tensor(storage, tensor.shape()));
        Ok((like(d_q, queries), like(d_k, keys), like(d_v, values)))
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
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
        let inputs = [contiguous(s1, l1)?, contiguous(s2, l2)?, contiguous(s3, l3)?];
        let (problem, sizes) = (&self.problem, self.problem.sizes);
        let (out_len, kept_len) =
            (sizes.horizon * sizes.width, sizes.n_heads * problem.n_tiles() * problem.kept_len());
        let mut out = vec![0f32; sizes.batch * out_len];
        let mut kept = vec![0f32; sizes.batch * kept_len];
        in_parts_with((&mut out, out_len), (&mut kept, kept_len), |first, out, kept| {
            let mut forward = Forward::new(problem);
            for (i, (out, kept)) in out.chunks_mut(out_len).zip(kept.chunks_mut(kept_len)).enumerate() {
                let sample = first + i;
                forward.run(sample, Inputs::of_sample(sizes, inputs, sample), out, kept);
            }
        });
        // Of two forwards of one operation the first is as good as the second: they are the same.
        let _ = self.kept.set(kept);
        Ok((CpuStorage::F32(out), (sizes.batch, sizes.horizon, sizes.width).into()))
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
        let Sizes { batch, horizon, width, .. } = self.problem.sizes;
        let on_gpu = self.problem.on_gpu();
        let [out, kept] = cuda::forward([(s1, l1), (s2, l2), (s3, l3)], |machine, inputs| {
            let lengths = self.problem.upload_lengths(machine)?;
            on_gpu.forward(machine, inputs, lengths)
        })?;
        let _ = self.kept_on_gpu.set(cuda::tensor(kept, on_gpu.kept_len()));
        Ok((out, (batch, horizon, width).into()))
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if let Some(kept) = self.kept_on_gpu.get() {
            return self.problem.backward_on_gpu([queries, keys, values], kept, &grad.contiguous()?);
        }
        let Some(kept) = self.kept.get() else { bail!("attention: a backward without a forward") };
        let (problem, sizes) = (&self.problem, self.problem.sizes);
        let grad = grad.contiguous()?;
        let (s1, l1) = queries.storage_and_layout();
        let (s2, l2) = keys.storage_and_layout();
        let (s3, l3) = values.storage_and_layout();
        let (s4, l4) = grad.storage_and_layout();
        let inputs = [host(&s1, l1)?, host(&s2, l2)?, host(&s3, l3)?];
        let grad = host(&s4, l4)?;
        let lens =
            [sizes.horizon * sizes.joined(), sizes.n_keys * sizes.joined(), sizes.n_keys * sizes.width];
        let [mut d_queries, mut d_keys, mut d_values] = lens.map(|len| vec![0f32; sizes.batch * len]);
        let (grad_len, kept_len) = (sizes.horizon * sizes.width, kept.len() / sizes.batch.max(1));
        in_parts_of_three([&mut d_queries, &mut d_keys, &mut d_values], lens, |first, [d_q, d_k, d_v]| {
            let mut backward = Backward::new(problem);
            let outputs = d_q.chunks_mut(lens[0]).zip(d_k.chunks_mut(lens[1]).zip(d_v.chunks_mut(lens[2])));
            for (i, (d_q, (d_k, d_v))) in outputs.enumerate() {
                let sample = first + i;
                let inputs = Inputs::of_sample(sizes, inputs, sample);
                let grad = &grad[sample * grad_len..(sample + 1) * grad_len];
                let kept = &kept[sample * kept_len..(sample + 1) * kept_len];
                backward.run(sample, inputs, kept, grad, [d_q, d_k, d_v]);
            }
        });
        let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        Ok((Some(tensor(d_queries, queries)?), Some(tensor(d_keys, keys)?), Some(tensor(d_values, values)?)))
    }
}

/// The values of a tensor on the CPU.
fn host<'a>(storage: &'a candle_core::Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        candle_core::Storage::Cpu(storage) => contiguous(storage, layout),
        _ => bail!("attention: not on the CPU"),
    }
}
