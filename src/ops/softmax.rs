//! Softmax over the last axis, with and without a mask, with a backward.
//!
//! candle_nn's `softmax_last_dim` passes no gradient; this is the plain composition. The row maximum is
//! subtracted outside the graph: it changes neither value nor gradient, only what can overflow.

use candle_core::{D, Result, Tensor};

/// Softmax over the last axis.
///
/// - Shapes: `x [.., N]` -> `[.., N]`, rows sum to 1.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Softmax over the last axis with the entries where `masked` is 1 *replaced* by `fill` first.
///
/// With a large negative finite `fill` a masked entry gets weight 0, and a row in which everything is masked
/// becomes uniform over all its entries instead of NaN. Masked entries get no gradient.
///
/// - Shapes: `x [.., N]`, `masked` (u8) anything that broadcasts to it.
pub fn masked_softmax(x: &Tensor, masked: &Tensor, fill: f64) -> Result<Tensor> {
    let fill = Tensor::new(fill as f32, x.device())?.to_dtype(x.dtype())?.broadcast_as(x.shape())?;
    softmax(&masked.broadcast_as(x.shape())?.where_cond(&fill, x)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    #[test]
    fn large_values_do_not_overflow_and_full_rows_are_uniform() {
        let x = Tensor::new(&[[1000f32, 1000.0, -1000.0], [3.0, 1.0, 2.0]], &Device::Cpu).unwrap();
        assert_close(&values(&softmax(&x).unwrap())[..3], &[0.5, 0.5, 0.0], 1e-6);
        let masked = Tensor::new(&[[0u8, 1, 0], [1, 1, 1]], &Device::Cpu).unwrap();
        let y = values(&masked_softmax(&x, &masked, -1e9).unwrap());
        let third = 1.0 / 3.0;
        assert_close(&y, &[1.0, 0.0, 0.0, third, third, third], 1e-6);
    }

    #[test]
    fn gradients_equal_finite_differences_and_masked_entries_get_none() {
        let vars = [Var::from_tensor(&noise("x", &[3, 5])).unwrap()];
        let masked = Tensor::new(&[0u8, 1, 0, 0, 1], &Device::Cpu).unwrap();
        let direction = noise("direction", &[3, 5]);
        assert_gradients(&vars, 2e-3, || (softmax(&vars[0])? * &direction)?.sum_all());
        let loss = || (masked_softmax(&vars[0], &masked, -1e9)? * &direction)?.sum_all();
        assert_gradients(&vars, 2e-3, loss);
        let grads = loss().unwrap().backward().unwrap();
        let grad = values(grads.get(&vars[0]).unwrap());
        assert!(grad.chunks(5).all(|row| row[1] == 0.0 && row[4] == 0.0));
    }
}
