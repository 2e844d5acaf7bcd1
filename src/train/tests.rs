//! Stories of whole runs on a toy fleet.

mod ema_tests;
mod parts;
mod told;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use candle_core::Device;
use chrono::{DateTime, Utc};

use super::checkpoint::{Checkpoint, LAST, PREVIOUS};
use super::lineage::{Footing, Material, Origin, Setting};
use super::*;
use crate::config::Config;
use crate::dataset::Dataset;
use crate::error::{Exit, message_and_hint};
use crate::evaluate::{Exam, ExamGrids, predict, score_baselines, score_model};
use crate::model_manifest::ModelManifest;
use crate::progress::{Silent, Tick};
use crate::schema::Metric;
use crate::window::Feed;
use crate::window::grid::{Grid, Server};
use crate::window::split::{Split, plan_split};

/// A site with a window of three small servers in memory.
struct Toy {
    _dir: tempfile::TempDir,
    site: Site,
    grid: Arc<Grid>,
    split: Split,
    window_id: String,
}

fn config() -> Config {
    let mut config = Config {
        metrics: vec![Metric::new("load", "x"), Metric { min: Some(0.0), ..Metric::new("net", "MB/s") }],
        ..Config::default()
    };
    config.series.step_secs = 3600;
    config.model.targets = vec!["load".into(), "net".into()];
    config.model.quantiles = vec![0.1, 0.5, 0.9];
    (config.model.encoder_length, config.model.horizon) = (12, 4);
    (config.model.hidden_size, config.model.hidden_continuous_size) = (8, 4);
    config.model.attention_heads = 2;
    config.training.batch_size = 16;
    config.training.samples_per_epoch = 90;
    config.training.learning_rate = 5e-3;
    config
}

/// Hourly steps of a daily rhythm with a little noise, different in size per server.
fn grid(names: &[&str], n_days: usize) -> Grid {
    let mut values = Vec::new();
    for name in names {
        let size = 1.0 + f32::from(name.bytes().last().unwrap_or(b'0') % 5);
        for step in 0..24 * n_days {
            let noise = ((step * 7919 + name.len() * 31) % 101) as f32 / 101.0 - 0.5;
            let phase = (step as f32 + size) / 24.0 * std::f32::consts::TAU;
            values.extend([
                10.0 * size + size * (phase.sin() + 0.2 * noise),
                100.0 * (1.5 + phase.cos()) + noise,
            ]);
        }
    }
    Grid {
        servers: names
            .iter()
            .map(|name| Server { name: (*name).into(), profile: name[..2].into() })
            .collect(),
        metrics: vec!["load".into(), "net".into()],
        statuses: vec![],
        start_ms: 1_704_067_200_000,
        step_secs: 3600,
        n_steps: 24 * n_days,
        values,
        status: vec![0; names.len() * 24 * n_days],
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_717_200_000, 0).unwrap()
}

impl Toy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let grid = grid(&["db1", "db2", "ml1"], 10);
        let split = plan_split(grid.n_steps, 12, 4, 24).unwrap().split;
        let site = Site::of(dir.path(), config());
        Self { _dir: dir, site, grid: Arc::new(grid), split, window_id: "w1".into() }
    }

    fn feed(&self) -> Feed {
        self.grid.clone().into()
    }

    fn material<'a>(&'a self, feed: &'a Feed) -> Material<'a> {
        Material { window_id: &self.window_id, feed, split: &self.split }
    }

    fn trained_until(&self) -> DateTime<Utc> {
        self.material(&self.feed()).trained_until()
    }

    fn survey(&self) -> Survey {
        Survey::of_grid(&self.grid, &self.split, &self.site.config).unwrap()
    }

    fn train_with(
        &self,
        request: &TrainRequest,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<TrainOutcome> {
        train_on(&self.site, &self.material(&self.feed()), request, stop, now(), progress)
    }

    fn train(&self, request: &TrainRequest) -> Result<TrainOutcome> {
        self.train_with(request, &AtomicBool::new(false), &Silent)
    }

    /// Trains and sets the stop flag at batch `n_batches`, counted from 1.
    fn train_interrupted(&self, request: &TrainRequest, n_batches: u64) -> Result<TrainOutcome> {
        let stop = AtomicBool::new(false);
        let listener = AtBatch::new(n_batches, || stop.store(true, Ordering::SeqCst));
        self.train_with(request, &stop, &listener)
    }

    fn last(&self) -> Checkpoint {
        Checkpoint::read(&self.site.checkpoints_dir().join(LAST)).unwrap()
    }

    fn n_models(&self) -> usize {
        fs::read_dir(self.site.models_dir()).map_or(0, Iterator::count)
    }
}

