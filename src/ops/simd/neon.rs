//! [`Lanes`] in four NEON registers: every 64-bit Arm processor has them.

use std::arch::aarch64::*;

use super::lanes::{LANES, Lanes};

#[derive(Clone, Copy)]
pub struct Neon([float32x4_t; 4]);

/// Numbers in a register.
const WIDTH: usize = 4;

/// One instruction on each of the four registers.
macro_rules! each {
    ($instruction:ident($($operand:expr),+)) => {{
        let mut result = [vdupq_n_f32(0.0); 4];
        for (i, result) in result.iter_mut().enumerate() {
            *result = $instruction($($operand.0[i]),+);
        }
        Neon(result)
    }};
}

#[inline(always)]
unsafe fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: every processor of this architecture has NEON, here and below.
    unsafe { vbslq_f32(vcltq_f32(b, a), b, a) }
}

#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe { vbslq_f32(vcgtq_f32(b, a), b, a) }
}

/// Two to the power of whole numbers.
#[inline(always)]
unsafe fn power(x: float32x4_t) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe {
        let exponent = vaddq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
    }
}

#[inline(always)]
unsafe fn select(x: float32x4_t, positive: float32x4_t, other: float32x4_t) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe { vbslq_f32(vcgtzq_f32(x), positive, other) }
}

/// The lower two numbers of `a`, then of `b`.
#[inline(always)]
unsafe fn low_pairs(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe { vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b))) }
}

/// The upper two numbers of `a`, then of `b`.
#[inline(always)]
unsafe fn high_pairs(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe { vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b))) }
}

/// The sum of a row's four registers in one: lane `l` with `l + 8`, then with `l + 4`.
#[inline(always)]
unsafe fn quarter(row: Neon) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe { vaddq_f32(vaddq_f32(row.0[0], row.0[2]), vaddq_f32(row.0[1], row.0[3])) }
}

/// Lane `l` with `l + 2`, for `a` and for `b`.
#[inline(always)]
unsafe fn eighths(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as in `smaller`.
    unsafe { vaddq_f32(low_pairs(a, b), high_pairs(a, b)) }
}

/// Four rows of four become lanes.
#[inline(always)]
unsafe fn transpose_four(rows: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: as in `smaller`.
    unsafe {
        let (even, odd) = (vtrn1q_f32(rows[0], rows[1]), vtrn2q_f32(rows[0], rows[1]));
        let (even_below, odd_below) = (vtrn1q_f32(rows[2], rows[3]), vtrn2q_f32(rows[2], rows[3]));
        [
            low_pairs(even, even_below),
            low_pairs(odd, odd_below),
            high_pairs(even, even_below),
            high_pairs(odd, odd_below),
        ]
    }
}

// SAFETY of all bodies: the trait's contract, which is the instructions' own.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Neon {
    const BLOCK: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe {
            Neon([
                vld1q_f32(from),
                vld1q_f32(from.add(WIDTH)),
                vld1q_f32(from.add(2 * WIDTH)),
                vld1q_f32(from.add(3 * WIDTH)),
            ])
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            for (i, register) in self.0.into_iter().enumerate() {
                vst1q_f32(to.add(i * WIDTH), register);
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let mut lanes = [0f32; LANES];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n.min(LANES));
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe {
            let mut lanes = [0f32; LANES];
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n.min(LANES));
        }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Neon([vdupq_n_f32(value); 4]) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { each!(vaddq_f32(self, other)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { each!(vsubq_f32(self, other)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { each!(vmulq_f32(self, other)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { each!(vdivq_f32(self, other)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, term: Self) -> Self {
        unsafe { each!(vfmaq_f32(term, self, factor)) }
    }
    #[inline(always)]
    unsafe fn fnma(self, factor: Self, term: Self) -> Self {
        unsafe { each!(vfmsq_f32(term, self, factor)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { each!(smaller(self, other)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { each!(larger(self, other)) }
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        unsafe { each!(vsqrtq_f32(self)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { each!(vrndnq_f32(self)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe { each!(power(self)) }
    }
    #[inline(always)]
    unsafe fn select_positive(self, positive: Self, other: Self) -> Self {
        unsafe { each!(select(self, positive, other)) }
    }
    #[inline(always)]
    unsafe fn sums(rows: [Self; LANES]) -> Self {
        unsafe {
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (i, sum) in sums.iter_mut().enumerate() {
                let four = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
                let (a, b) = (quarter(four[0]), quarter(four[1]));
                let (c, d) = (quarter(four[2]), quarter(four[3]));
                // Neighbours are added last: lane `l` with `l + 1`.
                *sum = vpaddq_f32(eighths(a, b), eighths(c, d));
            }
            Neon(sums)
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        unsafe {
            let mut turned = rows;
            for down in 0..4 {
                for right in 0..4 {
                    let mut block = [vdupq_n_f32(0.0); 4];
                    for (i, row) in block.iter_mut().enumerate() {
                        *row = rows[4 * down + i].0[right];
                    }
                    for (i, lane) in transpose_four(block).into_iter().enumerate() {
                        turned[4 * right + i].0[down] = lane;
                    }
                }
            }
            turned
        }
    }
}
