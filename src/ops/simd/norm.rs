//! What runs over the features of each row of a tile: layer norm, softmax, weighted sums.

use super::lanes::{LANES, Lanes};
use super::math::exp;
use super::tile::ROWS;

/// The epsilon of PyTorch's LayerNorm.
const EPSILON: f32 = 1e-5;

/// Layer normalisation of each row: leaves the normalised values in `x`, one over their deviation in `inverse`, and the
/// weighted result in `y`.
///
/// Both halves of a tile go side by side, here and below: a sum over features waits for itself, two do not.
#[inline(always)]
pub(super) unsafe fn layer_norm<L: Lanes>(
    x: &mut [f32],
    n: usize,
    (weight, bias): (&[f32], &[f32]),
    inverse: &mut [f32],
    y: &mut [f32],
) {
    assert!(n > 0 && x.len() >= n * ROWS && y.len() >= n * ROWS && inverse.len() >= ROWS);
    assert!(weight.len() >= n && bias.len() >= n);
    // SAFETY: `feature * ROWS + half` stays inside by the assertions.
    unsafe {
        let (x, y) = (x.as_mut_ptr(), y.as_mut_ptr());
        let per_feature = L::splat(1.0 / n as f32);
        let mut sums = [L::splat(0.0); 2];
        for i in 0..n {
            for (h, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(L::load(x.add(i * ROWS + h * LANES)));
            }
        }
        let means = [sums[0].mul(per_feature), sums[1].mul(per_feature)];
        let mut squares = [L::splat(0.0); 2];
        for i in 0..n {
            for (h, squares) in squares.iter_mut().enumerate() {
                let centred = L::load(x.add(i * ROWS + h * LANES)).sub(means[h]);
                *squares = centred.fma(centred, *squares);
            }
        }
        let mut inverted = squares;
        for (h, inverted) in inverted.iter_mut().enumerate() {
            let variance = inverted.fma(per_feature, L::splat(EPSILON));
            *inverted = L::splat(1.0).div(variance.sqrt());
            inverted.store(inverse.as_mut_ptr().add(h * LANES));
        }
        for i in 0..n {
            let (weight, bias) = (L::splat(*weight.as_ptr().add(i)), L::splat(*bias.as_ptr().add(i)));
            for h in 0..2 {
                let at = i * ROWS + h * LANES;
                let normal = L::load(x.add(at)).sub(means[h]).mul(inverted[h]);
                normal.store(x.add(at));
                normal.fma(weight, bias).store(y.add(at));
            }
        }
    }
}

/// The gradient before a [`layer_norm`] in `dx`, which may not be `dy`; `normal` and `inverse` are as the forward left
/// them.
#[inline(always)]
pub(super) unsafe fn layer_norm_backward<L: Lanes>(
    dy: &[f32],
    normal: &[f32],
    n: usize,
    weight: &[f32],
    inverse: &[f32],
    dx: &mut [f32],
) {
    assert!(dy.len() >= n * ROWS && normal.len() >= n * ROWS && dx.len() >= n * ROWS);
    assert!(weight.len() >= n && inverse.len() >= ROWS);
    // SAFETY: as in `layer_norm`.
    unsafe {
        let (dy, normal, dx) = (dy.as_ptr(), normal.as_ptr(), dx.as_mut_ptr());
        let per_feature = L::splat(1.0 / n as f32);
        let (mut sums, mut dots) = ([L::splat(0.0); 2], [L::splat(0.0); 2]);
        for i in 0..n {
            let weight = L::splat(*weight.as_ptr().add(i));
            for h in 0..2 {
                let at = i * ROWS + h * LANES;
                let slope = L::load(dy.add(at)).mul(weight);
                sums[h] = sums[h].add(slope);
                dots[h] = slope.fma(L::load(normal.add(at)), dots[h]);
            }
        }
        for i in 0..n {
            let weight = L::splat(*weight.as_ptr().add(i));
            for h in 0..2 {
                let at = i * ROWS + h * LANES;
                let (mean, moment) = (sums[h].mul(per_feature), dots[h].mul(per_feature));
                let slope = L::load(dy.add(at)).mul(weight);
                let rest = L::load(normal.add(at)).fnma(moment, slope.sub(mean));
                rest.mul(L::load(inverse.as_ptr().add(h * LANES))).store(dx.add(at));
            }
        }
    }
}