fn epochs(epochs: u32) -> TrainRequest {
    TrainRequest { epochs, device: DeviceChoice::Cpu, ..TrainRequest::default() }
}

fn night(key: &str) -> TrainRequest {
    TrainRequest { run_key: Some(key.into()), ..epochs(1) }
}

/// Does something at a certain batch.
struct AtBatch<F: Fn() + Send + Sync> {
    n_batches: u64,
    seen: AtomicU64,
    act: F,
}

impl<F: Fn() + Send + Sync> AtBatch<F> {
    fn new(n_batches: u64, act: F) -> Self {
        Self { n_batches, seen: AtomicU64::new(0), act }
    }
}

impl<F: Fn() + Send + Sync> Progress for AtBatch<F> {
    fn stage(&self, _name: &str) {}
    fn note(&self, _message: &str) {}
    fn warn(&self, _message: &str) {}
    fn tick(&self, tick: &Tick<'_>) {
        assert!(tick.done <= tick.total && tick.stage == "train", "{tick:?}");
        if self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.n_batches {
            (self.act)();
        }
    }
}

#[track_caller]
fn assert_same_result(a: &Toy, b: &Toy, of_a: &TrainOutcome, of_b: &TrainOutcome) {
    assert_eq!(of_a.weights_sha256, of_b.weights_sha256);
    assert_eq!(of_a.record.losses, of_b.record.losses);
    assert_eq!(of_a.record.targets, of_b.record.targets);
    let (a, b) = (a.last(), b.last());
    assert_eq!(values(&a.moments), values(&b.moments));
    assert_eq!(a.state.total_steps, b.state.total_steps);
    assert_eq!(a.state.run.guard, b.state.run.guard);
}

fn values(tensors: &HashMap<String, candle_core::Tensor>) -> Vec<(String, Vec<f32>)> {
    let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
    let mut all: Vec<_> = tensors.iter().map(|(name, t)| (name.clone(), flat(t))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn an_interrupted_run_continues_to_the_same_bits() {
    // Two epochs of six batches; stopped in the first, at its end, and twice in the second.
    let unbroken = Toy::new();
    let expected = unbroken.train(&epochs(2)).unwrap();
    assert_eq!((expected.record.total_epochs, expected.record.optimizer_steps), (2, 12));

    let broken = Toy::new();
    let mut n_steps = 0;
    for n_batches in [2, 4, 1, 3] {
        let error = broken.train_interrupted(&epochs(2), n_batches).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Interrupted);
        n_steps += n_batches;
        assert_eq!(broken.last().state.total_steps, n_steps);
        assert_eq!(broken.n_models(), 0);
    }
    let got = broken.train(&epochs(2)).unwrap();
    assert_same_result(&unbroken, &broken, &expected, &got);
}

#[test]
fn a_killed_run_continues_from_its_last_checkpoint_to_the_same_bits() {
    let unbroken = Toy::new();
    let expected = unbroken.train(&epochs(1)).unwrap();
    for kill_at in [1, 4, 6] {
        let mut killed = Toy::new();
        killed.site.config.training.checkpoint_secs = 0; // after every batch
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let listener = AtBatch::new(kill_at, || panic!("killed on purpose, at batch {kill_at}"));
            killed.train_with(&epochs(1), &AtomicBool::new(false), &listener)
        }));
        assert!(died.is_err());
        let got = killed.train(&epochs(1)).unwrap();
        assert_same_result(&unbroken, &killed, &expected, &got);
    }
}

