use candle_core::Var;

use super::*;
use crate::ops::check::noise;
use crate::ops::cuda::lstm::Lstm;
use crate::ops::lstm::{LstmOutput, LstmWeights};
use crate::ops::lstm_fused::lstm_fused;

/// `x`, the layer's parameters in one, the start.
fn inputs(sizes: Lstm) -> [Var; 3] {
    let Lstm { batch, n_steps, width, hidden } = sizes;
    let n_layer = 4 * hidden * (width + hidden + 2);
    let var = |name: &str, shape: &[usize], scale: f64| {
        Var::from_tensor(&(noise(name, shape) * scale).unwrap()).unwrap()
    };
    let scale = 1.0 / (hidden as f64).sqrt();
    [
        var("x", &[batch, n_steps, width], 1.0),
        var("layer", &[n_layer], scale),
        var("start", &[2, batch, hidden], 1.0),
    ]
}

/// The twin's sequence, ends, and the gradients of all inputs.
fn twin(sizes: Lstm, lengths: Option<&[usize]>, sequence_counts: bool) -> Vec<Vec<f32>> {
    let Lstm { width, hidden, .. } = sizes;
    let [x, layer, start] = inputs(sizes);
    let weights = LstmWeights::new(layer.as_tensor().clone(), width, hidden).unwrap();
    let (h, c) = (start.get(0).unwrap(), start.get(1).unwrap());
    let LstmOutput { sequence, hidden, cell } = lstm_fused(&x, &weights, &h, &c, lengths).unwrap();
    let ends = Tensor::stack(&[hidden, cell], 0).unwrap();
    let weighted = |name, y: &Tensor| (y * noise(name, y.dims())).unwrap().sum_all().unwrap();
    let mut loss = weighted("d_ends", &ends);
    if sequence_counts {
        loss = (loss + weighted("d_sequence", &sequence)).unwrap();
    }
    let grads = loss.backward().unwrap();
    let grads = [&x, &layer, &start].map(|var| values(grads.get(var).unwrap()));
    [vec![values(&sequence), values(&ends)], grads.to_vec()].concat()
}

#[track_caller]
fn case(sizes: Lstm, lengths: Option<&[usize]>, sequence_counts: bool) {
    let Lstm { batch, n_steps, hidden, .. } = sizes;
    let expected = twin(sizes, lengths, sequence_counts);
    assert_twins(&expected, 2e-5, |bench| {
        let inputs = inputs(sizes).map(|var| bench.put(&var));
        let d_ends = bench.put(&noise("d_ends", &[2, batch, hidden]));
        let d_sequence = bench.put(&noise("d_sequence", &[batch, n_steps, hidden]));
        let d_sequence = sequence_counts.then_some(d_sequence);
        let lengths: Option<Vec<u32>> =
            lengths.map(|lengths| lengths.iter().map(|&length| length as u32).collect());
        let lengths = lengths.map(|lengths| bench.machine.write(&lengths));
        let forward = sizes.forward(&mut bench.machine, inputs, lengths)?;
        let [x, layer, _] = inputs;
        let kept = [x, layer, forward.record];
        let grads = sizes.backward(&mut bench.machine, kept, lengths, d_sequence, d_ends)?;
        let all = [forward.sequence, forward.ends, grads.d_x, grads.d_layer, grads.d_start];
        Ok(all.map(|memory| bench.get(memory)).to_vec())
    });
}

#[test]
fn layers_equal_their_twin() {
    for (batch, n_steps, width, hidden) in
        [(1, 1, 1, 1), (5, 7, 3, 3), (1, 33, 5, 16), (5, 7, 20, 20), (2, 3, 16, 33)]
    {
        case(Lstm { batch, n_steps, width, hidden }, None, true);
    }
    case(Lstm { batch: 3, n_steps: 2, width: 3, hidden: 4 }, None, false);
}

#[test]
fn samples_stop_at_their_lengths_also_where_a_block_owns_several() {
    case(Lstm { batch: 5, n_steps: 7, width: 3, hidden: 5 }, Some(&[7, 0, 3, 1, 6]), true);
    for batch in [130, 259] {
        let lengths: Vec<usize> = (0..batch).map(|i| i * 5 % 4).collect();
        case(Lstm { batch, n_steps: 3, width: 2, hidden: 3 }, Some(&lengths), true);
        case(Lstm { batch, n_steps: 2, width: 1, hidden: 9 }, None, true);
    }
}
