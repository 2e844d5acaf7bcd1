//! A training run: the same batches, the same losses, the same steps.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde_json::Value;
use tftctl::model::{Mode, Params, Tft, TftConfig, multi_quantile_loss};
use tftctl::train::optimizer::{AdamW, AdamWSettings};

use super::Fixture;

/// For the first steps, and for all: largest difference of a loss, relative. Rounding adds up over steps.
const LOSS: [f64; 2] = [1e-5, 2e-4];
/// Largest difference of a gradient's norm during the first steps, relative.
const NORM: f64 = 1e-4;
const FIRST_STEPS: u64 = 10;
/// Largest difference of a weight after one step, absolute, where the gradient is not [`TINY`].
const WEIGHT: f64 = 1e-5;
/// Adam's first step is about the learning rate, towards the gradient's sign: rounding decides it where the
/// gradient is nearly zero.
const TINY: f64 = 1e-5;

/// One step of ours.
struct Step {
    loss: f64,
    /// By parameter.
    gradient: HashMap<String, Tensor>,
    norm: f64,
}

/// Runs the recorded steps; says how far losses and norms are off at most.
pub fn check(fixture: &Fixture) -> Result<String> {
    let config = fixture.config()?;
    let params = Params::from_tensors(&config, &fixture.under("start."), &Device::Cpu)?;
    fixture.check_layout(&params)?;
    let network = Tft::new(&config, &params)?;
    let mut optimizer = AdamW::new(&params, settings(fixture)?, &Device::Cpu)?;
    let (n_steps, n_batches) = (fixture.number("/steps")? as u64, fixture.number("/batches")? as u64);
    ensure!(n_steps > 0 && n_batches > 0, "no step was recorded");
    // Of the first steps, and of the later ones.
    let (mut worst_loss, mut worst_norm, mut n_compared) = ([0f64; 2], 0f64, 0);
    for i in 0..n_steps {
        let batch = format!("batch{}.", i % n_batches);
        let step = take_step(fixture, &config, &network, &mut optimizer, &batch)?;
        let early = i < FIRST_STEPS;
        let loss = relative(fixture, step.loss, &format!("/losses/{i}"))?;
        let phase = usize::from(!early);
        ensure!(loss < LOSS[phase], "step {i}: the loss {} is off by {loss:.1e}", step.loss);
        let norm = relative(fixture, step.norm, &format!("/grad_norms/{i}"))?;
        ensure!(!early || norm < NORM, "step {i}: the gradient's norm {} is off by {norm:.1e}", step.norm);
        worst_loss[phase] = worst_loss[phase].max(loss);
        worst_norm = if early { worst_norm.max(norm) } else { worst_norm };
        if i == 0 {
            n_compared = check_first_step(fixture, &params, &step.gradient)?;
        }
    }
    let [first, later] = worst_loss;
    Ok(format!(
        "{n_steps} steps of training, losses within {first:.1e}, after step {FIRST_STEPS} within {later:.1e}, norms \
         within {worst_norm:.1e}, {n_compared} weights alike after the first"
    ))
}

/// Adam is our AdamW without decay; with decay they differ, as the library's AdamW decays biases as well.
fn settings(fixture: &Fixture) -> Result<AdamWSettings> {
    let optimizer = &fixture.json["optimizer"];
    let decay = optimizer["weight_decay"].as_f64().unwrap_or(0.0);
    ensure!(decay == 0.0, "weight_decay {decay} means something else in the library");
    let class = optimizer["class"].as_str().unwrap_or_default();
    ensure!(["Adam", "AdamW"].contains(&class), "the optimizer {class} is not ours");
    let clip = fixture.json["clip_grad_norm"].as_f64().unwrap_or(f64::INFINITY);
    let mut settings = AdamWSettings::new(0.0, clip);
    let overrides =
        [("/optimizer/betas/0", &mut settings.beta1), ("/optimizer/betas/1", &mut settings.beta2)];
    for (pointer, value) in overrides.into_iter().chain([("/optimizer/eps", &mut settings.epsilon)]) {
        *value = fixture.json.pointer(pointer).and_then(Value::as_f64).unwrap_or(*value);
    }
    Ok(settings)
}

fn take_step(
    fixture: &Fixture,
    config: &TftConfig,
    network: &Tft,
    optimizer: &mut AdamW,
    batch: &str,
) -> Result<Step> {
    let n_targets = config.output_sizes.len();
    let input = fixture.input(batch, n_targets)?;
    let output = network.forward(&input, &Mode::Eval)?;
    let options = fixture.loss_options(batch, &input.decoder_lengths);
    let targets = fixture.per_target(&format!("{batch}y.target"), n_targets)?;
    let loss = multi_quantile_loss(&output, &targets, &fixture.quantiles()?, &options)?.total;
    let gradient = optimizer.gradient(&loss.backward()?)?;
    let norm = f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
    optimizer.step(&gradient, norm, fixture.number("/optimizer/lr")?, None)?;
    Ok(Step { loss: f64::from(loss.to_scalar::<f32>()?), gradient: optimizer.named(&gradient)?, norm })
}

fn relative(fixture: &Fixture, found: f64, pointer: &str) -> Result<f64> {
    let off = (found / fixture.number(pointer)? - 1.0).abs();
    ensure!(off.is_finite(), "{pointer}: {found}");
    Ok(off)
}

/// The weights after the first step: alike where the gradient is not tiny, moved by no more than Adam can move
/// them elsewhere. Returns how many were compared; most must be.
fn check_first_step(fixture: &Fixture, params: &Params, gradient: &HashMap<String, Tensor>) -> Result<usize> {
    let recorded: HashMap<String, Tensor> = fixture.under("after1.");
    ensure!(!recorded.is_empty(), "no after1.* tensors");
    let lr = fixture.number("/optimizer/lr")?;
    let (mut n_all, mut n_compared) = (0, 0);
    for (name, values) in params.iter() {
        let expected = recorded.get(name).with_context(|| format!("no tensor after1.{name}"))?;
        let gradient = gradient[name].flatten_all()?.to_vec1::<f32>()?;
        let found = values.flatten_all()?.to_vec1::<f32>()?;
        let both = found.iter().zip(expected.flatten_all()?.to_vec1::<f32>()?);
        for ((found, expected), gradient) in both.zip(gradient) {
            let off = f64::from(found - expected).abs();
            let is_tiny = f64::from(gradient).abs() < TINY;
            let allowed = if is_tiny { 2.0 * lr + WEIGHT } else { WEIGHT };
            ensure!(off <= allowed, "{name} is off by {off:.1e} after the first step");
            n_compared += usize::from(!is_tiny);
            n_all += 1;
        }
    }
    ensure!(2 * n_compared > n_all, "only {n_compared} of {n_all} weights had a gradient worth comparing");
    Ok(n_compared)
}
