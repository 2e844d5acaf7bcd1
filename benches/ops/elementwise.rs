//! The operations without matrix products.

use candle_core::Tensor;
use tftctl::ops::adamw::InPlace;
use tftctl::ops::layer_norm::layer_norm_plain;
use tftctl::ops::quantile_loss::{QuantileLossOptions, quantile_loss_plain};
use tftctl::ops::{
    AdamWStep, Dropout, ResampleWeights, layer_norm as norm, quantile_loss as loss,
    resample_norm as resample, softmax as shares,
};

use crate::case::{BATCH, Case, HORIZON, SEED, STEPS, Vars, Widths, noise};

fn case(name: &'static str, vars: Vars, rows: usize, form: impl Fn() -> Tensor + 'static) -> Case {
    Case { name, vars: vars.0, form: Box::new(form), oracle: None, products: Vec::new(), rows }
}

pub fn layer_norm(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let x = vars.tensor(&[BATCH, STEPS, hidden]);
    let (weight, bias) = vars.norm(hidden);
    let (x2, weight2, bias2) = (x.clone(), weight.clone(), bias.clone());
    let oracle = move || layer_norm_plain(&x2, &weight2, &bias2).unwrap();
    let fused = case("layer norm", vars, BATCH * STEPS, move || norm(&x, &weight, &bias).unwrap());
    Case { oracle: Some(Box::new(oracle)), ..fused }
}

pub fn dropout(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let x = vars.tensor(&[BATCH, STEPS, hidden]);
    let x2 = x.clone();
    let mask = || Dropout::new(0.15, SEED, 0).site().expect("a rate above 0");
    let oracle = move || mask().apply_plain(&x2).unwrap();
    let fused = case("dropout", vars, BATCH * STEPS, move || mask().apply(&x).unwrap());
    Case { oracle: Some(Box::new(oracle)), ..fused }
}

/// An embedding's, from 8 to the hidden size.
pub fn resample_norm(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let x = vars.tensor(&[BATCH, STEPS, 8]);
    let weights = ResampleWeights { mask: vars.tensor(&[hidden]), norm: vars.norm(hidden) };
    case("resample, norm", vars, BATCH * STEPS, move || resample(&x, &weights).unwrap())
}

/// Over 21 variables.
pub fn softmax(_: Widths) -> Case {
    let mut vars = Vars::default();
    let x = vars.tensor(&[BATCH, STEPS, 21]);
    case("softmax", vars, BATCH * STEPS, move || shares(&x).unwrap())
}

/// Of one target and seven quantiles.
pub fn quantile_loss(_: Widths) -> Case {
    const QUANTILES: [f64; 7] = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98];
    let mut vars = Vars::default();
    let forecast = vars.tensor(&[BATCH, HORIZON, QUANTILES.len()]);
    let target = noise("target", &[BATCH, HORIZON]);
    let (forecast2, target2) = (forecast.clone(), target.clone());
    let oracle = move || {
        quantile_loss_plain(&forecast2, &target2, &QUANTILES, &QuantileLossOptions::default()).unwrap()
    };
    let form = move || loss(&forecast, &target, &QUANTILES, &QuantileLossOptions::default()).unwrap();
    Case { oracle: Some(Box::new(oracle)), ..case("quantile loss", vars, BATCH * HORIZON, form) }
}

/// One step over as many weights as a network of that width has, about; the new weights are its value.
pub fn adamw(Widths { hidden, .. }: Widths) -> Case {
    let n = 120 * hidden * hidden;
    let flat = |name: &str| noise(name, &[n]);
    let inputs = [flat("w"), flat("m"), flat("v").abs().unwrap(), flat("g"), flat("d").abs().unwrap()];
    let step = AdamWStep {
        clip: 0.7,
        beta1: 0.9,
        beta2: 0.999,
        rate: 0.02,
        correction2: 0.01,
        epsilon: 1e-8,
        decay: 0.001,
    };
    let inputs2 = inputs.clone();
    let oracle = move || step.apply_plain(inputs2.each_ref()).unwrap()[0].clone();
    let [weights, first, second, gradient, decays] = inputs;
    let form = move || {
        // In place, so on copies: a second call must find what the first one found.
        let [own, first, second] = [&weights, &first, &second].map(|tensor| tensor.copy().unwrap());
        let moments = [&first, &second];
        let (gradient, decays) = (&gradient, &decays);
        step.apply_in_place(&InPlace { weights: vec![&own], means: None, moments, gradient, decays })
            .unwrap();
        own
    };
    let fused = case("adamw", Vars::default(), n, form);
    Case { oracle: Some(Box::new(oracle)), ..fused }
}
