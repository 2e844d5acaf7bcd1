//! An LSTM layer over the samples of one tile: all their steps, forward and back.
//!
//! The lanes of a tile are samples. Each step reads one row of every sample straight from `[B, T, D]`, projects it
//! together with the hidden state (one product, the two sets of weights lie side by side), and runs the cell. What
//! tensors and threads are is left to [`super::lstm_fused`].

use super::simd::{Init, Matrix, ROWS, Simd};

/// Steps before their use at which rows are asked for: the rows of a tile lie in so many places that the processor
/// does not see the pattern itself.
const AHEAD: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub n_steps: usize,
    /// Features of the input.
    pub width: usize,
    /// Features of the state.
    pub hidden: usize,
}

impl Sizes {
    /// Numbers in the weights: `[4D, D_in + D]`, input weights first in each row.
    pub fn n_weights(self) -> usize {
        4 * self.hidden * self.n_inputs()
    }

    /// Inputs of the one product of a step: those of the layer and its hidden state.
    fn n_inputs(self) -> usize {
        self.width + self.hidden
    }

    /// Numbers in the record of a step (see [`super::simd`]'s `lstm_forward`).
    fn record_len(self) -> usize {
        5 * self.hidden * ROWS
    }
}

/// A layer's parameters (or their gradients): weights `[4D, D_in + D]`, then biases `[4D]`.
#[derive(Clone, Copy)]
pub struct Parameters<'a> {
    weights: &'a [f32],
    bias: &'a [f32],
}

impl<'a> Parameters<'a> {
    /// Panics unless there are as many as `sizes` says.
    pub fn of(all: &'a [f32], sizes: Sizes) -> Self {
        let (weights, bias) = all.split_at(sizes.n_weights());
        assert_eq!(bias.len(), 4 * sizes.hidden, "biases of an LSTM layer");
        Parameters { weights, bias }
    }
}

/// Hidden and cell state of the samples of a tile, `[n, D]` each.
#[derive(Clone, Copy)]
pub struct State<'a> {
    pub hidden: &'a [f32],
    pub cell: &'a [f32],
}

/// [`State`] that is owned.
#[derive(Clone)]
pub struct StateBuf {
    pub hidden: Vec<f32>,
    pub cell: Vec<f32>,
}

impl StateBuf {
    fn copy(state: State<'_>) -> Self {
        StateBuf { hidden: state.hidden.to_vec(), cell: state.cell.to_vec() }
    }
}

/// The samples of a tile.
pub struct Samples<'a> {
    pub sizes: Sizes,
    /// Steps of each; at most [`ROWS`] of them.
    pub lengths: &'a [usize],
    /// `[n, T, D_in]`
    pub x: &'a [f32],
    pub start: State<'a>,
}

/// What the way back needs of a tile: a record per step.
#[derive(Default)]
pub struct Trace(Vec<f32>);

/// Memory for the step at hand, made once per part.
pub struct Scratch {
    /// A tile of the inputs of a step: the layer's, then its hidden state. In the backward: their gradients.
    inputs: Vec<f32>,
    cell: Vec<f32>,
    /// In the forward: the record of a step that is not kept.
    record: Vec<f32>,
    /// The inputs of a step in rows, `[ROWS, D_in + D]`.
    rows: Vec<f32>,
    d_gates: Vec<f32>,
    d_output: Vec<f32>,
}

impl Scratch {
    pub fn new(sizes: Sizes) -> Self {
        Scratch {
            inputs: vec![0.0; sizes.n_inputs() * ROWS],
            cell: vec![0.0; sizes.hidden * ROWS],
            record: vec![0.0; sizes.record_len()],
            rows: vec![0.0; ROWS * sizes.n_inputs()],
            d_gates: vec![0.0; 4 * sizes.hidden * ROWS],
            d_output: vec![0.0; sizes.hidden * ROWS],
        }
    }
}

