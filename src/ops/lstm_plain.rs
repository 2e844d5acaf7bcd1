//! The LSTM recurrence in tensor operations: readable, on every device, and the oracle of the fused one.
//!
//! Slow in training for a reason worth knowing: the backward of each step's slice builds a zero tensor of the
//! whole sequence, so the work grows with the square of the number of steps.

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::ops::sigmoid;

/// The recurrence over inputs that are already projected and carry both biases.
///
/// - Shapes: `projected [T, B, 4D]` (input, forget, cell, output), `recurrent [4D, D]`, `start [2, B, D]`
///   (hidden, cell) -> `[T + 2, B, D]`: the hidden state of each step (zero beyond a sample's length), then the
///   final hidden state, then the final cell state.
pub fn recurrence(
    projected: &Tensor,
    recurrent: &Tensor,
    start: &Tensor,
    lengths: Option<&[usize]>,
) -> Result<Tensor> {
    let n_steps = projected.dim(0)?;
    let recurrent = recurrent.t()?;
    let (mut hidden, mut cell) = (start.get(0)?, start.get(1)?);
    let mut outputs = Vec::with_capacity(n_steps + 2);
    for step in 0..n_steps {
        let gates = (projected.get(step)? + hidden.matmul(&recurrent)?)?.chunk(4, 1)?;
        let kept = (sigmoid(&gates[1])? * &cell)?;
        let new_cell = (kept + (sigmoid(&gates[0])? * gates[2].tanh()?)?)?;
        let new_hidden = (sigmoid(&gates[3])? * new_cell.tanh()?)?;
        match live(step, lengths, &new_hidden)? {
            None => {
                (hidden, cell) = (new_hidden.clone(), new_cell);
                outputs.push(new_hidden);
            }
            Some(live) => {
                outputs.push(live.where_cond(&new_hidden, &new_hidden.zeros_like()?)?);
                hidden = live.where_cond(&new_hidden, &hidden)?;
                cell = live.where_cond(&new_cell, &cell)?;
            }
        }
    }
    outputs.extend([hidden, cell]);
    Ok(Tensor::stack(&outputs, 0)?)
}

/// `[B, D]` of u8, 1 where the sample has this step; `None` if all have.
fn live(step: usize, lengths: Option<&[usize]>, like: &Tensor) -> Result<Option<Tensor>> {
    let Some(lengths) = lengths.filter(|lengths| lengths.iter().any(|&length| length <= step)) else {
        return Ok(None);
    };
    let flags: Vec<u8> = lengths.iter().map(|&length| u8::from(step < length)).collect();
    let flags = Tensor::from_vec(flags, (lengths.len(), 1), like.device())?;
    Ok(Some(flags.broadcast_as(like.shape())?))
}
