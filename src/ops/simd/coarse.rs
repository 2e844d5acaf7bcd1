//! For tests: the products of tiles with operands rounded as the tensor cores of a GPU have them, so that there is a twin
//! of what the kernels compute in another precision.

use std::borrow::Cow;
use std::cell::Cell;

use rayon::ThreadPoolBuilder;

use crate::precision::Precision;

/// Features below which the kernels do not round, in either direction of a matrix: `takes_tensor_cores`.
pub(crate) const FEWEST: usize = 8;

thread_local! {
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::Float32) };
}

/// Runs `work` on a thread where operands of products are rounded.
pub(crate) fn with<R: Send>(precision: Precision, work: impl FnOnce() -> R + Send) -> R {
    let pool = ThreadPoolBuilder::new().num_threads(1).start_handler(move |_| PRECISION.set(precision));
    pool.build().unwrap().install(work)
}

/// An operand of a product of so many features out and in.
pub(super) fn operand<'a>(values: &'a [f32], (n_out, n_in): (usize, usize)) -> Cow<'a, [f32]> {
    let precision = PRECISION.get();
    match precision == Precision::Float32 || n_out < FEWEST || n_in < FEWEST {
        true => Cow::Borrowed(values),
        false => values.iter().map(|&value| rounded(value, precision)).collect(),
    }
}

/// tf32 goes to the nearest number of 10 bits, away from zero between two; bf16 to that of 7, the even one between two.
pub(crate) fn rounded(value: f32, precision: Precision) -> f32 {
    let bits = value.to_bits();
    match precision {
        _ if !value.is_finite() => value,
        Precision::Float32 => value,
        Precision::Tf32 => f32::from_bits((bits + 0x1000) & !0x1FFF),
        Precision::Bf16 => f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & !0xFFFF),
    }
}

/// The largest relative error of rounding.
pub(crate) fn unit(precision: Precision) -> f64 {
    match precision {
        Precision::Float32 => 0.0,
        Precision::Tf32 => 2f64.powi(-11),
        Precision::Bf16 => 2f64.powi(-8),
    }
}
