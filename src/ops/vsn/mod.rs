//! Variable selection as one operation with a hand-written backward, for f32.
//!
//! This is three quarters of the network's arithmetic. Op by op it makes an embedding, a hidden layer, two gates and two
//! norms of every variable at every step, tens of megabytes per sample; here a tile of 32 steps goes through all variables
//! while it lies in the cache, and only the selection leaves. [`weights`] says where the parameters lie, [`collapse`] multiplies the
//! embeddings out, [`ready`] prepares what tiles read, [`tile`] runs tiles forward and backward; the backward computes a tile anew instead of keeping it.
//! On a GPU it is the launches of [`super::cuda::vsn`] and [`super::cuda::collapse`].
//!
//! The oracle is the composition of plain operations in [`crate::model::vsn`], which also serves what is not supported
//! here: a single variable, several columns in one embedding, networks shared with categoricals.

pub(super) mod collapse;
mod ready;
mod rows;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod tile;
pub mod weights;

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Device, Layout, Result as CandleResult, Shape, Storage, Tensor, bail,
};

use collapse::{Collapsed, TableRows};
use ready::Ready;
use tile::{Sizes, Worker};
use weights::{Packed, PackedCategorical, Parameters, VsnWeights};

use super::cuda;
use super::dropout::{Dropout, Mask};
use super::host::{contiguous, host_values};
use super::simd::Simd;
use super::split::{in_parts, in_parts_with, sum_in_order};

/// The inputs of a selection; they get no gradient.
pub struct VsnInput<'a> {
    /// `[B, T, R]` f32.
    pub reals: &'a Tensor,
    /// `[B, T, C]` u32.
    pub codes: &'a Tensor,
    /// The joint network's context, projected: `[B, hidden of the joint]`.
    pub context: Option<&'a Tensor>,
}

/// Selects among the variables at every step: the selection `[B, T, D]` and the weights `[B, T, N]`.
///
/// The weights are a by-product for people to read: they carry no gradient.
///
/// - Errors: a code beyond its table; shapes that do not fit; anything but f32.
pub fn vsn_fused(input: &VsnInput<'_>, weights: &VsnWeights, dropout: &Dropout) -> Result<(Tensor, Tensor)> {
    let (n_samples, n_steps, n_reals) = input.reals.dims3()?;
    let VsnWeights { own, common, packed } = weights;
    let n_codes = input.codes.dim(2)?;
    ensure!(packed.reals.iter().all(|real| real.column < n_reals), "a real beyond {n_reals} columns");
    let joint_hidden = packed.joint.sizes.hidden;
    // Without a context all rows are of one kind: one long sample.
    let (n_groups, n_rows) = match input.context {
        Some(_) => (n_samples, n_steps),
        None => (1, n_samples * n_steps),
    };
    let context = match input.context {
        Some(context) => context.reshape((n_samples, joint_hidden)).context("the joint network's context")?,
        None => Tensor::zeros((1, joint_hidden), own.dtype(), own.device())?,
    };
    let codes = Codes::of(packed, input.codes)?;
    let masks = masks(packed, dropout);
    let sizes = Sizes { n_groups, n_rows, n_reals, n_codes, hidden: packed.hidden };
    let is_recorded = own.track_op() || common.track_op() || context.track_op();
    let op = Selection {
        sizes,
        merged: masks.is_none() && !is_recorded,
        reals: input.reals.contiguous()?,
        codes,
        masks,
        packed: packed.clone(),
        shares: Arc::new(OnceLock::new()),
    };
    let (shares, n_variables, hidden) = (op.shares.clone(), op.packed.n_variables(), op.packed.hidden);
    let selected = context.contiguous()?.apply_op3(own, common, op)?;
    let shares = shares.get().context("the selection ran")?.reshape((n_samples, n_steps, n_variables))?;
    Ok((selected.reshape((n_samples, n_steps, hidden))?, shares))
}

/// The codes of a selection, and what the rows of each collapsed table belong to.
pub(super) struct Codes {
    /// On the CPU: for each step and column the row of its collapsed table.
    pub at: Vec<u32>,
    /// `[steps, columns]` as they came.
    pub tensor: Tensor,
    pub rows: Vec<TableRows>,
}

