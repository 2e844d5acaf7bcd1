//! What the fused operations of the CPU share.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};

/// Whether the fused operations can take it: f32 on the CPU.
pub(super) fn is_host_f32(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
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

/// The values of a tensor, whose `storage_and_layout` must outlive them.
///
/// - Errors: they are not f32 on the CPU or not contiguous.
pub(super) fn values<'a>(data: &'a (impl Deref<Target = Storage>, &Layout)) -> Result<&'a [f32]> {
    match &*data.0 {
        Storage::Cpu(storage) => contiguous(storage, data.1),
        _ => bail!("a fused operation needs values in the computer's own memory"),
    }
}
