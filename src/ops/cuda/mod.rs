//! The fused operations on NVIDIA GPUs, with the parameters, masks and results of their CPU twins.
//!
//! All of it is float32, but that a device may be told ([`set_precision`]) to round what its matrix products multiply. The
//! kernels are compiled once per precision, `kernels/product.cuh` is where they differ, and nothing above the device knows.
//!
//! `kernels/` holds the CUDA sources (`all.cu` is the one module that is compiled), [`machine`] what the rest asks of a
//! GPU, and one file per operation how it is cut into launches. The operations themselves, and what is kept between
//! forward and backward, stay where they are: beside the CPU's form. Kernels lean on blocks and barriers alone, add up
//! gradients per block and the blocks in their order, and compute activations anew on the way back.
//!
//! What no GPU has run is at least emulated: the tests compile the kernels as plain C++ and compare them with the twins
//! through the very launches that a device gets.

pub mod adamw;
pub mod attention;
pub mod collapse;
pub mod gate;
pub mod gather;
pub mod grn;
pub mod linear;
pub mod lstm;
pub mod machine;
pub mod quantile_loss;
pub mod rowwise;
pub mod vsn;

#[cfg_attr(feature = "cuda", path = "device.rs")]
#[cfg_attr(not(feature = "cuda"), path = "disabled.rs")]
mod device;

#[cfg(test)]
pub(crate) mod tests;

pub use device::{
    Graph, IS_ENABLED, address, forward, free_bytes, in_place, over, precision, record, remembering,
    set_precision, words, write,
};

use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Shape, Storage, Tensor};

/// A result as a tensor that remembers nothing.
pub fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
