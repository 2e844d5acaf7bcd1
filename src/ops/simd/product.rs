//! Matrix products of tiles: the three that a linear layer needs.

#[cfg(not(test))]
use std::borrow::Cow;

#[cfg(test)]
use super::coarse::operand;
use super::lanes::{LANES, Lanes};
use super::tile::ROWS;

/// What a product starts from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a> {
    Zero,
    /// One number per output feature.
    Bias(&'a [f32]),
    /// What the output holds already.
    Output,
}

/// A matrix in memory, read along either axis.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    out_stride: usize,
    in_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `[out, in]`, as linear layers keep their weights.
    pub fn rows(values: &'a [f32], n_in: usize) -> Self {
        Matrix { values, out_stride: n_in, in_stride: 1 }
    }

    /// The transpose of `[in, out]`: what takes gradients back through a layer of weights `[in, out]`.
    pub fn columns(values: &'a [f32], n_out: usize) -> Self {
        Matrix { values, out_stride: 1, in_stride: n_out }
    }
}

/// What is multiplied: the values themselves. Tests can have them rounded.
#[cfg(not(test))]
#[inline(always)]
fn operand(values: &[f32], _sizes: (usize, usize)) -> Cow<'_, [f32]> {
    Cow::Borrowed(values)
}

/// `y = W x` plus the start, tile by tile: `x` has `n_in` features, `y` gets `n_out`.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes>(
    weights: Matrix<'_>,
    (n_out, n_in): (usize, usize),
    x: &[f32],
    init: Init<'_>,
    y: &mut [f32],
) {
    assert!(x.len() >= n_in * ROWS && y.len() >= n_out * ROWS);
    if n_out > 0 && n_in > 0 {
        let last = (n_out - 1) * weights.out_stride + (n_in - 1) * weights.in_stride;
        assert!(last < weights.values.len());
    }
    if let Init::Bias(bias) = init {
        assert!(bias.len() >= n_out);
    }
    let (values, x) = (operand(weights.values, (n_out, n_in)), operand(x, (n_out, n_in)));
    let (weights, x) = (Matrix { values: &values, ..weights }, &*x);
    // SAFETY: all indices lie below `n_out` and `n_in`, which the assertions hold within the slices.
    unsafe {
        let mut out = 0;
        while out + L::BLOCK <= n_out {
            match L::BLOCK {
                8 => block::<L, 8>(weights, out, n_in, x, init, y),
                _ => block::<L, 2>(weights, out, n_in, x, init, y),
            }
            out += L::BLOCK;
        }
        while out + 4 <= n_out {
            block::<L, 4>(weights, out, n_in, x, init, y);
            out += 4;
        }
        while out < n_out {
            block::<L, 1>(weights, out, n_in, x, init, y);
            out += 1;
        }
    }
}

#[inline(always)]
unsafe fn block<L: Lanes, const N: usize>(
    weights: Matrix<'_>,
    out: usize,
    n_in: usize,
    x: &[f32],
    init: Init<'_>,
    y: &mut [f32],
) {
    // SAFETY: the caller checked `out + N` and `n_in`.
    unsafe {
        let y = y.as_mut_ptr().add(out * ROWS);
        let mut sums = [[L::splat(0.0); 2]; N];
        for (i, sum) in sums.iter_mut().enumerate() {
            match init {
                Init::Zero => {}
                Init::Bias(bias) => *sum = [L::splat(*bias.as_ptr().add(out + i)); 2],
                Init::Output => *sum = [L::load(y.add(i * ROWS)), L::load(y.add(i * ROWS + LANES))],
            }
        }
        let mut w = weights.values.as_ptr().add(out * weights.out_stride);
        let mut x = x.as_ptr();
        for _ in 0..n_in {
            let rows = [L::load(x), L::load(x.add(LANES))];
            for (i, sum) in sums.iter_mut().enumerate() {
                let weight = L::splat(*w.add(i * weights.out_stride));
                sum[0] = weight.fma(rows[0], sum[0]);
                sum[1] = weight.fma(rows[1], sum[1]);
            }
            w = w.wrapping_add(weights.in_stride);
            x = x.add(ROWS);
        }
        for (i, sum) in sums.into_iter().enumerate() {
            sum[0].store(y.add(i * ROWS));
            sum[1].store(y.add(i * ROWS + LANES));
        }
    }
}

