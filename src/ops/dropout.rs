//! Dropout whose masks are a function of (seed, step, site).
//!
//! A forward pass owns one [`Dropout`]; every use takes the next site number, so the order of uses in the network names
//! the masks. Nothing is stored between forward and backward: the backward hashes the same key again. A mask belongs
//! to rows and features, not to a shape: entry (row, feature) is the same whether it is asked for in memory order
//! ([`Mask::apply`]) or in a tile ([`Mask::factors`]). What it leaves to others: whether a pass trains at all
//! ([`Dropout::off`]).

use std::cell::Cell;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, D, Layout, Result as CandleResult, Shape, Tensor};

use super::cuda;
use super::host::{contiguous, has_fused_form};
use super::random::Key;
use super::simd::{MaskTile, PER_HASH, ROWS, Simd};

/// The dropout of one forward pass: a rate, a stream, and the number of the next site.
pub struct Dropout {
    active: Option<Mask>,
    next_site: Cell<u64>,
}

impl Dropout {
    /// Lets everything pass: evaluation and prediction.
    pub fn off() -> Self {
        Dropout { active: None, next_site: Cell::new(0) }
    }

    /// Zeroes each value with probability `rate` (in `[0, 1)`, to a 65536th) and scales the rest up accordingly.
    pub fn new(rate: f64, seed: u64, step: u64) -> Self {
        Self::with(rate, Stream::Known(key_of_step(seed, step)))
    }

    /// The same on a GPU that reads [`key_of_step`] where `key_at` says, so that launches are alike from step to step. It must
    /// lie there, as two words, for as long as the pass and its backward run.
    pub fn on_device(rate: f64, key_at: u64) -> Self {
        Self::with(rate, Stream::OnDevice { key_at, site: 0 })
    }

    fn with(rate: f64, stream: Stream) -> Self {
        let mask = Mask::new(rate, stream);
        let drops = mask.keep_below < u32::from(u16::MAX) + 1;
        Dropout { active: drops.then_some(mask), next_site: Cell::new(0) }
    }

    /// The mask of the next site; `None` where nothing is dropped.
    pub fn site(&self) -> Option<Mask> {
        let mask = self.active?;
        let site = self.next_site.replace(self.next_site.get() + 1);
        Some(Mask { stream: mask.stream.of_site(site), ..mask })
    }

    /// `x` with the mask of the next site applied.
    ///
    /// - Shapes: any; features are the last axis, rows all others.
    pub fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        match self.site() {
            Some(mask) => mask.apply(x),
            None => Ok(x.clone()),
        }
    }
}

/// The stream of all sites of a step.
pub fn key_of_step(seed: u64, step: u64) -> Key {
    Key::new(seed).number(step)
}

/// Where random numbers come from.
#[derive(Clone, Copy, Debug)]
enum Stream {
    Known(Key),
    /// The stream of a site, of one that is known on a GPU alone.
    OnDevice {
        key_at: u64,
        site: u64,
    },
}

impl Stream {
    fn of_site(self, site: u64) -> Self {
        match self {
            Stream::Known(key) => Stream::Known(key.number(site)),
            Stream::OnDevice { key_at, .. } => Stream::OnDevice { key_at, site },
        }
    }
}

/// What kernels are told of a mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaskParts {
    /// Where the step's key lies, 0 if `key` is all there is to know.
    pub key_at: u64,
    /// The stream, or the number of the site.
    pub key: u64,
    /// Of 65536.
    pub keep_below: u32,
    pub scale: f32,
}

/// One mask: an entry is kept if the sixteen bits that belong to it lie below the threshold.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    stream: Stream,
    keep_below: u32,
    scale: f32,
}

impl Mask {
    fn new(rate: f64, stream: Stream) -> Self {
        let steps = f64::from(u16::MAX) + 1.0;
        let keep_below = ((1.0 - rate) * steps).round().clamp(1.0, steps);
        // The scale belongs to the probability that the threshold really has: unbiased for every rate.
        Mask { stream, keep_below: keep_below as u32, scale: (steps / keep_below) as f32 }
    }

