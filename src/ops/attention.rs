//! The core of interpretable multi-head attention: from projected queries, keys and values to the mean of the heads.
//!
//! Every head weighs the same values in its own way. The weights of a batch, `[B, A, H, T]`, are larger than anything
//! else in the network, so the fused form ([`super::attention_fused`], f32) never has them in memory; the
//! plain composition serves elsewhere and is its oracle. Whoever wants to look at the weights asks for them
//! ([`attention_weights`]).

use anyhow::{Result, ensure};
use candle_core::{Result as CandleResult, Tensor};

use super::attention_fused::attention_fused;
pub use super::attention_mask::{AttentionMask, Decoder};
use super::cuda::attention::WIDEST;
use super::dropout::{Dropout, Mask};
use super::host::has_fused_form;
use super::softmax::masked_softmax;

/// The mean over the heads of `dropout(softmax(Q_i K_i^T / sqrt(d)) V)`.
///
/// The number of heads `A` is the width of the queries over that of the values.
///
/// - Shapes: `queries [B, H, A d]` and `keys [B, T, A d]`, head by head; `values [B, T, d]` -> `[B, H, d]`.
/// - Dropout: one site, over the heads' outputs `[B, A, H, d]`.
/// - Errors: shapes that fit neither each other nor the mask.
/// - Source: Lim et al., arXiv:1912.09363, equations 13 to 16.
pub fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: &AttentionMask,
    dropout: &Dropout,
) -> Result<Tensor> {
    let sizes = Sizes::of(queries, keys, values)?;
    sizes.ensure_fits(mask)?;
    let dropped = dropout.site();
    let fits = queries.device().is_cpu() || sizes.width <= WIDEST;
    Ok(if has_fused_form(queries) && fits {
        attention_fused(queries, keys, values, sizes, mask, dropped)?
    } else {
        attention_plain(queries, keys, values, mask, dropped)?
    })
}

/// [`attention`] in tensor operations, on any device and in any precision.
pub fn attention_plain(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: &AttentionMask,
    dropped: Option<Mask>,
) -> CandleResult<Tensor> {
    let (batch, n_keys, width) = values.dims3()?;
    let weights = attention_weights(queries, keys, width, mask)?;
    let (_, n_heads, horizon, _) = weights.dims4()?;
    // The values are the same for all heads: heads and steps are rows of one product.
    let rows = weights.reshape((batch, n_heads * horizon, n_keys))?;
    let heads = rows.matmul(values)?.reshape((batch, n_heads, horizon, width))?;
    match dropped {
        Some(mask) => mask.apply(&heads)?.mean(1),
        None => heads.mean(1),
    }
}

/// What each query looks at, head by head; a query that must not see anything looks at every key alike.
///
/// - Shapes: `queries [B, H, A d]`, `keys [B, T, A d]`, `width` is `d` -> `[B, A, H, T]`, rows sum to 1.
pub fn attention_weights(
    queries: &Tensor,
    keys: &Tensor,
    width: usize,
    mask: &AttentionMask,
) -> CandleResult<Tensor> {
    let (batch, horizon, joined) = queries.dims3()?;
    let (n_keys, n_heads) = (keys.dim(1)?, joined / width);
    let queries = queries.reshape((batch, horizon, n_heads, width))?.transpose(1, 2)?.contiguous()?;
    let keys = keys.reshape((batch, n_keys, n_heads, width))?.permute((0, 2, 3, 1))?.contiguous()?;
    let scores = (queries.matmul(&keys)? / (width as f64).sqrt())?;
    masked_softmax(&scores, &mask.tensor(queries.device())?, mask.bias())
}

/// The sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub batch: usize,
    pub horizon: usize,
    pub n_keys: usize,
    pub n_heads: usize,
    /// Of one head, and of the values.
    pub width: usize,
}

