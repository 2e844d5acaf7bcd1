//! What the tests of the operations share: fixed noise, comparisons, finite differences.

use candle_core::{Device, Result, Tensor, Var};

use super::grn::GrnSizes;
use super::grn_fused::Grn;
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

/// Variables of noise, by name and shape.
pub(crate) fn vars(shapes: &[(&str, &[usize])]) -> Vec<Var> {
    shapes.iter().map(|(name, shape)| Var::from_tensor(&noise(name, shape)).unwrap()).collect()
}

/// Parameters of a GRN, weights small enough for a network at work.
pub(crate) fn grn_noise(sizes: GrnSizes) -> Tensor {
    let Grn { first, tail, .. } = Grn::new(sizes, None);
    let mut all = values(&noise("values", &[Grn::new(sizes, None).n_values()]));
    for (range, fan_in) in
        [(first.weight, sizes.n_in), (tail.second.weight, sizes.hidden), (tail.gate.weight, sizes.hidden)]
    {
        all[range].iter_mut().for_each(|weight| *weight /= (fan_in as f32).sqrt());
    }
    let n = all.len();
    Tensor::from_vec(all, n, &Device::Cpu).unwrap()
}

/// Value and every gradient of `form` in a fixed direction, all of them finite.
#[track_caller]
pub(crate) fn value_and_gradients(vars: &[Var], form: &dyn Fn(&[Var]) -> Tensor) -> Vec<Vec<f32>> {
    let y = form(vars);
    let grads = (&y * noise("direction", y.dims())).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![values(&y)];
    all.extend(vars.iter().map(|var| values(grads.get(var).expect("a gradient"))));
    assert!(all.iter().flatten().all(|v| v.is_finite()), "not finite");
    all
}

/// Compares two forms of an operation in value and every gradient, each within `tolerance` of its largest value.
#[track_caller]
pub(crate) fn assert_forms_agree(
    vars: &[Var],
    fused: &dyn Fn(&[Var]) -> Tensor,
    plain: &dyn Fn(&[Var]) -> Tensor,
    tolerance: f32,
) {
    let (fused, plain) = (value_and_gradients(vars, fused), value_and_gradients(vars, plain));
    for (a, b) in fused.iter().zip(&plain) {
        let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
        assert_close(a, b, tolerance * largest);
    }
}

/// Value and gradients are the same bits on one, two and five threads.
#[track_caller]
pub(crate) fn assert_threads_agree(vars: &[Var], form: &(dyn Fn(&[Var]) -> Tensor + Sync)) {
    let with = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| value_and_gradients(vars, form))
    };
    let one = with(1);
    assert!(one == with(2) && one == with(5), "results depend on the number of threads");
}
