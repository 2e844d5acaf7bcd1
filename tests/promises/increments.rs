//! `--epochs N` is N more epochs of the lineage, never a total and never nothing; `--fresh` leaves the old lineage be.

use std::time::Duration;

use serde_json::Value;

use crate::common::Story;

/// Four batches an epoch.
const SHORT: (&str, &str) = ("training.samples_per_epoch", "128");

fn sha256_of(outcome: &Value) -> &str {
    outcome["weights_sha256"].as_str().unwrap()
}

#[test]
fn each_training_is_one_more_epoch() {
    let story = Story::ready_to_train(&[SHORT]);
    let first = story.train("--epochs 1 --resume");
    assert_eq!((&first["total_epochs"], &first["total_steps"]), (&1.into(), &4.into()), "{first}");
    let second = story.train("--epochs 1 --resume");
    assert_eq!((&second["total_epochs"], &second["total_steps"]), (&2.into(), &8.into()), "{second}");
    assert_ne!(sha256_of(&first), sha256_of(&second));
    assert_eq!((&second["lineage"], &second["parent"]), (&first["lineage"], &first["model_id"]));
    let state = story.training_state();
    assert_eq!((&state["total_epochs"], &state["total_steps"]), (&2.into(), &8.into()), "{state}");
    assert_eq!(story.train("--epochs 3")["total_epochs"], 5);
}

#[test]
fn a_training_that_trains_nothing_fails_and_leaves_everything() {
    let story = Story::ready_to_train(&[SHORT]);
    story.train("--epochs 1");
    let before = (story.digests("checkpoints/last"), story.models());
    story.run("train --max-duration 0s").exit(1).stderr("made no optimizer step");
    // So small a rate that no weight moves by a bit.
    story.set("training.learning_rate", "1e-60");
    story.run("train --epochs 1").exit(1).stderr("left every weight unchanged");
    assert_eq!((story.digests("checkpoints/last"), story.models()), before);
    // Not even where there is a checkpoint after every batch.
    story.set("training.checkpoint_secs", "0");
    story.run("train --epochs 1").exit(1).stderr("left every weight unchanged");
    assert_eq!((story.digests("checkpoints/last"), story.models()), before);
    story.run("train --epochs 0").exit(2);
}

#[test]
fn fresh_leaves_the_old_lineage_untouched_and_one_can_go_back() {
    let story = Story::ready_to_train(&[SHORT]);
    let expected = {
        story.train("--epochs 1");
        story.train("--epochs 1");
        story.train("--epochs 1")
    };
    story.forget_training();
    story.train("--epochs 1");
    let old = story.train("--epochs 1");
    let (models, state) = (story.models(), story.digests("checkpoints/last"));
    let of_models: Vec<_> = models.iter().map(|name| story.digests(&format!("models/{name}"))).collect();

    let fresh = story.train("--epochs 1 --fresh");
    assert_eq!((&fresh["total_epochs"], &fresh["parent"]), (&1.into(), &Value::Null), "{fresh}");
    assert_ne!(fresh["lineage"], old["lineage"]);
    // Two more trainings push everything of the old lineage out of `last` and `previous`.
    story.train("--epochs 1");
    story.train("--epochs 1");
    for (name, digests) in models.iter().zip(&of_models) {
        assert_eq!(story.digests(&format!("models/{name}")), *digests, "{name}");
    }
    let kept = story.names("checkpoints/lineages");
    let name = format!("{}_8", old["lineage"].as_str().unwrap());
    assert_eq!(kept, [name.as_str()]);
    assert_eq!(story.digests(&format!("checkpoints/lineages/{name}")), state);

    // Going back is as if it had never been left, to the bit; and now the other one is kept.
    let back = story.train(&format!("--epochs 1 --from {name}"));
    assert_eq!(sha256_of(&back), sha256_of(&expected));
    assert_eq!((&back["total_epochs"], &back["parent"]), (&3.into(), &old["model_id"]), "{back}");
    let names = story.names("checkpoints/lineages");
    assert!(names.contains(&format!("{}_12", fresh["lineage"].as_str().unwrap())), "{names:?}");
    story.run("train --from lineage_nope").exit(2).stderr("no lineage is kept").stderr(&name);
}

#[test]
fn a_lineage_that_one_goes_back_to_is_kept_until_it_is_on_disk_again() {
    let story = Story::ready_to_train(&[SHORT, ("retention.lineages", "1")]);
    let old = story.train("--epochs 1");
    let name = format!("{}_4", old["lineage"].as_str().unwrap());
    story.train("--epochs 1 --fresh");
    assert_eq!(story.names("checkpoints/lineages"), [name.as_str()]);
    // Nothing is trained: the lineage is still nowhere but here.
    story.run(&format!("train --from {name} --epochs 1 --max-duration 0s")).exit(1);
    assert!(story.names("checkpoints/lineages").contains(&name));
    let back = story.train(&format!("--epochs 1 --from {name}"));
    assert_eq!((&back["lineage"], &back["total_epochs"]), (&old["lineage"], &2.into()), "{back}");
    assert_eq!(story.names("checkpoints/lineages").len(), 1, "the one that was left for it");
}

/// Kills an epoch of 16 batches in the middle; returns its steps that are in the checkpoint.
fn kill_in_mid_epoch(story: &Story) -> u64 {
    let mut child = story.command("train --epochs 1 --device cpu").spawn().unwrap();
    let n_done = || story.training_state()["total_steps"].as_u64().unwrap_or(0);
    while n_done() < 3 {
        assert!(child.try_wait().unwrap().is_none(), "the training ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // A kill between the two renames leaves the state as `previous`.
    let previous = || std::fs::read(story.path("checkpoints/previous/state.json")).unwrap();
    match n_done() {
        0 => serde_json::from_slice::<Value>(&previous()).unwrap()["total_steps"].as_u64().unwrap(),
        n_done => n_done,
    }
}

const SIXTEEN_BATCHES: [(&str, &str); 2] =
    [("training.samples_per_epoch", "512"), ("training.checkpoint_secs", "0")];

#[test]
fn an_unfinished_epoch_is_finished_exactly_where_nothing_changed() {
    let story = Story::ready_to_train(&SIXTEEN_BATCHES);
    kill_in_mid_epoch(&story);
    let outcome = story.train("--epochs 1");
    assert_eq!((&outcome["total_epochs"], &outcome["total_steps"]), (&1.into(), &16.into()), "{outcome}");
}

#[test]
fn another_config_or_window_means_whole_epochs_more() {
    let story = Story::ready_to_train(&SIXTEEN_BATCHES);
    let n_done = kill_in_mid_epoch(&story);
    story.set("training.learning_rate", "0.004");
    let outcome = story.train("--epochs 1");
    // The steps of the unfinished epoch stay in the weights; as an epoch it is not counted.
    assert_eq!((&outcome["total_epochs"], &outcome["epochs_run"]), (&1.into(), &1.into()), "{outcome}");
    assert_eq!(outcome["total_steps"], n_done + 16);

    story.forget_training();
    let n_done = kill_in_mid_epoch(&story);
    let old = story.training_state()["run"]["window_id"].clone();
    story.set("window.holdout_hours", "30");
    story.run("window build").exit(0);
    let outcome = story.train("--epochs 1");
    assert_ne!(outcome["window_id"], old);
    assert_eq!((&outcome["total_epochs"], &outcome["epochs_run"]), (&1.into(), &1.into()), "{outcome}");
    assert!(outcome["total_steps"].as_u64().unwrap() > n_done + 8, "{outcome}");
}
