//! How the fused operations share their work among threads.
//!
//! Work is cut into parts by a rule that knows nothing of threads, and what the parts add up (gradients of weights) is
//! added in their order. The result is the same to the bit for every number of threads.

use rayon::prelude::*;

use super::simd::Simd;

/// Parts the work is cut into at most: enough to keep that many threads busy, few enough that adding up their
/// gradients costs little.
const PARTS: usize = 16;

/// Units of work (samples, tiles of rows) in one part; the last part may have fewer.
pub fn units_per_part(n_units: usize) -> usize {
    n_units.div_ceil(PARTS).max(1)
}

/// Runs `work(first unit, outputs)` for each part, on as many threads as there are; each part owns the stretch of
/// `output` that belongs to its units, `unit_len` numbers each. Results come in the order of the parts.
pub fn in_parts<R: Send>(
    output: &mut [f32],
    unit_len: usize,
    work: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> Vec<R> {
    let n_units = output.len() / unit_len.max(1);
    let per_part = units_per_part(n_units);
    let parts = output.par_chunks_mut((per_part * unit_len).max(1)).enumerate();
    parts.map(|(part, output)| work(part * per_part, output)).collect()
}

/// [`in_parts`] with two outputs, whose units have lengths of their own.
pub fn in_parts_with<R: Send>(
    (first, first_len): (&mut [f32], usize),
    (second, second_len): (&mut [f32], usize),
    work: impl Fn(usize, &mut [f32], &mut [f32]) -> R + Sync,
) -> Vec<R> {
    let n_units = first.len() / first_len.max(1);
    assert_eq!(n_units * second_len, second.len(), "outputs of different numbers of units");
    let per_part = units_per_part(n_units);
    let first = first.par_chunks_mut((per_part * first_len).max(1));
    let second = second.par_chunks_mut((per_part * second_len).max(1));
    first.zip(second).enumerate().map(|(part, (a, b))| work(part * per_part, a, b)).collect()
}

/// [`in_parts`] with three outputs.
pub fn in_parts_of_three<R: Send>(
    outputs: [&mut [f32]; 3],
    lens: [usize; 3],
    work: impl Fn(usize, [&mut [f32]; 3]) -> R + Sync,
) -> Vec<R> {
    let [first, second, third] = outputs;
    let n_units = first.len() / lens[0].max(1);
    let fits = [second.len(), third.len()] == [n_units * lens[1], n_units * lens[2]];
    assert!(fits, "outputs of different numbers of units");
    let per_part = units_per_part(n_units);
    let first = first.par_chunks_mut((per_part * lens[0]).max(1));
    let second = second.par_chunks_mut((per_part * lens[1]).max(1));
    let third = third.par_chunks_mut((per_part * lens[2]).max(1));
    let parts = first.zip(second).zip(third).enumerate();
    parts.map(|(part, ((a, b), c))| work(part * per_part, [a, b, c])).collect()
}

/// The sum of equally long parts, added in their order.
pub fn sum_in_order(simd: Simd, parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    parts.for_each(|part| simd.add(&part, &mut sum));
    sum
}
