//! Tests: what a run tells of each target and of stale scales, and how that is kept.

use super::*;

#[test]
fn a_training_tells_each_targets_loss_scaled_and_in_its_own_unit() {
    let mut toy = Toy::new();
    toy.site.config.model.target_weights.insert("net".into(), 3.0);
    let record = toy.train(&epochs(2)).unwrap().record;
    let told = |name: &str| record.targets.iter().find(|target| target.name == name).unwrap();
    let (load, net) = (told("load"), told("net"));
    assert_eq!((load.weight, net.weight, net.unit.as_str()), (0.5, 1.5, "MB/s"));
    assert_eq!((load.n_points, net.n_points), (90 * 4, 90 * 4)); // the last epoch, every point observed
    // Every point was observed, so a mean over points and a mean over samples are the same.
    let total = (load.loss_scaled + 3.0 * net.loss_scaled) / 4.0;
    assert!((total / record.loss_train - 1.0).abs() < 1e-6, "{total}, {}", record.loss_train);
    // `net` swings by 100 on every server: its scale is 70 and something.
    let scale = net.loss_own_unit / net.loss_scaled;
    assert!((65.0..76.0).contains(&scale), "{scale}");
}

#[test]
fn a_partial_epoch_tells_what_it_saw() {
    let toy = Toy::new();
    toy.train_interrupted(&epochs(1), 2).unwrap_err();
    let run = toy.last().state.run;
    assert_eq!(run.epoch_targets.iter().map(|tally| tally.n_points).collect::<Vec<_>>(), [2 * 16 * 4; 2]);
    assert!(run.targets.is_empty());
    toy.train(&epochs(1)).unwrap();
    let run = toy.last().state.run;
    assert!(run.epoch_targets.is_empty());
    assert_eq!(run.targets[0].n_points, 90 * 4);
}

#[test]
fn an_epoch_begun_under_the_first_format_is_finished() {
    let toy = Toy::new();
    toy.train_interrupted(&epochs(1), 2).unwrap_err();
    let last = toy.site.checkpoints_dir().join(LAST);
    let state = last.join("state.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    json["format"] = 1.into();
    for added in ["epoch_targets", "targets", "stale_scales"] {
        json["run"].as_object_mut().unwrap().remove(added).unwrap();
    }
    crate::fsx::write_json(&state, &json).unwrap();
    fs::remove_file(last.join("manifest.json")).unwrap();
    let files = crate::fsx::digest_dir(&last).unwrap();
    crate::fsx::write_json(&last.join("manifest.json"), &serde_json::json!({"format": 1, "files": files}))
        .unwrap();
    let record = toy.train(&epochs(1)).unwrap().record;
    assert_eq!((record.total_epochs, record.total_steps), (1, 6));
    assert_eq!(record.targets[0].n_points, (90 - 2 * 16) * 4); // told of what came after
    assert_eq!(toy.last().state.format, checkpoint::FORMAT);
}

#[test]
fn a_server_that_left_its_scales_is_told_and_recorded_until_a_fresh_lineage() {
    struct Warnings(std::sync::Mutex<Vec<String>>);
    impl Progress for Warnings {
        fn stage(&self, _name: &str) {}
        fn note(&self, _message: &str) {}
        fn warn(&self, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
        fn tick(&self, _tick: &Tick<'_>) {}
    }
    let mut toy = Toy::new();
    assert_eq!(toy.train(&epochs(1)).unwrap().record.stale_scales.n_series, 0);
    let mut upgraded = grid(&["db1", "db2", "ml1"], 10);
    let n_values = upgraded.n_steps * 2;
    for row in upgraded.values[n_values..2 * n_values].chunks_exact_mut(2) {
        row[0] *= 8.0; // the load of db2
    }
    toy.grid = Arc::new(upgraded);
    toy.window_id = "w2".into();
    let listener = Warnings(Default::default());
    let scaler = toy.last().preprocessing.scaler;
    let record = toy.train_with(&epochs(1), &AtomicBool::new(false), &listener).unwrap().record;
    assert_eq!(toy.last().preprocessing.scaler, scaler, "a lineage keeps its scales");
    let warnings = listener.0.into_inner().unwrap();
    assert!(warnings.iter().any(|w| w.contains("load on db2") && w.contains("--fresh")), "{warnings:?}");
    assert_eq!(record.stale_scales.n_series, 1);
    assert_eq!(TrainRecord::read(&toy.site.models_dir().join(newest(&toy))).unwrap(), record);
    let fresh = TrainRequest { start: Start::Fresh, ..epochs(1) };
    assert_eq!(toy.train(&fresh).unwrap().record.stale_scales.n_series, 0);
    assert_ne!(toy.last().preprocessing.scaler, scaler);
}

/// The folder of the model that was made last.
fn newest(toy: &Toy) -> String {
    publish::Published::read(&toy.site.checkpoints_dir()).unwrap().unwrap().model_id
}

#[test]
fn other_target_weights_are_another_run_of_the_same_lineage() {
    let mut toy = Toy::new();
    let plain = toy.train(&epochs(1)).unwrap();
    toy.train_interrupted(&epochs(1), 2).unwrap_err();
    toy.site.config.model.target_weights.insert("load".into(), 2.0);
    let weighted = toy.train(&epochs(1)).unwrap();
    assert_ne!(weighted.record.config_digest, plain.record.config_digest);
    assert_eq!(weighted.record.lineage, plain.record.lineage);
    assert_eq!(weighted.record.total_steps, 6 + 2 + 6, "an epoch begun under other weights is not finished");
}