#[test]
fn a_signal_in_the_last_batch_leaves_only_the_publishing() {
    let toy = Toy::new();
    let error = toy.train_interrupted(&epochs(1), 6).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Interrupted);
    let weights = toy.last().weights_sha256;
    let outcome = toy.train(&epochs(1)).unwrap();
    assert_eq!((outcome.weights_sha256, outcome.record.total_epochs), (weights, 1));
}

#[test]
fn every_call_is_one_more_epoch() {
    let toy = Toy::new();
    let first = toy.train(&epochs(1)).unwrap();
    let second = toy.train(&epochs(1)).unwrap();
    assert_eq!((first.record.total_epochs, second.record.total_epochs), (1, 2));
    assert_eq!((second.record.total_steps, second.record.optimizer_steps), (12, 6));
    assert_eq!(second.record.parent.as_deref(), Some(first.model_id.as_str()));
    assert_eq!(first.record.lineage, second.record.lineage);
    assert_eq!(second.model_id, format!("{}_1", first.model_id));
    assert_ne!(first.weights_sha256, second.weights_sha256);
    assert!(second.record.loss_train < first.record.loss_train);
}

#[test]
fn the_same_night_trains_once_even_if_its_note_was_lost() {
    let toy = Toy::new();
    let first = toy.train(&night("2024-06-01")).unwrap();
    assert!(!first.reused);
    let again = toy.train(&night("2024-06-01")).unwrap();
    assert!(again.reused);
    fs::remove_file(toy.site.checkpoints_dir().join("published.json")).unwrap();
    let third = toy.train(&night("2024-06-01")).unwrap();
    assert_eq!((&again.model_id, &third.model_id), (&first.model_id, &first.model_id));
    assert_eq!(toy.n_models(), 1);
    fs::remove_dir_all(&first.model_dir).unwrap();
    let restored = toy.train(&night("2024-06-01")).unwrap();
    assert_eq!(restored.weights_sha256, first.weights_sha256);
    assert_eq!(toy.train(&night("2024-06-02")).unwrap().record.total_epochs, 2);
}

#[test]
fn a_run_without_a_step_is_an_error_and_leaves_nothing() {
    let toy = Toy::new();
    let request = TrainRequest { max_duration: Some(Duration::ZERO), ..epochs(1) };
    let error = toy.train(&request).unwrap_err();
    assert!(format!("{error:#}").contains("no optimizer step"), "{error:#}");
    assert!(!toy.site.checkpoints_dir().join(LAST).exists());
    assert_eq!(toy.n_models(), 0);
}

#[test]
fn a_run_that_changes_nothing_is_an_error() {
    let mut toy = Toy::new();
    toy.site.config.training.learning_rate = 1e-60;
    let error = toy.train(&epochs(1)).unwrap_err();
    assert!(format!("{error:#}").contains("left every weight unchanged"), "{error:#}");
    assert_eq!(toy.n_models(), 0);
}

#[test]
fn steps_that_are_not_finite_stop_the_run_and_the_last_checkpoint_stays() {
    let toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    let mut checkpoint = toy.last();
    let poisoned = checkpoint.weights.get_mut("pos_wise_ff.fc1.bias").unwrap();
    *poisoned = (poisoned.zeros_like().unwrap() + f64::NAN).unwrap();
    let mut footing = Footing::unchanged(checkpoint, &Device::Cpu).unwrap();
    (footing.state.run.epochs_done, footing.state.run.n_batches) = (0, 0);
    let before = toy.last().state;
    let dir = toy.site.checkpoints_dir();
    // 18 batches an epoch: the limit of ten bad ones is met before its end.
    let mut config = toy.site.config.clone();
    (config.training.batch_size, config.training.checkpoint_secs) = (5, 0);
    let (feed, survey) = (toy.feed(), toy.survey());
    let look = (&toy.material(&feed), &survey);
    let mut session = Session::new(footing, look, &config, &Device::Cpu, dir, None).unwrap();
    let error = session.run(3, &AtomicBool::new(false), &Silent).unwrap_err();
    assert!(format!("{error:#}").contains("diverged"), "{error:#}");
    assert_eq!(session.footing.state.run.guard.n_skipped, 11);
    assert_eq!(session.footing.state.total_steps, 6);
    assert_eq!(toy.last().state, before);
}

