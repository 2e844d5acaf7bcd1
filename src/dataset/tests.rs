//! What the bridge promises, on small made-up grids.

mod drift;
mod leakage;
mod resident;
mod scaler_properties;

use candle_core::{Device, Tensor};

use super::*;
use crate::config::Config;
use crate::schema::{Metric, ProfileRule};
use crate::window::split::plan_split;
use crate::window::{Server, Split};

const ENCODER: usize = 12;
const HORIZON: usize = 4;
const N_STEPS: usize = 200;

fn config() -> Config {
    let mut config = Config {
        metrics: vec![Metric::new("cpu", "%"), Metric::new("mem", "%"), Metric::new("net", "MB/s")],
        profiles: vec![ProfileRule { prefix: "db".into(), profile: "database".into() }],
        ..Config::default()
    };
    config.model.targets = vec!["mem".into(), "cpu".into()];
    config.model.encoder_length = ENCODER;
    config.model.horizon = HORIZON;
    config.window.max_gap_steps = 2;
    config
}

fn grid(names: &[&str]) -> Grid {
    let servers = names
        .iter()
        .map(|name| Server { name: (*name).into(), profile: config().schema().profile_of(name).into() });
    let mut values = Vec::new();
    for name in names {
        let phase = name.bytes().map(f32::from).sum::<f32>();
        for step in 0..N_STEPS {
            let wave = (step as f32 * 0.3 + phase).sin();
            values.extend([40.0 + 10.0 * wave, 70.0 + wave, (step * 7 % 5) as f32]);
        }
    }
    Grid {
        servers: servers.collect(),
        metrics: vec!["cpu".into(), "mem".into(), "net".into()],
        statuses: vec!["busy".into(), "idle".into()],
        start_ms: 1_704_067_200_000,
        step_secs: 300,
        n_steps: N_STEPS,
        status: (0..names.len() * N_STEPS).map(|at| (at % 3) as u16).collect(),
        values,
    }
}

fn set(grid: &mut Grid, server: usize, step: usize, value: f32) {
    let at = (server * grid.n_steps + step) * 3;
    grid.values[at..at + 3].fill(value);
}

fn lose(grid: &mut Grid, server: usize, steps: std::ops::Range<usize>) {
    steps.for_each(|step| set(grid, server, step, f32::NAN));
}

fn split() -> Split {
    plan_split(N_STEPS, ENCODER, HORIZON, 20).unwrap().split
}

fn fit(grid: &Grid) -> Preprocessing {
    Preprocessing::fit(grid, &split(), &config(), None).unwrap()
}