    /// What a mask is made of.
    pub(super) fn parts(self) -> MaskParts {
        let (key_at, key) = match self.stream {
            Stream::Known(key) => (0, key.number_of_stream()),
            Stream::OnDevice { key_at, site } => (key_at, site),
        };
        MaskParts { key_at, key, keep_below: self.keep_below, scale: self.scale }
    }

    fn key(self) -> Key {
        match self.stream {
            Stream::Known(key) => key,
            Stream::OnDevice { .. } => unreachable!("the masks of a step on a GPU are used there alone"),
        }
    }

    /// `x` with this mask applied; rows are counted in memory order.
    pub fn apply(self, x: &Tensor) -> CandleResult<Tensor> {
        let x = x.contiguous()?;
        if has_fused_form(&x) { x.apply_op1(self) } else { self.apply_plain(&x) }
    }

    /// The oracle of the fused form, and the form for other devices: the mask as a tensor.
    pub fn apply_plain(self, x: &Tensor) -> CandleResult<Tensor> {
        let mut factors = vec![1f32; x.elem_count()];
        self.multiply(&mut factors, x.dim(D::Minus1)?);
        x * Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?
    }

    /// The factors (0 or the scale) of a tile of `width` features whose rows are `first_row` and those that follow.
    pub fn factors(self, simd: Simd, first_row: usize, width: usize, tile: &mut [f32]) {
        simd.mask(self.tile(first_row), width, &mut tile[..width * ROWS]);
    }

    fn tile(self, first_row: usize) -> MaskTile {
        MaskTile {
            key: self.key(),
            first_row: first_row as u64,
            keep_below: self.keep_below,
            scale: self.scale,
        }
    }

    fn multiply(self, values: &mut [f32], width: usize) {
        let (n_hashes, key) = (width.div_ceil(PER_HASH) as u64, self.key());
        for (row, values) in values.chunks_mut(width.max(1)).enumerate() {
            for (group, some) in values.chunks_mut(PER_HASH).enumerate() {
                let bits = key.bits(row as u64 * n_hashes + group as u64);
                for (i, value) in some.iter_mut().enumerate() {
                    let own = (bits >> (16 * i)) as u32 & u32::from(u16::MAX);
                    *value *= if own < self.keep_below { self.scale } else { 0.0 };
                }
            }
        }
    }
}

impl CustomOp1 for Mask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let mut values = contiguous(storage, layout)?.to_vec();
        self.multiply(&mut values, layout.dims().last().copied().unwrap_or(1));
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1);
        let [y] = cuda::forward([(storage, layout)], |machine, [x]| {
            Ok([cuda::rowwise::dropout(machine, x, width, *self)?])
        })?;
        Ok((y, layout.shape().clone()))
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
        let mask = Mask::new(0.3, Stream::Known(Key::new(9)));
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

    #[test]
    fn a_tile_of_the_mask_is_a_part_of_it() {
        let mask = Mask::new(0.4, Stream::Known(Key::new(3)));
        for width in [1, 4, 7, 16, 22] {
            let n_rows = 80;
            let mut whole = vec![1.0; n_rows * width];
            mask.multiply(&mut whole, width);
            for (simd, first) in Simd::available().into_iter().flat_map(|s| [(s, 0), (s, 32), (s, 48)]) {
                let mut tile = vec![0.0; width * ROWS];
                mask.factors(simd, first, width, &mut tile);
                for (at, &factor) in tile.iter().enumerate() {
                    let (feature, row) = (at / ROWS, first + at % ROWS);
                    assert_eq!(
                        factor,
                        whole[row * width + feature],
                        "{width} {row} {feature} {}",
                        simd.name()
                    );
                }
            }
        }
    }
}