#[test]
fn a_deadline_leaves_a_partial_epoch_that_is_recorded_and_not_counted() {
    let toy = Toy::new();
    let request = TrainRequest { max_duration: Some(Duration::from_secs(60)), ..epochs(1) };
    // The limit is met by sleeping: two batches, then time is up.
    struct Slow;
    impl Progress for Slow {
        fn stage(&self, _name: &str) {}
        fn note(&self, _message: &str) {}
        fn warn(&self, _message: &str) {}
        fn tick(&self, _tick: &Tick<'_>) {
            std::thread::sleep(Duration::from_millis(400));
        }
    }
    let request = TrainRequest { max_duration: Some(Duration::from_millis(1000)), ..request };
    let outcome = toy.train_with(&request, &AtomicBool::new(false), &Slow).unwrap();
    let share = outcome.record.partial_epoch.unwrap();
    assert!(share > 0.1 && share < 0.9, "{share}");
    assert_eq!((outcome.record.total_epochs, outcome.record.epochs_run), (0, 0));
    assert!(outcome.record.optimizer_steps > 0);
    // On the same window the epoch is finished, and only that.
    let finished = toy.train(&epochs(1)).unwrap();
    assert_eq!((finished.record.total_epochs, finished.record.total_steps), (1, 6));
    assert_eq!(finished.record.partial_epoch, None);
}

#[test]
fn a_missing_or_torn_last_checkpoint_falls_back_to_the_previous() {
    let toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    toy.train(&epochs(1)).unwrap();
    let last = toy.site.checkpoints_dir().join(LAST);
    fs::write(last.join("state.json"), "{").unwrap();
    let left_behind = toy.site.checkpoints_dir().join(".staging-killed");
    fs::create_dir(&left_behind).unwrap();
    let outcome = toy.train(&epochs(1)).unwrap();
    assert_eq!(outcome.record.total_epochs, 2);
    assert!(toy.site.checkpoints_dir().join("damaged").exists() && !left_behind.exists());
    fs::remove_dir_all(&last).unwrap();
    assert!(toy.site.checkpoints_dir().join(PREVIOUS).exists());
    toy.train(&epochs(1)).unwrap();
}

#[test]
fn fresh_is_a_new_lineage_and_from_goes_on_from_a_model() {
    let toy = Toy::new();
    let first = toy.train(&epochs(1)).unwrap();
    let fresh = toy.train(&TrainRequest { start: Start::Fresh, ..epochs(1) }).unwrap();
    assert_eq!((fresh.record.total_epochs, fresh.record.parent.as_deref()), (1, None));
    assert!(fresh.record.lineage != first.record.lineage && !fresh.reused, "begun in the same second");
    let previous = Checkpoint::read(&toy.site.checkpoints_dir().join(PREVIOUS)).unwrap();
    assert_eq!(previous.state.lineage, first.record.lineage);
    let from = TrainRequest { start: Start::From(first.model_dir.clone()), ..epochs(1) };
    let third = toy.train(&from).unwrap();
    assert_eq!(third.record.lineage, first.record.lineage);
    assert_eq!((third.record.total_epochs, third.record.total_steps), (2, 12));
    assert_eq!(third.record.parent, Some(first.model_id));
}

#[test]
fn another_network_is_a_usage_error_with_the_way_out() {
    let mut toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    toy.site.config.model.hidden_size = 12;
    let error = toy.train(&epochs(1)).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Usage);
    let (message, hint) = message_and_hint(&error);
    assert!(message.contains("model.hidden_size"), "{message}");
    assert!(hint.unwrap().contains("--fresh"));
    toy.site.config.model.hidden_size = 8;
    toy.site.config.model.targets = vec!["load".into()];
    let error = toy.train(&epochs(1)).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Usage);
}

