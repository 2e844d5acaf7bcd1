//! What the network promises as a whole, and small networks and batches for the tests of its parts.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::*;
use crate::ops::check::{assert_close, noise, values};
use crate::ops::random::Key;

mod passage;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn table(name: &str, classes: usize, dim: usize) -> EmbeddingSize {
    EmbeddingSize { name: name.into(), classes, dim }
}

/// A small network with every kind of variable.
pub(crate) fn small_config() -> TftConfig {
    TftConfig {
        hidden_size: 8,
        attention_head_size: 2,
        hidden_continuous_size: 4,
        max_encoder_length: 6,
        embedding_sizes: vec![table("server", 5, 3), table("weekday", 7, 4)],
        static_categoricals: names(&["server"]),
        static_reals: names(&["cores"]),
        time_varying_categoricals_encoder: names(&["weekday"]),
        time_varying_categoricals_decoder: names(&["weekday"]),
        time_varying_reals_encoder: names(&["hour", "cpu", "mem"]),
        time_varying_reals_decoder: names(&["hour"]),
        x_reals: names(&["cores", "hour", "cpu", "mem"]),
        x_categoricals: names(&["server", "weekday"]),
        output_sizes: vec![3, 3],
        output_transformations: vec![Transformation::Identity, Transformation::Softplus],
        ..TftConfig::default()
    }
}

/// A network as a fleet would use it: 14 observed and 6 known reals, 2 static categoricals, 3 targets.
fn fleet_config() -> TftConfig {
    let known: Vec<String> = (0..6).map(|i| format!("known_{i}")).collect();
    let observed: Vec<String> = (0..14).map(|i| format!("observed_{i}")).collect();
    let encoder = [known.clone(), observed].concat();
    TftConfig {
        embedding_sizes: vec![table("server", 21, 9), table("profile", 7, 5)],
        static_categoricals: names(&["server", "profile"]),
        time_varying_reals_encoder: encoder.clone(),
        time_varying_reals_decoder: known,
        x_reals: encoder,
        x_categoricals: names(&["server", "profile"]),
        output_sizes: vec![7; 3],
        output_transformations: vec![Transformation::Identity; 3],
        ..TftConfig::default()
    }
}

/// A batch of noise for a network; all samples have all steps.
fn batch(config: &TftConfig, n_samples: usize, encoder_length: usize, horizon: usize) -> TftInput {
    let reals = |name, n_steps| noise(name, &[n_samples, n_steps, config.x_reals.len()]);
    let codes = |name: &str, n_steps: usize| {
        let key = Key::new(1).name(name);
        let n = n_samples * n_steps * config.x_categoricals.len();
        let smallest = config.embedding_sizes.iter().map(|table| table.classes).min().unwrap_or(1);
        let codes: Vec<u32> = (0..n as u64).map(|i| (key.bits(i) % smallest as u64) as u32).collect();
        Tensor::from_vec(codes, (n_samples, n_steps, config.x_categoricals.len()), &Device::Cpu).unwrap()
    };
    let scale = Tensor::new(&[0f32, 1.0], &Device::Cpu).unwrap().repeat((n_samples, 1)).unwrap();
    TftInput {
        encoder_cont: reals("encoder", encoder_length),
        decoder_cont: reals("decoder", horizon),
        encoder_cat: codes("encoder", encoder_length),
        decoder_cat: codes("decoder", horizon),
        encoder_lengths: vec![encoder_length; n_samples],
        decoder_lengths: vec![horizon; n_samples],
        target_scale: vec![scale; config.output_sizes.len()],
    }
}

fn forward(config: &TftConfig, params: &Params, input: &TftInput, mode: Mode) -> TftOutput {
    Tft::new(config, params).unwrap().forward(input, &mode).unwrap()
}

fn loss(config: &TftConfig, output: &TftOutput, input: &TftInput) -> Tensor {
    let (n_samples, horizon, n_quantiles) = output.prediction[0].dims3().unwrap();
    let quantiles: Vec<f64> = (1..=n_quantiles).map(|i| i as f64 / (n_quantiles + 1) as f64).collect();
    let targets: Vec<Tensor> = (0..config.output_sizes.len())
        .map(|i| noise(&format!("target {i}"), &[n_samples, horizon]))
        .collect();
    let options =
        MultiLossOptions { decoder_lengths: Some(input.decoder_lengths.clone()), ..Default::default() };
    multi_quantile_loss(output, &targets, &quantiles, &options).unwrap().total
}

