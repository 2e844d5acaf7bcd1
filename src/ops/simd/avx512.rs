//! [`Lanes`] in one AVX-512 register.

use std::arch::x86_64::*;

use super::lanes::{LANES, Lanes};

#[derive(Clone, Copy)]
pub struct Avx512(__m512);

/// Both halves of `a`, added, then both halves of `b`.
#[inline(always)]
unsafe fn halves(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller runs on a processor with AVX-512, here and below.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b)) }
}

/// The same one level down, for the halves of `a` and `b`.
#[inline(always)]
unsafe fn quarters(a: __m512, b: __m512) -> __m512 {
    // SAFETY: as in `halves`.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b)) }
}

#[inline(always)]
unsafe fn pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: as in `halves`.
    unsafe { _mm512_add_ps(low_pairs(a, b), high_pairs(a, b)) }
}

#[inline(always)]
unsafe fn singles(a: __m512, b: __m512) -> __m512 {
    // SAFETY: as in `halves`.
    unsafe { _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xDD>(a, b)) }
}

/// The lower two numbers of each 128-bit part of `a`, then of `b`.
#[inline(always)]
unsafe fn low_pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: as in `halves`.
    unsafe { _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))) }
}

/// The upper two numbers of each 128-bit part of `a`, then of `b`.
#[inline(always)]
unsafe fn high_pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: as in `halves`.
    unsafe { _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))) }
}

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= LANES { u16::MAX } else { (1u16 << n) - 1 }
}

// SAFETY of all bodies: the trait's contract, which is the instructions' own.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    const BLOCK: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe { Avx512(_mm512_maskz_loadu_ps(first(n), from)) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(n), self.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, term: Self) -> Self {
        unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, term.0)) }
    }
    #[inline(always)]
    unsafe fn fnma(self, factor: Self, term: Self) -> Self {
        unsafe { Avx512(_mm512_fnmadd_ps(self.0, factor.0, term.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_min_ps(other.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_max_ps(other.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        unsafe { Avx512(_mm512_sqrt_ps(self.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Avx512(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn select_positive(self, positive: Self, other: Self) -> Self {
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps());
            Avx512(_mm512_mask_blend_ps(mask, other.0, positive.0))
        }
    }
    #[inline(always)]
    unsafe fn sums(rows: [Self; LANES]) -> Self {
        unsafe {
            // Each level adds the halves of two registers at once and leaves both in one; the pairs are taken so that
            // the sums come out in the order of the rows.
            let mut groups = [_mm512_setzero_ps(); 4];
            for (g, group) in groups.iter_mut().enumerate() {
                // Rows g, g+4, g+8, g+12 end up in the four 128-bit parts.
                let a = halves(rows[g].0, rows[g + 4].0);
                let b = halves(rows[g + 8].0, rows[g + 12].0);
                *group = quarters(a, b);
            }
            Avx512(singles(pairs(groups[0], groups[1]), pairs(groups[2], groups[3])))
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        unsafe {
            let mut t = [_mm512_setzero_ps(); LANES];
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(rows[2 * i].0, rows[2 * i + 1].0);
                t[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i].0, rows[2 * i + 1].0);
            }
            // u[4 q + k]: column k of each 4 x 4 block of the rows 4 q to 4 q + 3.
            let mut u = t;
            for q in 0..4 {
                for i in 0..2 {
                    let (low, high) = (t[4 * q + i], t[4 * q + i + 2]);
                    u[4 * q + 2 * i] = low_pairs(low, high);
                    u[4 * q + 2 * i + 1] = high_pairs(low, high);
                }
            }
            let mut out = [Avx512(_mm512_setzero_ps()); LANES];
            for k in 0..4 {
                let (a, b, c, d) = (u[k], u[4 + k], u[8 + k], u[12 + k]);
                let (ab_even, ab_odd) =
                    (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
                let (cd_even, cd_odd) =
                    (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xDD>(c, d));
                out[k] = Avx512(_mm512_shuffle_f32x4::<0x88>(ab_even, cd_even));
                out[4 + k] = Avx512(_mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd));
                out[8 + k] = Avx512(_mm512_shuffle_f32x4::<0xDD>(ab_even, cd_even));
                out[12 + k] = Avx512(_mm512_shuffle_f32x4::<0xDD>(ab_odd, cd_odd));
            }
            out
        }
    }
}
