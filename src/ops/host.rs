//! What the fused operations share: whether there is one, and the values of tensors on the CPU.

use std::cell::Cell;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};

use super::cuda;

/// Whether the fused operations can take it: f32 on the CPU, or on a GPU in a program that has kernels for it.
pub(crate) fn has_fused_form(x: &Tensor) -> bool {
    let device = x.device();
    x.dtype() == DType::F32 && (device.is_cpu() || (cuda::IS_ENABLED && device.is_cuda()))
}

/// Works on a tensor's values where they lie; whoever shares them sees it.
///
/// - Errors: they are not f32, not contiguous, or not on the CPU; those of `work`.
pub(super) fn change(tensor: &Tensor, work: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    tensor.inplace_op1(&Change(Cell::new(Some(work))))
}

struct Change<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets(), self.0.take()) {
            (CpuStorage::F32(values), Some((start, end)), Some(work)) => work(&mut values[start..end]),
            _ => bail!("values can be changed in their place if they are contiguous f32"),
        }
    }
}

/// The values behind a custom operation's argument.
///
/// - Errors: they are not f32 or not contiguous.
pub(super) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&f32::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("a fused operation needs contiguous values"),
    }
}

/// A tensor's values, read in place, under whatever guards them.
pub(super) struct HostValues<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// The values of `tensor`, for as long as the result lives.
pub(super) fn host_values(tensor: &Tensor) -> HostValues<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    HostValues { storage, layout }
}

impl<S: Deref<Target = Storage>> HostValues<'_, S> {
    /// - Errors: they are not f32, not contiguous, or not on the CPU.
    pub fn slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => contiguous(storage, self.layout),
            _ => bail!("a fused operation of the CPU got a tensor of another device"),
        }
    }
}
