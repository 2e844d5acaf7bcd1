//! What the fused operations of the CPU share.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, WithDType, bail};

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
