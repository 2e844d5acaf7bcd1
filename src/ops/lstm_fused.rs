//! The LSTM recurrence as one operation with a hand-written backward, for f32 on the CPU.
//!
//! Samples do not influence each other, so each is run over all its steps by one thread; how many threads there
//! are changes nothing in the result. The forward keeps gates and cell states for the backward (in the operation
//! itself, so they live as long as the graph does). [`super::lstm_plain`] is the oracle.

use std::sync::OnceLock;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result as CandleResult, Shape, Tensor, bail};
use rayon::prelude::*;

use super::host::contiguous;

/// The recurrence over inputs that are already projected and carry both biases; shapes as in
/// [`super::lstm_plain::recurrence`].
///
/// - Errors: anything but f32 on the CPU; shapes that do not fit.
pub fn recurrence(
    projected: &Tensor,
    recurrent: &Tensor,
    start: &Tensor,
    lengths: Option<&[usize]>,
) -> Result<Tensor> {
    let (n_steps, n_samples, _) = projected.dims3()?;
    let lengths = lengths.map_or_else(|| vec![n_steps; n_samples], <[usize]>::to_vec);
    let keep = projected.track_op() || recurrent.track_op() || start.track_op();
    let op = Recurrence { lengths, keep, kept: OnceLock::new() };
    Ok(projected.contiguous()?.apply_op3(&recurrent.contiguous()?, &start.contiguous()?, op)?)
}

struct Recurrence {
    lengths: Vec<usize>,
    keep: bool,
    kept: OnceLock<Vec<Trace>>,
}

/// What the backward needs of one sample.
#[derive(Default)]
struct Trace {
    /// `[length, 4D]`, activated.
    gates: Vec<f32>,
    /// `[length + 1, D]`, the start first.
    cells: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Sizes {
    n_steps: usize,
    n_samples: usize,
    hidden: usize,
}

impl Sizes {
    fn of(projected: &Shape, recurrent: &Shape, start: &Shape) -> CandleResult<Self> {
        let (n_steps, n_samples, four) = projected.dims3()?;
        let hidden = four / 4;
        if recurrent.dims() != [4 * hidden, hidden] || start.dims() != [2, n_samples, hidden] {
            bail!("lstm: inputs {projected:?}, recurrent weights {recurrent:?}, start {start:?}");
        }
        Ok(Sizes { n_steps, n_samples, hidden })
    }

    /// Where the row of `sample` at `step` starts in a `[.., B, width]` buffer.
    fn row(&self, step: usize, sample: usize, width: usize) -> std::ops::Range<usize> {
        let start = (step * self.n_samples + sample) * width;
        start..start + width
    }

    /// Copies `[rows, width]` of one sample into its place in a `[rows, B, width]` buffer.
    fn scatter(&self, all: &mut [f32], sample: usize, rows: &[f32], width: usize) {
        for (step, row) in rows.chunks_exact(width).enumerate() {
            all[self.row(step, sample, width)].copy_from_slice(row);
        }
    }
}

impl CustomOp3 for Recurrence {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let sizes = Sizes::of(l1.shape(), l2.shape(), l3.shape())?;
        let (projected, start) = (contiguous(s1, l1)?, contiguous(s3, l3)?);
        let turned = transposed(contiguous(s2, l2)?, sizes.hidden);
        let samples: Vec<(Vec<f32>, Trace)> = (0..sizes.n_samples)
            .into_par_iter()
            .map(|sample| self.run_sample(sizes, sample, projected, &turned, start))
            .collect();
        let mut output = vec![0f32; (sizes.n_steps + 2) * sizes.n_samples * sizes.hidden];
        for (sample, (rows, _)) in samples.iter().enumerate() {
            sizes.scatter(&mut output, sample, rows, sizes.hidden);
        }
        if self.keep {
            let _ = self.kept.set(samples.into_iter().map(|(_, trace)| trace).collect());
        }
        Ok((CpuStorage::F32(output), (sizes.n_steps + 2, sizes.n_samples, sizes.hidden).into()))
    }

