use candle_core::Var;

use super::*;
use crate::ops::check::noise;
use crate::ops::cuda::lstm::Lstm;
use crate::ops::lstm::{LstmOutput, LstmWeights};
use crate::ops::lstm_fused::lstm_fused;
use crate::ops::simd::coarse::{FEWEST, rounded};

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

/// The twin's results, the loss that its gradients are of, and what they are by.
struct Forward {
    results: [Vec<f32>; 2],
    loss: Tensor,
    inputs: [Var; 3],
}

fn twin_forward(inputs: [Var; 3], sizes: Lstm, lengths: Option<&[usize]>, sequence_counts: bool) -> Forward {
    let (Lstm { width, hidden, .. }, [x, layer, start]) = (sizes, &inputs);
    let weights = LstmWeights::new(layer.as_tensor().clone(), width, hidden).unwrap();
    let (h, c) = (start.get(0).unwrap(), start.get(1).unwrap());
    let LstmOutput { sequence, hidden, cell } = lstm_fused(x, &weights, &h, &c, lengths).unwrap();
    let ends = Tensor::stack(&[hidden, cell], 0).unwrap();
    let weighted = |name, y: &Tensor| (y * noise(name, y.dims())).unwrap().sum_all().unwrap();
    let mut loss = weighted("d_ends", &ends);
    if sequence_counts {
        loss = (loss + weighted("d_sequence", &sequence)).unwrap();
    }
    Forward { results: [values(&sequence), values(&ends)], loss, inputs }
}

/// The twin's sequence, ends, and the gradients of all inputs.
fn twin_backward(forward: Forward) -> Vec<Vec<f32>> {
    let grads = forward.loss.backward().unwrap();
    let grads = forward.inputs.map(|var| values(grads.get(&var).unwrap()));
    [forward.results.to_vec(), grads.to_vec()].concat()
}

fn twin(inputs: [Var; 3], sizes: Lstm, lengths: Option<&[usize]>, sequence_counts: bool) -> Vec<Vec<f32>> {
    twin_backward(twin_forward(inputs, sizes, lengths, sequence_counts))
}

/// What the kernels find, in the order of the twin.
fn found(
    bench: &mut Bench,
    inputs: [Var; 3],
    sizes: Lstm,
    lengths: Option<&[usize]>,
    sequence_counts: bool,
) -> Result<Vec<Vec<f32>>> {
    let Lstm { batch, n_steps, hidden, .. } = sizes;
    let inputs = inputs.map(|var| bench.put(&var));
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
}

/// Inputs whose product is that of rounded ones: what the kernels round on the way forward. The recurrence they do not.
fn rounded_inputs(sizes: Lstm, precision: Precision) -> [Var; 3] {
    let Lstm { width, hidden, .. } = sizes;
    let [x, layer, start] = inputs(sizes);
    if width < FEWEST || 4 * hidden < FEWEST {
        return [x, layer, start];
    }
    let rounded = |var: &Var, n: usize| {
        let mut all = values(var);
        all[..n].iter_mut().for_each(|value| *value = rounded(*value, precision));
        Var::from_tensor(&Tensor::from_vec(all, var.shape(), var.device()).unwrap()).unwrap()
    };
    [rounded(&x, x.elem_count()), rounded(&layer, 4 * hidden * width), start]
}

/// Sequence, ends and the gradient of the start, through which rounded inputs and nothing else run; and in float32 all.
#[track_caller]
fn case(sizes: Lstm, lengths: Option<&[usize]>, sequence_counts: bool) {
    let but_the_products_back = |mut all: Vec<Vec<f32>>| {
        all.drain(2..4);
        all
    };
    let twin_in = |precision| twin(rounded_inputs(sizes, precision), sizes, lengths, sequence_counts);
    let work = |bench: &mut Bench| found(bench, inputs(sizes), sizes, lengths, sequence_counts);
    for shared_bytes in SHARED {
        let Some(found) = run(Precision::Float32, shared_bytes, &work) else { return };
        assert_all_close(&found, &twin_in(Precision::Float32), 2e-5);
    }
    let some = |bench: &mut Bench| Ok(but_the_products_back(work(bench)?));
    assert_twins_in_each(|precision| but_the_products_back(twin_in(precision)), 2e-5, some);
}

/// The gradients of input and weights. Of one step, whose states nothing else comes from, the twin rounds the same.
#[test]
fn products_back_are_rounded_like_the_twins() {
    let sizes = Lstm { batch: 40, n_steps: 1, width: 20, hidden: 9 };
    let some = |all: Vec<Vec<f32>>| all[2..4].to_vec();
    let twin = |precision| {
        let forward = twin_forward(rounded_inputs(sizes, precision), sizes, None, true);
        some(coarse::with(precision, || twin_backward(forward)))
    };
    let work = |bench: &mut Bench| Ok(some(found(bench, inputs(sizes), sizes, None, true)?));
    assert_twins_in_each(twin, 2e-5, work);
}

#[test]
fn layers_equal_their_twin() {
    for (batch, n_steps, width, hidden) in
        [(1, 1, 1, 1), (5, 7, 3, 3), (1, 33, 5, 16), (5, 7, 20, 20), (2, 3, 16, 34)]
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