/// Softmax over the features of each row, in place.
#[inline(always)]
pub(super) unsafe fn softmax<L: Lanes>(x: &mut [f32], n: usize) {
    assert!(n > 0 && x.len() >= n * ROWS);
    // SAFETY: as in `layer_norm`.
    unsafe {
        for half in [0, LANES] {
            let x = x.as_mut_ptr().add(half);
            let mut largest = L::load(x);
            for i in 1..n {
                largest = largest.max(L::load(x.add(i * ROWS)));
            }
            let mut sum = L::splat(0.0);
            for i in 0..n {
                let power = exp(L::load(x.add(i * ROWS)).sub(largest));
                power.store(x.add(i * ROWS));
                sum = sum.add(power);
            }
            let share = L::splat(1.0).div(sum);
            for i in 0..n {
                L::load(x.add(i * ROWS)).mul(share).store(x.add(i * ROWS));
            }
        }
    }
}

/// The gradient before a [`softmax`] from the one behind it, in place; `y` is what the softmax put out.
#[inline(always)]
pub(super) unsafe fn softmax_backward<L: Lanes>(y: &[f32], dy: &mut [f32], n: usize) {
    assert!(y.len() >= n * ROWS && dy.len() >= n * ROWS);
    // SAFETY: as in `layer_norm`.
    unsafe {
        for half in [0, LANES] {
            let (y, dy) = (y.as_ptr().add(half), dy.as_mut_ptr().add(half));
            let mut mean = L::splat(0.0);
            for i in 0..n {
                mean = L::load(y.add(i * ROWS)).fma(L::load(dy.add(i * ROWS)), mean);
            }
            for i in 0..n {
                let rest = L::load(dy.add(i * ROWS)).sub(mean);
                L::load(y.add(i * ROWS)).mul(rest).store(dy.add(i * ROWS));
            }
        }
    }
}

/// `y += x * scale`, with one scale per row.
#[inline(always)]
pub(super) unsafe fn add_scaled<L: Lanes>(x: &[f32], n: usize, scale: &[f32], y: &mut [f32]) {
    assert!(x.len() >= n * ROWS && y.len() >= n * ROWS && scale.len() >= ROWS);
    // SAFETY: as in `layer_norm`.
    unsafe {
        for half in [0, LANES] {
            let scale = L::load(scale.as_ptr().add(half));
            for i in 0..n {
                let at = i * ROWS + half;
                let y = y.as_mut_ptr().add(at);
                scale.fma(L::load(x.as_ptr().add(at)), L::load(y)).store(y);
            }
        }
    }
}

/// `y = x * scale`, with one scale per row.
#[inline(always)]
pub(super) unsafe fn scale<L: Lanes>(x: &[f32], n: usize, scale: &[f32], y: &mut [f32]) {
    assert!(x.len() >= n * ROWS && y.len() >= n * ROWS && scale.len() >= ROWS);
    // SAFETY: as in `layer_norm`.
    unsafe {
        for half in [0, LANES] {
            let scale = L::load(scale.as_ptr().add(half));
            for i in 0..n {
                let at = i * ROWS + half;
                L::load(x.as_ptr().add(at)).mul(scale).store(y.as_mut_ptr().add(at));
            }
        }
    }
}

/// `dots[row] = sum over the features of a * b`.
#[inline(always)]
pub(super) unsafe fn dots<L: Lanes>(a: &[f32], b: &[f32], n: usize, dots: &mut [f32]) {
    assert!(a.len() >= n * ROWS && b.len() >= n * ROWS && dots.len() >= ROWS);
    // SAFETY: as in `layer_norm`.
    unsafe {
        let mut sums = [L::splat(0.0); 2];
        for i in 0..n {
            for (h, sum) in sums.iter_mut().enumerate() {
                let at = i * ROWS + h * LANES;
                *sum = L::load(a.as_ptr().add(at)).fma(L::load(b.as_ptr().add(at)), *sum);
            }
        }
        sums[0].store(dots.as_mut_ptr());
        sums[1].store(dots.as_mut_ptr().add(LANES));
    }
}

/// `y += x`, over any numbers.
#[inline(always)]
pub(super) unsafe fn add<L: Lanes>(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: partial registers touch only what is left of the slices.
    unsafe {
        for at in (0..x.len()).step_by(LANES) {
            let n = (x.len() - at).min(LANES);
            let y = y.as_mut_ptr().add(at);
            L::load_first(y, n).add(L::load_first(x.as_ptr().add(at), n)).store_first(y, n);
        }
    }
}

/// `y *= x`, over any numbers.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes>(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: partial registers touch only what is left of the slices.
    unsafe {
        for at in (0..x.len()).step_by(LANES) {
            let n = (x.len() - at).min(LANES);
            let y = y.as_mut_ptr().add(at);
            L::load_first(y, n).mul(L::load_first(x.as_ptr().add(at), n)).store_first(y, n);
        }
    }
}
