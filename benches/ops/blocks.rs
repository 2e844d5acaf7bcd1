//! The operations with matrix products, at the shapes they have in the network.

use candle_core::{Device, Tensor};
use tftctl::model::embedding::Embeddings;
use tftctl::model::vsn::Vsn;
use tftctl::model::work::Product;
use tftctl::model::{Params, TftConfig};
use tftctl::ops::attention::attention_plain;
use tftctl::ops::gate::gate_add_norm_plain;
use tftctl::ops::grn::grn_plain;
use tftctl::ops::linear::linear_plain;
use tftctl::ops::lstm_plain::lstm_plain;
use tftctl::ops::{
    AttentionMask, Decoder, Dropout, GateSizes, GateWeights, GrnSizes, GrnWeights, LinearWeights, LstmOutput,
    LstmWeights, attention as attend, gate_add_norm as gate, grn as grn_op, linear as linear_op,
    lstm as lstm_op,
};

use crate::case::{BATCH, Case, HORIZON, SEED, STEPS, Vars, Widths, noise};

const HISTORY: usize = STEPS - HORIZON;
const N_HEADS: usize = 8;
const DROPOUT: f64 = 0.15;

fn dropout() -> Dropout {
    Dropout::new(DROPOUT, SEED, 0)
}

fn product(rows: usize, n_in: usize, n_out: usize) -> Product {
    Product { rows, n_in, n_out }
}

/// The encoder's: 21 real variables over the history.
pub fn variable_selection(Widths { hidden, continuous }: Widths) -> Case {
    const N: usize = 21;
    let names: Vec<String> = (0..N).map(|i| format!("metric_{i}")).collect();
    let config = TftConfig {
        hidden_size: hidden,
        hidden_continuous_size: continuous,
        x_reals: names.clone(),
        time_varying_reals_encoder: names.clone(),
        ..TftConfig::default()
    };
    let params = Params::init(&config, SEED, &Device::Cpu).unwrap();
    let is_used = |name: &str| name.starts_with("encoder_variable_selection") || name == "common";
    let used = params.blocks().iter().filter(|block| is_used(&block.name));
    let vars = used.map(|block| block.var.clone()).collect();
    let embeddings = Embeddings::load(&config, &params).unwrap();
    let variables: Vec<&str> = names.iter().map(String::as_str).collect();
    let vsn = Vsn::load("encoder_variable_selection", &variables, &embeddings, &params, hidden).unwrap();
    let reals = noise("reals", &[BATCH, HISTORY, N]);
    let codes = Tensor::zeros((BATCH, HISTORY, 0), candle_core::DType::U32, &Device::Cpu).unwrap();
    let context = noise("context", &[BATCH, 1, hidden]);
    let both = std::rc::Rc::new((vsn, embeddings, codes, reals, context));
    let form = {
        let both = both.clone();
        move || {
            let (vsn, embeddings, codes, reals, context) = &*both;
            vsn.forward(embeddings, codes, reals, Some(context), &dropout()).unwrap().selected
        }
    };
    let oracle = move || {
        let (vsn, embeddings, codes, reals, context) = &*both;
        vsn.forward_plain(embeddings, codes, reals, Some(context), &dropout()).unwrap().selected
    };
    let joint = hidden.min(N);
    let single = [product(HISTORY, continuous, continuous), product(HISTORY, continuous, 2 * hidden)];
    let joint = [product(HISTORY, N, joint), product(HISTORY, joint, joint), product(HISTORY, joint, 2 * N)];
    Case {
        name: "variable selection",
        vars,
        form: Box::new(form),
        oracle: Some(Box::new(oracle)),
        products: std::iter::repeat_n(single, N).flatten().chain(joint).collect(),
        rows: BATCH * HISTORY,
    }
}

/// The static enrichment's, with a context.
pub fn grn(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let (x, context) = (vars.tensor(&[BATCH, STEPS, hidden]), vars.tensor(&[BATCH, 1, hidden]));
    let values = vars.tensor(&[4 * hidden * hidden + 6 * hidden]);
    let weights = GrnWeights::new(values, GrnSizes { n_in: hidden, hidden, n_out: hidden }).unwrap();
    let (x2, context2, weights2) = (x.clone(), context.clone(), weights.clone());
    let layer = product(STEPS, hidden, hidden);
    Case {
        name: "gated residual network",
        vars: vars.0,
        form: Box::new(move || grn_op(&x, Some(&context), &weights, dropout().site()).unwrap()),
        oracle: Some(Box::new(move || grn_plain(&x2, Some(&context2), &weights2, dropout().site()).unwrap())),
        products: vec![layer, layer, product(STEPS, hidden, 2 * hidden)],
        rows: BATCH * STEPS,
    }
}

