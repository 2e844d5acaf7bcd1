//! The operations themselves on a GPU against the CPU, where there is one and the program has kernels for it.

use candle_core::{Device, Var};

use super::*;
use crate::ops::attention::{AttentionMask, Decoder, attention};
use crate::ops::check::{grn_noise, noise, vars};
use crate::ops::cuda::IS_ENABLED;
use crate::ops::gate::{GateSizes, GateWeights, gate_add_norm};
use crate::ops::grn::{GrnSizes, GrnWeights, grn};
use crate::ops::lstm::{LstmWeights, lstm};
use crate::ops::quantile_loss::{QuantileLossOptions, quantile_loss};
use crate::ops::{Dropout, LinearWeights, layer_norm, linear};

/// `None`, with a printed line, where there is nothing to test on.
pub fn gpu() -> Option<Device> {
    let device = IS_ENABLED.then(|| std::panic::catch_unwind(|| Device::new_cuda(0)).ok()?.ok()).flatten();
    if device.is_none() {
        println!("skipped: no CUDA device, or a program without the feature `cuda`");
    }
    device
}

/// Value and every gradient of `form` on a device.
fn on(device: &Device, vars: &[Var], form: &dyn Fn(&[Var]) -> Tensor) -> Vec<Vec<f32>> {
    let moved = |var: &Var| Var::from_tensor(&var.as_detached_tensor().to_device(device).unwrap()).unwrap();
    let vars: Vec<Var> = vars.iter().map(moved).collect();
    let y = form(&vars);
    let direction = noise("direction", y.dims()).to_device(device).unwrap();
    let grads = (&y * direction).unwrap().sum_all().unwrap().backward().unwrap();
    let grads = vars.iter().map(|var| values(grads.get(var).expect("a gradient")));
    [values(&y)].into_iter().chain(grads).collect()
}

#[track_caller]
fn assert_devices_agree(vars: &[Var], form: &dyn Fn(&[Var]) -> Tensor) {
    let Some(gpu) = gpu() else { return };
    assert_all_close(&on(&gpu, vars, form), &on(&Device::Cpu, vars, form), 5e-5);
}

#[test]
fn rows_through_layers() {
    let all = vars(&[("x", &[40, 33, 20]), ("values", &[16 * 21])]);
    assert_devices_agree(&all, &|v| {
        linear(&v[0], &LinearWeights::new(v[1].as_tensor().clone(), (16, 20), true).unwrap()).unwrap()
    });
    let all = vars(&[("x", &[40, 33, 20]), ("weight", &[20]), ("bias", &[20])]);
    assert_devices_agree(&all, &|v| layer_norm(&v[0], &v[1], &v[2]).unwrap());
    assert_devices_agree(&all[..1], &|v| Dropout::new(0.3, 1, 2).apply(&v[0]).unwrap());
}

#[test]
fn blocks() {
    let sizes = GrnSizes { n_in: 32, hidden: 32, n_out: 32 };
    let mut all = vars(&[("x", &[40, 33, 32]), ("context", &[40, 1, 32])]);
    all.push(Var::from_tensor(&grn_noise(sizes)).unwrap());
    assert_devices_agree(&all, &|v| {
        let weights = GrnWeights::new(v[2].as_tensor().clone(), sizes).unwrap();
        grn(&v[0], Some(&v[1]), &weights, Dropout::new(0.3, 1, 2).site()).unwrap()
    });
    let gated = vars(&[("x", &[40, 33, 32]), ("skip", &[40, 33, 32]), ("values", &[64 * 32 + 128])]);
    assert_devices_agree(&gated, &|v| {
        let weights = GateWeights::new((v[2].as_tensor() * 0.2).unwrap(), GateSizes { n_in: 32, n_out: 32 });
        gate_add_norm(&v[0], &v[1], &weights.unwrap(), Dropout::new(0.3, 1, 2).site()).unwrap()
    });
}

#[test]
fn sequences_and_what_looks_at_them() {
    let (batch, hidden) = (64, 32);
    let all = vars(&[
        ("x", &[batch, 50, hidden]),
        ("values", &[8 * hidden * (hidden + 1)]),
        ("hidden", &[batch, hidden]),
        ("cell", &[batch, hidden]),
    ]);
    all[1].set(&(all[1].as_tensor() * 0.2).unwrap()).unwrap();
    let lengths: Vec<usize> = (0..batch).map(|i| i * 7 % 51).collect();
    assert_devices_agree(&all, &|v| {
        let weights = LstmWeights::new(v[1].as_tensor().clone(), hidden, hidden).unwrap();
        let out = lstm(&v[0], &weights, &v[2], &v[3], Some(&lengths)).unwrap();
        Tensor::cat(&[&out.sequence, &out.hidden.unsqueeze(1).unwrap(), &out.cell.unsqueeze(1).unwrap()], 1)
            .unwrap()
    });
    let all = vars(&[("q", &[batch, 40, 32]), ("k", &[batch, 90, 32]), ("v", &[batch, 90, 4])]);
    let mask = AttentionMask::new((50, 40), &lengths, Decoder::Causal, -1e9).unwrap();
    assert_devices_agree(&all, &|v| attention(&v[0], &v[1], &v[2], &mask, &Dropout::new(0.3, 1, 2)).unwrap());
}

#[test]
fn losses() {
    let all = vars(&[("forecast", &[64, 96, 7])]);
    let quantiles = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98];
    assert_devices_agree(&all, &|v| {
        let target = noise("target", &[64, 96]).to_device(v[0].device()).unwrap();
        quantile_loss(&v[0], &target, &quantiles, &QuantileLossOptions::default()).unwrap()
    });
}
