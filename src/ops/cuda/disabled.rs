//! What stands in for [`super::device`] in a program that is built without the feature `cuda`: nothing can run there.

use candle_core::{CudaStorage, Device, Layout, Result, Shape, Tensor, bail};

use super::machine::{Machine, Memory};
use crate::precision::Precision;

pub const IS_ENABLED: bool = false;

pub fn forward<const N: usize, const M: usize>(
    _args: [(&CudaStorage, &Layout); N],
    _work: impl FnOnce(&mut dyn Machine, [Memory; N]) -> Result<[Memory; M]>,
) -> Result<[CudaStorage; M]> {
    bail!("this program was built without the feature `cuda`")
}

pub fn over<const N: usize, const M: usize>(
    _args: [&Tensor; N],
    _work: impl FnOnce(&mut dyn Machine, [Memory; N]) -> Result<[Memory; M]>,
) -> Result<[CudaStorage; M]> {
    bail!("this program was built without the feature `cuda`")
}

pub fn in_place(
    _tensors: &[&Tensor],
    _work: impl FnOnce(&mut dyn Machine, &[Memory]) -> Result<()>,
) -> Result<()> {
    bail!("this program was built without the feature `cuda`")
}

pub fn words(_storage: CudaStorage, _shape: impl Into<Shape>) -> Result<Tensor> {
    bail!("this program was built without the feature `cuda`")
}

pub fn free_bytes(_device: &Device) -> Result<Option<usize>> {
    Ok(None)
}

pub fn set_precision(_device: &Device, _precision: Precision) -> Result<()> {
    bail!("this program was built without the feature `cuda`")
}

pub fn precision(_device: &Device) -> Precision {
    Precision::Float32
}

/// There is none.
pub struct Graph(std::convert::Infallible);

impl Graph {
    pub fn launch(&self) -> Result<()> {
        match self.0 {}
    }
}

pub fn remembering<R>(_device: &Device, _work: impl FnOnce() -> Result<R>) -> Result<R> {
    bail!("this program was built without the feature `cuda`")
}

pub fn record(_device: &Device, _work: impl FnOnce() -> Result<()>) -> Result<Graph> {
    bail!("this program was built without the feature `cuda`")
}

pub fn write(_tensor: &Tensor, _words: &[u32]) -> Result<()> {
    bail!("this program was built without the feature `cuda`")
}

pub fn address(_tensor: &Tensor) -> Result<u64> {
    bail!("this program was built without the feature `cuda`")
}
