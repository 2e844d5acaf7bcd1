//! One LSTM layer over a batch of sequences of different lengths.
//!
//! Two forms with one signature: [`lstm_plain`] (tensor operations, any device, the oracle) and [`lstm_fused`] (one
//! pass over the steps with a hand-written backward, f32).

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};

use super::cuda::lstm::WIDEST;
use super::host::has_fused_form;
use super::lstm_fused::lstm_fused;
use super::lstm_plain::lstm_plain;
use super::pack::ensure_len;

/// The parameters of a layer: weights of the input `[4D, D_in]` and of the state `[4D, D]`, then a bias for each, `[4D]`,
/// which are summed: two because the reference has two. Gates are stacked in the order input, forget, cell, output.
pub struct LstmWeights {
    pub(super) values: Tensor,
    pub(super) width: usize,
    pub(super) hidden: usize,
}

impl LstmWeights {
    /// - Errors: `values` are not those of a layer from `width` to `hidden` features.
    pub fn new(values: Tensor, width: usize, hidden: usize) -> candle_core::Result<Self> {
        ensure_len(&values, 4 * hidden * (width + hidden + 2), "an LSTM layer")?;
        Ok(LstmWeights { values, width, hidden })
    }
}

/// What a layer returns.
pub struct LstmOutput {
    /// `[B, T, D]`; zero at and beyond a sample's length.
    pub sequence: Tensor,
    /// `[B, D]`, after each sample's own last step.
    pub hidden: Tensor,
    /// `[B, D]`, after each sample's own last step.
    pub cell: Tensor,
}

