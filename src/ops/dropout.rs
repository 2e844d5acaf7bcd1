//! Dropout whose masks are a function of (seed, step, site).
//!
//! A forward pass owns one [`Dropout`]; every call takes the next site number, so the order of calls in the
//! network names the masks. Nothing is stored between forward and backward: the backward hashes the same key
//! again. What it leaves to others: whether a pass trains at all ([`Dropout::off`]).

use std::cell::Cell;

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::host::{contiguous, is_host_f32};
use super::random::Key;

/// The dropout of one forward pass: a rate, a stream, and the number of the next site.
pub struct Dropout {
    active: Option<(Mask, Key)>,
    next_site: Cell<u64>,
}

impl Dropout {
    /// Lets everything pass: evaluation and prediction.
    pub fn off() -> Self {
        Dropout { active: None, next_site: Cell::new(0) }
    }

    /// Zeroes each value with probability `rate` (in `[0, 1)`) and scales the rest by `1 / (1 - rate)`.
    pub fn new(rate: f64, seed: u64, step: u64) -> Self {
        let key = Key::new(seed).number(step);
        let active = (rate > 0.0).then(|| (Mask::new(rate, key), key));
        Dropout { active, next_site: Cell::new(0) }
    }

    /// `x` with the mask of the next site applied.
    ///
    /// - Shapes: any; the mask belongs to the row-major position in `x`.
    pub fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        let Some((mask, key)) = self.active else { return Ok(x.clone()) };
        let site = self.next_site.replace(self.next_site.get() + 1);
        mask.with_key(key.number(site)).apply(x)
    }
}

/// One mask: entry `i` is kept if the 32 bits that belong to it lie below the threshold.
#[derive(Clone, Copy, Debug)]
struct Mask {
    key: Key,
    keep_below: u32,
    scale: f32,
}

impl Mask {
    fn new(rate: f64, key: Key) -> Self {
        let keep_below = ((1.0 - rate) * 2f64.powi(32)).round().min(f64::from(u32::MAX)) as u32;
        // The scale belongs to the probability that the threshold really has: unbiased for every rate.
        let scale = (2f64.powi(32) / f64::from(keep_below)) as f32;
        Mask { key, keep_below, scale }
    }

    fn with_key(self, key: Key) -> Self {
        Mask { key, ..self }
    }

    fn apply(self, x: &Tensor) -> CandleResult<Tensor> {
        let x = x.contiguous()?;
        if is_host_f32(&x) { x.apply_op1(self) } else { self.apply_plain(&x) }
    }

    /// The oracle of the fused form, and the form for other devices: the mask as a tensor.
    fn apply_plain(self, x: &Tensor) -> CandleResult<Tensor> {
        let mut factors = vec![1f32; x.elem_count()];
        self.multiply(&mut factors);
        x * Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?
    }

    /// One hash gives the bits of two neighbours.
    fn multiply(self, values: &mut [f32]) {
        for (pair, two) in values.chunks_mut(2).enumerate() {
            let bits = self.key.bits(pair as u64);
            two[0] *= self.factor(bits as u32);
            if let Some(second) = two.get_mut(1) {
                *second *= self.factor((bits >> 32) as u32);
            }
        }
    }

    #[inline]
    fn factor(self, bits: u32) -> f32 {
        if bits < self.keep_below { self.scale } else { 0.0 }
    }
}

impl CustomOp1 for Mask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let mut values = contiguous(storage, layout)?.to_vec();
        self.multiply(&mut values);
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, values};

    #[test]
    fn the_same_key_gives_the_same_mask_and_another_one_another() {
        let x = Tensor::ones((3, 50), DType::F32, &Device::Cpu).unwrap();
        let first_two = |seed, step| {
            let dropout = Dropout::new(0.5, seed, step);
            (values(&dropout.apply(&x).unwrap()), values(&dropout.apply(&x).unwrap()))
        };
        let (a, b) = first_two(1, 2);
        assert_eq!((a.clone(), b.clone()), first_two(1, 2));
        assert_ne!(a, b, "sites differ");
        assert_ne!(a, first_two(1, 3).0, "steps differ");
        assert_ne!(a, first_two(2, 2).0, "seeds differ");
    }

    #[test]
    fn it_is_unbiased_and_off_means_off() {
        let x = Tensor::ones(200_001, DType::F32, &Device::Cpu).unwrap();
        for rate in [0.1, 0.5, 0.9] {
            let y = values(&Dropout::new(rate, 5, 0).apply(&x).unwrap());
            let mean = y.iter().sum::<f32>() / y.len() as f32;
            let dropped = y.iter().filter(|&&v| v == 0.0).count() as f64 / y.len() as f64;
            assert!((mean - 1.0).abs() < 0.02 && (dropped - rate).abs() < 0.005, "{rate}: {mean} {dropped}");
        }
        for off in [Dropout::off(), Dropout::new(0.0, 5, 0)] {
            assert_eq!(values(&off.apply(&x).unwrap()), values(&x));
        }
    }

    #[test]
    fn the_fused_form_equals_the_mask_in_value_and_gradient() {
        let x = Var::from_vec((0..35).map(|v| v as f32).collect(), (5, 7), &Device::Cpu).unwrap();
        let mask = Mask::new(0.3, Key::new(9));
        let weight = x.cos().unwrap().detach();
        let run = |y: Tensor| {
            let grads = (&y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
            (values(&y), values(grads.get(&x).unwrap()))
        };
        let (fused, plain) = (run(mask.apply(&x).unwrap()), run(mask.apply_plain(&x).unwrap()));
        assert_close(&fused.0, &plain.0, 0.0);
        assert_close(&fused.1, &plain.1, 0.0);
        // A transposed input gets the mask of its own row-major order.
        let turned = x.t().unwrap();
        assert_close(
            &values(&mask.apply(&turned).unwrap()),
            &values(&mask.apply_plain(&turned.contiguous().unwrap()).unwrap()),
            0.0,
        );
    }
}
