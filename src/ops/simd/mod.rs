//! Tiles of rows and what the fused operations do with them, in the instructions of the processor at hand.
//!
//! [`lanes`] is the arithmetic of sixteen numbers, written once per instruction set (`avx512`, `avx2`, `neon`,
//! [`portable`]); [`math`], [`tile`], [`product`], [`activation`], [`norm`], [`attention`] and [`lstm`] are written once
//! over it. [`Simd`] chooses the set at run time and is the only way in: its methods are safe, they check their slices.
//! One tile function is a few thousand instructions, so the choice costs nothing.
//!
//! Known here: numbers, rows and features. What a network does with them is known one floor up.

mod activation;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
pub(crate) mod coarse;
mod lanes;
mod lstm;
mod mask;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod portable;
mod product;
#[cfg(test)]
mod tests;
mod tile;

use std::sync::OnceLock;

pub use attention::Tiles;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
pub use mask::{MaskTile, PER_HASH};
#[cfg(target_arch = "aarch64")]
use neon::Neon;
pub use norm::Line;
use portable::Portable;
pub use product::{Init, Matrix};
pub use tile::ROWS;

/// An instruction set this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Simd {
    /// The best set of this processor.
    pub fn best() -> Self {
        static BEST: OnceLock<Simd> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// All sets of this processor, the best first.
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw");
            if has_avx2 && has_avx512 {
                levels.push(Simd(Level::Avx512));
            }
            if has_avx2 {
                levels.push(Simd(Level::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Simd(Level::Neon));
        levels.push(Simd(Level::Portable));
        levels
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "NEON",
            Level::Portable => "portable",
        }
    }
}

/// Methods of [`Simd`] that call a generic function in the form compiled for the instruction set.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $module:ident :: $generic:ident, ($($arg:ident: $type:ty),* $(,)?);)*) => {
        impl Simd {
            $(
                $(#[$doc])*
                pub fn $name(self, $($arg: $type),*) {
                    match self.0 {
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx512 => {
                            #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                            fn run($($arg: $type),*) {
                                // SAFETY: compiled for the set that `Avx512` uses.
                                unsafe { $module::$generic::<Avx512>($($arg),*) }
                            }
                            // SAFETY: `Simd` of this level exists only where the processor has the set.
                            unsafe { run($($arg),*) }
                        }
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx2 => {
                            #[target_feature(enable = "avx2,fma")]
                            fn run($($arg: $type),*) {
                                // SAFETY: compiled for the set that `Avx2` uses.
                                unsafe { $module::$generic::<Avx2>($($arg),*) }
                            }
                            // SAFETY: `Simd` of this level exists only where the processor has the set.
                            unsafe { run($($arg),*) }
                        }
                        #[cfg(target_arch = "aarch64")]
                        // SAFETY: NEON is part of the architecture.
                        Level::Neon => unsafe { $module::$generic::<Neon>($($arg),*) },
                        // SAFETY: every processor runs the portable form.
                        Level::Portable => unsafe { $module::$generic::<Portable>($($arg),*) },
                    }
                }
            )*
        }
    };
}

