//! Stories of the mean of the weights, and of what a newcomer gets.

use candle_core::{DType, Tensor};

use super::*;
use crate::train::checkpoint::FORMAT;
use crate::train::ema::Ema;
use crate::train::optimizer::{AdamW, AdamWSettings};

fn with_mean() -> Toy {
    let mut toy = Toy::new();
    toy.site.config.training.ema_decay = 0.8;
    toy
}

/// The first weight of a parameter set.
fn first_weight(params: &crate::model::Params) -> f64 {
    let (_, values) = params.iter().next().unwrap();
    f64::from(values.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0])
}

#[test]
fn three_steps_by_hand() {
    let toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    let footing = Footing::unchanged(toy.last(), &Device::Cpu).unwrap();
    let (config, params) = (&footing.config, &footing.params);
    let (name, values) = params.iter().next().unwrap();
    let set = |value: f64| params.set(name, &(values.zeros_like().unwrap() + value).unwrap()).unwrap();
    // A step along no gradient leaves the weights where they were set.
    let mut optimizer = AdamW::new(params, AdamWSettings::new(0.0, 1.0), &Device::Cpu).unwrap();
    let still = Tensor::zeros(params.n_weights(), DType::F32, &Device::Cpu).unwrap();
    let mut take_in = |ema: &mut Ema| {
        optimizer.step(&still, 0.0, 0.1, Some(ema.mean(0.2))).unwrap();
        ema.count();
    };
    set(10.0);
    let mut ema = Ema::begin(config, params, &Device::Cpu).unwrap();
    // The decay is 1/10, then 2/11, then 3/12, and never above its limit of 0.2.
    for (weight, expected) in [(20.0, 19.0), (31.0, 19.0 * 2.0 / 11.0 + 31.0 * 9.0 / 11.0)] {
        set(weight);
        take_in(&mut ema);
        assert!((first_weight(ema.means()) - expected).abs() < 1e-5, "{}", first_weight(ema.means()));
    }
    let before = first_weight(ema.means());
    set(0.0);
    take_in(&mut ema);
    assert!((first_weight(ema.means()) - 0.2 * before).abs() < 1e-5);
    assert_eq!(ema.n_steps(), 3);
}

#[test]
fn the_mean_is_served_and_never_feeds_back() {
    let (plain, mean) = (Toy::new(), with_mean());
    let without = plain.train(&epochs(2)).unwrap();
    let outcome = mean.train(&epochs(2)).unwrap();
    let (raw, kept) = (plain.last(), mean.last());
    assert_eq!((&kept.weights_sha256, values(&kept.moments)), (&raw.weights_sha256, values(&raw.moments)));
    assert_eq!((without.record.ema_steps, outcome.record.ema_steps, kept.state.ema_steps), (0, 12, 12));
    assert!(raw.ema.is_empty() && raw.served_sha256 == raw.weights_sha256);
    // What is published is the mean, in the bytes of the checkpoint's file.
    assert_ne!(outcome.weights_sha256, kept.weights_sha256);
    assert_eq!(outcome.weights_sha256, kept.served_sha256);
    let model = TrainedModel::read(&outcome.model_dir, &Device::Cpu).unwrap();
    assert_eq!(values(&artifact::named_weights(&model.params)), values(&kept.ema));
}

#[test]
fn a_run_with_a_mean_is_published_once_and_continues_to_the_same_bits() {
    let (unbroken, broken) = (with_mean(), with_mean());
    let expected = unbroken.train(&night("2024-06-01")).unwrap();
    broken.train_interrupted(&night("2024-06-01"), 4).unwrap_err();
    let got = broken.train(&night("2024-06-01")).unwrap();
    assert_same_result(&unbroken, &broken, &expected, &got);
    assert_eq!(values(&unbroken.last().ema), values(&broken.last().ema));
    assert!(broken.train(&night("2024-06-01")).unwrap().reused);
    fs::remove_file(broken.site.checkpoints_dir().join("published.json")).unwrap();
    assert!(broken.train(&night("2024-06-01")).unwrap().reused);
    let next = broken.train(&epochs(1)).unwrap();
    assert_eq!(next.record.parent, Some(got.model_id));
    assert_eq!((broken.n_models(), broken.last().state.ema_steps), (2, 12));
}

#[test]
fn a_mean_begins_anew_where_it_is_switched_on_and_from_a_model() {
    let mut toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    toy.site.config.training.ema_decay = 0.8;
    let second = toy.train(&epochs(1)).unwrap();
    assert_eq!((second.record.total_steps, second.record.ema_steps), (12, 6));
    let from = TrainRequest { start: Start::From(second.model_dir), ..epochs(1) };
    assert_eq!(toy.train(&from).unwrap().record.ema_steps, 6);
    toy.site.config.training.ema_decay = 0.0;
    let last = toy.train(&epochs(1)).unwrap();
    assert_eq!((last.record.ema_steps, toy.last().ema.len()), (0, 0));
    assert_eq!(last.weights_sha256, toy.last().weights_sha256);
}