/// `dW[out][in] += sum over rows of dy[out][row] * x[row][in]`, the gradient of a layer's weights.
///
/// `x` is in rows, `x_stride` apart, [`ROWS`] of them; `dy` is a tile. Rows that are not real must be zero in one of
/// the two and finite in the other.
#[inline(always)]
pub(super) unsafe fn outer<L: Lanes>(
    dy: &[f32],
    x: &[f32],
    x_stride: usize,
    (n_out, n_in): (usize, usize),
    dw: &mut [f32],
) {
    assert!(dy.len() >= n_out * ROWS && dw.len() >= n_out * n_in);
    assert!(x_stride >= n_in && x.len() >= (ROWS - 1) * x_stride + n_in);
    let (dy, x) = (operand(dy, (n_out, n_in)), operand(x, (n_out, n_in)));
    let (dy, x) = (&*dy, &*x);
    // SAFETY: `out < n_out`, `from + n <= n_in` and rows below `ROWS` stay inside by the assertions.
    unsafe {
        let mut out = 0;
        while out < n_out {
            let mut from = 0;
            let n = match n_out - out {
                left if left >= L::BLOCK => L::BLOCK,
                left if left >= 4 => 4,
                _ => 1,
            };
            while from < n_in {
                let left = n_in - from;
                match (n, left > LANES) {
                    (8, true) => outer_block::<L, 8, 2>(dy, x, x_stride, out, from, n_in, dw),
                    (8, false) => outer_block::<L, 8, 1>(dy, x, x_stride, out, from, n_in, dw),
                    (2, true) => outer_block::<L, 2, 2>(dy, x, x_stride, out, from, n_in, dw),
                    (2, false) => outer_block::<L, 2, 1>(dy, x, x_stride, out, from, n_in, dw),
                    (4, true) => outer_block::<L, 4, 2>(dy, x, x_stride, out, from, n_in, dw),
                    (4, false) => outer_block::<L, 4, 1>(dy, x, x_stride, out, from, n_in, dw),
                    _ => outer_block::<L, 1, 1>(dy, x, x_stride, out, from, n_in, dw),
                }
                from += if n > 1 && left > LANES { 2 * LANES } else { LANES };
            }
            out += n;
        }
    }
}

