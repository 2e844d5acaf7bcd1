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

/// The same interpolation for single vectors in memory, in either direction.
pub struct Stretch {
    from: usize,
    /// Per output: the input at or before it, and the share of the next one.
    positions: Vec<(usize, f32)>,
}

impl Stretch {
    /// From `from` points (one at least) to `to`.
    pub fn new(from: usize, to: usize) -> Self {
        Stretch { from, positions: (0..to).map(|i| position(i, from, to)).collect() }
    }

    /// The inputs of output `i` with their weights.
    pub fn inputs_of(&self, i: usize) -> [(usize, f32); 2] {
        let (below, fraction) = self.positions[i];
        [(below, 1.0 - fraction), ((below + 1).min(self.from - 1), fraction)]
    }

    /// `[from]` to `[to]`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let at = |i| self.inputs_of(i).iter().map(|&(at, weight)| weight * x[at]).sum();
        (0..self.positions.len()).map(at).collect()
    }

    /// Adds the gradient of the input, from the one of the output.
    pub fn add_back(&self, dy: &[f32], dx: &mut [f32]) {
        for (i, d) in dy.iter().enumerate() {
            self.inputs_of(i).iter().for_each(|&(at, weight)| dx[at] += weight * d);
        }
    }
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
    fn vectors_are_stretched_as_tensors_are_and_gradients_go_the_other_way() {
        for (from, to) in [(1, 5), (3, 7), (7, 3), (6, 6), (5, 1), (85, 20)] {
            let (x, dy) = (noise("x", &[1, from]), noise("dy", &[1, to]));
            let m = matrix(from, to, &Device::Cpu).unwrap();
            let stretch_of = Stretch::new(from, to);
            let expected = values(&stretch(&x, &m).unwrap());
            assert_close(&stretch_of.apply(&values(&x)), &expected, 1e-6);
            let mut dx = vec![0.0; from];
            stretch_of.add_back(&values(&dy), &mut dx);
            assert_close(&dx, &values(&dy.matmul(&m.t().unwrap()).unwrap()), 1e-5);
        }
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