#[test]
fn a_changed_config_begins_a_new_lineage_where_that_is_wanted() {
    let mut toy = Toy::new();
    let first = toy.train(&epochs(1)).unwrap();
    toy.site.config.model.hidden_size = 12;
    let changed = TrainRequest { if_changed: IfChanged::Fresh { epochs: 2 }, ..night("2024-06-02") };
    let second = toy.train(&changed).unwrap();
    assert_ne!(second.record.lineage, first.record.lineage);
    assert_eq!((second.record.total_epochs, second.record.parent.clone()), (2, None));
    assert!(toy.train(&changed).unwrap().reused);
    let why = obstacle_to_start_from(&first.model_dir, &toy.site.config).unwrap();
    assert!(why.contains("model.hidden_size"), "{why}");
    assert_eq!(obstacle_to_start_from(&second.model_dir, &toy.site.config), None);
    let from = TrainRequest { start: Start::From(first.model_dir), ..changed };
    let from = TrainRequest { run_key: Some("2024-06-03".into()), ..from };
    assert_eq!(toy.train(&from).unwrap().record.parent, None);
}

#[test]
fn a_lineage_remembers_the_newest_rows_it_was_taught() {
    let mut toy = Toy::new();
    let end = toy.trained_until();
    assert_eq!(end.timestamp_millis(), toy.grid.time_ms(toy.split.train_end));
    let first = toy.train(&epochs(1)).unwrap();
    assert_eq!(ModelManifest::read(&first.model_dir).unwrap().trained_until, end);
    // A longer holdout cuts the train part shorter: what was seen before stays seen.
    toy.split = plan_split(toy.grid.n_steps, 12, 4, 48).unwrap().split;
    toy.window_id = "w2".into();
    assert!(toy.trained_until() < end);
    let from = TrainRequest { start: Start::From(first.model_dir), ..epochs(1) };
    assert_eq!(toy.train(&from).unwrap().record.trained_until, end);
    assert_eq!(toy.train(&epochs(1)).unwrap().record.trained_until, end);
    let fresh = TrainRequest { start: Start::Fresh, ..epochs(1) };
    assert_eq!(toy.train(&fresh).unwrap().record.trained_until, toy.trained_until());
}

#[test]
fn a_named_run_gets_what_is_left_of_its_limit() {
    let toy = Toy::new();
    toy.train_interrupted(&night("2024-06-01"), 2).unwrap_err();
    let mut checkpoint = toy.last();
    checkpoint.state.run.duration_secs = 3000.0;
    let hours = |key: &str| TrainRequest { max_duration: Some(Duration::from_secs(3600)), ..night(key) };
    assert_eq!(time_spent(&hours("2024-06-01"), Some(&checkpoint)).as_secs(), 3000);
    assert_eq!(time_spent(&hours("2024-06-02"), Some(&checkpoint)), Duration::ZERO);
    assert_eq!(time_spent(&epochs(1), Some(&checkpoint)), Duration::ZERO);
}

#[test]
fn a_newcomer_gets_its_kins_row_and_changes_nobody_elses() {
    let mut toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    let before = toy.last();
    toy.grid = Arc::new(grid(&["db1", "db2", "db3", "ml1", "zz1"], 10));
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
    let name = "input_embeddings.embeddings.server_name.weight";
    let rows = |tensor: &candle_core::Tensor| -> Vec<Vec<f32>> { tensor.to_vec2().unwrap() };
    let (old, new) = (rows(&before.weights[name]), rows(footing.params.get(name).unwrap()));
    assert_eq!(footing.preprocessing.vocabulary.servers, ["db1", "db2", "ml1", "db3", "zz1"]);
    assert_eq!(new[..4], old[..]);
    let kin: Vec<f32> =
        old[1].iter().zip(&old[2]).map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32).collect();
    assert_eq!(new[4], kin);
    assert_eq!(new[5], old[0]);
    for (other, value) in values(&before.weights) {
        if !other.contains("embeddings.") {
            let now: Vec<f32> = footing.params.get(&other).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(now, value, "{other}");
        }
    }
    let outcome = toy.train(&epochs(1)).unwrap();
    assert_eq!((outcome.record.n_new_servers, outcome.record.total_epochs), (2, 2));
    // A profile and its servers that are gone the next night break nothing.
    toy.grid = Arc::new(grid(&["db1", "db3"], 10));
    toy.window_id = "w3".into();
    assert_eq!(toy.train(&epochs(1)).unwrap().record.n_new_servers, 0);
}

