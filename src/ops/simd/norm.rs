//! What runs over the features of each row of a tile: layer norm, softmax, weighted sums.

use super::activation::gate;
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
        let mut sums = [L::splat(0.0); 2];
        for i in 0..n {
            for (h, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(L::load(x.as_ptr().add(i * ROWS + h * LANES)));
            }
        }
        normalise(x, n, sums, (weight, bias), inverse, y);
    }
}

/// `LN(GLU(linear) + skip)` in one go: the gates of `linear` are replaced by their sigmoids, the normalised sum stays in
/// `normal`, the rest is as in [`layer_norm`].
#[inline(always)]
pub(super) unsafe fn gated_norm<L: Lanes>(
    linear: &mut [f32],
    n: usize,
    skip: &[f32],
    (weight, bias): (&[f32], &[f32]),
    inverse: &mut [f32],
    (normal, y): (&mut [f32], &mut [f32]),
) {
    assert!(n > 0 && normal.len() >= n * ROWS && y.len() >= n * ROWS && inverse.len() >= ROWS);
    assert!(weight.len() >= n && bias.len() >= n);
    // SAFETY: `gate` checks its slices; the others are long enough by the assertions.
    unsafe {
        let sums = gate::<L>(linear, n, skip, normal);
        normalise(normal, n, sums, (weight, bias), inverse, y);
    }
}

/// What is left of a [`layer_norm`] once the sums over the features are known.
#[inline(always)]
unsafe fn normalise<L: Lanes>(
    x: &mut [f32],
    n: usize,
    sums: [L; 2],
    (weight, bias): (&[f32], &[f32]),
    inverse: &mut [f32],
    y: &mut [f32],
) {
    // SAFETY: the caller has checked that all slices hold `n` features.
    unsafe {
        let (x, y) = (x.as_mut_ptr(), y.as_mut_ptr());
        let per_feature = L::splat(1.0 / n as f32);
        let means = [sums[0].mul(per_feature), sums[1].mul(per_feature)];
        // Even and odd features apart: a sum waits for the one before it.
        let mut squares = [[L::splat(0.0); 2]; 2];
        let mut from = x.cast_const();
        for i in (0..n).step_by(2) {
            for (odd, squares) in squares.iter_mut().enumerate().take(n - i) {
                for (h, squares) in squares.iter_mut().enumerate() {
                    let centred = L::load(from.add(odd * ROWS + h * LANES)).sub(means[h]);
                    *squares = centred.fma(centred, *squares);
                }
            }
            from = from.wrapping_add(2 * ROWS);
        }
        let [even, odd] = squares;
        let mut inverted = [even[0].add(odd[0]), even[1].add(odd[1])];
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

/// A line through feature space, `slope x + offset`, and what its layer norm needs to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Both without their mean.
    pub slope: &'a [f32],
    pub offset: &'a [f32],
    /// `p`, `q`, `r`: at `x` the variance over the features is `(p x + q)^2 + r`.
    pub variance: [f32; 3],
}

/// [`layer_norm`] of `n` features that lie on a line, at one `x` per row: no sums over features are left to do.
#[inline(always)]
pub(super) unsafe fn line_norm<L: Lanes>(
    line: Line<'_>,
    x: &[f32],
    n: usize,
    (weight, bias): (&[f32], &[f32]),
    inverse: &mut [f32],
    (normal, y): (&mut [f32], &mut [f32]),
) {
    assert!(line.slope.len() >= n && line.offset.len() >= n && weight.len() >= n && bias.len() >= n);
    assert!(x.len() >= ROWS && inverse.len() >= ROWS && normal.len() >= n * ROWS && y.len() >= n * ROWS);
    // SAFETY: `feature * ROWS + half` stays inside by the assertions.
    unsafe {
        let [p, q, r] = line.variance.map(|number| L::splat(number));
        let (mut along, mut inverted) = ([p; 2], [p; 2]);
        for half in 0..2 {
            let x = L::load(x.as_ptr().add(half * LANES));
            let root = x.fma(p, q);
            let variance = root.fma(root, r.add(L::splat(EPSILON)));
            inverted[half] = L::splat(1.0).div(variance.sqrt());
            inverted[half].store(inverse.as_mut_ptr().add(half * LANES));
            along[half] = x.mul(inverted[half]);
        }
        for i in 0..n {
            let [slope, offset, weight, bias] =
                [line.slope, line.offset, weight, bias].map(|values| L::splat(*values.as_ptr().add(i)));
            for half in 0..2 {
                let at = i * ROWS + half * LANES;
                let value = along[half].fma(slope, inverted[half].mul(offset));
                value.store(normal.as_mut_ptr().add(at));
                value.fma(weight, bias).store(y.as_mut_ptr().add(at));
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
