use candle_core::Var;

use super::*;
use crate::ops::check::{noise, value_and_gradients, vars};
use crate::ops::cuda::linear::{Linear, Rows};
use crate::ops::linear::LinearWeights;
use crate::ops::linear_fused::linear_fused;

#[track_caller]
fn case(n_rows: usize, n_in: usize, n_out: usize, has_bias: bool) {
    let (bias_at, n_biases) = (n_out * n_in, if has_bias { n_out } else { 0 });
    let all = vars(&[("x", &[n_rows, n_in]), ("values", &[bias_at + n_biases])]);
    let form = |v: &[Var]| {
        let weights = LinearWeights::new(v[1].as_tensor().clone(), (n_out, n_in), has_bias).unwrap();
        linear_fused(&v[0], &weights).unwrap()
    };
    assert_rounded_twins(
        || value_and_gradients(&all, &form),
        1e-5,
        |bench| {
            let inputs: Vec<Memory> = all.iter().map(|var| bench.put(var)).collect();
            let dy = bench.put(&noise("direction", &[n_rows, n_out]));
            let (machine, linear) = (&mut bench.machine, Linear { n_rows, n_in, n_out });
            let weight = Rows { at: inputs[1], stride: n_in };
            let y = Rows { at: machine.alloc(n_rows * n_out)?, stride: n_out };
            let bias = has_bias.then(|| inputs[1].from(bias_at));
            linear.forward(machine, inputs[0], weight, bias, y)?;
            let dy = Rows { at: dy, stride: n_out };
            let grads =
                linear.backward(machine, Rows { at: inputs[0], stride: n_in }, weight, dy, None, true)?;
            let sums = grads.parts.sum(machine)?;
            let mut sums = bench.get(sums);
            sums.truncate(bias_at + n_biases);
            Ok(vec![bench.get(y.at), bench.get(grads.d_x.unwrap()), sums])
        },
    );
}

#[test]
fn linear_layers_equal_their_twin() {
    for (n_rows, n_in, n_out) in [(1, 1, 1), (5, 3, 16), (33, 20, 33), (70, 33, 7), (7, 16, 136)] {
        for has_bias in [true, false] {
            case(n_rows, n_in, n_out, has_bias);
        }
    }
}
