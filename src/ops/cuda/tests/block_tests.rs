use candle_core::Var;

use super::*;
use crate::ops::Dropout;
use crate::ops::check::{grn_noise, noise, value_and_gradients, vars};
use crate::ops::cuda::gate::Gate;
use crate::ops::cuda::grn::Grn;
use crate::ops::cuda::rowwise::{LayerNorm, dropout};
use crate::ops::dropout::{Mask, key_of_step};
use crate::ops::gate::{GateSizes, GateWeights};
use crate::ops::gate_fused::gate_add_norm_fused;
use crate::ops::grn::{GrnSizes, GrnWeights};
use crate::ops::grn_fused::grn_fused;
use crate::ops::layer_norm_fused::layer_norm_fused;

fn masks() -> [Option<Mask>; 2] {
    [None, Dropout::new(0.3, 4, 2).site()]
}

#[track_caller]
fn grn_case(outer: &[usize], [n_in, hidden, n_out]: [usize; 3], has_context: bool) {
    let sizes = GrnSizes { n_in, hidden, n_out };
    let mut all = vars(&[("x", &[outer, &[n_in]].concat()), ("context", &[outer[0], hidden])]);
    if !has_context {
        all.truncate(1);
    }
    all.push(Var::from_tensor(&grn_noise(sizes)).unwrap());
    let n_rows = outer.iter().product();
    for mask in masks() {
        let form = |v: &[Var]| {
            let (values, inputs) = v.split_last().unwrap();
            let weights = GrnWeights::new(values.as_tensor().clone(), sizes).unwrap();
            grn_fused(&inputs[0], inputs.get(1).map(|context| context.as_tensor()), &weights, mask).unwrap()
        };
        let n_samples = has_context.then_some(outer[0]);
        let grn = Grn { n_rows, n_samples, n_in, hidden, n_out, mask };
        assert_rounded_twins(
            || value_and_gradients(&all, &form),
            2e-5,
            |bench| {
                let x = bench.put(&all[0]);
                let context = has_context.then(|| bench.put(&all[1]));
                let values = bench.put(&all[all.len() - 1]);
                let dy = bench.put(&noise("direction", &[outer, &[n_out]].concat()));
                let y = grn.forward(&mut bench.machine, x, context, values)?;
                let grads = grn.backward(&mut bench.machine, x, context, values, dy)?;
                let all = [Some(y), Some(grads.d_x), grads.d_context, Some(grads.d_values)];
                Ok(all.into_iter().flatten().map(|memory| bench.get(memory)).collect())
            },
        );
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

/// A mask whose key lies on the machine is the one that the host knows, to the bit.
#[test]
fn a_key_that_lies_on_the_device_makes_the_same_mask() {
    let (width, n_rows) = (7, 40);
    let on_host = Dropout::new(0.3, 4, 2);
    let _ = on_host.site();
    let (mask, x) = (on_host.site().unwrap(), noise("x", &[n_rows, width]));
    assert_twins(&[values(&mask.apply(&x).unwrap())], 0.0, |bench| {
        let key = key_of_step(4, 2).number_of_stream();
        let key_at = bench.machine.write(&[key as u32, (key >> 32) as u32]).address;
        let on_device = Dropout::on_device(0.3, key_at);
        let _ = on_device.site();
        let x = bench.put(&x);
        let y = dropout(&mut bench.machine, x, width, on_device.site().unwrap())?;
        Ok(vec![bench.get(y)])
    });
}

#[track_caller]
fn gate_case(n_rows: usize, n_in: usize, n_out: usize) {
    let all = vars(&[
        ("x", &[n_rows, n_in]),
        ("skip", &[n_rows, n_out]),
        ("values", &[2 * n_out * n_in + 4 * n_out]),
    ]);
    for mask in masks() {
        let form = |v: &[Var]| {
            let weights = GateWeights::new(v[2].as_tensor().clone(), GateSizes { n_in, n_out }).unwrap();
            gate_add_norm_fused(&v[0], &v[1], &weights, mask).unwrap()
        };
        let gate = Gate { n_rows, n_in, n_out, mask };
        assert_rounded_twins(
            || value_and_gradients(&all, &form),
            2e-5,
            |bench| {
                let [x, skip] = [0, 1].map(|i| bench.put(&all[i]));
                let values = bench.put(&all[2]);
                let dy = bench.put(&noise("direction", &[n_rows, n_out]));
                let y = gate.forward(&mut bench.machine, x, skip, values)?;
                let grads = gate.backward(&mut bench.machine, [x, skip, values], dy)?;
                Ok([y, grads.d_x, grads.d_skip, grads.d_values].map(|memory| bench.get(memory)).to_vec())
            },
        );
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