fn dataset(grid: Grid) -> Dataset {
    let preprocessing = fit(&grid);
    Dataset::new(grid, preprocessing, 2).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn inputs(dataset: &Dataset, keys: &[SampleKey]) -> Vec<Vec<f32>> {
    let input = dataset.batch(keys, &Device::Cpu).unwrap().input;
    [&input.encoder_cont, &input.decoder_cont, &input.encoder_cat, &input.decoder_cat].map(numbers).to_vec()
}

#[test]
fn shapes_follow_the_config_and_columns_are_what_they_are_called() {
    let dataset = dataset(grid(&["db1", "web1"]));
    let config = dataset.preprocessing().tft_config(&config().model);
    config.validate().unwrap();
    let keys = [SampleKey { server: 0, cutoff: 20 }, SampleKey { server: 1, cutoff: 50 }];
    let batch = dataset.batch(&keys, &Device::Cpu).unwrap();
    let (n_reals, n_categoricals) = (config.x_reals.len(), config.x_categoricals.len());
    assert_eq!(batch.input.encoder_cont.dims(), [2, ENCODER, n_reals]);
    assert_eq!(batch.input.decoder_cont.dims(), [2, HORIZON, n_reals]);
    assert_eq!(batch.input.encoder_cat.dims(), [2, ENCODER, n_categoricals]);
    assert_eq!(batch.input.target_scale[1].to_vec2::<f32>().unwrap(), [[0.0, 1.0]; 2]);
    assert_eq!((batch.targets.len(), batch.weights[0].dims()), (2, &[2, HORIZON][..]));

    let encoder = batch.input.encoder_cont.to_vec3::<f32>().unwrap();
    let column = |name: &str| config.x_reals.iter().position(|real| real == name).unwrap();
    let stats = &dataset.preprocessing().scaler.servers[1];
    let cpu = dataset.grid().row(1, 50 - ENCODER + 3)[0];
    assert_eq!(encoder[1][3][column("cpu")], stats.scale(0, cpu));
    assert_eq!(encoder[1][3][column("missing_share")], 0.0);
    assert_eq!(encoder[1][0][column("relative_time_idx")], -1.0);
    let decoder = batch.input.decoder_cont.to_vec3::<f32>().unwrap();
    assert_eq!(decoder[0][2][column("relative_time_idx")], 2.0 / ENCODER as f32);
    assert_eq!(encoder[0][5][column("mem_center")], decoder[0][1][column("mem_center")]);
    let categories = batch.input.encoder_cat.to_vec3::<u32>().unwrap();
    assert_eq!(categories[1][0][..2], [2, 2]);
    assert_eq!(categories[0][1][2], u32::from(dataset.grid().status[20 - ENCODER + 1]));
    let mem = dataset.target_value(keys[0], 0, 2).unwrap();
    let scaled = batch.targets[0].to_vec2::<f32>().unwrap()[0][2];
    assert!((dataset.unscale(0, 0, scaled) - mem).abs() < 1e-3);
}

#[test]
fn nothing_at_or_after_the_cutoff_reaches_an_input() {
    let original = dataset(grid(&["db1", "web1"]));
    let keys = [60, 61, 62].map(|cutoff| SampleKey { server: 0, cutoff });
    for step in 60..70 {
        for value in [f32::NAN, 1e9, -3.0] {
            let mut changed = grid(&["db1", "web1"]);
            set(&mut changed, 0, step, value);
            changed.status[step] = 0;
            let changed = Dataset::new(changed, original.preprocessing().clone(), 2).unwrap();
            for key in keys.iter().filter(|key| key.cutoff as usize <= step) {
                assert_eq!(inputs(&original, &[*key]), inputs(&changed, &[*key]), "step {step}, {key:?}");
            }
        }
    }
}

#[test]
fn observed_columns_are_empty_in_the_decoder() {
    let dataset = dataset(grid(&["db1", "web1"]));
    let config = dataset.preprocessing().tft_config(&config().model);
    let batch = dataset.batch(&dataset.forecast_keys(), &Device::Cpu).unwrap();
    let decoder = batch.input.decoder_cont.to_vec3::<f32>().unwrap();
    let is_known = |name: &String| {
        config.time_varying_reals_decoder.contains(name) || config.static_reals.contains(name)
    };
    for row in decoder.iter().flatten() {
        for (value, _) in row.iter().zip(&config.x_reals).filter(|(_, name)| !is_known(name)) {
            assert_eq!(*value, 0.0);
        }
    }
    assert!(numbers(&batch.weights[0]).iter().all(|weight| *weight == 0.0));
}

#[test]
fn only_the_train_part_reaches_the_scaler() {
    let before = fit(&grid(&["db1", "web1"]));
    let mut changed = grid(&["db1", "web1"]);
    for step in split().train_end..N_STEPS {
        set(&mut changed, 0, step, 1e6);
        set(&mut changed, 1, step, f32::NAN);
    }
    assert_eq!(fit(&changed).scaler, before.scaler);
    set(&mut changed, 0, split().train_end - 1, 1e3);
    set(&mut changed, 0, split().train_end - 2, 1e3);
    assert_ne!(fit(&changed).scaler, before.scaler);
}

#[test]
fn train_and_holdout_share_no_target() {
    let dataset = dataset(grid(&["db1", "web1"]));
    let split = split();
    let last_train =
        dataset.train_keys(&split).iter().map(|key| key.cutoff as usize + HORIZON).max().unwrap();
    let first_holdout = dataset.holdout_keys(&split, 0).iter().map(|key| key.cutoff as usize).min().unwrap();
    assert_eq!(last_train, split.train_end);
    assert_eq!(first_holdout, split.train_end + HORIZON);
}

#[test]
fn a_sample_never_straddles_a_long_gap() {
    let mut holed = grid(&["db1", "web1"]);
    lose(&mut holed, 0, 50..52); // short: bridged
    lose(&mut holed, 0, 100..103); // long
    let dataset = dataset(holed);
    let cutoffs: Vec<u32> =
        dataset.train_keys(&split()).iter().filter(|key| key.server == 0).map(|key| key.cutoff).collect();
    let straddles = |cutoff: &u32| (100 - HORIZON as u32 + 1..103 + ENCODER as u32).contains(cutoff);
    assert!(!cutoffs.iter().any(straddles));
    assert!((45..70).all(|cutoff| cutoffs.contains(&cutoff)));
    assert!(cutoffs.contains(&96) && cutoffs.contains(&115));
}

#[test]
fn short_gaps_are_filled_backwards_masked_and_carry_no_weight() {
    let mut holed = grid(&["db1", "web1"]);
    lose(&mut holed, 0, 50..52);
    for step in 40..44 {
        let at = step * 3 + 2; // `net` alone is away for longer than the limit
        holed.values[at] = f32::NAN;
    }
    let dataset = dataset(holed);
    let columns = dataset.columns;
    let key = SampleKey { server: 0, cutoff: 51 };
    let batch = dataset.batch(&[key], &Device::Cpu).unwrap();
    let rows = &batch.input.encoder_cont.to_vec3::<f32>().unwrap()[0];
    let at = |step: usize| &rows[step - (51 - ENCODER)];
    let metrics = columns.metrics..columns.missing;
    assert_eq!(at(50)[metrics.clone()], at(49)[metrics.clone()]);
    assert_eq!((at(49)[columns.missing], at(50)[columns.missing]), (0.0, 1.0));
    let net = columns.metrics + 2;
    assert_eq!((at(40)[net], at(41)[net]), (at(39)[net], at(39)[net]));
    assert_eq!((at(42)[net], at(43)[net]), (0.0, 0.0));
    assert!((at(42)[columns.missing] - 1.0 / 3.0).abs() < 1e-6);
    assert_eq!(numbers(&batch.weights[1]), [0.0, 1.0, 1.0, 1.0]);
    assert_eq!((dataset.target_value(key, 1, 0), dataset.target_value(key, 1, 1).is_some()), (None, true));
}

#[test]
fn a_newcomer_changes_nothing_for_the_others_and_is_served_as_its_profile() {
    let before = fit(&grid(&["db1", "web1"]));
    let mut grown = grid(&["db1", "db2", "web1"]);
    lose(&mut grown, 1, 0..N_STEPS - 15);
    assert_eq!(fit(&grown), before);
    let dataset = Dataset::new(grown, before.clone(), 2).unwrap();
    assert!(!dataset.is_known(1) && dataset.is_known(2));
    let keys = dataset.forecast_keys();
    assert_eq!(keys.iter().map(|key| key.server).collect::<Vec<_>>(), [0, 1, 2]);
    let codes = dataset.batch(&keys, &Device::Cpu).unwrap().input.encoder_cat.to_vec3::<u32>().unwrap();
    assert_eq!(codes[1][0][..2], [UNKNOWN, before.vocabulary.profile_id("database")]);
    assert_eq!(dataset.unscale(1, 0, 0.0), before.scaler.profiles[0].centre[1]);
}

#[test]
fn a_lineage_keeps_codes_and_scales_when_servers_come_and_go() {
    let first = fit(&grid(&["db1", "web1"]));
    let mut later = grid(&["app1", "web1", "zoo1"]); // db1 vanished
    later.values.iter_mut().for_each(|value| *value *= 3.0);
    let second = Preprocessing::fit(&later, &split(), &config(), Some(&first)).unwrap();
    assert_eq!(second.vocabulary.servers, ["db1", "web1", "app1", "zoo1"]);
    assert_eq!(second.scaler.servers[..2], first.scaler.servers[..]);
    assert_eq!(second.scaler.fleet, first.scaler.fleet);
    assert_eq!(second.embedding_dims, first.embedding_dims);
    assert!(second.scaler.servers[2].centre[1] > 200.0);
    let (first, second) = (first.tft_config(&config().model), second.tft_config(&config().model));
    assert_eq!(second.embedding_sizes[0].classes, first.embedding_sizes[0].classes + 2);
    assert_eq!(second.embedding_sizes[0].dim, first.embedding_sizes[0].dim);
}

#[test]
fn another_shape_is_another_lineage() {
    let grid = grid(&["db1"]);
    let first = fit(&grid);
    let mut longer = config();
    longer.model.horizon += 1;
    let error = Preprocessing::fit(&grid, &split(), &longer, Some(&first)).unwrap_err();
    assert!(format!("{error:#}").contains("model.horizon differ"), "{error:#}");
    let mut clash = config();
    clash.metrics[2].name = "is_weekend".into();
    assert!(Preprocessing::fit(&grid, &split(), &clash, None).is_err());
}

#[test]
fn an_empty_train_part_is_refused() {
    let mut grid = grid(&["db1"]);
    lose(&mut grid, 0, 0..split().train_end);
    let error = Preprocessing::fit(&grid, &split(), &config(), None).unwrap_err();
    assert_eq!(crate::error::Exit::of(&error), crate::error::Exit::NotEnoughData);
}

#[test]
fn a_stranger_wears_its_profiles_clothes() {
    let dataset = dataset(grid(&["db1", "web1"]));
    let keys = [SampleKey { server: 0, cutoff: 20 }; 2];
    let batch = dataset.batch_with_strangers(&keys, |at| at == 1, &Device::Cpu).unwrap();
    let codes = batch.input.encoder_cat.to_vec3::<u32>().unwrap();
    assert_eq!((codes[0][0][0], codes[1][0][0]), (1, UNKNOWN));
    assert_eq!(codes[0][0][1], codes[1][0][1]);
}

#[test]
fn fewer_holdout_samples_are_spread_over_servers_and_time() {
    let dataset = dataset(grid(&["a", "b", "c"]));
    let all = dataset.holdout_keys(&split(), 0);
    assert_eq!(all.len(), 3 * 21);
    let some = dataset.holdout_keys(&split(), 12);
    assert_eq!(some, dataset.holdout_keys(&split(), 12));
    for server in 0..3 {
        let cutoffs: Vec<u32> =
            some.iter().filter(|key| key.server == server).map(|key| key.cutoff).collect();
        assert_eq!(cutoffs.len(), 4);
        assert!(cutoffs[3] - cutoffs[0] >= 14, "{cutoffs:?}");
    }
    assert!(some.iter().all(|key| all.contains(key)));
}

#[test]
fn a_grid_with_more_or_reordered_metrics_gives_the_same_inputs() {
    let plain = dataset(grid(&["db1"]));
    let mut other = grid(&["db1"]);
    other.metrics = vec!["net".into(), "extra".into(), "mem".into(), "cpu".into()];
    other.values = other.values.chunks_exact(3).flat_map(|row| [row[2], 9.0, row[1], row[0]]).collect();
    let other = Dataset::new(other, plain.preprocessing().clone(), 2).unwrap();
    let key = [SampleKey { server: 0, cutoff: 33 }];
    assert_eq!(inputs(&plain, &key), inputs(&other, &key));
    let mut lacking = grid(&["db1"]);
    lacking.metrics[0] = "other".into();
    assert!(Dataset::new(lacking, plain.preprocessing().clone(), 2).is_err());
}

#[test]
fn preprocessing_survives_json() {
    let fitted = fit(&grid(&["db1", "web1"]));
    let json = serde_json::to_string_pretty(&fitted).unwrap();
    let read: Preprocessing = serde_json::from_str(&json).unwrap();
    read.ensure_valid().unwrap();
    assert_eq!(read, fitted);
}

/// A grid with holes of every length, the same for the same seed.
fn holed_grid(seed: u64) -> Grid {
    let mut grid = grid(&["db1", "web1"]);
    let mut state = seed;
    for at in 0..grid.values.len() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if state >> 61 == 0 {
            grid.values[at] = f32::NAN;
        }
        if state >> 57 == 1 {
            let n_lost = (state >> 50 & 7) as usize;
            lose(&mut grid, at / 3 / N_STEPS, at / 3 % N_STEPS..(at / 3 % N_STEPS + n_lost).min(N_STEPS));
        }
    }
    grid
}

