//! A tile: up to 32 rows of a tensor, turned so that a feature's values lie together.
//!
//! `tile[feature * ROWS + row]`. In this form a linear layer multiplies whole registers of rows by one weight, and
//! everything that runs over the features of a row (norms, softmax) needs no sum across a register. Rows beyond the
//! last real one are zero where they are read and of no meaning where they are written.

use super::lanes::{LANES, Lanes};

/// Rows of a tile: two registers of sixteen.
pub const ROWS: usize = 2 * LANES;

/// Turns `n_rows` rows of `width` numbers, `stride` apart in memory, into a tile; the other rows become zero.
#[inline(always)]
pub(super) unsafe fn load_rows<L: Lanes>(
    rows: &[f32],
    stride: usize,
    n_rows: usize,
    width: usize,
    tile: &mut [f32],
) {
    assert!(n_rows <= ROWS && (n_rows == 0 || (n_rows - 1) * stride + width <= rows.len()));
    assert!(tile.len() >= width * ROWS);
    // SAFETY: `row + .. < n_rows` and `from + n <= width`, which the assertions keep inside both slices.
    unsafe {
        for half in 0..2 {
            for from in (0..width).step_by(LANES) {
                let n = (width - from).min(LANES);
                let mut block = [L::splat(0.0); LANES];
                let n_here = n_rows.saturating_sub(half * LANES).min(LANES);
                for (i, row) in block.iter_mut().enumerate().take(n_here) {
                    *row = L::load_first(rows.as_ptr().add((half * LANES + i) * stride + from), n);
                }
                let turned = L::transpose(block);
                for (i, feature) in turned.into_iter().enumerate().take(n) {
                    feature.store(tile.as_mut_ptr().add((from + i) * ROWS + half * LANES));
                }
            }
        }
    }
}

/// Asks for numbers that will be read a few microseconds from now.
#[inline(always)]
pub(super) unsafe fn prefetch<L: Lanes>(soon: &[f32]) {
    // SAFETY: the addresses are those of the slice.
    unsafe {
        for at in (0..soon.len()).step_by(LANES) {
            L::prefetch(soon.as_ptr().add(at));
        }
    }
}

/// Turns a tile of `width` features back into rows `stride` apart; what lies between the rows stays.
#[inline(always)]
pub(super) unsafe fn store_rows<L: Lanes>(
    tile: &[f32],
    width: usize,
    rows: &mut [f32],
    stride: usize,
    n_rows: usize,
) {
    assert!(n_rows <= ROWS && (n_rows == 0 || (n_rows - 1) * stride + width <= rows.len()));
    assert!(tile.len() >= width * ROWS);
    // SAFETY: as in `load_rows`.
    unsafe {
        for half in 0..2 {
            for from in (0..width).step_by(LANES) {
                let n = (width - from).min(LANES);
                let mut block = [L::splat(0.0); LANES];
                for (i, feature) in block.iter_mut().enumerate().take(n) {
                    *feature = L::load(tile.as_ptr().add((from + i) * ROWS + half * LANES));
                }
                let turned = L::transpose(block);
                let n_here = n_rows.saturating_sub(half * LANES).min(LANES);
                for (i, row) in turned.into_iter().enumerate().take(n_here) {
                    row.store_first(rows.as_mut_ptr().add((half * LANES + i) * stride + from), n);
                }
            }
        }
    }
}

/// Copies the live ones (where `live` is positive) of [`ROWS`] rows of `width` numbers from rows `stride` apart to rows
/// `to_stride` apart. Rows that are not live need not exist.
#[inline(always)]
pub(super) unsafe fn copy_rows<L: Lanes>(
    rows: &[f32],
    stride: usize,
    width: usize,
    live: &[f32],
    to: &mut [f32],
    to_stride: usize,
) {
    for (row, &live) in live[..ROWS].iter().enumerate() {
        if live > 0.0 {
            assert!(row * stride + width <= rows.len() && row * to_stride + width <= to.len());
            for from in (0..width).step_by(LANES) {
                let n = (width - from).min(LANES);
                // SAFETY: `from + n <= width`, which the assertion keeps inside both slices.
                unsafe {
                    let values = L::load_first(rows.as_ptr().add(row * stride + from), n);
                    values.store_first(to.as_mut_ptr().add(row * to_stride + from), n);
                }
            }
        }
    }
}

/// Asks the memory for rows that will be needed soon. Rows far apart are a pattern that processors do not see
/// themselves; where there is no such instruction nothing happens.
#[inline(always)]
pub(super) unsafe fn prefetch_rows<L: Lanes>(rows: &[f32], stride: usize, n_rows: usize, width: usize) {
    assert!(n_rows <= ROWS && (n_rows == 0 || (n_rows - 1) * stride + width <= rows.len()));
    #[cfg(target_arch = "x86_64")]
    for row in 0..n_rows {
        for from in (0..width).step_by(LANES) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a prefetch reads nothing, and the address lies inside the slice.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(rows.as_ptr().add(row * stride + from).cast()) };
        }
    }
}
