//! Launches of an LSTM layer; [`crate::ops::lstm_fused`] is the operation.
//!
//! The inputs' share of all gates is one product over all steps, the recurrence one launch; on the way back the
//! recurrence comes first, and the gradients of inputs and weights are products over all steps again.

use candle_core::{Result, bail};

use super::linear::{Lengths, Linear, Rows};
use super::machine::{Grid, Machine, Memory, Stretch};

/// Numbers in the record of a step, in units of the state's width.
pub const RECORD: usize = 6;

/// The widest state that a block can carry.
pub const WIDEST: usize = 256;

#[derive(Clone, Copy)]
pub struct Lstm {
    pub batch: usize,
    pub n_steps: usize,
    /// Features of the input.
    pub width: usize,
    /// Features of the state.
    pub hidden: usize,
}

/// What a forward leaves.
pub struct Forward {
    /// `[2, B, D]`
    pub ends: Memory,
    /// `[B, T, D]`
    pub sequence: Memory,
    /// `[B, T, 6 D]`, for the backward.
    pub record: Memory,
}

/// The gradients of a layer.
pub struct Gradients {
    pub d_x: Memory,
    /// In the order of the layer's parameters.
    pub d_layer: Memory,
    pub d_start: Memory,
}

impl Lstm {
    /// `x [B, T, D_in]`; `layer` as [`crate::ops::LstmWeights`] has it; `start [2, B, D]`; `lengths`: u32, one per sample.
    pub fn forward(
        self,
        machine: &mut dyn Machine,
        [x, layer, start]: [Memory; 3],
        lengths: Option<Memory>,
    ) -> Result<Forward> {
        let Lstm { batch, n_steps, width, hidden } = self;
        let n_rows = batch * n_steps;
        let record = machine.alloc(n_rows * RECORD * hidden)?;
        // The recurrent weights turned, and behind them the sum of the biases.
        let (n_recurrent, n_gates) = (4 * hidden * hidden, 4 * hidden);
        let turned = machine.alloc(n_recurrent + n_gates)?;
        let args = [layer.into(), width.into(), hidden.into(), turned.into()];
        machine.launch("lstm_weights", Grid::items(n_recurrent + n_gates), &args)?;
        let gates = Rows { at: record, stride: RECORD * hidden };
        let inputs = Linear { n_rows, n_in: width, n_out: n_gates };
        inputs.forward(machine, x, self.weights(layer), Some(turned.from(n_recurrent)), gates)?;
        let (sequence, ends) = (machine.alloc(n_rows * hidden)?, machine.alloc(2 * batch * hidden)?);
        let steps = self.steps(machine, 5);
        let args = [
            turned.into(),
            steps.is_shared.into(),
            start.into(),
            lengths.into(),
            batch.into(),
            n_steps.into(),
            hidden.into(),
            record.into(),
            sequence.into(),
            ends.into(),
        ];
        machine.launch(&format!("lstm_forward_{}", self.per_block()), steps.grid, &args)?;
        Ok(Forward { ends, sequence, record })
    }

    /// From the gradients of the sequence (`None`: nothing depends on it) and of the ends.
    pub fn backward(
        self,
        machine: &mut dyn Machine,
        [x, layer, record]: [Memory; 3],
        lengths: Option<Memory>,
        d_sequence: Option<Memory>,
        d_ends: Memory,
    ) -> Result<Gradients> {
        let Lstm { batch, n_steps, width, hidden } = self;
        let (n_rows, n_gates) = (batch * n_steps, 4 * hidden);
        let (slopes, d_start) = (machine.alloc(n_rows * n_gates)?, machine.alloc(2 * batch * hidden)?);
        let (steps, recurrent) = (self.steps(machine, 8), layer.from(n_gates * width));
        let args = [
            recurrent.into(),
            steps.is_shared.into(),
            lengths.into(),
            batch.into(),
            n_steps.into(),
            hidden.into(),
            record.into(),
            d_sequence.into(),
            d_ends.into(),
            slopes.into(),
            d_start.into(),
        ];
        machine.launch(&format!("lstm_backward_{}", self.per_block()), steps.grid, &args)?;

        let lengths = lengths.map(|of_samples| Lengths { of_samples, n_steps });
        let d_gates = Rows { at: slopes, stride: n_gates };
        let before = Rows { at: record.from(5 * hidden), stride: RECORD * hidden };
        let (weights, inputs) = (self.weights(layer), Rows { at: x, stride: width });
        let of_inputs = Linear { n_rows, n_in: width, n_out: n_gates };
        let of_inputs = of_inputs.backward(machine, inputs, weights, d_gates, lengths, true)?;
        let of_states = Linear { n_rows, n_in: hidden, n_out: n_gates };
        let recurrent = Rows { at: recurrent, stride: hidden };
        let of_states = of_states.backward(machine, before, recurrent, d_gates, lengths, false)?;

        let (n_weights, n_recurrent) = (n_gates * width, n_gates * hidden);
        let d_layer = machine.alloc(n_weights + n_recurrent + 2 * n_gates)?;
        let stretch = |some, to| Stretch { row: 0, some, to };
        let biases = n_weights..n_weights + n_gates;
        let first_bias = n_weights + n_recurrent;
        let of_inputs_to = [
            stretch(0..n_weights, 0),
            stretch(biases.clone(), first_bias),
            stretch(biases, first_bias + n_gates),
        ];
        of_inputs.parts.sum_stretches(machine, &of_inputs_to, d_layer)?;
        of_states.parts.sum_stretches(machine, &[stretch(0..n_recurrent, n_weights)], d_layer)?;
        let Some(d_x) = of_inputs.d_x else { bail!("lstm: no gradient of the input") };
        Ok(Gradients { d_x, d_layer, d_start })
    }

    /// The weights of the inputs.
    fn weights(self, layer: Memory) -> Rows {
        Rows { at: layer, stride: self.width }
    }

    /// Sequences of a block: few while that keeps more of the device busy.
    fn per_block(self) -> usize {
        match self.batch {
            0..=128 => 1,
            129..=256 => 2,
            _ => 4,
        }
    }

    /// The blocks that go through the steps with `per_state` shared numbers for each state.
    fn steps(self, machine: &mut dyn Machine, per_state: usize) -> Steps {
        let (n_weights, per_block) = (4 * self.hidden * self.hidden, self.per_block());
        let states = per_state * self.hidden * per_block;
        let is_shared = 4 * (states + n_weights) <= machine.shared_bytes();
        let grid = Grid {
            blocks: (self.batch.div_ceil(per_block).max(1), 1),
            threads: (4 * self.hidden).next_multiple_of(32),
            shared: if is_shared { states + n_weights } else { states },
        };
        Steps { is_shared, grid }
    }
}

struct Steps {
    /// Whether the recurrent weights have a copy in shared memory.
    is_shared: bool,
    grid: Grid,
}
