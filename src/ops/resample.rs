//! The stretched skip connection: a vector brought to another width, gated and normalised.

use candle_core::{D, Error, Result, Tensor};
use candle_nn::ops::sigmoid;

use super::layer_norm::layer_norm;
use super::stretch;

/// The parameters of a stretched skip, whose output has their width.
#[derive(Clone)]
pub struct ResampleWeights {
    /// `[to]`: each output is scaled by `2 * sigmoid(mask)`, 1 at the start.
    pub mask: Tensor,
    /// `[to]` each: weight and bias.
    pub norm: (Tensor, Tensor),
}

/// Linear interpolation, a gate per output, layer norm. Equal widths keep gate and norm.
///
/// - Shapes: `x [.., from]` -> `[.., to]`.
pub fn resample_norm(x: &Tensor, weights: &ResampleWeights) -> Result<Tensor> {
    let gated = stretch_and_gate(x, &weights.mask)?;
    layer_norm(&gated, &weights.norm.0, &weights.norm.1)
}

/// [`resample_norm`] before its norm.
pub(super) fn stretch_and_gate(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (from, to) = (x.dim(D::Minus1)?, mask.dim(0)?);
    let stretched = match from == to {
        true => x.clone(),
        false => {
            let matrix = stretch::matrix(from, to, x.device()).map_err(Error::wrap)?.to_dtype(x.dtype())?;
            stretch::stretch(x, &matrix).map_err(Error::wrap)?
        }
    };
    stretched.broadcast_mul(&(sigmoid(mask)? * 2.0)?)
}