impl Codes {
    /// - Errors: a column that is not there; on the CPU, a code beyond its table. On a GPU nobody looks, and such a code makes
    ///   its step something that is not a number.
    pub fn of(packed: &Packed, codes: &Tensor) -> Result<Self> {
        let n_columns = codes.dim(2)?;
        let tensor = codes.contiguous()?.reshape((codes.elem_count() / n_columns.max(1), n_columns))?;
        let n_steps = codes.dim(0)? * codes.dim(1)?;
        let is_host = codes.device().is_cpu();
        let mut at: Vec<u32> = if is_host { tensor.flatten_all()?.to_vec1()? } else { Vec::new() };
        let mut rows = Vec::with_capacity(packed.categoricals.len());
        for PackedCategorical { number, column, table, .. } in &packed.categoricals {
            let n_known = table.shape[0];
            ensure!(*column < n_columns, "a categorical beyond {n_columns} columns");
            let own: Vec<u32> = at.iter().skip(*column).step_by(n_columns).copied().collect();
            let largest = own.iter().max().copied().unwrap_or(0);
            ensure!(
                (largest as usize) < n_known,
                "variable {number}: code {largest} is beyond the table of {n_known}"
            );
            rows.push(match (n_known > n_steps, is_host) {
                (false, _) => TableRows::Codes,
                (true, false) => TableRows::StepsOnDevice(n_steps),
                (true, true) => {
                    let places = at.iter_mut().skip(*column).step_by(n_columns);
                    places.enumerate().for_each(|(row, code)| *code = row as u32);
                    TableRows::Steps(own)
                }
            });
        }
        Ok(Codes { at, tensor, rows })
    }
}

/// A mask per network, in the order of the variables, the joint one last.
pub(super) fn masks(packed: &Packed, dropout: &Dropout) -> Option<Vec<Mask>> {
    (0..=packed.reals.len()).map(|_| dropout.site()).collect()
}

struct Selection {
    sizes: Sizes,
    /// Second layers and gates as one: nothing is dropped between them, and there is no way back.
    merged: bool,
    reals: Tensor,
    codes: Codes,
    /// One per real variable, then the joint network's.
    masks: Option<Vec<Mask>>,
    packed: Arc<Packed>,
    /// `[groups, rows, N]`
    shares: Arc<OnceLock<Tensor>>,
}