#[test]
fn a_published_model_reads_back_and_a_changed_byte_does_not() {
    let toy = Toy::new();
    let outcome = toy.train(&epochs(1)).unwrap();
    let model = TrainedModel::read(&outcome.model_dir, &Device::Cpu).unwrap();
    assert_eq!(artifact::weights_sha256(&model.params).unwrap(), outcome.weights_sha256);
    assert_eq!(TrainRecord::read(&outcome.model_dir).unwrap(), outcome.record);
    let dataset = Dataset::new(toy.grid.clone(), model.preprocessing.clone(), 6).unwrap();
    let keys = dataset.forecast_keys();
    let forecasts = predict(&model, &dataset, &keys, &Device::Cpu).unwrap();
    assert_eq!((forecasts.n_samples, forecasts.n_targets, forecasts.n_not_finite), (3, 2, 0));
    assert!(forecasts.quantiles_at(2, 1, 3).windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!(forecasts.sample(2)[4 * 3 + 3 * 3..], *forecasts.quantiles_at(2, 1, 3));
    damage(&outcome.model_dir.join("preprocessing.json"));
    let error = TrainedModel::read(&outcome.model_dir, &Device::Cpu).unwrap_err();
    assert!(format!("{error:#}").contains("sha256 differs"), "{error:#}");
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[100] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_tiny_network_learns_the_toy_fleet_better_than_persistence() {
    let mut toy = Toy::new();
    toy.site.config.training.samples_per_epoch = 320;
    toy.site.config.training.learning_rate = 2e-2;
    toy.site.config.model.dropout = 0.0;
    let outcome = toy.train(&epochs(4)).unwrap();
    let losses = &outcome.record.losses;
    assert!(losses[3] < 0.7 * losses[0], "{losses:?}");
    let model = TrainedModel::read(&outcome.model_dir, &Device::Cpu).unwrap();
    let grids = ExamGrids::of_grid(&toy.grid, toy.split, &toy.site.config);
    let exam = Exam::new(grids, &model.preprocessing, &toy.site.config).unwrap();
    let model = score_model(&model, &exam, &Device::Cpu, "challenger", &Silent).unwrap();
    let baselines = score_baselines(&exam).unwrap();
    let names: Vec<&str> = baselines.iter().map(|scores| scores.forecaster.as_str()).collect();
    assert_eq!(names, ["persistence", "seasonal_naive_day", "seasonal_naive_week"]);
    assert!(model.loss < 0.8 * baselines[0].loss, "{} against {}", model.loss, baselines[0].loss);
    assert_eq!(model.n_points, baselines[0].n_points);
    assert_eq!((model.n_not_finite, model.collapsed_targets.len()), (0, 0));
    let coverage = model.coverage.unwrap();
    assert!((0.3..=1.0).contains(&coverage), "{coverage}");
}

#[test]
fn an_imported_network_goes_on_as_the_network_it_is() {
    let toy = Toy::new();
    let first = toy.train(&epochs(1)).unwrap();
    let folder = toy.site.root.join("out");
    exchange::export(&first.model_dir, &folder).unwrap();
    let description = folder.join(exchange::HYPER_PARAMETERS_FILE);
    // A parsed object sorts its keys: the tables come back in another order, too.
    let mut json: serde_json::Value = fsx::read_json(&description).unwrap();
    json["constructor"]["causal_attention"] = false.into();
    json["constructor"]["mask_bias"] = (-1e4).into();
    fsx::write_json(&description, &json).unwrap();
    let imported = exchange::import(&toy.site, &folder, now()).unwrap();
    assert_eq!(
        (imported.warnings.as_slice(), &imported.weights_sha256),
        ([].as_slice(), &first.weights_sha256)
    );
    let from = TrainRequest { start: Start::From(imported.model_dir), ..epochs(1) };
    let next = toy.train(&from).unwrap();
    let model = TrainedModel::read(&next.model_dir, &Device::Cpu).unwrap();
    assert_eq!((model.config.causal_attention, model.config.mask_bias), (false, -1e4));
    assert_eq!((next.record.lineage, next.record.total_epochs), (imported.record.lineage, 2));
}
