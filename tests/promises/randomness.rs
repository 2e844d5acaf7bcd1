//! The same seed and data give the same weights, on any number of threads; another seed gives others.

use crate::common::Story;

/// Trains two batches anew and returns the weights' sha256.
fn weights(story: &Story, n_threads: &str) -> String {
    story.forget_training();
    let mut command = story.command("train --epochs 1 --device cpu --json");
    let output = command.env("RAYON_NUM_THREADS", n_threads).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["optimizer_steps"], 2);
    outcome["weights_sha256"].as_str().unwrap().to_owned()
}

#[test]
fn the_number_of_threads_changes_no_bit_and_the_seed_does() {
    // Large enough for the matrix products to be shared out among the threads.
    let story = Story::ready_to_train(&[
        ("training.batch_size", "64"),
        ("training.samples_per_epoch", "128"),
        ("model.encoder_length", "48"),
        ("model.hidden_size", "32"),
        ("model.hidden_continuous_size", "16"),
        ("model.dropout", "0.2"),
    ]);
    let expected = weights(&story, "1");
    for n_threads in ["2", "4"] {
        assert_eq!(weights(&story, n_threads), expected, "on {n_threads} threads");
    }
    story.set("training.seed", "43");
    assert_ne!(weights(&story, "2"), expected, "another seed");
}
