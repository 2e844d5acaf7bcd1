//! Layer normalisation with a backward.
//!
//! candle_nn's own layer normalisation passes no gradient to its input and says nothing, hence this one.

use candle_core::{D, Result, Tensor};

/// The epsilon of PyTorch's LayerNorm, which the reference network uses throughout.
pub const EPSILON: f64 = 1e-5;

/// Layer normalisation over the last axis: `(x - mean) / sqrt(variance + 1e-5) * weight + bias`, with the
/// population variance.
///
/// - Shapes: `x [.., N]`, `weight [N]`, `bias [N]` -> `[.., N]`.
/// - Source: Ba et al., arXiv:1607.06450.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + EPSILON)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_gradients, noise, values};

    #[test]
    fn rows_have_mean_zero_and_variance_one_before_weight_and_bias() {
        let x = (noise("x", &[4, 5, 7]) * 3.0).unwrap();
        let one = Tensor::ones(7, candle_core::DType::F32, &Device::Cpu).unwrap();
        let y = layer_norm(&x, &one, &one.zeros_like().unwrap()).unwrap();
        for row in values(&y).chunks(7) {
            let mean = row.iter().sum::<f32>() / 7.0;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 7.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = [("x", vec![3, 5]), ("weight", vec![5]), ("bias", vec![5])]
            .map(|(name, shape)| Var::from_tensor(&noise(name, &shape)).unwrap());
        let forward = || layer_norm(&vars[0], &vars[1], &vars[2]);
        assert_gradients(&vars, 2e-3, || (forward()? * noise("direction", &[3, 5]))?.sum_all());
    }
}
