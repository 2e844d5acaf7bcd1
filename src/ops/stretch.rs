//! Linear interpolation of the feature axis: the skip connection of a GRN whose input and output widths differ.

use anyhow::{Result, ensure};
use candle_core::{D, Device, Tensor};

/// The matrix that interpolates `from` points to `to` points, both end points kept.
///
/// Column `i` of the result sits at position `i * (from - 1) / (to - 1)` of the input and mixes its two
/// neighbours; with `to = 1` it is the first input. Shrinking samples, it does not average.
///
/// - Shapes: `[from, to]`; each column sums to 1.
/// - Errors: a width of zero.
/// - Source: PyTorch's `interpolate(mode="linear", align_corners=True)`.
pub fn matrix(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    ensure!(from > 0 && to > 0, "cannot stretch {from} features to {to}");
    let mut weights = vec![0f32; from * to];
    for i in 0..to {
        let (below, fraction) = position(i, from, to);
        weights[below * to + i] += 1.0 - fraction;
        weights[(below + 1).min(from - 1) * to + i] += fraction;
    }
    Ok(Tensor::from_vec(weights, (from, to), device)?)
}

/// The input index at or before output `i`, and how far beyond it (0 to 1) output `i` sits.
fn position(i: usize, from: usize, to: usize) -> (usize, f32) {
    if to == 1 {
        return (0, 0.0);
    }
    // The ratio first and in f32: the order PyTorch computes in, so that rounding agrees, too.
    let position = i as f32 * ((from - 1) as f32 / (to - 1) as f32);
    let below = (position as usize).min(from - 1);
    (below, position - below as f32)
}

/// `x` interpolated along its last axis by a [`matrix`].
///
/// - Shapes: `x [.., from]`, `matrix [from, to]` -> `[.., to]`.
pub fn stretch(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let from = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    let rows = shape.iter().product::<usize>() / from;
    shape[x.rank() - 1] = matrix.dim(1)?;
    Ok(x.reshape((rows, from))?.matmul(matrix)?.reshape(shape)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    #[track_caller]
    fn case(input: &[f32], expected: &[f32]) {
        let x = Tensor::new(input, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let m = matrix(input.len(), expected.len(), &Device::Cpu).unwrap();
        assert_close(&values(&stretch(&x, &m).unwrap()), expected, 1e-6);
    }

    #[test]
    fn end_points_stay_and_the_rest_is_linear() {
        case(&[1.0, 3.0], &[1.0, 2.0, 3.0]);
        case(&[0.0, 1.0, 4.0], &[0.0, 0.5, 1.0, 2.5, 4.0]);
        case(&[5.0], &[5.0, 5.0, 5.0]);
        case(&[7.0, 8.0, 9.0], &[7.0]);
        case(&[0.0, 1.0, 2.0, 3.0, 4.0], &[0.0, 2.0, 4.0]);
        case(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]);
    }

    #[test]
    fn every_column_sums_to_one() {
        for (from, to) in [(1, 1), (3, 7), (7, 3), (9, 16), (85, 20), (20, 85)] {
            let sums = matrix(from, to, &Device::Cpu).unwrap().sum(0).unwrap();
            assert_close(&values(&sums), &vec![1.0; to], 1e-6);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = [Var::from_tensor(&noise("x", &[2, 3, 5])).unwrap()];
        let (m, direction) = (matrix(5, 8, &Device::Cpu).unwrap(), noise("direction", &[2, 3, 8]));
        assert_gradients(&vars, 2e-3, || {
            (stretch(&vars[0], &m).map_err(candle_core::Error::msg)? * &direction)?.sum_all()
        });
    }
}
