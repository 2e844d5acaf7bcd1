//! What stands at the end of a training step: the loss and the optimizer.

use candle_core::{Device, Var};

use super::*;
use crate::ops::adamw::{AdamWStep, Decision, Rule, StepPlan};
use crate::ops::check::noise;
use crate::ops::cuda::adamw::{State, launch, words};
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
        let numbers = bench.machine.write(&words(step, 0.9));
        launch(&mut bench.machine, &state, numbers)?;
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
        let numbers = bench.machine.write(&words(step, 1.0));
        launch(&mut bench.machine, &state, numbers)?;
        Ok(vec![blocks.map(|block| bench.get(block)).concat()])
    });
}

/// What the device decides and does, against the host's step: weights, moments, means, counts and what is told.
#[track_caller]
fn decided_case(loss: f32, spoilt: Option<f32>, is_taken: bool) {
    let (n, n_steps, n_means) = (700, 41u64, 7u64);
    let [weights, first, second, mut gradient, means] =
        ["w", "m", "v", "g", "mean"].map(|name| values(&noise(name, &[n])));
    let second: Vec<f32> = second.iter().map(|v| v.abs()).collect();
    let decays: Vec<f32> = (0..n).map(|i| (i % 2) as f32).collect();
    gradient[n - 1] = spoilt.unwrap_or(gradient[n - 1]);
    let (learning_rate, mean_decay) = (0.02, 0.99f64);
    let rule = Rule { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, clip: 2.0 };
    let squares: f32 = gradient.iter().map(|g| g * g).sum();
    let mut expected = vec![weights.clone(), first.clone(), second.clone(), means.clone()];
    if is_taken {
        let step = AdamWStep {
            clip: (rule.clip / (f64::from(squares).sqrt() + 1e-6)).min(1.0),
            beta1: rule.beta1,
            beta2: rule.beta2,
            rate: learning_rate / (1.0 - rule.beta1.powi(n_steps as i32 + 1)),
            correction2: 1.0 - rule.beta2.powi(n_steps as i32 + 1),
            epsilon: rule.epsilon,
            decay: learning_rate * rule.weight_decay,
        };
        let on_host = [&weights, &first, &second, &gradient, &decays]
            .map(|v| Tensor::new(v.as_slice(), &Device::Cpu).unwrap());
        let kept = mean_decay.min((1.0 + n_means as f64) / (10.0 + n_means as f64)) as f32;
        let after = step.apply_plain(on_host.each_ref()).unwrap().map(|tensor| values(&tensor));
        let taken_in = means.iter().zip(&after[0]).map(|(mean, weight)| mean * kept + weight * (1.0 - kept));
        expected[3] = taken_in.collect();
        expected[..3].clone_from_slice(&after);
    }
    let counted = if is_taken { 1.0 } else { 0.0 };
    expected.push(vec![n_steps as f32 + counted, n_means as f32 + counted]);
    let nothing = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
    let plan = StepPlan::Now { learning_rate, mean_decay };
    let decision = |plan| Decision { rule, loss: &nothing, counts: &nothing, plan };
    assert_twins(&expected, 2e-6, |bench| {
        let vectors = [&first, &second, &gradient, &decays].map(|values| bench.machine.write_reals(values));
        let [blocks, mean_blocks] = [&weights, &means]
            .map(|all| [0..300, 300..n].map(|range| bench.machine.write_reals(&all[range])));
        let state = State { vectors, weights: &blocks, means: &mean_blocks };
        let (loss_at, told) = (bench.machine.write_reals(&[loss]), bench.machine.write_reals(&[0.0; 2]));
        let counts = bench.machine.write_reals(&[n_steps as f32, n_means as f32]);
        // The plan may lie on the machine just as well.
        let lying = bench.machine.write(&rule.words(learning_rate, mean_decay));
        let own = bench.machine.write_reals(&[n_steps as f32, n_means as f32]);
        let at = decision(StepPlan::At(lying.address));
        let again = at.launch(&mut bench.machine, &state, [loss_at, own, told])?;
        let numbers = decision(plan).launch(&mut bench.machine, &state, [loss_at, counts, told])?;
        let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(bench.get(again)), bits(bench.get(numbers)));
        launch(&mut bench.machine, &state, numbers)?;
        let told = bench.get(told);
        assert_eq!(told[0].to_bits(), loss.to_bits());
        assert_eq!(told[1].is_finite(), squares.is_finite());
        assert!(!squares.is_finite() || (told[1] / squares - 1.0).abs() < 1e-5, "{} of {squares}", told[1]);
        let mut join = |blocks: [Memory; 2]| blocks.map(|block| bench.get(block)).concat();
        let (weights, means) = (join(blocks), join(mean_blocks));
        let moments = [bench.get(vectors[0]), bench.get(vectors[1])];
        Ok([vec![weights], moments.to_vec(), vec![means, bench.get(counts)]].concat())
    });
}

#[test]
fn a_step_that_is_decided_on_the_device_is_the_hosts() {
    decided_case(0.3, None, true);
}

#[test]
fn nothing_moves_along_what_is_not_finite() {
    decided_case(f32::NAN, None, false);
    decided_case(f32::INFINITY, None, false);
    for spoilt in [f32::NAN, f32::NEG_INFINITY, 3e38] {
        decided_case(0.3, Some(spoilt), false);
    }
}
