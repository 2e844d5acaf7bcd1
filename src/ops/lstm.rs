//! One LSTM layer over a batch of sequences of different lengths.
//!
//! The input projection is one matrix product over all steps; what has to go step by step is the recurrence, and
//! that has two forms with one signature: [`lstm_plain::recurrence`] (tensor operations, any device, the oracle)
//! and [`lstm_fused::recurrence`] (one operation with a hand-written backward, f32 on the CPU). The fused form
//! pays with the length: about even at 96 steps, half the time of a whole training step at 384. Sequences are
//! time-major, `[T, B, ..]`, so that the rows of a step lie together.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::host::is_host_f32;
use super::{lstm_fused, lstm_plain};

/// The parameters of a layer; gates are stacked in the order input, forget, cell, output.
pub struct LstmWeights {
    /// `[4D, D_in]`
    pub input: Tensor,
    /// `[4D, D]`
    pub recurrent: Tensor,
    /// `[4D]`
    pub input_bias: Tensor,
    /// `[4D]`, summed with the other one: two vectors because the reference has two.
    pub recurrent_bias: Tensor,
}

/// What a layer returns.
pub struct LstmOutput {
    /// `[T, B, D]`; zero at and beyond a sample's length.
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
/// - Shapes: `x [T, B, D_in]`, `hidden [B, D]`, `cell [B, D]`.
/// - Errors: `T` is 0; not one length per sample, or one beyond `T`; shapes that do not fit.
/// - Source: Hochreiter and Schmidhuber 1997 in PyTorch's form (packed sequences).
pub fn lstm(
    x: &Tensor,
    weights: &LstmWeights,
    hidden: &Tensor,
    cell: &Tensor,
    lengths: Option<&[usize]>,
) -> Result<LstmOutput> {
    let (n_steps, n_samples, width) = x.dims3()?;
    ensure!(n_steps > 0, "a sequence without steps");
    if let Some(lengths) = lengths {
        ensure!(lengths.len() == n_samples, "{} lengths for {n_samples} samples", lengths.len());
        ensure!(lengths.iter().all(|&length| length <= n_steps), "a length exceeds the {n_steps} steps");
    }
    let lengths = lengths.filter(|lengths| lengths.iter().any(|&length| length != n_steps));
    let bias = (&weights.input_bias + &weights.recurrent_bias)?;
    let projected = x.reshape((n_steps * n_samples, width))?.matmul(&weights.input.t()?)?;
    let projected = projected.broadcast_add(&bias)?.reshape((n_steps, n_samples, ()))?;
    let start = Tensor::stack(&[hidden, cell], 0)?;
    let all = if is_host_f32(x) {
        lstm_fused::recurrence(&projected, &weights.recurrent, &start, lengths)?
    } else {
        lstm_plain::recurrence(&projected, &weights.recurrent, &start, lengths)?
    };
    Ok(LstmOutput {
        sequence: all.narrow(0, 0, n_steps)?,
        hidden: all.get(n_steps)?,
        cell: all.get(n_steps + 1)?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    fn var(name: &str, shape: &[usize]) -> Var {
        Var::from_tensor(&noise(name, shape)).unwrap()
    }

    fn parameters(width: usize, hidden: usize) -> [Var; 4] {
        [
            var("input", &[4 * hidden, width]),
            var("recurrent", &[4 * hidden, hidden]),
            var("input_bias", &[4 * hidden]),
            var("recurrent_bias", &[4 * hidden]),
        ]
    }

    fn weights(vars: &[Var]) -> LstmWeights {
        let [input, recurrent, input_bias, recurrent_bias] =
            [0, 1, 2, 3].map(|i| vars[i].as_tensor().clone());
        LstmWeights { input, recurrent, input_bias, recurrent_bias }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (n_steps, n_samples, width, hidden) = (4, 3, 2, 3);
        let mut vars = parameters(width, hidden).to_vec();
        vars.extend([var("x", &[n_steps, n_samples, width]), var("h", &[n_samples, hidden])]);
        vars.push(var("c", &[n_samples, hidden]));
        let direction = |name, shape: &[usize]| noise(name, shape);
        for lengths in [None, Some(&[4, 2, 1][..])] {
            assert_gradients(&vars, 3e-3, || {
                let out = lstm(&vars[4], &weights(&vars), &vars[5], &vars[6], lengths)
                    .map_err(candle_core::Error::msg)?;
                let sequence = (out.sequence * direction("ds", &[n_steps, n_samples, hidden]))?.sum_all()?;
                let hidden_part = (out.hidden * direction("dh", &[n_samples, hidden]))?.sum_all()?;
                let cell_part = (out.cell * direction("dc", &[n_samples, hidden]))?.sum_all()?;
                sequence + hidden_part + cell_part
            });
        }
    }

    /// Value and all gradients of a recurrence, with every output in the loss.
    fn run(
        recurrence: impl Fn(&Tensor, &Tensor, &Tensor, Option<&[usize]>) -> Result<Tensor>,
        (n_steps, n_samples, hidden): (usize, usize, usize),
        lengths: Option<&[usize]>,
    ) -> Vec<Vec<f32>> {
        let vars = [
            var("projected", &[n_steps, n_samples, 4 * hidden]),
            var("recurrent", &[4 * hidden, hidden]),
            var("start", &[2, n_samples, hidden]),
        ];
        let out = recurrence(&vars[0], &vars[1], &vars[2], lengths).unwrap();
        let loss = (&out * noise("direction", &[n_steps + 2, n_samples, hidden])).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let mut all = vec![values(&out)];
        all.extend(vars.iter().map(|var| values(grads.get(var).unwrap())));
        all
    }

    #[test]
    fn the_fused_recurrence_equals_the_plain_one_in_value_and_every_gradient() {
        for (shape, lengths) in [
            ((1, 1, 1), None),
            ((7, 5, 3), None),
            ((7, 5, 3), Some(&[7, 1, 4, 0, 6][..])),
            ((12, 17, 16), None),
            ((3, 2, 33), Some(&[2, 2])),
        ] {
            let fused = run(lstm_fused::recurrence, shape, lengths);
            let plain = run(lstm_plain::recurrence, shape, lengths);
            for (a, b) in fused.iter().zip(&plain) {
                let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
                assert_close(a, b, 3e-6 * largest);
            }
        }
    }

    #[test]
    fn a_sample_stops_at_its_own_length() {
        let vars = parameters(2, 3);
        let (x, h, c) = (noise("x", &[5, 2, 2]), noise("h", &[2, 3]), noise("c", &[2, 3]));
        let both = lstm(&x, &weights(&vars), &h, &c, Some(&[5, 2])).unwrap();
        let row = |t: &Tensor, axis, i| t.narrow(axis, i, 1).unwrap();
        let short = lstm(
            &row(&x.narrow(0, 0, 2).unwrap(), 1, 1),
            &weights(&vars),
            &row(&h, 0, 1),
            &row(&c, 0, 1),
            None,
        );
        let short = short.unwrap();
        assert_close(&values(&row(&both.hidden, 0, 1)), &values(&short.hidden), 1e-6);
        assert_close(&values(&row(&both.cell, 0, 1)), &values(&short.cell), 1e-6);
        let tail = row(&both.sequence, 1, 1).narrow(0, 2, 3).unwrap();
        assert_close(&values(&tail), &[0.0; 9], 0.0);
    }

    #[test]
    fn misfitting_lengths_are_refused() {
        let vars = parameters(2, 3);
        let zero = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        for lengths in [&[5usize][..], &[6, 1], &[5, 5, 5]] {
            let x = noise("x", &[5, 2, 2]);
            assert!(lstm(&x, &weights(&vars), &zero, &zero, Some(lengths)).is_err(), "{lengths:?}");
        }
    }
}