impl CustomOp3 for Selection {
    fn name(&self) -> &'static str {
        "variable-selection"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let context = contiguous(s1, l1)?;
        let parameters = Parameters::of(contiguous(s2, l2)?, contiguous(s3, l3)?);
        let simd = Simd::best();
        let ready = Ready::of(simd, &self.packed, &self.codes.rows, parameters, self.merged);
        let Sizes { n_groups, n_rows, hidden, .. } = self.sizes;
        let n_variables = self.packed.n_variables();
        let mut selected = vec![0f32; n_groups * n_rows * hidden];
        let mut shares = vec![0f32; n_groups * n_rows * n_variables];
        let reals = host_values(&self.reals);
        let reals = reals.slice()?;
        let (out_len, share_len) = (n_rows * hidden, n_rows * n_variables);
        in_parts_with((&mut selected, out_len), (&mut shares, share_len), |first, selected, shares| {
            let mut worker = self.worker(simd, &ready, reals, context);
            let groups = selected.chunks_mut(out_len.max(1)).zip(shares.chunks_mut(share_len.max(1)));
            for (i, (selected, shares)) in groups.enumerate() {
                worker.forward(first + i, selected, shares);
            }
        });
        let shares = Tensor::from_vec(shares, (n_groups, n_rows, n_variables), &Device::Cpu)?;
        let _ = self.shares.set(shares);
        Ok((CpuStorage::F32(selected), (n_groups, n_rows, hidden).into()))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let Sizes { n_groups, n_rows, hidden, .. } = self.sizes;
        let collapsed = Collapsed::of(&self.packed, &self.codes.rows);
        let (reals, reals_layout) = self.reals.storage_and_layout();
        let (codes, codes_layout) = self.codes.tensor.storage_and_layout();
        let (Storage::Cuda(reals), Storage::Cuda(codes)) = (&*reals, &*codes) else {
            bail!("variable selection: inputs of another device")
        };
        let args = [(reals, reals_layout), (codes, codes_layout), (s1, l1), (s2, l2), (s3, l3)];
        let [selected, shares] = cuda::forward(args, |machine, [reals, codes, context, own, common]| {
            let values =
                self.collapse(&collapsed).values(machine, cuda::collapse::Inputs { own, common, codes })?;
            let inputs = cuda::vsn::Inputs { reals, codes, context, values };
            self.on_gpu(&collapsed).forward(machine, inputs)
        })?;
        let _ = self.shares.set(cuda::tensor(shares, (n_groups, n_rows, self.packed.n_variables())));
        Ok((selected, (n_groups, n_rows, hidden).into()))
    }

    fn bwd(
        &self,
        context: &Tensor,
        own: &Tensor,
        common: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let simd = Simd::best();
        let grad = grad.contiguous()?;
        if context.device().is_cuda() {
            return self.backward_on_gpu(context, [own, common], &grad);
        }
        let [context_values, own, common, grad, reals] =
            [context, own, common, &grad, &self.reals].map(host_values);
        let (grad, reals) = (grad.slice()?, reals.slice()?);
        let (context_values, parameters) =
            (context_values.slice()?, Parameters::of(own.slice()?, common.slice()?));
        let ready = Ready::of(simd, &self.packed, &self.codes.rows, parameters, false);
        let collapsed = &ready.collapsed;
        let (joint_hidden, group_len) = (context.dim(1)?, self.sizes.n_rows * self.sizes.hidden);
        let mut d_context = vec![0f32; context.elem_count()];
        let grads = in_parts(&mut d_context, joint_hidden, |first, d_context| {
            let mut grads = vec![0f32; collapsed.len];
            let mut worker = self.worker(simd, &ready, reals, context_values);
            for (i, d_context) in d_context.chunks_mut(joint_hidden).enumerate() {
                let at = (first + i) * group_len;
                worker.backward(first + i, &grad[at..at + group_len], d_context, &mut grads);
            }
            grads
        });
        let grads = sum_in_order(simd, grads);
        let mut d_own = collapsed.expand(&self.packed, parameters, &grads);
        let d_common = d_own.split_off(self.packed.n_own);
        let vector = |values: Vec<f32>| {
            let n = values.len();
            Tensor::from_vec(values, n, &Device::Cpu)
        };
        let d_context = Tensor::from_vec(d_context, context.shape(), &Device::Cpu)?;
        Ok((Some(d_context), Some(vector(d_own)?), Some(vector(d_common)?)))
    }
}

impl Selection {
    fn on_gpu<'a>(&'a self, collapsed: &'a Collapsed) -> cuda::vsn::Vsn<'a> {
        cuda::vsn::Vsn { sizes: self.sizes, collapsed, masks: self.masks.as_deref() }
    }

    fn collapse<'a>(&'a self, collapsed: &'a Collapsed) -> cuda::collapse::Collapse<'a> {
        cuda::collapse::Collapse { packed: &self.packed, collapsed, n_columns: self.sizes.n_codes }
    }

    fn backward_on_gpu(
        &self,
        context: &Tensor,
        [own, common]: [&Tensor; 2],
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(shares) = self.shares.get() else {
            bail!("variable selection: a backward without a forward")
        };
        let collapsed = Collapsed::of(&self.packed, &self.codes.rows);
        let args = [&self.reals, &self.codes.tensor, context, own, common, shares, grad];
        let [d_context, d_own, d_common] =
            cuda::over(args, |machine, [reals, codes, context, own, common, shares, d_selected]| {
                let parameters = cuda::collapse::Inputs { own, common, codes };
                let values = self.collapse(&collapsed).values(machine, parameters)?;
                let inputs = cuda::vsn::Inputs { reals, codes, context, values };
                let [d_context, d_values] =
                    self.on_gpu(&collapsed).backward(machine, inputs, shares, d_selected)?;
                let [d_own, d_common] = self.collapse(&collapsed).expand(machine, parameters, d_values)?;
                Ok([d_context, d_own, d_common])
            })?;
        let like = |storage, tensor: &Tensor| Some(cuda::tensor(storage, tensor.shape()));
        Ok((like(d_context, context), like(d_own, own), like(d_common, common)))
    }

    fn worker<'a>(
        &'a self,
        simd: Simd,
        ready: &'a Ready,
        reals: &'a [f32],
        context: &'a [f32],
    ) -> Worker<'a> {
        Worker::new(simd, self.sizes, ready, (reals, &self.codes.at), context, self.masks.as_deref())
    }
}
