//! Sixteen numbers that are worked on together, whatever the processor calls them.
//!
//! Every instruction set implements the same sixteen-lane arithmetic, with fused multiply-add and sums in one fixed
//! order, so that AVX-512, AVX2 and NEON give the same bits (the portable form too, where the target has a fused
//! multiply-add).

/// Numbers in a [`Lanes`].
pub const LANES: usize = 16;

/// Sixteen `f32`.
///
/// # Safety
///
/// Every method may use instructions of its set: call it only inside a function compiled for them, on a processor that
/// has them. Pointers must be valid for [`LANES`] numbers (`n` for the partial forms); they need no alignment.
pub trait Lanes: Copy {
    /// Output features a product keeps in registers at a time, of two `Lanes` each.
    const BLOCK: usize;

    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Asks for the cache line of an address, which need not be valid.
    unsafe fn prefetch(at: *const f32);
    /// The first `n` lanes from memory, the rest zero.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    /// The first `n` lanes to memory.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once.
    unsafe fn fma(self, factor: Self, term: Self) -> Self;
    /// `term - self * factor`, rounded once.
    unsafe fn fnma(self, factor: Self, term: Self) -> Self;
    /// `self` where it is NaN: limits must not hide what went wrong.
    unsafe fn min(self, other: Self) -> Self;
    /// `self` where it is NaN.
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    /// To the nearest whole number, ties to even.
    unsafe fn round(self) -> Self;
    /// Two to the power of these whole numbers, which lie between -126 and 127.
    unsafe fn exp2_whole(self) -> Self;
    /// `positive` where `self > 0`, `other` elsewhere (and for NaN).
    unsafe fn select_positive(self, positive: Self, other: Self) -> Self;
    /// Entry `i` of the result is the sum of `rows[i]`, added up in halves: lane `l` with `l + 8`, then with `l + 4`,
    /// `l + 2`, `l + 1`.
    unsafe fn sums(rows: [Self; LANES]) -> Self;
    /// Rows become lanes.
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES];
}
