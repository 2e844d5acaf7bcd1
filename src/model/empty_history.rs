//! What the decoder starts from when samples have no history at all.
//!
//! This follows the reference to the letter, oddities included, so that imported models answer alike. Training
//! data of our own never contains an empty history.

use anyhow::Result;
use candle_core::Tensor;

use super::stacked_lstm::LayerState;

/// Replaces the final encoder states of samples without history.
///
/// The reference takes the replacement values *in order* from the initial hidden states: the k-th empty row
/// (layer by layer, sample by sample) gets the k-th row of the initial states, not its own; and the cell state
/// gets hidden values, too.
///
/// - Shapes: `states` per layer `[B, D]`, `c_hidden [B, D]` (the initial hidden state of every layer).
pub fn replace_states(
    states: Vec<LayerState>,
    lengths: &[usize],
    c_hidden: &Tensor,
) -> Result<Vec<LayerState>> {
    let n_samples = lengths.len();
    let n_empty = lengths.iter().filter(|&&length| length == 0).count();
    if n_empty == 0 {
        return Ok(states);
    }
    let flags: Vec<u8> = lengths.iter().map(|&length| u8::from(length == 0)).collect();
    let empty = Tensor::from_vec(flags, (n_samples, 1), c_hidden.device())?.broadcast_as(c_hidden.shape())?;
    let mut replaced = Vec::with_capacity(states.len());
    for (layer, state) in states.into_iter().enumerate() {
        let source = c_hidden.index_select(&sources(lengths, layer * n_empty, c_hidden)?, 0)?;
        replaced.push(LayerState {
            hidden: empty.where_cond(&source, &state.hidden)?,
            cell: empty.where_cond(&source, &state.cell)?,
        });
    }
    Ok(replaced)
}

/// For each sample the row it would take, counting empty ones from `first`; others take any.
fn sources(lengths: &[usize], first: usize, like: &Tensor) -> Result<Tensor> {
    let mut taken = (first..).map(|row| (row % lengths.len()) as u32);
    let take = |&length: &usize| if length == 0 { taken.next().unwrap_or(0) } else { 0 };
    let rows: Vec<u32> = lengths.iter().map(take).collect();
    Ok(Tensor::from_vec(rows, lengths.len(), like.device())?)
}