/// The slow twin of the gap search: looks at every step around the sample.
fn is_whole_slowly(grid: &Grid, server: usize, first: usize, end: usize) -> bool {
    let is_present = |step: usize| grid.row(server, step)[..2].iter().any(|value| value.is_finite());
    (first..end).all(|step| {
        let before = (0..=step).rev().take_while(|step| !is_present(*step)).count();
        let after = (step + 1..N_STEPS).take_while(|step| !is_present(*step)).count();
        before == 0 || (before <= step && before + after <= 2)
    })
}

/// The slow twin of a metric's column: looks back from every step.
fn column_slowly(dataset: &Dataset, server: usize, metric: usize, step: usize) -> (f32, bool) {
    let seen = (step.saturating_sub(2)..=step).rev().map(|step| dataset.grid().row(server, step)[metric]);
    let value = seen.clone().find(|value| value.is_finite());
    let (server_id, profile_id) = dataset.codes[server];
    let stats = dataset.preprocessing().scaler.stats(server_id, profile_id);
    (value.map_or(0.0, |value| stats.scale(metric, value)), seen.clone().next().unwrap().is_finite())
}

#[test]
fn the_fast_gather_agrees_with_its_slow_twin() {
    for seed in 0..8 {
        let dataset = dataset(holed_grid(seed));
        let keys = dataset.train_keys(&split());
        for server in 0..2 {
            for cutoff in ENCODER..=split().train_end - HORIZON {
                let key = SampleKey { server: server as u32, cutoff: cutoff as u32 };
                let expected = is_whole_slowly(dataset.grid(), server, cutoff - ENCODER, cutoff + HORIZON);
                assert_eq!(keys.contains(&key), expected, "seed {seed}, {key:?}");
            }
        }
        assert!(keys.len() > 20, "seed {seed} leaves {} samples", keys.len());
        let columns = dataset.columns;
        let batch = dataset.batch(&keys, &Device::Cpu).unwrap();
        let rows = batch.input.encoder_cont.to_vec3::<f32>().unwrap();
        for (key, rows) in keys.iter().zip(rows) {
            for (i, row) in rows.iter().enumerate() {
                let step = key.cutoff as usize - ENCODER + i;
                let slow: Vec<_> =
                    (0..3).map(|metric| column_slowly(&dataset, key.server as usize, metric, step)).collect();
                assert_eq!(
                    row[columns.metrics..columns.missing],
                    slow.iter().map(|s| s.0).collect::<Vec<_>>()
                );
                let missing = slow.iter().filter(|s| !s.1).count() as f32 / 3.0;
                assert!((row[columns.missing] - missing).abs() < 1e-6);
            }
        }
    }
}