/// Runs the layer over `x` from the state (`hidden`, `cell`).
///
/// A sample stops at its length: later steps leave its state alone and give zero. `None` means that all samples
/// have all steps.
///
/// - Shapes: `x [B, T, D_in]`, `hidden [B, D]`, `cell [B, D]`.
/// - Errors: `T` is 0; not one length per sample, or one beyond `T`; shapes that do not fit.
/// - Source: Hochreiter and Schmidhuber 1997 in PyTorch's form (packed sequences).
pub fn lstm(
    x: &Tensor,
    weights: &LstmWeights,
    hidden: &Tensor,
    cell: &Tensor,
    lengths: Option<&[usize]>,
) -> Result<LstmOutput> {
    let (n_samples, n_steps, _) = x.dims3()?;
    ensure!(n_steps > 0, "a sequence without steps");
    if let Some(lengths) = lengths {
        ensure!(lengths.len() == n_samples, "{} lengths for {n_samples} samples", lengths.len());
        ensure!(lengths.iter().all(|&length| length <= n_steps), "a length exceeds the {n_steps} steps");
    }
    let fits = x.device().is_cpu() || hidden.dim(D::Minus1)? <= WIDEST;
    let form = if has_fused_form(x) && fits { lstm_fused } else { lstm_plain };
    form(x, weights, hidden, cell, lengths)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use rayon::ThreadPoolBuilder;

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    fn var(name: &str, shape: &[usize]) -> Var {
        Var::from_tensor(&noise(name, shape)).unwrap()
    }

    fn parameters(width: usize, hidden: usize) -> Var {
        var("values", &[4 * hidden * (width + hidden + 2)])
    }

    fn weights(values: &Tensor, width: usize, hidden: usize) -> LstmWeights {
        LstmWeights::new(values.clone(), width, hidden).unwrap()
    }

    type Form = fn(&Tensor, &LstmWeights, &Tensor, &Tensor, Option<&[usize]>) -> Result<LstmOutput>;

    /// Batch, steps, width of the input and of the state.
    type Sizes = (usize, usize, usize, usize);

    fn inputs((n_samples, n_steps, width, hidden): Sizes) -> Vec<Var> {
        let mut vars = vec![parameters(width, hidden)];
        vars.push(var("x", &[n_samples, n_steps, width]));
        vars.extend(["h", "c"].map(|name| var(name, &[n_samples, hidden])));
        vars
    }

    fn call(form: Form, vars: &[Var], lengths: Option<&[usize]>) -> [Tensor; 3] {
        let (width, hidden) = (vars[1].dim(D::Minus1).unwrap(), vars[2].dim(D::Minus1).unwrap());
        let weights = weights(&vars[0], width, hidden);
        let out = form(&vars[1], &weights, &vars[2], &vars[3], lengths).unwrap();
        [out.sequence, out.hidden, out.cell]
    }

    /// The outputs of a form, and all gradients of a loss that takes those of them that `counts` names.
    fn run(form: Form, sizes: Sizes, lengths: Option<&[usize]>, counts: [bool; 3]) -> Vec<Vec<f32>> {
        let vars = inputs(sizes);
        let outputs = call(form, &vars, lengths);
        let weighted = |out: &Tensor| (out * noise("direction", out.dims())).unwrap().sum_all().unwrap();
        let counted = outputs.iter().zip(counts).filter(|(_, counts)| *counts);
        let loss = counted.map(|(out, _)| weighted(out)).reduce(|a, b| (a + b).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        let grads = vars.iter().map(|var| values(grads.get(var).unwrap()));
        outputs.iter().map(values).chain(grads).collect()
    }

    #[track_caller]
    fn assert_same(sizes: Sizes, lengths: Option<&[usize]>, counts: [bool; 3]) {
        let fused = run(lstm_fused, sizes, lengths, counts);
        let plain = run(lstm_plain, sizes, lengths, counts);
        for (a, b) in fused.iter().zip(&plain) {
            let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
            assert_close(a, b, 1e-5 * largest);
        }
    }

    const ALL: [bool; 3] = [true; 3];

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = inputs((3, 4, 2, 3));
        for (form, lengths) in
            [(lstm_fused as Form, None), (lstm_fused, Some(&[4, 2, 1])), (lstm_plain, None)]
        {
            let lengths = lengths.map(|lengths: &[usize; 3]| lengths.as_slice());
            assert_gradients(&vars, 3e-3, || {
                let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu)?;
                for out in call(form, &vars, lengths) {
                    loss = (loss + (&out * noise("direction", out.dims()))?.sum_all()?)?;
                }
                Ok(loss)
            });
        }
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_every_gradient() {
        for hidden in [1, 5, 16, 32, 33, 64] {
            assert_same((3, 4, 7, hidden), None, ALL);
        }
        for width in [1, 5, 16, 33, 64] {
            assert_same((5, 3, width, 6), None, ALL);
        }
        for n_samples in [1, 31, 32, 33, 64] {
            let lengths: Vec<usize> = (0..n_samples).map(|i| i * 5 % 8).collect();
            assert_same((n_samples, 7, 5, 9), Some(&lengths), ALL);
            assert_same((n_samples, 3, 16, 16), None, ALL);
        }
        assert_same((600, 2, 3, 2), None, ALL);
    }

    #[test]
    fn a_loss_may_depend_on_some_of_the_outputs() {
        for counts in [[true, false, false], [false, true, false], [false, true, true]] {
            assert_same((5, 4, 3, 4), Some(&[4, 0, 2, 4, 1]), counts);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let with_threads = |n| {
            let pool = ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| run(lstm_fused, (100, 5, 6, 8), None, ALL))
        };
        assert_eq!(with_threads(1), with_threads(3));
    }

    #[test]
    fn a_graph_can_be_taken_back_twice() {
        let vars = inputs((3, 4, 2, 3));
        let [sequence, hidden, _] = call(lstm_fused, &vars, None);
        let slope = |loss: Tensor| values(loss.backward().unwrap().get(&vars[1]).unwrap());
        let both = || (sequence.sum_all().unwrap() + hidden.sum_all().unwrap()).unwrap();
        let first = slope(both());
        let state_only = slope(hidden.sum_all().unwrap());
        assert_eq!(slope(both()), first);
        assert_ne!(state_only, first);
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_trained() {
        let vars = inputs((33, 4, 2, 3));
        let tracked = call(lstm_fused, &vars, None);
        let plain = |i: usize| vars[i].as_detached_tensor();
        let fixed = weights(&plain(0), 2, 3);
        let out = lstm_fused(&plain(1), &fixed, &plain(2), &plain(3), None).unwrap();
        for (a, b) in [out.sequence, out.hidden, out.cell].iter().zip(&tracked) {
            assert!(!a.track_op());
            assert_eq!(values(a), values(b));
        }
    }

    #[test]
    fn a_sample_stops_at_its_own_length() {
        let layer = weights(&parameters(2, 3), 2, 3);
        let (x, h, c) = (noise("x", &[2, 5, 2]), noise("h", &[2, 3]), noise("c", &[2, 3]));
        let both = lstm(&x, &layer, &h, &c, Some(&[5, 2])).unwrap();
        let row = |t: &Tensor| t.narrow(0, 1, 1).unwrap();
        let short = lstm(&row(&x).narrow(1, 0, 2).unwrap(), &layer, &row(&h), &row(&c), None);
        let short = short.unwrap();
        assert_close(&values(&row(&both.hidden)), &values(&short.hidden), 1e-6);
        assert_close(&values(&row(&both.cell)), &values(&short.cell), 1e-6);
        let tail = row(&both.sequence).narrow(1, 2, 3).unwrap();
        assert_close(&values(&tail), &[0.0; 9], 0.0);
    }

    /// What stands beyond a sample's length counts neither forward nor back; what is broken within it stays broken, and
    /// breaks no other sample.
    #[test]
    fn what_is_not_a_number_stays_in_its_sample() {
        let (n_samples, n_steps, width, hidden) = (40, 4, 3, 5);
        let mut x = values(&noise("x", &[n_samples, n_steps, width]));
        let at = |sample: usize, step: usize| (sample * n_steps + step) * width;
        (x[at(2, 3)], x[at(7, 1)]) = (f32::NAN, f32::NAN);
        let mut lengths = vec![n_steps; n_samples];
        lengths[2] = 3;
        let mut vars = inputs((n_samples, n_steps, width, hidden));
        let x = Tensor::from_vec(x, (n_samples, n_steps, width), &Device::Cpu).unwrap();
        vars[1] = Var::from_tensor(&x).unwrap();
        let [sequence, final_hidden, final_cell] = call(lstm_fused, &vars, Some(&lengths));
        let is_broken = |rows: &Tensor, sample: usize| {
            values(&rows.get(sample).unwrap()).iter().any(|value| !value.is_finite())
        };
        for out in [&sequence, &final_hidden, &final_cell] {
            let broken: Vec<usize> = (0..n_samples).filter(|&sample| is_broken(out, sample)).collect();
            assert_eq!(broken, [7]);
        }
        let healthy = sequence.narrow(0, 0, 7).unwrap().sum_all().unwrap();
        let grads = healthy.backward().unwrap();
        assert!((0..7).all(|sample| !is_broken(grads.get(&vars[1]).unwrap(), sample)));
    }

    #[test]
    fn misfits_are_refused() {
        let layer = weights(&parameters(2, 3), 2, 3);
        let zero = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let x = noise("x", &[2, 5, 2]);
        for lengths in [&[5usize][..], &[6, 1], &[5, 5, 5]] {
            assert!(lstm(&x, &layer, &zero, &zero, Some(lengths)).is_err(), "{lengths:?}");
        }
        let wide = noise("x", &[2, 5, 3]);
        assert!(lstm(&wide, &layer, &zero, &zero, None).is_err());
        let more = noise("h", &[3, 3]);
        assert!(lstm(&x, &layer, &more, &more, None).is_err());
        assert!(lstm(&noise("x", &[2, 0, 2]), &layer, &zero, &zero, None).is_err());
    }
}
