use candle_core::Var;

use super::*;
use crate::ops::Dropout;
use crate::ops::attention::{AttentionMask, Decoder, attention};
use crate::ops::check::{noise, value_and_gradients};
use crate::ops::cuda::attention::{Attention, Lengths};

/// The shared memory of the widest heads' kernel does not shrink: there is no other form of it.
const WIDEST_NEEDS: usize = 40 * 1024;

#[track_caller]
fn case(
    (batch, history, horizon): (usize, usize, usize),
    (n_heads, width): (usize, usize),
    is_causal: bool,
    bias: f64,
) {
    let part = |sample, all: usize, least: usize| [all, least, all.div_ceil(2)][sample % 3];
    let of_history: Vec<usize> = (0..batch).map(|sample| part(sample, history, 0)).collect();
    let of_future: Vec<usize> = (0..batch).map(|sample| part(sample, horizon, 1)).collect();
    let decoder = if is_causal { Decoder::Causal } else { Decoder::Lengths(of_future.clone()) };
    let mask = AttentionMask::new((history, horizon), &of_history, decoder, bias).unwrap();
    let var = |name, n, width| Var::from_tensor(&noise(name, &[batch, n, width])).unwrap();
    let (joined, n_keys) = (n_heads * width, history + horizon);
    let all = [var("q", horizon, joined), var("k", n_keys, joined), var("v", n_keys, width)];
    for train in [false, true] {
        let dropout = || if train { Dropout::new(0.3, 4, 2) } else { Dropout::off() };
        let form = |v: &[Var]| attention(&v[0], &v[1], &v[2], &mask, &dropout()).unwrap();
        let expected = value_and_gradients(&all, &form);
        let (scale, fill) = mask.powers_of_two(width);
        let dropped = dropout().site();
        let shape = Attention { batch, history, horizon, n_heads, width, scale, fill, dropped };
        assert_twins_with([99 * 1024, WIDEST_NEEDS], &expected, 1e-5, |bench| {
            let inputs = [0, 1, 2].map(|i| bench.put(&all[i]));
            let dy = bench.put(&noise("direction", &[batch, horizon, width]));
            let mut put = |lengths: &[usize]| {
                bench.machine.write(&lengths.iter().map(|&length| length as u32).collect::<Vec<_>>())
            };
            let is_full = of_history.iter().all(|&length| length == history);
            let lengths = Lengths {
                history: (!is_full).then(|| put(&of_history)),
                future: (!is_causal).then(|| put(&of_future)),
            };
            let [y, kept] = shape.forward(&mut bench.machine, inputs, lengths)?;
            let [d_q, d_k, d_v] = shape.backward(&mut bench.machine, inputs, lengths, kept, dy)?;
            Ok([y, d_q, d_k, d_v].map(|memory| bench.get(memory)).to_vec())
        });
    }
}

#[test]
fn attention_equals_its_twin() {
    for (sizes, heads) in [
        ((1, 0, 1), (1, 1)),
        ((5, 7, 3), (2, 3)),
        ((3, 33, 7), (3, 16)),
        ((2, 5, 33), (2, 20)),
        ((1, 3, 2), (1, 33)),
    ] {
        for is_causal in [true, false] {
            case(sizes, heads, is_causal, -1e9);
        }
    }
}

#[test]
fn hidden_keys_count_when_their_replaced_scores_are_not_small() {
    for bias in [0.0, 3.0, 1e9, f64::from(f32::MAX), -f64::from(f32::MAX)] {
        case((2, 7, 5), (2, 4), true, bias);
    }
}
