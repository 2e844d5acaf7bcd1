//! What a precision does to the products of tiles, number by number.

use super::*;
use crate::ops::cuda::linear::{Linear, Rows};
use crate::ops::simd::coarse::{FEWEST, rounded, unit};

/// The largest relative error of one float32 operation.
const FLOAT32_UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// Operands of a layer and of its way back.
struct Case {
    linear: Linear,
    x: Vec<f32>,
    weight: Vec<f32>,
    dy: Vec<f32>,
}

/// A product `[rows, depth] [depth, columns]`: exact, and with magnitudes in place of numbers.
fn product(
    (rows, columns, depth): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> [Vec<f64>; 2] {
    let sum = |term: &dyn Fn(f64, f64) -> f64| {
        let at = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            (0..depth).map(|k| term(f64::from(a(row, k)), f64::from(b(k, column)))).sum()
        };
        (0..rows * columns).map(at).collect()
    };
    [sum(&|a, b| a * b), sum(&|a, b| (a * b).abs())]
}

impl Case {
    fn new(n_rows: usize, n_in: usize, n_out: usize) -> Self {
        let noise = |name, shape: [usize; 2]| values(&crate::ops::check::noise(name, &shape));
        Case {
            linear: Linear { n_rows, n_in, n_out },
            x: noise("x", [n_rows, n_in]),
            weight: noise("weight", [n_out, n_in]),
            dy: noise("dy", [n_rows, n_out]),
        }
    }

    /// `y`, the gradients of `x` and of the weight.
    fn run(&self, bench: &mut Bench) -> Result<Vec<Vec<f32>>> {
        let Linear { n_rows, n_in, n_out } = self.linear;
        let machine = &mut bench.machine;
        let [x, weight, dy] = [&self.x, &self.weight, &self.dy].map(|values| machine.write_reals(values));
        let weight = Rows { at: weight, stride: n_in };
        let y = Rows { at: machine.alloc(n_rows * n_out)?, stride: n_out };
        self.linear.forward(machine, x, weight, None, y)?;
        let (x, dy) = (Rows { at: x, stride: n_in }, Rows { at: dy, stride: n_out });
        let grads = self.linear.backward(machine, x, weight, dy, None, true)?;
        let sums = grads.parts.sum(machine)?;
        let mut d_weight = bench.get(sums);
        d_weight.truncate(n_out * n_in);
        Ok(vec![bench.get(y.at), bench.get(grads.d_x.unwrap()), d_weight])
    }

    /// The three products, with operands as they are or rounded.
    fn products(&self, precision: Precision) -> [[Vec<f64>; 2]; 3] {
        let Linear { n_rows, n_in, n_out } = self.linear;
        let x = |row: usize, k: usize| rounded(self.x[row * n_in + k], precision);
        let weight = |j: usize, k: usize| rounded(self.weight[j * n_in + k], precision);
        let dy = |row: usize, j: usize| rounded(self.dy[row * n_out + j], precision);
        [
            product((n_rows, n_out, n_in), x, |k, j| weight(j, k)),
            product((n_rows, n_in, n_out), dy, weight),
            product((n_out, n_in, n_rows), |j, row| dy(row, j), x),
        ]
    }
}

#[track_caller]
fn assert_within(found: &[f32], [exact, magnitudes]: &[Vec<f64>; 2], share: f64) {
    for (i, ((&found, exact), magnitude)) in found.iter().zip(exact).zip(magnitudes).enumerate() {
        let error = (f64::from(found) - exact).abs();
        assert!(error <= share * magnitude, "at {i}: {found}, exact {exact}: {error} of {magnitude}");
    }
}

/// With operands off by a share u at most, a sum of n products is off by 2 u + u^2 of the sum of their magnitudes, and by
/// n float32 units of it for adding up; by those alone from the sum of the rounded operands' products.
#[test]
fn products_are_off_by_what_rounding_explains_and_no_more() {
    for (n_rows, n_in, n_out) in [(40, 8, 8), (33, 20, 33), (70, 33, 17), (32, 32, 64), (7, 16, 136)] {
        let case = Case::new(n_rows, n_in, n_out);
        let exact = case.products(Precision::Float32);
        for precision in Precision::ALL {
            let of_rounded = case.products(precision);
            let u = unit(precision);
            for shared_bytes in SHARED {
                let Some(found) = run(precision, shared_bytes, &|bench| case.run(bench)) else { return };
                for (i, depth) in [n_in, n_out, n_rows + 2].into_iter().enumerate() {
                    let adding = (depth + 1) as f64 * FLOAT32_UNIT;
                    assert_within(&found[i], &of_rounded[i], adding);
                    assert_within(&found[i], &exact[i], 2.0 * u + u * u + 1.1 * adding);
                }
            }
        }
    }
}

#[test]
fn small_matrices_are_multiplied_as_they_are() {
    for (n_in, n_out) in [(1, 1), (FEWEST - 1, 40), (40, FEWEST - 1)] {
        let case = Case::new(33, n_in, n_out);
        let run = |precision| run(precision, SHARED[0], &|bench| case.run(bench));
        let Some(exact) = run(Precision::Float32) else { return };
        for precision in [Precision::Tf32, Precision::Bf16] {
            assert_same_bits(&run(precision).unwrap(), &exact, &format!("in {precision}"));
        }
    }
}

/// Through the identity, everything comes out rounded.
#[test]
fn operands_are_rounded_to_the_nearest() {
    let n = 16;
    let bits = |bits: u32| f32::from_bits(bits);
    let mut x = vec![0.0, -0.0, 1.0, -1.5, 3.5, bits(0x3F80_0FFF), bits(0x3F80_1000), bits(0x3F80_3000)];
    x.extend([
        bits(0x3F80_7FFF),
        bits(0x3F80_8000),
        bits(0x3F81_8000),
        bits(0xBF80_8001),
        1e-30,
        1e30,
        65504.0,
        0.1,
    ]);
    for precision in Precision::ALL {
        let case = Case {
            linear: Linear { n_rows: 1, n_in: n, n_out: n },
            x: x.clone(),
            weight: (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect(),
            dy: vec![0.0; n],
        };
        let Some(found) = run(precision, SHARED[0], &|bench| case.run(bench)) else { return };
        let expected: Vec<f32> = x.iter().map(|&value| rounded(value, precision)).collect();
        assert_eq!(found[0], expected, "{precision}");
    }
}

/// What is not a number stays none, in its row alone.
#[test]
fn rounding_hides_nothing() {
    for precision in [Precision::Tf32, Precision::Bf16] {
        for spoilt in [f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = Case::new(40, 20, 33);
            case.x[7 * 20 + 19] = spoilt;
            let Some(found) = run(precision, SHARED[0], &|bench| case.run(bench)) else { return };
            for (row, y) in found[0].chunks(33).enumerate() {
                assert!(y.iter().all(|value| value.is_finite() == (row != 7)), "row {row} of {precision}");
            }
            let is_spoilt = |i: usize| i % 20 == 19;
            let d_weight = found[2].iter().enumerate();
            assert!(d_weight.into_iter().all(|(i, value)| value.is_finite() != is_spoilt(i)), "{precision}");
        }
    }
}

/// The noise of these tests is no number that rounds to itself.
#[test]
fn noise_is_rounded() {
    let noise = crate::ops::check::noise("x", &[64]);
    for precision in [Precision::Tf32, Precision::Bf16] {
        let changed = values(&noise).iter().filter(|&&value| rounded(value, precision) != value).count();
        assert!(changed > 48, "{changed} of 64 in {precision}");
    }
}
