//! What attention does with a block of scores: keys are the features of a tile, queries its rows.
//!
//! Scores are in powers of two (the caller multiplies by `log2(e)`), and a softmax is never divided by its sum here:
//! whoever uses the weights divides what is made of them, which is far less.

use super::lanes::{LANES, Lanes};
use super::math::exp2;
use super::tile::ROWS;

/// Takes `n` further keys into a softmax that has seen others before.
///
/// `scores` become weights relative to the largest score so far; what was summed up before, in `sum` and in the
/// `width` features of `y`, is made relative to it, too.
#[inline(always)]
pub(super) unsafe fn softmax_more<L: Lanes>(
    scores: &mut [f32],
    n: usize,
    (largest, sum): (&mut [f32], &mut [f32]),
    y: &mut [f32],
    width: usize,
) {
    assert!(scores.len() >= n * ROWS && y.len() >= width * ROWS);
    assert!(largest.len() >= ROWS && sum.len() >= ROWS);
    // SAFETY: `half * LANES + feature * ROWS` stays inside by the assertions.
    unsafe {
        for half in [0, LANES] {
            let (scores, y) = (scores.as_mut_ptr().add(half), y.as_mut_ptr().add(half));
            let (largest, sum) = (largest.as_mut_ptr().add(half), sum.as_mut_ptr().add(half));
            let before = L::load(largest);
            let now = largest_of(scores, n, before);
            now.store(largest);
            let shrink = exp2(before.sub(now));
            for feature in 0..width {
                let y = y.add(feature * ROWS);
                L::load(y).mul(shrink).store(y);
            }
            let mut total = L::load(sum).mul(shrink);
            for key in 0..n {
                let score = scores.add(key * ROWS);
                let weight = exp2(L::load(score).sub(now));
                weight.store(score);
                total = total.add(weight);
            }
            total.store(sum);
        }
    }
}

/// The largest of `n` features and `start`; in four strands, because each comparison waits for the one before.
#[inline(always)]
unsafe fn largest_of<L: Lanes>(x: *const f32, n: usize, start: L) -> L {
    const STRANDS: usize = 4;
    // SAFETY: the caller checked `n`.
    unsafe {
        let mut strands = [start; STRANDS];
        let whole = n - n % STRANDS;
        for key in (0..whole).step_by(STRANDS) {
            for (i, strand) in strands.iter_mut().enumerate() {
                *strand = strand.max(L::load(x.add((key + i) * ROWS)));
            }
        }
        for key in whole..n {
            strands[0] = strands[0].max(L::load(x.add(key * ROWS)));
        }
        strands[0].max(strands[1]).max(strands[2].max(strands[3]))
    }
}

/// The backward of a block of keys: `scores` become weights again, relative to the `largest` that the forward found,
/// and the gradients of the weights in `slopes` become those of the scores: `weight * (slope - mean)`.
#[inline(always)]
pub(super) unsafe fn softmax_again<L: Lanes>(
    scores: &mut [f32],
    slopes: &mut [f32],
    n: usize,
    largest: &[f32],
    mean: &[f32],
) {
    assert!(scores.len() >= n * ROWS && slopes.len() >= n * ROWS);
    assert!(largest.len() >= ROWS && mean.len() >= ROWS);
    // SAFETY: `at + LANES` and what follows it lie below `n * ROWS`.
    unsafe {
        let largest = [L::load(largest.as_ptr()), L::load(largest.as_ptr().add(LANES))];
        let mean = [L::load(mean.as_ptr()), L::load(mean.as_ptr().add(LANES))];
        for at in (0..n * ROWS).step_by(ROWS) {
            for half in 0..2 {
                let at = at + half * LANES;
                let (score, slope) = (scores.as_mut_ptr().add(at), slopes.as_mut_ptr().add(at));
                let weight = exp2(L::load(score).sub(largest[half]));
                weight.store(score);
                weight.mul(L::load(slope).sub(mean[half])).store(slope);
            }
        }
    }
}

/// Several tiles of the same `n` features, `stride` numbers apart.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    pub values: &'a [f32],
    pub n: usize,
    pub stride: usize,
}

impl Tiles<'_> {
    fn reach(&self, n_tiles: usize) -> usize {
        n_tiles.saturating_sub(1) * self.stride + self.n * ROWS
    }
}

