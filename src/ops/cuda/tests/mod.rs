//! The kernels against their CPU twins, on the emulation: what a launch needs is there, every value and every gradient.

mod attention_tests;
mod block_tests;
mod count_tests;
mod device_tests;
mod emulation;
mod linear_tests;
mod lstm_tests;
mod step_tests;
mod vsn_tests;

use candle_core::{Result, Tensor};

use super::machine::{Machine, Memory};
use crate::ops::check::{assert_close, values};
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

/// Runs `work` with threads in both orders, demands the same bits of both, and compares with what the twin found, each
/// result within `tolerance` of its largest value.
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
        let run = |order| {
            let mut bench = Bench { machine: Emulation::start(order, shared_bytes)? };
            Some(work(&mut bench).unwrap())
        };
        let (Some(up), Some(down)) = (run(Order::Up), run(Order::Down)) else { return };
        assert_eq!(up.len(), expected.len(), "numbers of results");
        for (i, (a, b)) in up.iter().zip(&down).enumerate() {
            let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "result {i} depends on the order of threads ({shared_bytes} bytes shared)");
        }
        assert_all_close(&up, expected, tolerance);
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
