//! A checkpoint of the library's trainer: its weights answer alike, and its optimiser's moments are gone on from.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use tftctl::model::{Mode, Params, Tft};
use tftctl::train::optimizer::{AdamW, AdamWSettings};

use super::network::OUTPUT;
use super::{Fixture, largest, of_target};

/// Largest difference of a weight after one more step, absolute.
const WEIGHT: f64 = 1e-6;

/// Loads, predicts, restores and takes one more step; says how far the forecasts are off.
pub fn check(fixture: &Fixture) -> Result<String> {
    let config = fixture.config()?;
    let n_targets = config.output_sizes.len();
    let params = Params::from_tensors(&config, &fixture.under("param."), &Device::Cpu)?;
    fixture.check_layout(&params)?;
    let network = Tft::new(&config, &params)?;
    let output = network.forward(&fixture.input("", n_targets)?, &Mode::Eval)?;
    let mut off = 0f64;
    for (i, forecast) in output.prediction.iter().enumerate() {
        let allowed = fixture.allowed("out.prediction", OUTPUT);
        off = off.max(fixture.compare(forecast, &of_target("out.prediction", i, n_targets), allowed)?);
    }
    let n_steps = check_next_step(fixture, &params, &output.prediction[0].mean_all()?)?;
    Ok(format!("checkpoint, forecasts within {off:.1e}, goes on after {n_steps} steps"))
}

/// One step along the gradient of some loss, from the recorded moments; returns the steps taken before.
fn check_next_step(fixture: &Fixture, params: &Params, loss: &Tensor) -> Result<u64> {
    let (moments, n_steps) = moments(fixture, params)?;
    let lr = fixture.number("/optimizer_state/groups/0/lr")?;
    let settings = AdamWSettings::new(0.0, f64::INFINITY);
    let mut optimizer = AdamW::new(params, settings, &Device::Cpu)?;
    optimizer.restore(&moments, n_steps)?;
    let kept = optimizer.moments()?;
    for (name, moment) in &moments {
        let off = largest(&(&kept[name] - moment)?)?;
        ensure!(off == 0.0, "{name} changed by {off:.1e} on its way into the optimiser");
    }
    let before = params.snapshot()?;
    let grads = loss.backward()?;
    let gradient = optimizer.gradient(&grads)?;
    optimizer.step(&gradient, f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt(), lr, None)?;
    ensure!(optimizer.n_steps() == n_steps + 1, "the step was not counted");
    let mut moved = false;
    let gradients = optimizer.named(&gradient)?;
    for ((name, var), (_, before)) in params.iter().zip(&before) {
        let [before, m, v, after] =
            [before, &moments[&format!("m.{name}")], &moments[&format!("v.{name}")], var]
                .map(|tensor| tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()));
        let (before, m, v) = (before?, m?, v?);
        let gradient: Vec<f32> = gradients[name].flatten_all()?.to_vec1()?;
        for (i, after) in after?.into_iter().enumerate() {
            let expected = adam(before[i], m[i], v[i], gradient[i], n_steps + 1, lr);
            let off = (f64::from(after) - expected).abs();
            ensure!(off <= WEIGHT, "{name} is off by {off:.1e} after one more step");
            moved |= after != before[i];
        }
    }
    ensure!(moved, "the step moved no weight");
    Ok(n_steps)
}

/// The recorded moments under our names, and the steps behind them.
///
/// A parameter that never had a gradient has no state in the library, which is the same as zeros.
fn moments(fixture: &Fixture, params: &Params) -> Result<(HashMap<String, Tensor>, u64)> {
    let mut moments = HashMap::new();
    for (prefix, recorded) in [("m.", "adam.exp_avg."), ("v.", "adam.exp_avg_sq.")] {
        let found = fixture.under(recorded);
        ensure!(!found.is_empty(), "no {recorded}* tensors");
        for name in found.keys() {
            ensure!(params.get(name).is_some(), "{recorded}{name} belongs to no parameter");
        }
        for (name, var) in params.iter() {
            let moment = found.get(name).cloned().map_or_else(|| var.zeros_like(), Ok)?;
            moments.insert(format!("{prefix}{name}"), moment);
        }
    }
    let steps = fixture.under("adam.step.").into_values();
    let steps = steps.map(|step| step.to_scalar::<f32>()).collect::<Result<Vec<_>, _>>()?;
    let first = *steps.first().context("no adam.step.* tensors")?;
    ensure!(steps.iter().all(|&step| step == first), "parameters with different numbers of steps");
    Ok((moments, first as u64))
}

/// A weight after a step of Adam, in double precision.
fn adam(weight: f32, m: f32, v: f32, gradient: f32, n_steps: u64, lr: f64) -> f64 {
    let [weight, m, v, gradient] = [weight, m, v, gradient].map(f64::from);
    let (m, v) = (0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient * gradient);
    let (m, v) = (m / (1.0 - 0.9f64.powf(n_steps as f64)), v / (1.0 - 0.999f64.powf(n_steps as f64)));
    weight - lr * m / (v.sqrt() + 1e-8)
}
