//! What the tests of the operations share: fixed noise, comparisons, finite differences.

use candle_core::{Device, Result, Tensor, Var};

use super::random::Key;

/// Standard normal values that depend on `name` and position alone.
pub(crate) fn noise(name: &str, shape: &[usize]) -> Tensor {
    let key = Key::new(7).name(name);
    let n = shape.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..n).map(|i| key.normal(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// All values in row-major order.
pub(crate) fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails on the first pair that differs by more than `tolerance`, absolute.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "lengths");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "at {i}: {a}, expected {b} within {tolerance}");
    }
}

/// Compares every gradient of `loss` with central differences, within `tolerance` of its largest value.
#[track_caller]
pub(crate) fn assert_gradients(vars: &[Var], tolerance: f32, loss: impl Fn() -> Result<Tensor>) {
    const STEP: f32 = 1e-2;
    let value = || f64::from(loss().unwrap().to_scalar::<f32>().unwrap());
    let grads = loss().unwrap().backward().unwrap();
    for var in vars {
        let grad = values(grads.get(var).expect("a gradient"));
        let start = values(var);
        let at = |i: usize, shift: f32| {
            let mut moved = start.clone();
            moved[i] += shift;
            var.set(&Tensor::from_vec(moved, var.shape(), var.device()).unwrap()).unwrap();
            value()
        };
        // Richardson's combination of two steps: the error falls with the fourth power of the step.
        let slope = |i: usize, h: f32| (at(i, h) - at(i, -h)) / f64::from(2.0 * h);
        let numeric: Vec<f32> =
            (0..start.len()).map(|i| ((4.0 * slope(i, STEP) - slope(i, 2.0 * STEP)) / 3.0) as f32).collect();
        var.set(&Tensor::from_vec(start, var.shape(), var.device()).unwrap()).unwrap();
        let largest = grad.iter().fold(1f32, |m, g| m.max(g.abs()));
        assert_close(&grad, &numeric, tolerance * largest);
    }
}
