use candle_core::Var;

use super::*;
use crate::ops::Dropout;
use crate::ops::check::{noise, value_and_gradients, vars};
use crate::ops::cuda::gate::Gate;
use crate::ops::cuda::grn::Grn;
use crate::ops::cuda::rowwise::{LayerNorm, dropout};
use crate::ops::dropout::Mask;
use crate::ops::gate::GateWeights;
use crate::ops::gate_fused::gate_add_norm_fused;
use crate::ops::grn::GrnWeights;
use crate::ops::grn_fused::grn_fused;
use crate::ops::layer_norm_fused::layer_norm_fused;
use crate::ops::pack::pack;
use crate::ops::resample::ResampleWeights;

fn masks() -> [Option<Mask>; 2] {
    [None, Dropout::new(0.3, 4, 2).site()]
}

fn pair(vars: &[Var], i: usize) -> (Tensor, Tensor) {
    (vars[i].as_tensor().clone(), vars[i + 1].as_tensor().clone())
}

/// The packed parameters, and those of several results that are their gradients, as one.
fn packed(vars: &[Var]) -> Tensor {
    pack(&vars.iter().map(|var| var.as_tensor()).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn grn_case(outer: &[usize], [n_in, hidden, n_out]: [usize; 3], has_context: bool) {
    let x_shape = [outer, &[n_in]].concat();
    let context_shape = [outer[0], hidden];
    let mut all = vars(&[("x", &x_shape), ("context", &context_shape)]);
    let mut weights = vars(&[
        ("first.weight", &[hidden, n_in]),
        ("first.bias", &[hidden]),
        ("second.weight", &[hidden, hidden]),
        ("second.bias", &[hidden]),
        ("gate.weight", &[2 * n_out, hidden]),
        ("gate.bias", &[2 * n_out]),
        ("norm.weight", &[n_out]),
        ("norm.bias", &[n_out]),
        ("mask", &[n_out]),
        ("resample.weight", &[n_out]),
        ("resample.bias", &[n_out]),
    ]);
    let resample = n_in != n_out;
    weights.truncate(if resample { 11 } else { 8 });
    for (i, fan_in) in [(0, n_in), (2, hidden), (4, hidden)] {
        weights[i].set(&(weights[i].as_tensor() / (fan_in as f64).sqrt()).unwrap()).unwrap();
    }
    if !has_context {
        all.truncate(1);
    }
    let n_inputs = all.len();
    all.extend(weights);
    let n_rows = outer.iter().product();
    for mask in masks() {
        let form = |v: &[Var]| {
            let (inputs, w) = v.split_at(n_inputs);
            let resample =
                resample.then(|| ResampleWeights { mask: w[8].as_tensor().clone(), norm: pair(w, 9) });
            let (first, second, gate, norm) = (pair(w, 0), pair(w, 2), pair(w, 4), pair(w, 6));
            let weights = GrnWeights { first, second, gate, norm, resample };
            grn_fused(&inputs[0], inputs.get(1).map(|context| context.as_tensor()), &weights, mask).unwrap()
        };
        let mut expected = value_and_gradients(&all, &form);
        let of_weights = expected.split_off(1 + n_inputs).concat();
        expected.push(of_weights);
        let n_samples = has_context.then_some(outer[0]);
        let grn = Grn { n_rows, n_samples, n_in, hidden, n_out, resample, mask };
        assert_twins(&expected, 2e-5, |bench| {
            let x = bench.put(&all[0]);
            let context = has_context.then(|| bench.put(&all[1]));
            let values = bench.put(&packed(&all[n_inputs..]));
            let dy = bench.put(&noise("direction", &[outer, &[n_out]].concat()));
            let y = grn.forward(&mut bench.machine, x, context, values)?;
            let grads = grn.backward(&mut bench.machine, x, context, values, dy)?;
            let all = [Some(y), Some(grads.d_x), grads.d_context, Some(grads.d_values)];
            Ok(all.into_iter().flatten().map(|memory| bench.get(memory)).collect())
        });
    }
}

#[test]
fn grns_equal_their_twin() {
    grn_case(&[1, 1], [1, 1, 1], true);
    grn_case(&[5, 7], [3, 3, 16], false);
    grn_case(&[33], [22, 16, 5], false);
    grn_case(&[5, 7], [20, 20, 20], true);
    grn_case(&[2, 33], [33, 16, 33], true);
    grn_case(&[1, 40], [16, 33, 1], true);
}

#[track_caller]
fn gate_case(n_rows: usize, n_in: usize, n_out: usize) {
    let all = vars(&[
        ("x", &[n_rows, n_in]),
        ("skip", &[n_rows, n_out]),
        ("gate.weight", &[2 * n_out, n_in]),
        ("gate.bias", &[2 * n_out]),
        ("norm.weight", &[n_out]),
        ("norm.bias", &[n_out]),
    ]);
    for mask in masks() {
        let form = |v: &[Var]| {
            let weights = GateWeights { gate: pair(v, 2), norm: pair(v, 4) };
            gate_add_norm_fused(&v[0], &v[1], &weights, mask).unwrap()
        };
        let mut expected = value_and_gradients(&all, &form);
        let of_weights = expected.split_off(3).concat();
        expected.push(of_weights);
        let gate = Gate { n_rows, n_in, n_out, mask };
        assert_twins(&expected, 2e-5, |bench| {
            let [x, skip] = [0, 1].map(|i| bench.put(&all[i]));
            let values = bench.put(&packed(&all[2..]));
            let dy = bench.put(&noise("direction", &[n_rows, n_out]));
            let y = gate.forward(&mut bench.machine, x, skip, values)?;
            let grads = gate.backward(&mut bench.machine, [x, skip, values], dy)?;
            Ok([y, grads.d_x, grads.d_skip, grads.d_values].map(|memory| bench.get(memory)).to_vec())
        });
    }
}

#[test]
fn gates_equal_their_twin() {
    for (n_rows, n_in, n_out) in [(1, 1, 1), (5, 3, 16), (33, 20, 5), (70, 33, 33)] {
        gate_case(n_rows, n_in, n_out);
    }
}

#[test]
fn layer_norms_equal_their_twin() {
    for (n_rows, width) in [(1, 1), (7, 3), (33, 16), (70, 33)] {
        let all = vars(&[("x", &[n_rows, width]), ("weight", &[width]), ("bias", &[width])]);
        let mut expected = value_and_gradients(&all, &|v| layer_norm_fused(&v[0], &v[1], &v[2]).unwrap());
        let of_weights = expected.split_off(2).concat();
        expected.push(of_weights);
        let norm = LayerNorm { n_rows, width };
        assert_twins(&expected, 1e-5, |bench| {
            let inputs @ [x, weight, _] = [0, 1, 2].map(|i| bench.put(&all[i]));
            let dy = bench.put(&noise("direction", &[n_rows, width]));
            let y = norm.forward(&mut bench.machine, inputs)?;
            let (d_x, d_values) = norm.backward(&mut bench.machine, x, weight, dy)?;
            Ok([y, d_x, d_values].map(|memory| bench.get(memory)).to_vec())
        });
    }
}

#[test]
fn dropout_equals_its_twin_to_the_bit() {
    for (n_rows, width) in [(1, 1), (7, 3), (33, 22)] {
        let (x, mask) = (noise("x", &[n_rows, width]), Dropout::new(0.4, 1, 2).site().unwrap());
        let expected = [values(&mask.apply(&x).unwrap())];
        assert_twins(&expected, 0.0, |bench| {
            let x = bench.put(&x);
            let y = dropout(&mut bench.machine, x, width, mask)?;
            Ok(vec![bench.get(y)])
        });
    }
}
