//! What stands at the end of a training step: the loss and the optimizer.

use candle_core::Var;

use super::*;
use crate::ops::adamw::AdamWStep;
use crate::ops::check::noise;
use crate::ops::cuda::adamw::State;
use crate::ops::cuda::quantile_loss::Inputs;
use crate::ops::quantile_loss::{DivideBy, QuantileLossOptions, quantile_loss};
use crate::ops::quantile_loss_fused::QuantileLoss;

#[track_caller]
fn loss_case(
    (batch, horizon): (usize, usize),
    quantiles: &[f64],
    lengths: Option<&[usize]>,
    weights: Option<&Tensor>,
    divide_by: DivideBy,
) {
    let forecast = Var::from_tensor(&noise("forecast", &[batch, horizon, quantiles.len()])).unwrap();
    let target = noise("target", &[batch, horizon]);
    let options = QuantileLossOptions { doubled: true, divide_by, sample_weights: weights, lengths };
    let loss = quantile_loss(&forecast, &target, quantiles, &options).unwrap();
    let slopes = (&loss * 3.0).unwrap().backward().unwrap();
    let expected = [values(&loss), values(slopes.get(&forecast).unwrap())];
    let n_steps = lengths.map_or(batch * horizon, |lengths| lengths.iter().sum());
    let by_weights = divide_by == DivideBy::Weights && weights.is_some();
    let on_gpu = QuantileLoss {
        batch,
        horizon,
        quantiles: quantiles.iter().map(|&quantile| quantile as f32).collect(),
        factor: 2.0 / quantiles.len() as f64,
        n_steps: (!by_weights).then_some(n_steps),
        lengths: lengths.map(|lengths| lengths.iter().map(|&length| length as u32).collect()),
    };
    assert_twins(&expected, 1e-6, |bench| {
        let (forecast, target) = (bench.put(&forecast), bench.put(&target));
        let weights = weights.map(|weights| bench.put(weights));
        let inputs = Inputs { forecast, target, weights };
        let [loss, scale] = on_gpu.gpu_forward(&mut bench.machine, inputs)?;
        let d_loss = bench.machine.write_reals(&[3.0]);
        let d_forecast = on_gpu.gpu_backward(&mut bench.machine, inputs, scale, d_loss)?;
        Ok(vec![bench.get(loss), bench.get(d_forecast)])
    });
}

#[test]
fn quantile_losses_equal_their_twin() {
    let weights = noise("weights", &[5, 33]).abs().unwrap();
    let lengths = [33, 0, 7, 1, 20];
    for divide_by in [DivideBy::ValidSteps, DivideBy::Weights] {
        for lengths in [None, Some(&lengths[..])] {
            loss_case((5, 33), &[0.1, 0.5, 0.9], lengths, Some(&weights), divide_by);
            loss_case((5, 33), &[0.5], lengths, None, divide_by);
        }
        loss_case((1, 1), &[0.02, 0.5], None, None, divide_by);
        loss_case((9, 33), &[0.1, 0.5, 0.9], None, None, divide_by);
        loss_case(
            (1, 2),
            &[0.3],
            None,
            Some(&Tensor::new(&[[0f32, 0.0]], weights.device()).unwrap()),
            divide_by,
        );
    }
}

#[test]
fn adamw_equals_its_formula() {
    let n = 301;
    let [weights, first, second, gradient] = ["w", "m", "v", "g"].map(|name| values(&noise(name, &[n])));
    let second: Vec<f32> = second.iter().map(|v| v.abs()).collect();
    let decays: Vec<f32> = (0..n).map(|i| (i % 2) as f32).collect();
    let step = AdamWStep {
        clip: 0.7,
        beta1: 0.9,
        beta2: 0.999,
        rate: 0.02,
        correction2: 0.01,
        epsilon: 1e-8,
        decay: 0.001,
    };
    let mut expected = vec![vec![]; 3];
    for i in 0..n {
        let slope = f64::from(gradient[i]) * step.clip;
        let mean = f64::from(first[i]) * step.beta1 + slope * (1.0 - step.beta1);
        let square = f64::from(second[i]) * step.beta2 + slope * slope * (1.0 - step.beta2);
        let update = step.rate * mean / ((square / step.correction2).sqrt() + step.epsilon);
        let kept = f64::from(weights[i]) * (1.0 - f64::from(decays[i]) * step.decay);
        [kept - update, mean, square].into_iter().zip(&mut expected).for_each(|(x, all)| all.push(x as f32));
    }
    let means = values(&noise("mean", &[n]));
    let taken_in = means.iter().zip(&expected[0]).map(|(mean, weight)| mean * 0.9 + weight * 0.1).collect();
    expected.push(taken_in);
    // Blocks of 1, 100 and 200 weights.
    let cut = |all: &[f32]| [0..1, 1..101, 101..n].map(|range| all[range].to_vec());
    assert_twins(&expected, 2e-6, |bench| {
        let vectors = [&first, &second, &gradient, &decays].map(|values| bench.machine.write_reals(values));
        let blocks = cut(&weights).map(|values| bench.machine.write_reals(&values));
        let mean_blocks = cut(&means).map(|values| bench.machine.write_reals(&values));
        let state = State { vectors, weights: &blocks, means: &mean_blocks };
        step.launch(&mut bench.machine, &state, Some(0.9))?;
        let mut join = |blocks: [Memory; 3]| blocks.map(|block| bench.get(block)).concat();
        let (new, taken_in) = (join(blocks), join(mean_blocks));
        Ok(vec![new, bench.get(vectors[0]), bench.get(vectors[1]), taken_in])
    });
}

#[test]
fn weights_without_means_take_the_same_step() {
    let step = AdamWStep {
        clip: 1.0,
        beta1: 0.9,
        beta2: 0.999,
        rate: 0.1,
        correction2: 0.5,
        epsilon: 1e-8,
        decay: 0.0,
    };
    // m = 0.1 g and v = 0.001 g^2: the step is 0.1 * 0.1 g / (|g| sqrt(0.002)).
    let expected = vec![1.0 - 0.01 / 0.002f32.sqrt(), 1.0 + 0.01 / 0.002f32.sqrt()];
    assert_twins(&[expected], 1e-6, |bench| {
        let vectors =
            [[0.0; 2], [0.0; 2], [3.0, -5.0], [0.0; 2]].map(|values| bench.machine.write_reals(&values));
        let blocks = [bench.machine.write_reals(&[1.0]), bench.machine.write_reals(&[1.0])];
        let state = State { vectors, weights: &blocks, means: &[] };
        step.launch(&mut bench.machine, &state, None)?;
        Ok(vec![blocks.map(|block| bench.get(block)).concat()])
    });
}