#[track_caller]
fn assert_every_parameter_learns(config: &TftConfig, input: &TftInput) {
    let params = Params::init(config, 3, &Device::Cpu).unwrap();
    let output = forward(config, &params, input, Mode::Train { seed: 3, step: 0 });
    let grads = loss(config, &output, input).backward().unwrap();
    for (name, _) in params.iter() {
        let grad = params.gradient(&grads, name).unwrap();
        let grad = values(&grad.unwrap_or_else(|| panic!("{name} has no gradient")));
        let norm = grad.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!(norm.is_finite(), "{name}: {norm}");
        // A bias of the keys moves all scores of a query alike, which softmax does not see.
        let blind = name.starts_with("multihead_attn.k_layers.") && name.ends_with(".bias");
        assert!(blind || norm > 0.0, "{name} has a gradient of zero");
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    let config = fleet_config();
    assert_every_parameter_learns(&config, &batch(&config, 3, 12, 5));
    let mut config = TftConfig { lstm_layers: 2, share_single_variable_networks: true, ..small_config() };
    config.causal_attention = false;
    let mut input = batch(&config, 4, 6, 3);
    (input.encoder_lengths, input.decoder_lengths) = (vec![6, 2, 1, 5], vec![3, 3, 1, 2]);
    assert_every_parameter_learns(&config, &input);
}

/// `x` with everything from `first` on (along time) in one column (or all) replaced by something else.
fn spoilt(x: &Tensor, first_of: impl Fn(usize) -> usize, column: Option<usize>) -> Tensor {
    let (_, n_steps, n_columns) = x.dims3().unwrap();
    let mut all = values(x);
    for (i, value) in all.iter_mut().enumerate() {
        let (sample, step) = (i / (n_steps * n_columns), i / n_columns % n_steps);
        if step >= first_of(sample) && column.is_none_or(|column| column == i % n_columns) {
            *value = 1e3 - *value;
        }
    }
    Tensor::from_vec(all, x.shape(), &Device::Cpu).unwrap()
}

#[test]
fn what_observed_variables_hold_in_the_future_does_not_matter() {
    let config = small_config();
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let input = batch(&config, 3, 6, 4);
    let before = forward(&config, &params, &input, Mode::Eval);
    for (column, matters) in [(0, false), (1, true), (2, false), (3, false)] {
        let decoder_cont = spoilt(&input.decoder_cont, |_| 0, Some(column));
        let after = forward(&config, &params, &TftInput { decoder_cont, ..input.clone() }, Mode::Eval);
        let same = values(&before.prediction[0]) == values(&after.prediction[0]);
        assert_eq!(same, !matters, "column {column}");
    }
}

#[test]
fn padding_does_not_matter() {
    let config = TftConfig { lstm_layers: 2, ..small_config() };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let mut input = batch(&config, 3, 6, 4);
    (input.encoder_lengths, input.decoder_lengths) = (vec![6, 2, 4], vec![4, 1, 3]);
    for causal_attention in [true, false] {
        let config = TftConfig { causal_attention, ..config.clone() };
        let before = forward(&config, &params, &input, Mode::Eval);
        let encoder_lengths = input.encoder_lengths.clone();
        let decoder_lengths = input.decoder_lengths.clone();
        let other = TftInput {
            encoder_cont: spoilt(&input.encoder_cont, |sample| encoder_lengths[sample], None),
            decoder_cont: spoilt(&input.decoder_cont, |sample| decoder_lengths[sample], None),
            ..input.clone()
        };
        let after = forward(&config, &params, &other, Mode::Eval);
        for (sample, &length) in decoder_lengths.iter().enumerate() {
            let valid = |output: &TftOutput| {
                values(&output.prediction[1].get(sample).unwrap().narrow(0, 0, length).unwrap())
            };
            assert_close(&valid(&before), &valid(&after), 0.0);
        }
    }
}

#[test]
fn a_short_sample_is_forecast_alike_alone_and_in_a_longer_batch() {
    let config = small_config();
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let mut input = batch(&config, 2, 6, 4);
    input.encoder_lengths = vec![6, 3];
    let row = |x: &Tensor| x.narrow(0, 1, 1).unwrap();
    let alone = TftInput {
        encoder_cont: row(&input.encoder_cont).narrow(1, 0, 3).unwrap(),
        encoder_cat: row(&input.encoder_cat).narrow(1, 0, 3).unwrap(),
        decoder_cont: row(&input.decoder_cont),
        decoder_cat: row(&input.decoder_cat),
        encoder_lengths: vec![3],
        decoder_lengths: vec![4],
        target_scale: input.target_scale.iter().map(row).collect(),
    };
    let together = forward(&config, &params, &input, Mode::Eval);
    let alone = forward(&config, &params, &alone, Mode::Eval);
    assert_close(&values(&row(&together.prediction[0])), &values(&alone.prediction[0]), 2e-6);
}

#[test]
fn training_masks_follow_seed_and_step_and_evaluation_has_none() {
    let config = fleet_config();
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let input = batch(&config, 2, 5, 3);
    let run = |mode| values(&forward(&config, &params, &input, mode).prediction[0]);
    let train = |seed, step| run(Mode::Train { seed, step });
    assert_eq!(train(1, 1), train(1, 1));
    assert_ne!(train(1, 1), train(1, 2));
    assert_ne!(train(1, 1), train(2, 1));
    assert_eq!(run(Mode::Eval), run(Mode::Eval));
    assert_ne!(run(Mode::Eval), train(1, 1));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let config = small_config();
    let input = batch(&config, 5, 9, 4);
    let run = |n_threads| {
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(n_threads).stack_size(16 << 20).build().unwrap();
        pool.install(|| {
            let params = Params::init(&config, 1, &Device::Cpu).unwrap();
            let output = forward(&config, &params, &input, Mode::Train { seed: 1, step: 1 });
            let grads = loss(&config, &output, &input).backward().unwrap();
            params.blocks().iter().map(|block| values(grads.get(&block.var).unwrap())).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn networks_without_statics_without_known_or_with_single_variables_work() {
    let no_statics = TftConfig { static_categoricals: vec![], static_reals: vec![], ..small_config() };
    let single = TftConfig {
        static_categoricals: vec![],
        time_varying_categoricals_encoder: vec![],
        time_varying_categoricals_decoder: vec![],
        time_varying_reals_encoder: names(&["cpu"]),
        ..small_config()
    };
    let nothing_known = TftConfig {
        time_varying_categoricals_decoder: vec![],
        time_varying_reals_decoder: vec![],
        ..small_config()
    };
    let no_categoricals = TftConfig {
        embedding_sizes: vec![],
        x_categoricals: vec![],
        static_categoricals: vec![],
        time_varying_categoricals_encoder: vec![],
        time_varying_categoricals_decoder: vec![],
        attention_head_size: 3,
        ..small_config()
    };
    for config in [no_statics, single, nothing_known, no_categoricals] {
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let input = batch(&config, 2, 4, 3);
        let output = forward(&config, &params, &input, Mode::Train { seed: 1, step: 1 });
        let n_statics = config.static_variables().len();
        let expected = if n_statics == 0 { vec![2, 0] } else { vec![2, 1, n_statics] };
        assert_eq!(output.static_variables.dims(), expected);
        assert_eq!(output.decoder_variables.dims(), [2, 3, 1, config.decoder_variables().len()]);
        loss(&config, &output, &input).backward().unwrap();
        assert!(values(&output.prediction[0]).iter().all(|v| v.is_finite()));
    }
}

#[test]
fn empty_histories_are_answered_with_numbers() {
    let config = TftConfig { lstm_layers: 2, ..small_config() };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    for (encoder_length, lengths) in [(5, vec![5, 0, 3]), (5, vec![0, 0, 0]), (0, vec![0, 0, 0])] {
        let input = TftInput { encoder_lengths: lengths, ..batch(&config, 3, encoder_length, 4) };
        let output = forward(&config, &params, &input, Mode::Explain);
        let attention = output.attention.as_ref().unwrap();
        assert_eq!(attention.encoder.dims(), [3, 4, 2, encoder_length]);
        assert_eq!(attention.decoder.dims(), [3, 4, 2, 4]);
        loss(&config, &output, &input).backward().unwrap();
        assert!(values(&output.prediction[0]).iter().all(|v| v.is_finite()));
    }
}

#[test]
fn groups_sum_their_columns_and_padding_rows_stay() {
    let config = TftConfig {
        embedding_sizes: vec![table("server", 5, 3), table("tags", 4, 2)],
        embedding_paddings: names(&["server"]),
        categorical_groups: [("tags".to_owned(), names(&["tag_a", "tag_b"]))].into(),
        time_varying_categoricals_encoder: names(&["tags"]),
        time_varying_categoricals_decoder: names(&["tags"]),
        x_categoricals: names(&["server", "tag_a", "tag_b"]),
        ..small_config()
    };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let server = "input_embeddings.embeddings.server.weight";
    assert_eq!(values(params.get(server).unwrap())[..3], [0.0; 3]);
    let input = batch(&config, 6, 4, 3);
    let grads = loss(&config, &forward(&config, &params, &input, Mode::Eval), &input).backward().unwrap();
    assert_eq!(values(&params.gradient(&grads, server).unwrap().unwrap())[..3], [0.0; 3]);
    let columns =
        |order: [usize; 3], x: &Tensor| Tensor::cat(&order.map(|i| x.narrow(2, i, 1).unwrap()), 2).unwrap();
    let swapped = TftInput {
        encoder_cat: columns([0, 2, 1], &input.encoder_cat),
        decoder_cat: columns([0, 2, 1], &input.decoder_cat),
        ..input.clone()
    };
    let run = |input| values(&forward(&config, &params, input, Mode::Eval).prediction[0]);
    assert_close(&run(&input), &run(&swapped), 1e-6);
}

#[test]
fn misfitting_batches_are_refused_by_name() {
    let config = small_config();
    let tft = Tft::new(&config, &Params::init(&config, 1, &Device::Cpu).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut TftInput), expected: &str| {
        let mut input = batch(&config, 2, 4, 3);
        change(&mut input);
        let message = format!("{:#}", tft.forward(&input, &Mode::Eval).unwrap_err());
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    refused(&|input| input.encoder_lengths = vec![5, 4], "encoder lengths");
    refused(&|input| input.decoder_lengths = vec![3], "decoder lengths");
    refused(&|input| input.decoder_cont = noise("x", &[2, 3, 5]), "decoder_cont");
    refused(&|input| input.target_scale.truncate(1), "target scales");
    let code = Tensor::full(9u32, (2, 4, 2), &Device::Cpu).unwrap();
    refused(&|input| input.encoder_cat = code.clone(), "code 9 is beyond");
}

fn as_map(params: &Params) -> HashMap<String, Tensor> {
    params.snapshot().unwrap().into_iter().collect()
}

#[test]
fn first_values_follow_the_seed_and_each_name_alone() {
    let init = |config: &TftConfig, seed| as_map(&Params::init(config, seed, &Device::Cpu).unwrap());
    let (a, again, other) = (init(&small_config(), 1), init(&small_config(), 1), init(&small_config(), 2));
    let weight = "pos_wise_ff.fc1.weight";
    assert!(a.iter().all(|(name, tensor)| values(tensor) == values(&again[name])));
    assert_ne!(values(&a[weight]), values(&other[weight]));
    assert_ne!(values(&a[weight]), values(&a["pos_wise_ff.fc2.weight"]));
    let mut grown = small_config();
    grown.x_reals.push("disk".into());
    grown.time_varying_reals_encoder.push("disk".into());
    let grown = init(&grown, 1);
    assert_eq!(values(&a[weight]), values(&grown[weight]), "a new variable disturbs no other parameter");
}

#[test]
fn first_values_have_the_spread_of_the_reference() {
    let config = TftConfig { hidden_size: 64, ..fleet_config() };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let spread = |name: &str| {
        let values = values(params.get(name).unwrap());
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        (deviation, values.iter().fold(0f32, |m, v| m.max(v.abs())))
    };
    let (deviation, _) = spread("pos_wise_ff.fc1.weight");
    assert!((deviation / (2f32 / 64.0).sqrt() - 1.0).abs() < 0.05, "{deviation}");
    let bound = (6f32 / (64.0 + 128.0)).sqrt();
    let (_, largest) = spread("pos_wise_ff.gate_norm.glu.fc.weight");
    assert!(largest <= bound && largest > 0.98 * bound, "{largest} {bound}");
    let (_, largest) = spread("lstm_encoder.bias_hh_l0");
    assert!(largest <= 0.125 && largest > 0.11, "{largest}");
    assert_eq!(spread("pos_wise_ff.fc1.bias").1, 0.0);
    assert_eq!(spread("pos_wise_ff.gate_norm.add_norm.norm.weight"), (1.0, 1.0));
}

#[test]
fn tensors_are_taken_by_name_or_alias_and_everything_else_is_refused() {
    let config = small_config();
    let tensors = as_map(&Params::init(&config, 1, &Device::Cpu).unwrap());
    let read = |tensors: &HashMap<String, Tensor>| Params::from_tensors(&config, tensors, &Device::Cpu);
    let read_back = as_map(&read(&tensors).unwrap());
    assert!(tensors.iter().all(|(name, tensor)| values(tensor) == values(&read_back[name])));

    let (name, alias) = ("prescalers.hour.bias", "decoder_variable_selection.prescalers.hour.bias");
    let mut changed = tensors.clone();
    let bias = changed.remove(name).unwrap();
    let message = |tensors: &HashMap<String, Tensor>| read(tensors).unwrap_err().to_string();
    assert!(message(&changed).contains("prescalers.hour.bias is missing"));
    changed.insert(alias.into(), bias.clone());
    read(&changed).unwrap();
    changed.insert(name.into(), (&bias + 1.0).unwrap());
    assert!(message(&changed).contains("differs from prescalers.hour.bias"));

    let mut changed = tensors.clone();
    changed.insert("lstm_encoder.weight_ih_l1".into(), bias.clone());
    assert!(message(&changed).contains("lstm_encoder.weight_ih_l1 is not part"));
    let mut changed = tensors.clone();
    changed.insert(name.into(), noise("x", &[5]));
    assert!(message(&changed).contains("prescalers.hour.bias has shape [5]"));
}

#[test]
fn a_detached_copy_sees_training_and_records_nothing() {
    let config = small_config();
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let (input, still) = (batch(&config, 2, 4, 3), params.detached());
    let tft = Tft::new(&config, &still).unwrap();
    let run = || tft.forward(&input, &Mode::Eval).unwrap().prediction[0].clone();
    let before = run();
    assert!(!before.track_op());
    let snapshot = params.snapshot().unwrap();
    let bias = params.get("output_layer.0.bias").unwrap();
    params.set("output_layer.0.bias", &(bias + 1.0).unwrap()).unwrap();
    assert_close(&values(&run()), &values(&(before + 1.0).unwrap()), 1e-5);
    let (_, kept) = snapshot.iter().find(|(name, _)| name == "output_layer.0.bias").unwrap();
    assert_close(&values(&(kept + 1.0).unwrap()), &values(bias), 0.0);
}

#[test]
fn what_an_operation_reads_lies_together() {
    let shared = TftConfig { share_single_variable_networks: true, ..small_config() };
    for config in [fleet_config(), shared, TftConfig { lstm_layers: 2, ..small_config() }] {
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        // Every number of a block belongs to one parameter.
        for (number, block) in params.blocks().iter().enumerate() {
            let mut ranges: Vec<_> = params
                .places()
                .filter(|(_, place)| place.block == number)
                .map(|(_, p)| p.range.clone())
                .collect();
            ranges.sort_by_key(|range| range.start);
            assert_eq!(ranges[0].start, 0, "{}", block.name);
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{}", block.name);
            assert_eq!(ranges[ranges.len() - 1].end, block.var.elem_count(), "{}", block.name);
        }
        let n_targets = config.output_sizes.len();
        assert!(params.blocks().len() <= 24 + n_targets, "{} blocks", params.blocks().len());
    }
}

#[test]
fn a_parameter_is_written_where_it_lies() {
    let params = Params::init(&small_config(), 1, &Device::Cpu).unwrap();
    let (before, name) = (as_map(&params), "prescalers.hour.bias");
    params.set(name, &params.get(name).unwrap().ones_like().unwrap()).unwrap();
    for (other, values_before) in &before {
        let now = values(params.get(other).unwrap());
        assert_eq!(now == values(values_before), other != name, "{other}");
    }
    assert!(params.set(name, &noise("x", &[50])).is_err());
    assert!(params.set("nobody", &noise("x", &[5])).is_err());
}
