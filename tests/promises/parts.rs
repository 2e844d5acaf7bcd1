//! A window larger than the memory it is given: the same file, and a training that is resumed to the bit.

use std::fs;
use std::time::Duration;

use crate::common::{SMALL, Story};

/// A hundred servers, five days of five-minute steps: eight times as large as the limit, and two blocks.
fn larger_than_memory() -> Story {
    let mut story = Story::new();
    story.run("init").exit(0);
    for (key, value) in SMALL {
        story.set(key, value);
    }
    story.set("series.step_secs", "300").set("training.memory_mb", "1");
    story.set("model.encoder_length", "12").set("training.checkpoint_secs", "0");
    story
        .run("simulate --servers 100 --start 2024-01-01 --end 2024-01-06 --tick-secs 300 --seed 7 --out feed.ndjson")
        .exit(0);
    story.run("buffer append feed.ndjson --now 2024-01-06").exit(0);
    story.at("2024-01-06T02:00").run("window build").exit(0);
    story
}

#[test]
fn a_window_larger_than_memory_has_the_same_bytes_and_resumes_to_the_same_bits() {
    let story = larger_than_memory();
    let id = story.names("windows").into_iter().find(|name| name.starts_with("2024")).unwrap();
    let files = |story: &Story| {
        ["steps.parquet", "manifest.json"]
            .map(|name| fs::read(story.path("windows").join(&id).join(name)).unwrap())
    };
    let in_parts = files(&story);
    fs::remove_dir_all(story.path("windows")).unwrap();
    story.set("training.memory_mb", "0").run("window build").exit(0);
    assert!(in_parts == files(&story), "the window does not depend on how much of it was in memory");

    story.set("training.memory_mb", "1");
    let sampling = "--epochs 2 --samples-per-epoch 320 --sample-stride 3";
    story.run("train --sample-stride 0").exit(2).stderr("sample_stride");
    let unbroken = story.train(sampling);
    assert_eq!(unbroken["n_samples"], 320);
    story.forget_training();
    let mut n_kills = 0;
    while story.models().is_empty() {
        assert!(n_kills < 20, "it does not get on");
        kill_after_batches(&story, &format!("train --device cpu {sampling}"), 5);
        n_kills += 1;
    }
    assert!(n_kills > 2, "it was killed {n_kills} times");
    let resumed = story.training_state();
    assert_eq!(resumed["run"]["losses"], unbroken["losses"]);
    assert_eq!(resumed["total_batches"], unbroken["total_batches"]);
    let models = story.run("models list --json").exit(0).json();
    assert_eq!(models[0]["weights_sha256"], unbroken["weights_sha256"]);
}

/// Kills a training once so many more batches are in its checkpoint, unless it ends before.
fn kill_after_batches(story: &Story, training: &str, n_batches: u64) {
    let done = || story.training_state()["total_batches"].as_u64().unwrap_or(0);
    let before = done();
    let mut child = story.command(training).spawn().unwrap();
    while done() < before + n_batches && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
