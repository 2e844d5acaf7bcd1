//! What a network's matrix products alone would take: the floor of its speed on a CPU.
//!
//! Each thread multiplies matrices of its own with a well-kept library, of the inner sizes that the network has and as
//! many rows; nothing is packed, gathered, activated, normalised or added up in between. The library has the processor's
//! widest registers at its disposal, as the network's own kernels have.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gemm::{Parallelism, gemm};
use serde::Serialize;

use crate::model::work::Product;

/// Rows multiplied at once: enough for the library to get going, few enough to be done between two interruptions.
const MAX_ROWS: usize = 4_096;
/// Time spent on one size.
const TIME_PER_SIZE: Duration = Duration::from_millis(20);

/// What the products of a batch take.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Floor {
    pub flops: u64,
    pub secs: f64,
}

impl Floor {
    /// Billions of floating point operations per second, all threads together.
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.secs / 1e9
    }
}

/// Measures the products of `batch` samples, forward only or with the two products of each backward.
pub fn floor(products: &[Product], batch: usize, with_backward: bool) -> Floor {
    let mut rows_by_size: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for product in products {
        *rows_by_size.entry((product.n_in, product.n_out)).or_default() += product.rows * batch;
    }
    let mut floor = Floor { flops: 0, secs: 0.0 };
    for ((n_in, n_out), n_rows) in rows_by_size {
        let per_thread = n_rows.div_ceil(rayon::current_num_threads());
        let measured = per_thread.min(MAX_ROWS);
        let share = per_thread as f64 / measured as f64;
        let (forward, d_input, d_weight) =
            ((measured, n_in, n_out), (measured, n_out, n_in), (n_out, measured, n_in));
        let shapes = if with_backward { vec![forward, d_input, d_weight] } else { vec![forward] };
        for shape in shapes {
            floor.secs += secs_of(shape) * share;
            floor.flops += Product { rows: n_rows, n_in, n_out }.flops();
        }
    }
    floor
}

/// Seconds of one product `[m, k] x [k, n]` on each thread at the same time, the mean of the threads' best.
fn secs_of((m, k, n): (usize, usize, usize)) -> f64 {
    let of_threads = rayon::broadcast(|_| {
        let (left, right, mut product) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0f32; m * n]);
        let (begun, mut best) = (Instant::now(), f64::INFINITY);
        while begun.elapsed() < TIME_PER_SIZE {
            let started = Instant::now();
            multiply((m, k, n), &left, &right, &mut product);
            best = best.min(started.elapsed().as_secs_f64());
            std::hint::black_box(&mut product);
        }
        best
    });
    of_threads.iter().sum::<f64>() / of_threads.len() as f64
}

/// `product [m, n] = left [m, k] x right [n, k]^T`, all row by row, on the calling thread.
fn multiply((m, k, n): (usize, usize, usize), left: &[f32], right: &[f32], product: &mut [f32]) {
    assert!(left.len() == m * k && right.len() == k * n && product.len() == m * n);
    // SAFETY: with row strides `n`, `k`, `k` and column strides 1 every index lies inside, by the assertion.
    unsafe {
        gemm(
            m,
            n,
            k,
            product.as_mut_ptr(),
            1,
            n as isize,
            false,
            left.as_ptr(),
            1,
            k as isize,
            right.as_ptr(),
            k as isize,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_is_a_product() {
        let (left, right) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 0.5, 1.0, 0.0]);
        let mut product = [0.0; 4];
        multiply((2, 3, 2), &left, &right, &mut product);
        assert_eq!(product, [7.0, 2.5, 16.0, 7.0]);
    }

    #[test]
    fn a_backward_is_two_more_products() {
        let products = [Product { rows: 3, n_in: 4, n_out: 5 }, Product { rows: 2, n_in: 4, n_out: 5 }];
        let (forward, all) = (floor(&products, 2, false), floor(&products, 2, true));
        assert_eq!((forward.flops, all.flops), (400, 1200));
        assert!(forward.secs > 0.0 && forward.gflops() > 0.0);
    }
}
