//! [`Lanes`] in two AVX2 registers, with FMA.

use std::arch::x86_64::*;

use super::lanes::{LANES, Lanes};

#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

/// Ones (as a sign bit) in the first `n` of eight lanes.
#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    // SAFETY: the caller runs on a processor with AVX2.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), lanes)
    }
}

/// Two to the power of whole numbers.
#[inline(always)]
unsafe fn power(x: __m256) -> __m256 {
    // SAFETY: the caller runs on a processor with AVX2, here and below.
    unsafe {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
    }
}

#[inline(always)]
unsafe fn select(x: __m256, positive: __m256, other: __m256) -> __m256 {
    // SAFETY: as in `power`.
    unsafe { _mm256_blendv_ps(other, positive, _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_setzero_ps())) }
}

/// Both halves of `a`, added, then both halves of `b`.
#[inline(always)]
unsafe fn halves(a: __m256, b: __m256) -> __m256 {
    // SAFETY: as in `power`.
    unsafe { _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)) }
}

#[inline(always)]
unsafe fn pairs(a: __m256, b: __m256) -> __m256 {
    // SAFETY: as in `power`.
    unsafe { _mm256_add_ps(low_pairs(a, b), high_pairs(a, b)) }
}

#[inline(always)]
unsafe fn singles(a: __m256, b: __m256) -> __m256 {
    // SAFETY: as in `power`.
    unsafe { _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xDD>(a, b)) }
}

/// The lower two numbers of each 128-bit part of `a`, then of `b`.
#[inline(always)]
unsafe fn low_pairs(a: __m256, b: __m256) -> __m256 {
    // SAFETY: as in `power`.
    unsafe { _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))) }
}

/// The upper two numbers of each 128-bit part of `a`, then of `b`.
#[inline(always)]
unsafe fn high_pairs(a: __m256, b: __m256) -> __m256 {
    // SAFETY: as in `power`.
    unsafe { _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))) }
}

#[inline(always)]
unsafe fn transpose_eight(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: as in `power`.
    unsafe {
        let mut t = rows;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut u = t;
        for q in 0..2 {
            for i in 0..2 {
                let (low, high) = (t[4 * q + i], t[4 * q + i + 2]);
                u[4 * q + 2 * i] = low_pairs(low, high);
                u[4 * q + 2 * i + 1] = high_pairs(low, high);
            }
        }
        let mut turned = u;
        for k in 0..4 {
            turned[k] = _mm256_permute2f128_ps::<0x20>(u[k], u[4 + k]);
            turned[4 + k] = _mm256_permute2f128_ps::<0x31>(u[k], u[4 + k]);
        }
        turned
    }
}

// SAFETY of all bodies: the trait's contract, which is the instructions' own.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    const BLOCK: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let low = _mm256_maskload_ps(from, first(n));
            let high =
                if n > 8 { _mm256_maskload_ps(from.add(8), first(n - 8)) } else { _mm256_setzero_ps() };
            Avx2(low, high)
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe {
            _mm256_maskstore_ps(to, first(n), self.0);
            if n > 8 {
                _mm256_maskstore_ps(to.add(8), first(n - 8), self.1);
            }
        }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, term: Self) -> Self {
        unsafe { Avx2(_mm256_fmadd_ps(self.0, factor.0, term.0), _mm256_fmadd_ps(self.1, factor.1, term.1)) }
    }
    #[inline(always)]
    unsafe fn fnma(self, factor: Self, term: Self) -> Self {
        unsafe {
            Avx2(_mm256_fnmadd_ps(self.0, factor.0, term.0), _mm256_fnmadd_ps(self.1, factor.1, term.1))
        }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_min_ps(other.0, self.0), _mm256_min_ps(other.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_max_ps(other.0, self.0), _mm256_max_ps(other.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        unsafe { Avx2(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { Avx2(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe { Avx2(power(self.0), power(self.1)) }
    }
    #[inline(always)]
    unsafe fn select_positive(self, positive: Self, other: Self) -> Self {
        unsafe { Avx2(select(self.0, positive.0, other.0), select(self.1, positive.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sums(rows: [Self; LANES]) -> Self {
        unsafe {
            // Lane l with l + 8 is the sum of the two registers; then two rows share a register at each level.
            let mut eights = [_mm256_setzero_ps(); 2];
            for (e, eight) in eights.iter_mut().enumerate() {
                let mut groups = [_mm256_setzero_ps(); 4];
                for (g, group) in groups.iter_mut().enumerate() {
                    let (a, b) = (rows[8 * e + g], rows[8 * e + g + 4]);
                    *group = halves(_mm256_add_ps(a.0, a.1), _mm256_add_ps(b.0, b.1));
                }
                *eight = singles(pairs(groups[0], groups[1]), pairs(groups[2], groups[3]));
            }
            Avx2(eights[0], eights[1])
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        unsafe {
            let mut turned = [Avx2(_mm256_setzero_ps(), _mm256_setzero_ps()); LANES];
            for high in [0, 8] {
                // The eight rows from `high` on become the lower or upper register of every lane.
                let (mut left, mut right) = ([_mm256_setzero_ps(); 8], [_mm256_setzero_ps(); 8]);
                for i in 0..8 {
                    (left[i], right[i]) = (rows[high + i].0, rows[high + i].1);
                }
                let (left, right) = (transpose_eight(left), transpose_eight(right));
                for i in 0..8 {
                    if high == 0 {
                        (turned[i].0, turned[8 + i].0) = (left[i], right[i]);
                    } else {
                        (turned[i].1, turned[8 + i].1) = (left[i], right[i]);
                    }
                }
            }
            turned
        }
    }
}
