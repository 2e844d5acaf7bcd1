//! Exponentials on sixteen numbers at once.
//!
//! All of them go through `e^x = 2^n * e^r` with `n` whole and `|r| <= ln(2) / 2`, where seven terms of the series of
//! `e^r - 1` are exact to less than a rounding step. Keeping `e^r - 1` rather than `e^r` keeps small arguments
//! accurate: `expm1` and what is made of it lose nothing near zero.

use super::lanes::Lanes;

/// Beyond these `e^x` is no longer a normal `f32`.
const LOWEST: f32 = -87.0;
const HIGHEST: f32 = 88.0;
/// 40 log2(e): gates that are further from open count as 4e-18.
const FARTHEST: f32 = 57.7;

/// `(2^n, e^r - 1)` of `x`, which is held within what `f32` can say.
#[inline(always)]
unsafe fn split<L: Lanes>(x: L) -> (L, L) {
    // SAFETY: the caller keeps the contract of `Lanes`.
    unsafe {
        let x = x.max(L::splat(LOWEST)).min(L::splat(HIGHEST));
        let n = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        // ln(2) in two parts: the first has so few bits that its product with n is exact.
        let r = n.fnma(L::splat(0.693_145_75), x);
        let r = n.fnma(L::splat(1.428_606_8e-6), r);
        let mut series = L::splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
            series = series.fma(r, L::splat(coefficient));
        }
        let small = series.fma(r.mul(r), r);
        (n.exp2_whole(), small)
    }
}

/// `e^x`; `x` is held between -87 and 88.
#[inline(always)]
pub unsafe fn exp<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe {
        let (power, small) = split(x);
        power.fma(small, power)
    }
}

/// `2^x` of an `x` up to 127; below -126 it counts as -126.
///
/// The fraction goes through a polynomial of the sixth degree that is 1 at 0 and there has the slope of `2^x` (as far as
/// `f32` can say it); the other coefficients are those of least squares at Chebyshev's points, and as rounded here leave
/// at most 4.7e-9 of the value.
#[inline(always)]
pub unsafe fn exp2<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe {
        let x = x.max(L::splat(-126.0));
        let n = x.round();
        let fraction = x.sub(n);
        let mut series = L::splat(1.526_016_6e-4);
        let slope = std::f32::consts::LN_2;
        for coefficient in [1.339_120_4e-3, 9.618_759e-3, 5.550_359e-2, 0.240_226_45, slope, 1.0] {
            series = series.fma(fraction, L::splat(coefficient));
        }
        series.mul(n.exp2_whole())
    }
}

/// `e^x - 1`.
#[inline(always)]
pub unsafe fn expm1<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe {
        let (power, small) = split(x);
        power.fma(small, power.sub(L::splat(1.0)))
    }
}

/// `x` where positive, `e^x - 1` elsewhere.
#[inline(always)]
pub unsafe fn elu<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe { x.select_positive(x, expm1(x.min(L::splat(0.0)))) }
}

/// The logistic function of two at once: they share a division, hence its rounding, and one that is not a number makes
/// both so. Lanes of different rows must not meet here. Arguments below -40 count as -40 (4e-18).
#[inline(always)]
pub unsafe fn sigmoid_pair<L: Lanes>(a: L, b: L) -> (L, L) {
    // SAFETY: as in `split`.
    unsafe {
        let (a, b) = (denominator(a), denominator(b));
        let inverse = L::splat(1.0).div(a.mul(b));
        (b.mul(inverse), a.mul(inverse))
    }
}

/// `1 + e^-x`, small enough that two of them can be multiplied.
///
/// The exponent is turned into one of two and rounded first: what that takes from a far `e^-x` (a few millionths of it) is
/// nothing to a sum with 1, and nothing to what one over it is multiplied by.
#[inline(always)]
unsafe fn denominator<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe {
        let power = x.mul(L::splat(-std::f32::consts::LOG2_E)).min(L::splat(FARTHEST));
        exp2(power).add(L::splat(1.0))
    }
}

/// The logistic function. Arguments below -40 count as -40.
#[inline(always)]
pub unsafe fn sigmoid<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe { L::splat(1.0).div(denominator(x)) }
}

/// The hyperbolic tangent.
#[inline(always)]
pub unsafe fn tanh<L: Lanes>(x: L) -> L {
    // SAFETY: as in `split`.
    unsafe {
        let (numerator, denominator) = fraction(x);
        numerator.div(denominator)
    }
}

/// `tanh x` as a fraction whose denominator lies between 1 and 2.
#[inline(always)]
unsafe fn fraction<L: Lanes>(x: L) -> (L, L) {
    // SAFETY: as in `split`.
    unsafe {
        // Of -|x|, so that nothing overflows; the sign comes back at the end.
        let zero = L::splat(0.0);
        let negative = x.min(zero.sub(x));
        let m = expm1(negative.add(negative));
        (x.select_positive(zero.sub(m), m), m.add(L::splat(2.0)))
    }
}

/// The logistic function of `a` and the hyperbolic tangent of `b`: they share a division, as in [`sigmoid_pair`].
#[inline(always)]
pub unsafe fn sigmoid_and_tanh<L: Lanes>(a: L, b: L) -> (L, L) {
    // SAFETY: as in `split`.
    unsafe {
        let (a, (numerator, b)) = (denominator(a), fraction(b));
        let inverse = L::splat(1.0).div(a.mul(b));
        (b.mul(inverse), numerator.mul(a).mul(inverse))
    }
}