#[test]
fn a_newcomers_mean_is_its_kins_and_its_moments_are_zero() {
    let mut toy = with_mean();
    toy.train(&epochs(1)).unwrap();
    let before = toy.last();
    toy.grid = Arc::new(grid(&["db1", "db2", "db3", "ml1"], 10));
    toy.window_id = "w2".into();
    let (feed, survey) = (toy.feed(), toy.survey());
    let setting = Setting {
        material: toy.material(&feed),
        survey: &survey,
        config: &toy.site.config,
        device: &Device::Cpu,
        device_reason: "cpu",
        key: None,
        epochs: 1,
        now: now(),
        left: None,
    };
    let footing = Footing::next(Origin::of_checkpoint(before.clone(), None), &setting).unwrap();
    let table = "input_embeddings.embeddings.server_name.weight";
    let rows = |tensor: &candle_core::Tensor| -> Vec<Vec<f32>> { tensor.to_vec2().unwrap() };
    let ema = footing.ema.as_ref().unwrap();
    let (old, new) = (rows(&before.ema[table]), rows(&ema.named()[table]));
    assert_eq!((new.len(), &new[..4]), (5, &old[..]));
    let kin: Vec<f32> =
        old[1].iter().zip(&old[2]).map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32).collect();
    assert_eq!(new[4], kin);
    assert_eq!(ema.n_steps(), 6);
    for (name, value) in values(&before.ema).into_iter().filter(|(name, _)| !name.contains("embeddings.")) {
        assert_eq!(values(&ema.named()).iter().find(|(other, _)| *other == name).unwrap().1, value, "{name}");
    }
    let dir = toy.site.checkpoints_dir();
    let look = (&toy.material(&feed), &survey);
    let session = Session::new(footing, look, &toy.site.config, &Device::Cpu, dir, None).unwrap();
    let moments = session.moments().unwrap();
    for prefix in ["m.", "v."] {
        let name = format!("{prefix}{table}");
        let (old, new) = (rows(&before.moments[&name]), rows(&moments[&name]));
        assert_eq!((&new[..4], new[4].iter().all(|moment| *moment == 0.0)), (&old[..], true), "{name}");
    }
    assert_eq!(toy.train(&epochs(1)).unwrap().record.ema_steps, 12);
}

#[test]
fn an_unknown_server_is_forecast_and_changes_nothing_for_the_others() {
    let toy = with_mean();
    let outcome = toy.train(&epochs(1)).unwrap();
    let model = TrainedModel::read(&outcome.model_dir, &Device::Cpu).unwrap();
    let forecasts = |names: &[&str]| {
        let dataset = Dataset::new(Arc::new(grid(names, 10)), model.preprocessing.clone(), 6).unwrap();
        let keys = dataset.forecast_keys();
        let forecasts = predict(&model, &dataset, &keys, &Device::Cpu).unwrap();
        assert_eq!((forecasts.n_samples, forecasts.n_not_finite), (names.len(), 0));
        (0..names.len()).map(|sample| forecasts.sample(sample).to_vec()).collect::<Vec<_>>()
    };
    let known = forecasts(&["db1", "ml1"]);
    // One of a known profile, one of a profile that nobody has seen.
    let with_strangers = forecasts(&["db1", "ml1", "db9", "zz1"]);
    // Not to the bit: a matrix product of another number of rows may add in another order.
    for (together, alone) in with_strangers.iter().flatten().zip(known.iter().flatten()) {
        assert!((together - alone).abs() <= 1e-5 * alone.abs(), "{together}, alone {alone}");
    }
    assert_ne!(with_strangers[2], with_strangers[3]);
}

#[test]
fn a_checkpoint_of_format_1_is_one_without_a_mean() {
    let toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    let dir = toy.site.checkpoints_dir().join(LAST);
    let mut state: serde_json::Value = fsx::read_json(&dir.join("state.json")).unwrap();
    assert_eq!(state["format"], FORMAT);
    state["format"] = 1.into();
    state.as_object_mut().unwrap().remove("ema_steps").unwrap();
    state["run"].as_object_mut().unwrap().remove("ema_before").unwrap();
    fsx::write_json(&dir.join("state.json"), &state).unwrap();
    let files = fsx::digest_dir(&dir).unwrap();
    fsx::write_json(&dir.join("manifest.json"), &serde_json::json!({ "format": 1, "files": files })).unwrap();
    assert_eq!(toy.train(&epochs(1)).unwrap().record.total_epochs, 2);
    assert_eq!(toy.last().state.format, FORMAT);
}