    fn bwd(
        &self,
        projected: &Tensor,
        recurrent: &Tensor,
        start: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::of(projected.shape(), recurrent.shape(), start.shape())?;
        let Some(kept) = self.kept.get() else { bail!("lstm: the forward kept nothing for a backward") };
        let weights: Vec<f32> = recurrent.flatten_all()?.to_vec1()?;
        let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
        let samples: Vec<(Vec<f32>, Vec<f32>)> = kept
            .par_iter()
            .enumerate()
            .map(|(sample, trace)| self.unroll_sample(sizes, sample, trace, &weights, &grad))
            .collect();
        let Sizes { n_steps, n_samples, hidden } = sizes;
        let mut d_projected = vec![0f32; n_steps * n_samples * 4 * hidden];
        let mut d_start = vec![0f32; 2 * n_samples * hidden];
        for (sample, (d_gates, d_state)) in samples.iter().enumerate() {
            sizes.scatter(&mut d_projected, sample, d_gates, 4 * hidden);
            sizes.scatter(&mut d_start, sample, d_state, hidden);
        }
        let d_projected = Tensor::from_vec(d_projected, (n_steps, n_samples, 4 * hidden), &Device::Cpu)?;
        let d_recurrent = recurrent_gradient(&d_projected, start, output)?;
        let d_start = Tensor::from_vec(d_start, (2, n_samples, hidden), &Device::Cpu)?;
        Ok((Some(d_projected), Some(d_recurrent), Some(d_start)))
    }
}

impl Recurrence {
    /// One sample from its start state through its own steps: its `[T + 2, D]` rows of the output, and the trace.
    fn run_sample(
        &self,
        sizes: Sizes,
        sample: usize,
        projected: &[f32],
        turned: &[f32],
        start: &[f32],
    ) -> (Vec<f32>, Trace) {
        let Sizes { n_steps, hidden, .. } = sizes;
        let length = self.lengths[sample];
        let mut rows = vec![0f32; (n_steps + 2) * hidden];
        let mut h = start[sizes.row(0, sample, hidden)].to_vec();
        let mut c = start[sizes.row(1, sample, hidden)].to_vec();
        let mut trace = Trace::default();
        if self.keep {
            trace.gates.reserve_exact(length * 4 * hidden);
            trace.cells.reserve_exact((length + 1) * hidden);
            trace.cells.extend_from_slice(&c);
        }
        let mut gates = vec![0f32; 4 * hidden];
        for step in 0..length {
            gates.copy_from_slice(&projected[sizes.row(step, sample, 4 * hidden)]);
            for (&h, weights) in h.iter().zip(turned.chunks_exact(4 * hidden)) {
                add_scaled(&mut gates, h, weights);
            }
            advance(&mut gates, &mut h, &mut c);
            rows[step * hidden..(step + 1) * hidden].copy_from_slice(&h);
            if self.keep {
                trace.gates.extend_from_slice(&gates);
                trace.cells.extend_from_slice(&c);
            }
        }
        rows[n_steps * hidden..(n_steps + 1) * hidden].copy_from_slice(&h);
        rows[(n_steps + 1) * hidden..].copy_from_slice(&c);
        (rows, trace)
    }