#[inline(always)]
unsafe fn outer_block<L: Lanes, const N: usize, const V: usize>(
    dy: &[f32],
    x: &[f32],
    x_stride: usize,
    out: usize,
    from: usize,
    n_in: usize,
    dw: &mut [f32],
) {
    // SAFETY: the caller checked `out + N` and `from`; partial registers touch only what lies before `n_in`.
    unsafe {
        let mut first = [LANES; V];
        for (v, first) in first.iter_mut().enumerate() {
            *first = (n_in - from).saturating_sub(v * LANES).min(LANES);
        }
        let mut sums = [[L::splat(0.0); V]; N];
        let dy = dy.as_ptr().add(out * ROWS);
        let x = x.as_ptr().add(from);
        if first[V - 1] == LANES {
            for row in 0..ROWS {
                let mut inputs = [L::splat(0.0); V];
                for (v, input) in inputs.iter_mut().enumerate() {
                    *input = L::load(x.add(row * x_stride + v * LANES));
                }
                accumulate(&mut sums, &inputs, dy.add(row));
            }
        } else {
            for row in 0..ROWS {
                let mut inputs = [L::splat(0.0); V];
                for (v, input) in inputs.iter_mut().enumerate() {
                    *input = L::load_first(x.add(row * x_stride + v * LANES), first[v]);
                }
                accumulate(&mut sums, &inputs, dy.add(row));
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let to = dw.as_mut_ptr().add((out + i) * n_in + from + v * LANES);
                L::load_first(to, first[v]).add(sum).store_first(to, first[v]);
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate<L: Lanes, const N: usize, const V: usize>(
    sums: &mut [[L; V]; N],
    inputs: &[L; V],
    dy: *const f32,
) {
    // SAFETY: `dy` points to one row of a tile with at least `N` features.
    unsafe {
        for (i, sums) in sums.iter_mut().enumerate() {
            let slope = L::splat(*dy.add(i * ROWS));
            for (sum, &input) in sums.iter_mut().zip(inputs) {
                *sum = slope.fma(input, *sum);
            }
        }
    }
}

/// `sums[i] += sum over the rows of feature i`, for gradients of biases.
#[inline(always)]
pub(super) unsafe fn add_row_sums<L: Lanes>(tile: &[f32], n: usize, sums: &mut [f32]) {
    assert!(tile.len() >= n * ROWS && sums.len() >= n);
    // SAFETY: features below `n` stay inside by the assertion.
    unsafe {
        for from in (0..n).step_by(LANES) {
            let some = (n - from).min(LANES);
            let mut rows = [L::splat(0.0); LANES];
            for (i, row) in rows.iter_mut().enumerate().take(some) {
                let at = tile.as_ptr().add((from + i) * ROWS);
                *row = L::load(at).add(L::load(at.add(LANES)));
            }
            let to = sums.as_mut_ptr().add(from);
            L::load_first(to, some).add(L::sums(rows)).store_first(to, some);
        }
    }
}

/// `sums[i] += sum over rows of a[i][row] * b[i][row]`, for gradients of a norm's weights.
#[inline(always)]
pub(super) unsafe fn add_row_dots<L: Lanes>(a: &[f32], b: &[f32], n: usize, sums: &mut [f32]) {
    assert!(a.len() >= n * ROWS && b.len() >= n * ROWS && sums.len() >= n);
    // SAFETY: as in `add_row_sums`.
    unsafe {
        for from in (0..n).step_by(LANES) {
            let some = (n - from).min(LANES);
            let mut rows = [L::splat(0.0); LANES];
            for (i, row) in rows.iter_mut().enumerate().take(some) {
                let (a, b) = (a.as_ptr().add((from + i) * ROWS), b.as_ptr().add((from + i) * ROWS));
                *row = L::load(a).mul(L::load(b)).add(L::load(a.add(LANES)).mul(L::load(b.add(LANES))));
            }
            let to = sums.as_mut_ptr().add(from);
            L::load_first(to, some).add(L::sums(rows)).store_first(to, some);
        }
    }
}

/// `sums[i] += sum over rows of tile[i][row] * x[row]`: [`outer`] where there is a single input.
#[inline(always)]
pub(super) unsafe fn add_row_moments<L: Lanes>(tile: &[f32], x: &[f32], n: usize, sums: &mut [f32]) {
    assert!(tile.len() >= n * ROWS && x.len() >= ROWS && sums.len() >= n);
    // SAFETY: as in `add_row_sums`.
    unsafe {
        let x = [L::load(x.as_ptr()), L::load(x.as_ptr().add(LANES))];
        for from in (0..n).step_by(LANES) {
            let some = (n - from).min(LANES);
            let mut rows = [L::splat(0.0); LANES];
            for (i, row) in rows.iter_mut().enumerate().take(some) {
                let at = tile.as_ptr().add((from + i) * ROWS);
                *row = L::load(at).mul(x[0]).add(L::load(at.add(LANES)).mul(x[1]));
            }
            let to = sums.as_mut_ptr().add(from);
            L::load_first(to, some).add(L::sums(rows)).store_first(to, some);
        }
    }
}