/// The folder of real data sets beside the repository, if this machine has it.
fn shared_data() -> Option<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    ["../shared/data", "../../shared/data"].iter().map(|path| root.join(path)).find(|path| path.is_dir())
}

#[test]
fn real_servers_go_from_buffer_to_batch() {
    let Some(data) = shared_data() else {
        println!("skipped: the real data sets are not on this machine");
        return;
    };
    let mut config = Config {
        data_buffer_dir: data.join("asd").to_string_lossy().into(),
        metrics: (0..19).map(|i| Metric::new(&format!("metric_{i:02}"), "")).collect(),
        min_training_samples: 25_000,
        ..Config::default()
    };
    config.series.sample_secs = 300;
    config.model.targets = vec!["metric_00".into(), "metric_05".into()];
    let site_dir = tempfile::tempdir().unwrap();
    let site = crate::site::Site::of(site_dir.path(), config.clone());
    let request =
        crate::window::WindowRequest { end: Some("2024-02-10".parse().unwrap()), ..Default::default() };
    let now = "2024-02-10T02:00:00Z".parse().unwrap();
    let window = crate::window::build(&site, &request, now, &crate::progress::Silent).unwrap();
    assert_eq!((window.manifest.n_steps, window.manifest.servers.len()), (30 * 288, 6));
    assert_eq!(crate::window::build(&site, &request, now, &crate::progress::Silent).unwrap().id, window.id);

    let split = window.manifest.split;
    let grid = window.read_grid().unwrap();
    let fitted = Preprocessing::fit(&grid, &split, &config, None).unwrap();
    let dataset = Dataset::new(grid, fitted, config.window.max_gap_steps).unwrap();
    let (train, holdout) = (dataset.train_keys(&split), dataset.holdout_keys(&split, 64));
    assert_eq!(train.len(), window.manifest.quality.n_train_samples);
    assert_eq!(holdout.len(), 64);
    let batch = dataset.batch(&holdout, &Device::Cpu).unwrap();
    assert_eq!(batch.input.encoder_cont.dims(), [64, 288, 4 + 6 + 19 + 1]);
    assert!(numbers(&batch.input.encoder_cont).iter().all(|value| value.abs() <= scaler::SCALED_LIMIT));
    assert!(numbers(&batch.weights[0]).iter().sum::<f32>() > 0.0);
}