    /// One sample from its last step back: the gradients of its projected inputs `[length, 4D]` and of its start
    /// state `[2, D]`.
    fn unroll_sample(
        &self,
        sizes: Sizes,
        sample: usize,
        trace: &Trace,
        weights: &[f32],
        grad: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let Sizes { n_steps, hidden, .. } = sizes;
        let length = self.lengths[sample];
        let mut d_gates = vec![0f32; length * 4 * hidden];
        let mut d_h = grad[sizes.row(n_steps, sample, hidden)].to_vec();
        let mut d_c = grad[sizes.row(n_steps + 1, sample, hidden)].to_vec();
        for step in (0..length).rev() {
            add_scaled(&mut d_h, 1.0, &grad[sizes.row(step, sample, hidden)]);
            let gates = &trace.gates[step * 4 * hidden..(step + 1) * 4 * hidden];
            let cells = &trace.cells[step * hidden..(step + 2) * hidden];
            let d_step = &mut d_gates[step * 4 * hidden..(step + 1) * 4 * hidden];
            retreat(gates, cells, &d_h, &mut d_c, d_step);
            d_h.fill(0.0);
            for (&d, weights) in d_step.iter().zip(weights.chunks_exact(hidden)) {
                add_scaled(&mut d_h, d, weights);
            }
        }
        d_h.extend_from_slice(&d_c);
        (d_gates, d_h)
    }
}

/// One step: activates `gates` in place and moves the state on.
fn advance(gates: &mut [f32], h: &mut [f32], c: &mut [f32]) {
    let hidden = h.len();
    let (input, rest) = gates.split_at_mut(hidden);
    let (forget, rest) = rest.split_at_mut(hidden);
    let (fresh, output) = rest.split_at_mut(hidden);
    for k in 0..hidden {
        input[k] = sigmoid(input[k]);
        forget[k] = sigmoid(forget[k]);
        fresh[k] = tanh(fresh[k]);
        output[k] = sigmoid(output[k]);
        c[k] = forget[k] * c[k] + input[k] * fresh[k];
        h[k] = output[k] * tanh(c[k]);
    }
}

/// One step back. `cells` holds the cell state before and after the step, `d_c` the gradient of the latter on
/// entry and of the former on return, `d_gates` receives the gradient of the gates before activation.
fn retreat(gates: &[f32], cells: &[f32], d_h: &[f32], d_c: &mut [f32], d_gates: &mut [f32]) {
    let hidden = d_h.len();
    for k in 0..hidden {
        let [input, forget, fresh, output] = [0, 1, 2, 3].map(|gate| gates[gate * hidden + k]);
        let squashed = tanh(cells[hidden + k]);
        let d_cell = d_c[k] + d_h[k] * output * (1.0 - squashed * squashed);
        d_gates[k] = d_cell * fresh * input * (1.0 - input);
        d_gates[hidden + k] = d_cell * cells[k] * forget * (1.0 - forget);
        d_gates[2 * hidden + k] = d_cell * input * (1.0 - fresh * fresh);
        d_gates[3 * hidden + k] = d_h[k] * squashed * output * (1.0 - output);
        d_c[k] = d_cell * forget;
    }
}

/// `[4D, D]`: the gates' gradients against the hidden state each step started from, over all steps and samples.
/// Steps beyond a sample's length have gradient zero, whatever state stands beside them.
fn recurrent_gradient(d_projected: &Tensor, start: &Tensor, output: &Tensor) -> CandleResult<Tensor> {
    let (n_steps, n_samples, four) = d_projected.dims3()?;
    let before = Tensor::cat(&[&start.narrow(0, 0, 1)?, &output.narrow(0, 0, n_steps - 1)?], 0)?.detach();
    let before = before.reshape((n_steps * n_samples, four / 4))?;
    d_projected.reshape((n_steps * n_samples, four))?.t()?.matmul(&before)
}

#[inline]
fn add_scaled(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, &value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[inline]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Through the exponential, which is several times faster than the library's `tanh`; absolute error 1e-7.
#[inline]
fn tanh(x: f32) -> f32 {
    let e = (-2.0 * x.abs()).exp();
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// `[4D, D]` as `[D, 4D]`.
fn transposed(weights: &[f32], hidden: usize) -> Vec<f32> {
    (0..hidden).flat_map(|k| weights.chunks_exact(hidden).map(move |row| row[k])).collect()
}
