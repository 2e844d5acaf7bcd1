//! The kernels against their CPU twins, on the emulation: what a launch needs is there, every value and every gradient.

mod attention_tests;
mod block_tests;
mod count_tests;
mod device_tests;
mod emulation;
mod linear_tests;
mod lstm_tests;
mod precision_tests;
mod step_tests;
mod vsn_tests;

use candle_core::{Result, Tensor};

use super::machine::{Machine, Memory};
use crate::ops::check::{assert_close, values};
use crate::ops::simd::coarse;
use crate::precision::Precision;
pub(crate) use emulation::{Emulation, Order};

/// Shared memory of the smallest device that is thought of, and so little that everything must go without.
pub(crate) const SHARED: [usize; 2] = [99 * 1024, 5000];

/// What a test does on a machine.
struct Bench {
    machine: Emulation,
}

impl Bench {
    fn put(&mut self, tensor: &Tensor) -> Memory {
        self.machine.write_reals(&values(tensor))
    }

    fn get(&mut self, memory: Memory) -> Vec<f32> {
        self.machine.download(memory)
    }
}

/// What `work` finds with threads in both orders, of which the same bits are demanded; `None` where nothing is emulated.
#[track_caller]
fn run(
    precision: Precision,
    shared_bytes: usize,
    work: &impl Fn(&mut Bench) -> Result<Vec<Vec<f32>>>,
) -> Option<Vec<Vec<f32>>> {
    let run = |order| {
        let mut bench = Bench { machine: Emulation::start_in(precision, order, shared_bytes)? };
        Some(work(&mut bench).unwrap())
    };
    let (up, down) = (run(Order::Up)?, run(Order::Down)?);
    let what = format!("in another order of threads ({precision}, {shared_bytes} bytes shared)");
    assert_same_bits(&up, &down, &what);
    Some(up)
}

#[track_caller]
fn assert_same_bits(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "numbers of results");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "result {i} is another {what}");
    }
}

/// Compares `work`, which multiplies no matrices, with what the twin found, each result within `tolerance` of its largest
/// value. Another precision must not change a bit.
#[track_caller]
fn assert_twins(expected: &[Vec<f32>], tolerance: f32, work: impl Fn(&mut Bench) -> Result<Vec<Vec<f32>>>) {
    assert_twins_with(SHARED, expected, tolerance, work);
}

/// [`assert_twins`] with other sizes of shared memory.
#[track_caller]
fn assert_twins_with(
    sizes: [usize; 2],
    expected: &[Vec<f32>],
    tolerance: f32,
    work: impl Fn(&mut Bench) -> Result<Vec<Vec<f32>>>,
) {
    for shared_bytes in sizes {
        let Some(found) = run(Precision::Float32, shared_bytes, &work) else { return };
        assert_eq!(found.len(), expected.len(), "numbers of results");
        assert_all_close(&found, expected, tolerance);
        for precision in [Precision::Tf32, Precision::Bf16] {
            let Some(again) = run(precision, shared_bytes, &work) else { return };
            assert_same_bits(&again, &found, &format!("in {precision}"));
        }
    }
}

/// How near the kernels must come to a twin whose products are rounded, as a share of what the rounding does to it. An
/// operand that lies between two rounded numbers may go one way here and the other way there, hence not zero.
const SAME_ROUNDING: f32 = 0.25;

/// Compares `work` with a twin that rounds the operands of its products ([`coarse`]).
#[track_caller]
fn assert_rounded_twins(
    twin: impl Fn() -> Vec<Vec<f32>> + Sync,
    tolerance: f32,
    work: impl Fn(&mut Bench) -> Result<Vec<Vec<f32>>>,
) {
    assert_twins_in_each(|precision| coarse::with(precision, &twin), tolerance, work);
}

/// Compares `work` with a twin in each precision: within `tolerance` of each result's largest value, and beyond float32
/// within [`SAME_ROUNDING`] of what the precision changes at the twin.
#[track_caller]
fn assert_twins_in_each(
    twin: impl Fn(Precision) -> Vec<Vec<f32>>,
    tolerance: f32,
    work: impl Fn(&mut Bench) -> Result<Vec<Vec<f32>>>,
) {
    let exact = twin(Precision::Float32);
    for precision in Precision::ALL {
        let expected = twin(precision);
        for shared_bytes in SHARED {
            let Some(found) = run(precision, shared_bytes, &work) else { return };
            assert_eq!(found.len(), expected.len(), "numbers of results");
            for ((found, expected), exact) in found.iter().zip(&expected).zip(&exact) {
                let rounding = expected.iter().zip(exact).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                let largest = exact.iter().fold(1f32, |m, v| m.max(v.abs()));
                assert_close(found, expected, tolerance * largest + SAME_ROUNDING * rounding);
            }
        }
    }
}

/// Each result within `tolerance` of its largest value.
#[track_caller]
fn assert_all_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    for (found, expected) in found.iter().zip(expected) {
        let largest = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
        assert_close(found, expected, tolerance * largest);
    }
}