impl Sizes {
    fn of(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Self> {
        let (batch, horizon, joined) = queries.dims3()?;
        let (_, n_keys, width) = values.dims3()?;
        let fits = width > 0
            && joined > 0
            && joined % width == 0
            && keys.dims() == [batch, n_keys, joined]
            && values.dim(0)? == batch;
        ensure!(fits, "queries {:?}, keys {:?}, values {:?}", queries.dims(), keys.dims(), values.dims());
        Ok(Sizes { batch, horizon, n_keys, n_heads: joined / width, width })
    }

    fn ensure_fits(&self, mask: &AttentionMask) -> Result<()> {
        let here = (self.batch, self.horizon, self.n_keys);
        ensure!(mask.dims() == here, "a mask of {:?} samples, queries and keys for {here:?}", mask.dims());
        Ok(())
    }

    /// Width of queries and keys: all heads in a row.
    pub fn joined(&self) -> usize {
        self.n_heads * self.width
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    /// Sizes and lengths of one comparison.
    struct Case {
        batch: usize,
        history: usize,
        horizon: usize,
        n_heads: usize,
        width: usize,
        mask: AttentionMask,
    }

    /// `B` samples, the first with everything, the second without a history, the third with about half of all.
    fn case(
        (batch, history, horizon): (usize, usize, usize),
        (n_heads, width): (usize, usize),
        causal: bool,
    ) -> Case {
        let part = |sample, all: usize, least: usize| [all, least, all.div_ceil(2)][sample % 3];
        let encoder: Vec<usize> = (0..batch).map(|sample| part(sample, history, 0)).collect();
        let decoder = match causal {
            true => Decoder::Causal,
            false => Decoder::Lengths((0..batch).map(|sample| part(sample, horizon, 1)).collect()),
        };
        let mask = AttentionMask::new((history, horizon), &encoder, decoder, -1e9).unwrap();
        Case { batch, history, horizon, n_heads, width, mask }
    }

    impl Case {
        fn with_bias(mut self, bias: f64) -> Self {
            let lengths: Vec<usize> = vec![self.history / 2; self.batch];
            let sizes = (self.history, self.horizon);
            self.mask = AttentionMask::new(sizes, &lengths, Decoder::Causal, bias).unwrap();
            self
        }

        fn inputs(&self) -> [Var; 3] {
            let (joined, n_keys) = (self.n_heads * self.width, self.history + self.horizon);
            let var = |name, n, width| Var::from_tensor(&noise(name, &[self.batch, n, width])).unwrap();
            [var("q", self.horizon, joined), var("k", n_keys, joined), var("v", n_keys, self.width)]
        }

        /// Value and all gradients.
        fn run(&self, form: impl Fn(&[Var; 3]) -> Tensor) -> [Vec<f32>; 4] {
            let inputs = self.inputs();
            let y = form(&inputs);
            let direction = noise("direction", &[self.batch, self.horizon, self.width]);
            let grads = (&y * direction).unwrap().sum_all().unwrap().backward().unwrap();
            let grad = |i: usize| values(grads.get(&inputs[i]).unwrap());
            [values(&y), grad(0), grad(1), grad(2)]
        }

        fn fused(&self, dropout: &Dropout) -> [Vec<f32>; 4] {
            self.run(|[q, k, v]| attention(q, k, v, &self.mask, dropout).unwrap())
        }

        #[track_caller]
        fn assert_forms_agree(&self) {
            for train in [false, true] {
                let dropout = || if train { Dropout::new(0.3, 4, 2) } else { Dropout::off() };
                let fused = self.fused(&dropout());
                let site = dropout().site();
                let plain = self.run(|[q, k, v]| attention_plain(q, k, v, &self.mask, site).unwrap());
                for (a, b) in fused.iter().zip(&plain) {
                    let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
                    assert_close(a, b, 3e-6 * largest);
                }
            }
        }
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_every_gradient() {
        for (sizes, heads) in [
            ((1, 0, 1), (1, 1)),
            ((3, 0, 5), (2, 3)),
            ((3, 6, 3), (4, 4)),
            ((2, 17, 33), (2, 5)),
            ((3, 40, 64), (3, 8)),
            ((3, 70, 96), (8, 4)),
            ((3, 33, 150), (2, 16)),
            ((2, 5, 31), (1, 22)),
        ] {
            for causal in [true, false] {
                case(sizes, heads, causal).assert_forms_agree();
            }
        }
    }

    #[test]
    fn masked_keys_count_when_their_replaced_scores_are_not_small() {
        for bias in [-1.0, 0.0, 3.0, 1e9, f64::from(f32::MAX), -f64::from(f32::MAX)] {
            case((2, 40, 37), (2, 4), true).with_bias(bias).assert_forms_agree();
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let case = case((2, 4, 5), (2, 3), true);
        let direction = noise("direction", &[2, 5, 3]);
        let vars = case.inputs();
        assert_gradients(&vars, 3e-3, || {
            let y = attention(&vars[0], &vars[1], &vars[2], &case.mask, &Dropout::new(0.2, 1, 1));
            (y.map_err(candle_core::Error::msg)? * &direction)?.sum_all()
        });
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case((19, 9, 40), (2, 4), true);
        let run = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| case.fused(&Dropout::new(0.2, 1, 1)))
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn a_query_that_sees_nothing_looks_at_every_key_alike() {
        let mask = AttentionMask::new((3, 2), &[0], Decoder::Causal, -1e9).unwrap();
        let v = noise("v", &[1, 5, 4]);
        let y =
            attention(&noise("q", &[1, 2, 8]), &noise("k", &[1, 5, 8]), &v, &mask, &Dropout::off()).unwrap();
        assert_close(&values(&y)[..4], &values(&v.mean(1).unwrap()), 1e-6);
        assert_close(&values(&y)[4..], &values(&v.get(0).unwrap().get(3).unwrap()), 1e-6);
    }

    #[test]
    fn what_is_not_a_number_stays_so_where_it_is_seen() {
        let case = case((1, 3, 2), (2, 4), true);
        for spoilt in 0..3 {
            let y = case.run(|inputs| {
                let bad =
                    Tensor::full(f32::NAN, (1, 1, inputs[spoilt].dim(2).unwrap()), &Device::Cpu).unwrap();
                let rest = inputs[spoilt].narrow(1, 1, inputs[spoilt].dim(1).unwrap() - 1).unwrap();
                let mut all = inputs.each_ref().map(|var| var.as_tensor().clone());
                all[spoilt] = Tensor::cat(&[&bad, &rest], 1).unwrap();
                attention(&all[0], &all[1], &all[2], &case.mask, &Dropout::off()).unwrap()
            });
            assert!(y[0][0].is_nan(), "input {spoilt}");
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let case = case((2, 20, 8), (2, 4), true);
        let [q, k, v] = case.inputs().map(|var| (var.as_tensor() * 300.0).unwrap());
        let fused = attention(&q, &k, &v, &case.mask, &Dropout::off()).unwrap();
        let plain = attention_plain(&q, &k, &v, &case.mask, None).unwrap();
        // A score of 100000 is known to 0.01 only, and so are weights that are not 0 or 1.
        assert!(values(&fused).iter().all(|y| y.is_finite()));
        assert_close(&values(&fused), &values(&plain), 30.0);
    }

    #[test]
    fn misfitting_shapes_are_refused() {
        let case = case((2, 3, 2), (2, 4), true);
        let [q, k, v] = case.inputs();
        let refused =
            |q: &Tensor, k: &Tensor, v: &Tensor| attention(q, k, v, &case.mask, &Dropout::off()).is_err();
        assert!(!refused(&q, &k, &v));
        assert!(refused(&q, &v, &v));
        assert!(refused(&q, &k, &noise("v", &[2, 5, 3])));
        assert!(refused(&q, &k, &noise("v", &[2, 4, 4])));
        assert!(refused(&q, &k, &noise("v", &[1, 5, 4])));
        assert!(refused(&noise("q", &[2, 3, 8]), &k, &v), "the mask has two queries");
        assert!(refused(&q, &noise("k", &[2, 6, 8]), &noise("v", &[2, 6, 4])), "the mask has five keys");
    }

    #[test]
    fn weights_sum_to_one_and_avoid_what_is_masked() {
        let case = case((3, 4, 3), (2, 4), true);
        let [q, k, _] = case.inputs();
        let weights = attention_weights(&q, &k, 4, &case.mask).unwrap();
        assert_eq!(weights.dims(), [3, 2, 3, 7]);
        assert_close(&values(&weights.sum(3).unwrap()), &[1.0; 18], 1e-6);
        let masked = case.mask.tensor(&Device::Cpu).unwrap().to_dtype(candle_core::DType::F32).unwrap();
        let mut on_masked = values(&weights.broadcast_mul(&masked).unwrap().sum(3).unwrap());
        // The first query of the sample without a history sees nothing, in both heads.
        let (blind, rest): (Vec<usize>, Vec<usize>) = (0..18).partition(|i| [6, 9].contains(i));
        assert!(blind.iter().all(|&i| (on_masked[i] - 1.0).abs() < 1e-6), "{on_masked:?}");
        on_masked = rest.into_iter().map(|i| on_masked[i]).collect();
        assert_close(&on_masked, &[0.0; 16], 0.0);
    }
}
