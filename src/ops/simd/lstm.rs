//! One step of an LSTM cell on tiles: what lies between its two matrix products.
//!
//! A *record* of a step is five tiles of `n` features each: the gates input, forget, fresh (the cell's candidate) and
//! output, then the cell state before the step. It is all that the way back needs. To keep it is cheaper than to multiply
//! the gates again; the cell state after the step is cheaper to compute again than to fetch.
//!
//! Rows that are not live (beyond a sample's length, or no sample at all) are zero in every part of a record, in both
//! states and in all gradients, whatever the memory behind them held.

use super::lanes::{LANES, Lanes};
use super::math::{sigmoid_and_tanh, sigmoid_pair, tanh};
use super::tile::ROWS;

/// Activates the gates that a product left in `record`, notes the cell state beside them, and moves `cell` and
/// `hidden` on by the step. A row is live where `live` is positive.
#[inline(always)]
pub(super) unsafe fn lstm_forward<L: Lanes>(
    record: &mut [f32],
    n: usize,
    live: &[f32],
    cell: &mut [f32],
    hidden: &mut [f32],
) {
    assert!(record.len() >= 5 * n * ROWS && live.len() >= ROWS);
    assert!(cell.len() >= n * ROWS && hidden.len() >= n * ROWS);
    // SAFETY: `at + 4 * tile` and a register more lie below `5 * n * ROWS`, as asserted.
    unsafe {
        let (tile, zero) = (n * ROWS, L::splat(0.0));
        for at in (0..tile).step_by(LANES) {
            let live = L::load(live.as_ptr().add(at % ROWS));
            let (record, cell) = (record.as_mut_ptr().add(at), cell.as_mut_ptr().add(at));
            let (input, forget) = sigmoid_pair(L::load(record), L::load(record.add(tile)));
            let (output, fresh) =
                sigmoid_and_tanh(L::load(record.add(3 * tile)), L::load(record.add(2 * tile)));
            let mut step = [input, forget, fresh, output, L::load(cell)];
            for (part, value) in step.iter_mut().enumerate() {
                *value = live.select_positive(*value, zero);
                value.store(record.add(part * tile));
            }
            let [input, forget, fresh, output, before] = step;
            let after = forget.fma(before, input.mul(fresh));
            after.store(cell);
            output.mul(tanh(after)).store(hidden.as_mut_ptr().add(at));
        }
    }
}

/// The gradients of the gates before their activation, in `d_gates`, and that of the cell state before the step, in
/// place of the one after it.
///
/// The hidden state after the step has the gradient `d_hidden` (through the next step) plus `d_output` (through what
/// the layer put out), of which only live rows count.
#[inline(always)]
pub(super) unsafe fn lstm_backward<L: Lanes>(
    record: &[f32],
    n: usize,
    live: &[f32],
    (d_output, d_hidden): (&[f32], &[f32]),
    d_cell: &mut [f32],
    d_gates: &mut [f32],
) {
    assert!(record.len() >= 5 * n * ROWS && live.len() >= ROWS && d_gates.len() >= 4 * n * ROWS);
    assert!(d_output.len() >= n * ROWS && d_hidden.len() >= n * ROWS && d_cell.len() >= n * ROWS);
    // SAFETY: as in `lstm_forward`.
    unsafe {
        let (tile, zero, one) = (n * ROWS, L::splat(0.0), L::splat(1.0));
        for at in (0..tile).step_by(LANES) {
            let live = L::load(live.as_ptr().add(at % ROWS));
            let (record, d_gates) = (record.as_ptr().add(at), d_gates.as_mut_ptr().add(at));
            let (input, forget) = (L::load(record), L::load(record.add(tile)));
            let (fresh, output) = (L::load(record.add(2 * tile)), L::load(record.add(3 * tile)));
            let before = L::load(record.add(4 * tile));
            let squashed = tanh(forget.fma(before, input.mul(fresh)));

            let direct = live.select_positive(L::load(d_output.as_ptr().add(at)), zero);
            let d_hidden = direct.add(L::load(d_hidden.as_ptr().add(at)));
            let d_cell = d_cell.as_mut_ptr().add(at);
            let through_hidden = d_hidden.mul(output);
            let d_after = squashed.fnma(squashed, one).fma(through_hidden, L::load(d_cell));
            d_after.mul(forget).store(d_cell);

            // The slope of a sigmoid s is s (1 - s), that of a tanh t is 1 - t^2.
            let d_input = d_after.mul(fresh).mul(input.fnma(input, input));
            let d_forget = d_after.mul(before).mul(forget.fnma(forget, forget));
            let d_fresh = d_after.mul(input).mul(fresh.fnma(fresh, one));
            let d_out = through_hidden.mul(squashed).mul(one.sub(output));
            d_input.store(d_gates);
            d_forget.store(d_gates.add(tile));
            d_fresh.store(d_gates.add(2 * tile));
            d_out.store(d_gates.add(3 * tile));
        }
    }
}
