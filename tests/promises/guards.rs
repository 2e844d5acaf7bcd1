//! A training that diverges, or whose time is up, leaves a good state behind.

use crate::common::Story;

#[test]
fn a_training_that_diverges_stops_and_poisons_nothing() {
    // A checkpoint after every batch: the state that a bad step leaves must not get into one.
    let settings = [("training.samples_per_epoch", "512"), ("training.checkpoint_secs", "0")];
    let story = Story::ready_to_train(&settings);
    story.train("--epochs 1");
    let before = (story.digests("checkpoints/last"), story.models());
    story.set("training.learning_rate", "1e30");
    story.run("train --epochs 1").exit(1).stderr("training diverged");
    assert_eq!((story.digests("checkpoints/last"), story.models()), before);
    story.set("training.learning_rate", "0.005");
    let outcome = story.train("--epochs 1");
    assert_eq!((&outcome["total_epochs"], &outcome["skipped_steps"]), (&2.into(), &0.into()), "{outcome}");
}

#[test]
fn a_limit_stops_cleanly_in_mid_epoch_and_the_rest_can_follow() {
    let settings = [("training.samples_per_epoch", "600"), ("training.batch_size", "2")];
    let story = Story::ready_to_train(&settings);
    let outcome = story.train("--epochs 1 --max-duration 0.4s");
    let share = outcome["partial_epoch"].as_f64().unwrap_or_else(|| panic!("it was in time: {outcome}"));
    assert!(share > 0.0 && share < 1.0, "{share}");
    // Recorded as what it is, and not counted as an epoch.
    assert_eq!((&outcome["total_epochs"], &outcome["epochs_run"]), (&0.into(), &0.into()), "{outcome}");
    let state = story.training_state();
    assert_eq!((&state["run"]["ended"], &state["total_epochs"]), (&"deadline".into(), &0.into()), "{state}");
    let manifest =
        std::fs::read(story.path("models").join(&story.models()[0]).join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["partial_epoch"], share);
    // The same again, without a limit, finishes that epoch and no more.
    let rest = story.train("--epochs 1");
    assert_eq!((&rest["total_epochs"], &rest["total_steps"]), (&1.into(), &300.into()), "{rest}");
    assert!(rest["partial_epoch"].is_null(), "{rest}");
    assert_eq!(story.models().len(), 2);
}
