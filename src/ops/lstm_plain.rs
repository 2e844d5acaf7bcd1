//! The LSTM layer in tensor operations: readable, on every device, and the oracle of the fused one.
//!
//! Slow in training for a reason worth knowing: the backward of each step's slice builds a zero tensor of the
//! whole sequence, so the work grows with the square of the number of steps.

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::ops::sigmoid;

use super::lstm::{LstmOutput, LstmWeights};
use super::pack::{Places, view};

/// [`super::lstm()`] in tensor operations, on any device and in any precision.
pub fn lstm_plain(
    x: &Tensor,
    weights: &LstmWeights,
    hidden: &Tensor,
    cell: &Tensor,
    lengths: Option<&[usize]>,
) -> Result<LstmOutput> {
    let ((n_samples, n_steps, width), n_gates) = (x.dims3()?, 4 * weights.hidden);
    let mut places = Places::default();
    let (input, recurrent) = (places.next(n_gates * weights.width), places.next(n_gates * weights.hidden));
    let (input_bias, recurrent_bias) = (places.next(n_gates), places.next(n_gates));
    let values = &weights.values;
    let bias = (view(values, &input_bias, n_gates)? + view(values, &recurrent_bias, n_gates)?)?;
    let input = view(values, &input, (n_gates, weights.width))?;
    let projected = x.reshape((n_samples * n_steps, width))?.matmul(&input.t()?)?;
    let projected = projected.broadcast_add(&bias)?.reshape((n_samples, n_steps, ()))?;
    // By time, so that the rows of a step lie together.
    let projected = projected.transpose(0, 1)?.contiguous()?;
    let recurrent = view(values, &recurrent, (n_gates, weights.hidden))?.t()?;
    let (mut hidden, mut cell) = (hidden.clone(), cell.clone());
    let mut outputs = Vec::with_capacity(n_steps);
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
    Ok(LstmOutput { sequence: Tensor::stack(&outputs, 1)?, hidden, cell })
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