methods! {
    /// Turns `n_rows` (up to [`ROWS`]) rows of `width` numbers, `stride` apart, into a tile; other rows become zero.
    load_rows = tile::load_rows, (rows: &[f32], stride: usize, n_rows: usize, width: usize, tile: &mut [f32]);
    /// Asks for numbers that will be read a few microseconds from now.
    prefetch = tile::prefetch, (soon: &[f32]);
    /// Turns a tile of `width` features back into `n_rows` rows, `stride` apart.
    store_rows = tile::store_rows, (tile: &[f32], width: usize, rows: &mut [f32], stride: usize, n_rows: usize);
    /// `y = W x` plus the start, for `(n_out, n_in)` features.
    product = product::product,
        (weights: Matrix<'_>, sizes: (usize, usize), x: &[f32], init: Init<'_>, y: &mut [f32]);
    /// `dW[out][in] += sum over rows of dy[out][row] * x[row][in]`; `dy` is a tile, `x` are [`ROWS`] rows, `x_stride`
    /// apart. Rows that are not real must be zero in one and finite in the other.
    outer = product::outer, (dy: &[f32], x: &[f32], x_stride: usize, sizes: (usize, usize), dw: &mut [f32]);
    /// `sums[i] += sum over the rows of feature i`.
    add_row_sums = product::add_row_sums, (tile: &[f32], n: usize, sums: &mut [f32]);
    /// `sums[i] += sum over the rows of a[i] * b[i]`.
    add_row_dots = product::add_row_dots, (a: &[f32], b: &[f32], n: usize, sums: &mut [f32]);
    /// `sums[i] += sum over the rows of tile[i] * x`, with one `x` per row.
    add_row_moments = product::add_row_moments, (tile: &[f32], x: &[f32], n: usize, sums: &mut [f32]);
    /// `x` where positive, `e^x - 1` elsewhere, in place.
    elu = activation::elu_tile, (x: &mut [f32], n: usize);
    /// The gradient before an ELU from the one behind it, in place; `y` is what the ELU put out.
    elu_backward = activation::elu_backward, (y: &[f32], dy: &mut [f32], n: usize);
    /// `y = LN(value * sigmoid(gate) + skip)` of `n` values and `n` gates in `linear`; the gates are replaced by their
    /// sigmoids, `(normal, y)` and `inverse` are as [`Simd::layer_norm`] leaves them.
    gated_norm = norm::gated_norm,
        (linear: &mut [f32], n: usize, skip: &[f32], weights: (&[f32], &[f32]), inverse: &mut [f32],
         outputs: (&mut [f32], &mut [f32]));
    /// The gradient of the values and gates of a GLU in their place; `linear` is as the forward left it.
    glu_backward = activation::glu_backward, (dy: &[f32], linear: &mut [f32], n: usize);
    /// Layer norm of each row: the normalised values stay in `x`, one over their deviation in `inverse` ([`ROWS`]), the
    /// result with weight and bias is `y`.
    layer_norm = norm::layer_norm,
        (x: &mut [f32], n: usize, weights: (&[f32], &[f32]), inverse: &mut [f32], y: &mut [f32]);
    /// Layer norm of `n` features that lie on a line, at one `x` per row; outputs as those of [`Simd::gated_norm`].
    line_norm = norm::line_norm,
        (line: Line<'_>, x: &[f32], n: usize, weights: (&[f32], &[f32]), inverse: &mut [f32],
         outputs: (&mut [f32], &mut [f32]));
    /// The gradient before a layer norm; `normal` and `inverse` are as the forward left them.
    layer_norm_backward = norm::layer_norm_backward,
        (dy: &[f32], normal: &[f32], n: usize, weight: &[f32], inverse: &[f32], dx: &mut [f32]);
    /// Softmax over the features of each row, in place.
    softmax = norm::softmax, (x: &mut [f32], n: usize);
    /// The gradient before a softmax from the one behind it, in place; `y` is what the softmax put out.
    softmax_backward = norm::softmax_backward, (y: &[f32], dy: &mut [f32], n: usize);
    /// Takes `n` further keys into a running softmax: `scores` become weights relative to the largest so far, what was
    /// summed up in `(largest, sum)` and in `y` is made relative to it, too.
    softmax_more = attention::softmax_more,
        (scores: &mut [f32], n: usize, state: (&mut [f32], &mut [f32]), y: &mut [f32], width: usize);
    /// `scores` become weights relative to `largest`, `slopes` (of the weights) the gradients of the scores.
    softmax_again = attention::softmax_again,
        (scores: &mut [f32], slopes: &mut [f32], n: usize, largest: &[f32], mean: &[f32]);
    /// `c[i * c_stride + j] += factor * sum over the rows of all tiles of a[i] * b[j]`.
    row_products = attention::row_products,
        (a: Tiles<'_>, b: Tiles<'_>, n_tiles: usize, factor: f32, c: &mut [f32], c_stride: usize);
    /// `y += x * scale`, with one scale per row.
    add_scaled = norm::add_scaled, (x: &[f32], n: usize, scale: &[f32], y: &mut [f32]);
    /// `y = x * scale`, with one scale per row.
    scale = norm::scale, (x: &[f32], n: usize, scale: &[f32], y: &mut [f32]);
    /// `dots[row] = sum over the features of a * b`.
    dots = norm::dots, (a: &[f32], b: &[f32], n: usize, dots: &mut [f32]);
    /// One step of an LSTM cell. `record` holds four tiles of `n` gates, which are activated, and room for a fifth, the
    /// cell state before the step; `cell` and `hidden` move on. Rows that are not live become zero.
    lstm_forward = lstm::lstm_forward,
        (record: &mut [f32], n: usize, live: &[f32], cell: &mut [f32], hidden: &mut [f32]);
    /// The same step back, from the gradients of the hidden state `(d_output, d_hidden)`, which are added, the first for
    /// live rows only: the gradients of the gates before activation, and in `d_cell` that of the cell before the step.
    lstm_backward = lstm::lstm_backward,
        (record: &[f32], n: usize, live: &[f32], d_states: (&[f32], &[f32]), d_cell: &mut [f32], d_gates: &mut [f32]);
    /// Copies the live ones of [`ROWS`] rows of `width` numbers from rows `stride` apart to rows `to_stride` apart.
    copy_rows = tile::copy_rows,
        (rows: &[f32], stride: usize, width: usize, live: &[f32], to: &mut [f32], to_stride: usize);
    /// Asks the memory for `n_rows` rows, `stride` apart, that will be needed soon.
    prefetch_rows = tile::prefetch_rows, (rows: &[f32], stride: usize, n_rows: usize, width: usize);
    /// Dropout factors of a tile of `width` features.
    mask = mask::mask, (mask: MaskTile, width: usize, tile: &mut [f32]);
    /// `y += x`.
    add = norm::add, (x: &[f32], y: &mut [f32]);
    /// `y *= x`.
    multiply = norm::multiply, (x: &[f32], y: &mut [f32]);
}
