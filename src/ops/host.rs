//! What the fused operations share: whether there is one, and the values of tensors on the CPU.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};

use super::cuda;

/// Whether the fused operations can take it: f32 on the CPU, or on a GPU in a program that has kernels for it.
pub(crate) fn has_fused_form(x: &Tensor) -> bool {
    let device = x.device();
    x.dtype() == DType::F32 && (device.is_cpu() || (cuda::IS_ENABLED && device.is_cuda()))
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