/// Features of either side in one block of [`row_products`]; their products fill what [`Lanes::sums`] adds up at once.
const SIDE: usize = 4;

/// `c[i * c_stride + j] += factor * sum over the rows of all tiles of a[i] * b[j]`.
///
/// The rows are added up in the lanes first, and across them only once per block: where `b` has few features, that is
/// several times faster than [`super::product::outer`].
#[inline(always)]
pub(super) unsafe fn row_products<L: Lanes>(
    a: Tiles<'_>,
    b: Tiles<'_>,
    n_tiles: usize,
    factor: f32,
    c: &mut [f32],
    c_stride: usize,
) {
    assert!(a.values.len() >= a.reach(n_tiles) && b.values.len() >= b.reach(n_tiles));
    assert!(a.n == 0 || (c_stride >= b.n && c.len() >= (a.n - 1) * c_stride + b.n));
    // SAFETY: features below `a.n` and `b.n` stay inside by the assertions, in every tile.
    unsafe {
        for i in (0..a.n).step_by(SIDE) {
            for j in (0..b.n).step_by(SIDE) {
                let (n_i, n_j) = ((a.n - i).min(SIDE), (b.n - j).min(SIDE));
                let sums = block::<L>(a, b, n_tiles, (i, j), (n_i, n_j));
                let sums = L::sums(sums).mul(L::splat(factor));
                let to = c.as_mut_ptr().add(i * c_stride + j);
                if (n_i, n_j, c_stride) == (SIDE, SIDE, SIDE) {
                    L::load(to).add(sums).store(to);
                } else {
                    let mut single = [0f32; LANES];
                    sums.store(single.as_mut_ptr());
                    for i in 0..n_i {
                        for j in 0..n_j {
                            *to.add(i * c_stride + j) += single[i * SIDE + j];
                        }
                    }
                }
            }
        }
    }
}

/// The products of up to four by four features; entry `4 i + j` belongs to `(i, j)`.
#[inline(always)]
unsafe fn block<L: Lanes>(
    a: Tiles<'_>,
    b: Tiles<'_>,
    n_tiles: usize,
    (i, j): (usize, usize),
    (n_i, n_j): (usize, usize),
) -> [L; LANES] {
    // SAFETY: the caller checked `i + n_i` and `j + n_j`.
    unsafe {
        let mut sums = [L::splat(0.0); LANES];
        if (n_i, n_j) != (SIDE, SIDE) {
            for k in 0..n_i {
                for l in 0..n_j {
                    corner::<L, 1>(a, b, n_tiles, (i, j), (k, l), &mut sums);
                }
            }
        } else if L::BLOCK == 8 {
            corner::<L, SIDE>(a, b, n_tiles, (i, j), (0, 0), &mut sums);
        } else {
            for (k, l) in [(0, 0), (0, 2), (2, 0), (2, 2)] {
                corner::<L, 2>(a, b, n_tiles, (i, j), (k, l), &mut sums);
            }
        }
        sums
    }
}

/// `N` by `N` of a block's products, from `(k, l)` on: as many as there are registers for.
#[inline(always)]
unsafe fn corner<L: Lanes, const N: usize>(
    a: Tiles<'_>,
    b: Tiles<'_>,
    n_tiles: usize,
    (i, j): (usize, usize),
    (k, l): (usize, usize),
    sums: &mut [L; LANES],
) {
    // SAFETY: as in `block`.
    unsafe {
        let mut products = [[L::splat(0.0); N]; N];
        for tile in 0..n_tiles {
            for half in [0, LANES] {
                let a = a.values.as_ptr().add(tile * a.stride + (i + k) * ROWS + half);
                let b = b.values.as_ptr().add(tile * b.stride + (j + l) * ROWS + half);
                for (row, products) in products.iter_mut().enumerate() {
                    let a = L::load(a.add(row * ROWS));
                    for (column, product) in products.iter_mut().enumerate() {
                        *product = a.fma(L::load(b.add(column * ROWS)), *product);
                    }
                }
            }
        }
        for (row, products) in products.into_iter().enumerate() {
            for (column, product) in products.into_iter().enumerate() {
                sums[(k + row) * SIDE + l + column] = product;
            }
        }
    }
}
