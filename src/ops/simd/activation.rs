//! The nonlinearities of the gated residual network, on tiles.

use super::lanes::{LANES, Lanes};
use super::math::{elu, sigmoid, sigmoid_pair};
use super::tile::ROWS;

/// `x` where positive, `e^x - 1` elsewhere, in place, for `n` features.
#[inline(always)]
pub(super) unsafe fn elu_tile<L: Lanes>(x: &mut [f32], n: usize) {
    assert!(x.len() >= n * ROWS);
    // SAFETY: `at` lies below `n * ROWS`.
    unsafe {
        for at in (0..n * ROWS).step_by(LANES) {
            let x = x.as_mut_ptr().add(at);
            elu(L::load(x)).store(x);
        }
    }
}

/// The gradient before an ELU from the one behind it, in place; `y` is what the ELU put out.
#[inline(always)]
pub(super) unsafe fn elu_backward<L: Lanes>(y: &[f32], dy: &mut [f32], n: usize) {
    assert!(y.len() >= n * ROWS && dy.len() >= n * ROWS);
    // SAFETY: `at` lies below `n * ROWS`.
    unsafe {
        let one = L::splat(1.0);
        for at in (0..n * ROWS).step_by(LANES) {
            let (y, dy) = (L::load(y.as_ptr().add(at)), dy.as_mut_ptr().add(at));
            // Below zero the slope is e^x, that is y + 1.
            let slope = y.select_positive(one, y.add(one));
            L::load(dy).mul(slope).store(dy);
        }
    }
}

/// `y = value * sigmoid(gate) + skip` of `linear`, whose first `n` features are the values and whose second `n` the gates;
/// the gates are replaced by their sigmoids, which the backward needs. Returns the sum over the features of each row.
///
/// Two features of the same row share a division, never two rows: what one row holds must not change another's rounding.
#[inline(always)]
pub(super) unsafe fn gate<L: Lanes>(linear: &mut [f32], n: usize, skip: &[f32], y: &mut [f32]) -> [L; 2] {
    assert!(linear.len() >= 2 * n * ROWS && skip.len() >= n * ROWS && y.len() >= n * ROWS);
    let (values, gates) = linear.split_at_mut(n * ROWS);
    // SAFETY: `feature` and the one behind it lie below `n`.
    unsafe {
        let mut sums = [L::splat(0.0); 2];
        for feature in (0..n).step_by(2) {
            for (half, sum) in sums.iter_mut().enumerate() {
                let at = feature * ROWS + half * LANES;
                let (value, gate) = (values.as_ptr().add(at), gates.as_mut_ptr().add(at));
                let (skip, y) = (skip.as_ptr().add(at), y.as_mut_ptr().add(at));
                if feature + 1 == n {
                    let opened = sigmoid(L::load(gate));
                    opened.store(gate);
                    let passed = L::load(value).fma(opened, L::load(skip));
                    passed.store(y);
                    *sum = sum.add(passed);
                } else {
                    let (a, b) = sigmoid_pair(L::load(gate), L::load(gate.add(ROWS)));
                    a.store(gate);
                    b.store(gate.add(ROWS));
                    let a = L::load(value).fma(a, L::load(skip));
                    let b = L::load(value.add(ROWS)).fma(b, L::load(skip.add(ROWS)));
                    a.store(y);
                    b.store(y.add(ROWS));
                    *sum = sum.add(a).add(b);
                }
            }
        }
        sums
    }
}

/// The gradient of the values and gates of a [`gate`], in their place; `linear` is as the forward left it.
#[inline(always)]
pub(super) unsafe fn glu_backward<L: Lanes>(dy: &[f32], linear: &mut [f32], n: usize) {
    assert!(linear.len() >= 2 * n * ROWS && dy.len() >= n * ROWS);
    let (values, gates) = linear.split_at_mut(n * ROWS);
    // SAFETY: `at` lies below `n * ROWS`.
    unsafe {
        let one = L::splat(1.0);
        for at in (0..n * ROWS).step_by(LANES) {
            let (value, gate) = (values.as_mut_ptr().add(at), gates.as_mut_ptr().add(at));
            let (v, s, d) = (L::load(value), L::load(gate), L::load(dy.as_ptr().add(at)));
            let through = d.mul(s);
            through.store(value);
            through.mul(v).mul(one.sub(s)).store(gate);
        }
    }
}