/// What the backward of a tile starts from and reads beside the forward's own arguments.
pub struct Backward<'a> {
    pub trace: &'a Trace,
    /// `[n, T, D]`, what the forward put out.
    pub output: &'a [f32],
    /// `[n, T, D]`; `None` where nothing depends on it.
    pub d_output: Option<&'a [f32]>,
    pub d_final: State<'a>,
}

impl Samples<'_> {
    /// Runs all steps: fills `output` (`[n, T, D]`, zero on entry) up to each sample's length and returns each one's
    /// state after its last step. `trace` receives what [`Samples::backward`] needs, if given.
    pub fn forward(
        &self,
        simd: Simd,
        layer: Parameters<'_>,
        scratch: &mut Scratch,
        output: &mut [f32],
        mut trace: Option<&mut Trace>,
    ) -> StateBuf {
        let Sizes { n_steps, width, hidden } = self.sizes;
        let (n, n_inputs, record_len) = (self.lengths.len(), self.sizes.n_inputs(), self.sizes.record_len());
        let mut end = StateBuf::copy(self.start);
        simd.load_rows(self.start.hidden, hidden, n, hidden, &mut scratch.inputs[width * ROWS..]);
        simd.load_rows(self.start.cell, hidden, n, hidden, &mut scratch.cell);
        if let Some(Trace(records)) = &mut trace {
            records.reserve_exact(self.longest() * record_len);
        }
        for step in 0..self.longest() {
            simd.load_rows(&self.x[step * width..], n_steps * width, n, width, &mut scratch.inputs);
            if step + AHEAD < n_steps {
                simd.prefetch_rows(&self.x[(step + AHEAD) * width..], n_steps * width, n, width);
            }
            let record = match &mut trace {
                Some(Trace(records)) => {
                    records.resize((step + 1) * record_len, 0.0);
                    &mut records[step * record_len..]
                }
                None => scratch.record.as_mut_slice(),
            };
            let weights = Matrix::rows(layer.weights, n_inputs);
            simd.product(weights, (4 * hidden, n_inputs), &scratch.inputs, Init::Bias(layer.bias), record);
            let state = &mut scratch.inputs[width * ROWS..];
            simd.lstm_forward(record, hidden, &self.live(step), &mut scratch.cell, state);
            simd.store_rows(state, hidden, &mut output[step * hidden..], n_steps * hidden, n);
            for row in self.ending(step) {
                copy_lane(state, row, &mut end.hidden[row * hidden..][..hidden]);
                copy_lane(&scratch.cell, row, &mut end.cell[row * hidden..][..hidden]);
            }
        }
        end
    }

    /// Runs all steps back: adds to `d_layer` (in the order of [`Parameters`]), fills `d_x` (`[n, T, D_in]`, zero on
    /// entry) up to each sample's length and returns the gradient of the start.
    pub fn backward(
        &self,
        simd: Simd,
        layer: Parameters<'_>,
        from: &Backward<'_>,
        scratch: &mut Scratch,
        d_x: &mut [f32],
        d_layer: &mut [f32],
    ) -> StateBuf {
        let Sizes { n_steps, width, hidden } = self.sizes;
        let (n, n_inputs, record_len) = (self.lengths.len(), self.sizes.n_inputs(), self.sizes.record_len());
        let (d_weights, d_bias) = d_layer.split_at_mut(self.sizes.n_weights());
        let mut d_start = StateBuf::copy(from.d_final);
        let Scratch { inputs: d_inputs, cell: d_cell, rows, d_gates, d_output, .. } = scratch;
        // Rows beyond their sample's length take part as well: with gates of gradient zero, so with any finite input.
        for zeroed in [&mut *d_inputs, &mut *d_cell, &mut *rows, &mut *d_output] {
            zeroed.fill(0.0);
        }
        for step in (0..self.longest()).rev() {
            let live = self.live(step);
            for row in self.ending(step) {
                set_lane(&from.d_final.hidden[row * hidden..][..hidden], row, &mut d_inputs[width * ROWS..]);
                set_lane(&from.d_final.cell[row * hidden..][..hidden], row, d_cell);
            }
            if let Some(rows) = from.d_output {
                simd.load_rows(&rows[step * hidden..], n_steps * hidden, n, hidden, d_output);
            }
            self.prefetch(simd, step, from);
            let record = &from.trace.0[step * record_len..][..record_len];
            let d_hidden = &d_inputs[width * ROWS..];
            simd.lstm_backward(record, hidden, &live, (d_output, d_hidden), d_cell, d_gates);
            self.copy_inputs(simd, step, &live, from.output, rows);
            simd.outer(d_gates, rows, n_inputs, (4 * hidden, n_inputs), d_weights);
            simd.add_row_sums(d_gates, 4 * hidden, d_bias);
            let back = Matrix::columns(layer.weights, n_inputs);
            simd.product(back, (n_inputs, 4 * hidden), d_gates, Init::Zero, d_inputs);
            simd.store_rows(d_inputs, width, &mut d_x[step * width..], n_steps * width, n);
        }
        for row in (0..n).filter(|&row| self.lengths[row] > 0) {
            copy_lane(&d_inputs[width * ROWS..], row, &mut d_start.hidden[row * hidden..][..hidden]);
            copy_lane(d_cell, row, &mut d_start.cell[row * hidden..][..hidden]);
        }
        d_start
    }

    /// The inputs of a step's product in rows, of the samples that have it.
    fn copy_inputs(&self, simd: Simd, step: usize, live: &[f32], output: &[f32], rows: &mut [f32]) {
        let Sizes { n_steps, width, hidden } = self.sizes;
        let n_inputs = self.sizes.n_inputs();
        simd.copy_rows(&self.x[step * width..], n_steps * width, width, live, rows, n_inputs);
        let (before, stride) = match step {
            0 => (self.start.hidden, hidden),
            _ => (&output[(step - 1) * hidden..], n_steps * hidden),
        };
        simd.copy_rows(before, stride, hidden, live, &mut rows[width..], n_inputs);
    }

    /// Asks for the rows that the backward reads soon after this step.
    fn prefetch(&self, simd: Simd, step: usize, from: &Backward<'_>) {
        let Sizes { n_steps, width, hidden } = self.sizes;
        let Some(step) = step.checked_sub(AHEAD) else { return };
        let n = self.lengths.len();
        simd.prefetch_rows(&self.x[step * width..], n_steps * width, n, width);
        simd.prefetch_rows(&from.output[step.saturating_sub(1) * hidden..], n_steps * hidden, n, hidden);
        if let Some(d_rows) = from.d_output {
            simd.prefetch_rows(&d_rows[step * hidden..], n_steps * hidden, n, hidden);
        }
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// 1 for the rows whose samples have this step.
    fn live(&self, step: usize) -> [f32; ROWS] {
        let mut live = [0.0; ROWS];
        for (live, &length) in live.iter_mut().zip(self.lengths) {
            *live = f32::from(u8::from(step < length));
        }
        live
    }

    /// The rows whose samples have their last step here.
    fn ending(&self, step: usize) -> impl Iterator<Item = usize> {
        self.lengths.iter().enumerate().filter(move |&(_, &length)| length == step + 1).map(|(row, _)| row)
    }
}

/// One row of a tile.
fn copy_lane(tile: &[f32], row: usize, to: &mut [f32]) {
    for (to, feature) in to.iter_mut().zip(tile.chunks_exact(ROWS)) {
        *to = feature[row];
    }
}

fn set_lane(from: &[f32], row: usize, tile: &mut [f32]) {
    for (from, feature) in from.iter().zip(tile.chunks_exact_mut(ROWS)) {
        feature[row] = *from;
    }
}
