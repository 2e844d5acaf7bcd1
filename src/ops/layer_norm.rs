//! Layer normalisation with a backward.
//!
//! candle_nn's own layer normalisation passes no gradient to its input and says nothing, hence this one: a fused
//! operation for f32 on the CPU, and the plain composition elsewhere and as its oracle.

use candle_core::{D, Result, Tensor};

use super::host::has_fused_form;
use super::layer_norm_fused::layer_norm_fused;

/// The epsilon of PyTorch's LayerNorm, which the reference network uses throughout.
pub const EPSILON: f64 = 1e-5;

/// Layer normalisation over the last axis: `(x - mean) / sqrt(variance + 1e-5) * weight + bias`, with the
/// population variance.
///
/// - Shapes: `x [.., N]`, `weight [N]`, `bias [N]` -> `[.., N]`.
/// - Source: Ba et al., arXiv:1607.06450.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if has_fused_form(x) { layer_norm_fused(x, weight, bias) } else { layer_norm_plain(x, weight, bias) }
}

/// [`layer_norm`] in tensor operations, on any device and in any precision.
pub fn layer_norm_plain(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + EPSILON)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    #[test]
    fn rows_have_mean_zero_and_variance_one_before_weight_and_bias() {
        let x = (noise("x", &[4, 5, 7]) * 3.0).unwrap();
        let one = Tensor::ones(7, DType::F32, &Device::Cpu).unwrap();
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
        for form in [layer_norm_plain, layer_norm_fused] {
            let forward = || form(&vars[0], &vars[1], &vars[2]);
            assert_gradients(&vars, 2e-3, || (forward()? * noise("direction", &[3, 5]))?.sum_all());
        }
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_every_gradient() {
        for shape in [&[1, 1][..], &[7, 3], &[3, 5, 16], &[1300, 17]] {
            let width = shape[shape.len() - 1];
            let vars = [("x", shape), ("weight", &[width]), ("bias", &[width])]
                .map(|(name, shape)| Var::from_tensor(&noise(name, shape)).unwrap());
            let run = |y: Tensor| {
                let grads = (&y * noise("direction", shape)).unwrap().sum_all().unwrap().backward().unwrap();
                let mut all = vec![values(&y)];
                all.extend(vars.iter().map(|var| values(grads.get(var).unwrap())));
                all
            };
            let fused = run(layer_norm_fused(&vars[0], &vars[1], &vars[2]).unwrap());
            let plain = run(layer_norm_plain(&vars[0], &vars[1], &vars[2]).unwrap());
            for (a, b) in fused.iter().zip(&plain) {
                let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
                assert_close(a, b, 3e-6 * largest);
            }
        }
    }

    #[test]
    fn misfitting_widths_are_refused() {
        let (x, narrow) = (noise("x", &[3, 5]), noise("w", &[4]));
        assert!(layer_norm(&x, &narrow, &narrow).is_err());
        assert!(layer_norm(&x, &noise("w", &[5]), &narrow).is_err());
    }
}