/// The gate behind the LSTMs.
pub fn gate_add_norm(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let (x, skip) = (vars.tensor(&[BATCH, STEPS, hidden]), vars.tensor(&[BATCH, STEPS, hidden]));
    let values = vars.tensor(&[2 * hidden * hidden + 4 * hidden]);
    let weights = GateWeights::new(values, GateSizes { n_in: hidden, n_out: hidden }).unwrap();
    let (x2, skip2, weights2) = (x.clone(), skip.clone(), weights.clone());
    Case {
        name: "gate, add, norm",
        vars: vars.0,
        form: Box::new(move || gate(&x, &skip, &weights, dropout().site()).unwrap()),
        oracle: Some(Box::new(move || {
            gate_add_norm_plain(&x2, &skip2, &weights2, dropout().site()).unwrap()
        })),
        products: vec![product(STEPS, hidden, 2 * hidden)],
        rows: BATCH * STEPS,
    }
}

/// The keys of all heads.
pub fn linear(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let x = vars.tensor(&[BATCH, STEPS, hidden]);
    let values = vars.tensor(&[hidden * hidden + hidden]);
    let weights = LinearWeights::new(values, (hidden, hidden), true).unwrap();
    let (x2, weights2) = (x.clone(), weights.clone());
    Case {
        name: "linear",
        vars: vars.0,
        form: Box::new(move || linear_op(&x, &weights).unwrap()),
        oracle: Some(Box::new(move || linear_plain(&x2, &weights2).unwrap())),
        products: vec![product(STEPS, hidden, hidden)],
        rows: BATCH * STEPS,
    }
}

/// The encoder's.
pub fn lstm(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let x = vars.tensor(&[BATCH, HISTORY, hidden]);
    let (h, c) = (vars.tensor(&[BATCH, hidden]), vars.tensor(&[BATCH, hidden]));
    let values = vars.tensor(&[8 * hidden * (hidden + 1)]);
    let weights = move || LstmWeights::new(values.clone(), hidden, hidden).unwrap();
    let (x2, h2, c2, weights2) = (x.clone(), h.clone(), c.clone(), weights.clone());
    let sequence = |output: LstmOutput| output.sequence;
    let layer = product(HISTORY, hidden, 4 * hidden);
    Case {
        name: "lstm",
        vars: vars.0,
        form: Box::new(move || sequence(lstm_op(&x, &weights(), &h, &c, None).unwrap())),
        oracle: Some(Box::new(move || sequence(lstm_plain(&x2, &weights2(), &h2, &c2, None).unwrap()))),
        products: vec![layer, layer],
        rows: BATCH * HISTORY,
    }
}

/// From projected queries, keys and values to the mean of the heads.
pub fn attention(Widths { hidden, .. }: Widths) -> Case {
    let mut vars = Vars::default();
    let width = hidden / N_HEADS;
    let (queries, keys) = (vars.tensor(&[BATCH, HORIZON, hidden]), vars.tensor(&[BATCH, STEPS, hidden]));
    let values = vars.tensor(&[BATCH, STEPS, width]);
    let mask = AttentionMask::new((HISTORY, HORIZON), &[HISTORY; BATCH], Decoder::Causal, -1e9).unwrap();
    let seen = HISTORY + HORIZON / 2;
    let rows = HORIZON * N_HEADS;
    let (queries2, keys2, values2, mask2) = (queries.clone(), keys.clone(), values.clone(), mask.clone());
    Case {
        name: "attention",
        vars: vars.0,
        form: Box::new(move || attend(&queries, &keys, &values, &mask, &dropout()).unwrap()),
        oracle: Some(Box::new(move || {
            attention_plain(&queries2, &keys2, &values2, &mask2, dropout().site()).unwrap()
        })),
        products: vec![product(rows, width, seen), product(rows, seen, width)],
        rows: BATCH * HORIZON,
    }
}
