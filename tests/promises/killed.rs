//! A night killed in any stage and started again finishes; a third start says it is done.

use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::common::Story;

/// Waits until one of `signs` exists (or the process ends), then kills the process without warning.
fn kill_when(mut child: Child, signs: impl Fn() -> bool) {
    let started = Instant::now();
    while !signs() && child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    child.wait().unwrap();
}

fn has_entry(dir: PathBuf, prefix: &str) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
    })
}

#[test]
fn a_killed_night_is_finished_by_the_next_start() {
    let mut story = Story::with_small_fleet();
    story.set("training.checkpoint_secs", "1").set("initial_epochs", "2");
    story.at("2024-01-08T02:00");
    let date = "2024-01-08";
    // Each start is killed at the first sign that the next stage has begun.
    kill_when(story.command("nightly").spawn().unwrap(), || {
        has_entry(story.path("data_buffer"), "metrics_2024-01-0")
    });
    kill_when(story.command("nightly").spawn().unwrap(), || has_entry(story.path("windows"), date));
    kill_when(story.command("nightly").spawn().unwrap(), || {
        story.path("checkpoints/last/manifest.json").exists()
    });
    kill_when(story.command("nightly").spawn().unwrap(), || has_entry(story.path("models"), "tft_model_"));
    kill_when(story.command("nightly").spawn().unwrap(), || {
        std::fs::read_to_string(story.path(&format!("state/nights/{date}.json")))
            .is_ok_and(|text| text.contains("\"exam\": {"))
    });
    let last = story.run("nightly");
    assert!([Some(0), Some(3)].contains(&last.code), "{}", last.stderr);
    story.run("nightly").exit(0).stderr("already done");
    let models = story.run("models list --json").exit(0).json();
    assert_eq!(models.as_array().unwrap().len(), 1, "one night, one model: {models}");
    assert_eq!(models[0]["total_epochs"], 2, "the first night's epochs, no more and no fewer: {models}");
    let records = std::fs::read_to_string(story.path("logs/continuous_learning/metrics.json")).unwrap();
    let records: serde_json::Value = serde_json::from_str(&records).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1, "one night, one record");
    assert!(!has_entry(story.path("models"), ".staging-"), "unfinished work is swept up");
}

#[test]
fn nothing_acknowledged_is_lost_when_append_is_killed() {
    use std::io::{BufRead, BufReader, Write};
    let story = Story::new();
    story.run("init").exit(0);
    let mut child = story
        .command("buffer append - --follow --json --now 2024-01-01T12:00")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for tick in 0..100 {
        let line = format!(
            "{{\"timestamp\":\"2024-01-01T10:{:02}:{:02}Z\",\"server_name\":\"s1\",\"metrics\":{{\"cpu_user_pct\":1}}}}\n",
            tick / 60,
            tick % 60
        );
        stdin.write_all(line.as_bytes()).unwrap();
    }
    stdin.flush().unwrap();
    // The acknowledgement comes within a second or two although the pipe stays open.
    let mut acknowledged = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while acknowledged < 100 {
        let line = lines.next().expect("an acknowledgement").unwrap();
        let ack: serde_json::Value = serde_json::from_str(&line).unwrap();
        acknowledged = ack["n_good"].as_u64().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let status = story.run("buffer status --json --now 2024-01-01T12:00").exit(0).json();
    assert_eq!(status["n_rows"], 100);
}
