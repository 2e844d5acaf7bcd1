//! A night killed in any stage and started again finishes; a third start says it is done.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::Story;

const DATE: &str = "2024-01-08";

/// The file of the night, as far as it is written.
fn night_file(story: &Story) -> serde_json::Value {
    let text = std::fs::read_to_string(story.path(&format!("state/nights/{DATE}.json"))).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Starts the night for the `start`th time and kills it without warning at the first `sign`, which counts only once
/// this start has begun.
fn kill_night_when(story: &Story, start: u64, sign: impl Fn() -> bool) {
    let mut child = story.command("nightly").spawn().unwrap();
    let started = Instant::now();
    while !(night_file(story)["n_attempts"] == start && sign()) {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "start {start} ended before its sign was seen");
        assert!(started.elapsed() < Duration::from_secs(120), "start {start} never gave its sign");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success() && night_file(story)["finish"].is_null(), "start {start} was not killed");
}

/// Every unfinished file or folder below `dir`.
fn staged_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(".staging-") {
            found.push(path);
        } else if path.is_dir() {
            staged_below(&path, found);
        }
    }
}

fn has_entry(dir: PathBuf, prefix: &str) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
    })
}

#[test]
fn a_killed_night_is_finished_by_the_next_start() {
    let mut story = Story::with_small_fleet();
    // A promotion is wanted whatever the small network learned; telling takes a moment, to be killed in.
    story.set("training.checkpoint_secs", "1").set("initial_epochs", "2").set("require_validation", "false");
    story.set("notify.command", "\"sleep 1\"");
    story.at("2024-01-08T02:00");
    // Each start is killed at the first sign that the next stage has begun.
    kill_night_when(&story, 1, || has_entry(story.path("data_buffer"), "metrics_2024-01-0"));
    kill_night_when(&story, 2, || has_entry(story.path("windows"), DATE));
    kill_night_when(&story, 3, || story.path("checkpoints/last/manifest.json").exists());
    kill_night_when(&story, 4, || has_entry(story.path("models"), "tft_model_"));
    kill_night_when(&story, 5, || night_file(&story)["done"]["exam"].is_object());
    kill_night_when(&story, 6, || story.path("models/champion.json").exists());
    kill_night_when(&story, 7, || story.path(&format!("forecasts/{DATE}.parquet")).exists());
    story.run("nightly").exit(0);
    story.run("nightly").exit(0).stderr("already done");
    let night = night_file(&story);
    assert_eq!(night["n_attempts"], 8, "every start but the idle one did something: {night}");
    assert_eq!(night["done"]["promote"]["promoted"], true, "{night}");
    let models = story.run("models list --json").exit(0).json();
    assert_eq!(models.as_array().unwrap().len(), 1, "one night, one model: {models}");
    assert_eq!(models[0]["total_epochs"], 2, "the first night's epochs, no more and no fewer: {models}");
    let records = std::fs::read_to_string(story.path("logs/continuous_learning/metrics.json")).unwrap();
    let records: serde_json::Value = serde_json::from_str(&records).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1, "one night, one record");
    let audit = std::fs::read_to_string(story.path("logs/continuous_learning/audit.jsonl")).unwrap();
    assert_eq!(audit.matches("\"promote\"").count(), 1, "one promotion, one line: {audit}");
    // Unfinished work is swept up where only nights write. Elsewhere others may be at work, so it stays for a day.
    let mut staged = Vec::new();
    staged_below(&story.path("."), &mut staged);
    let shared =
        ["windows", "forecasts", "logs", "state", "data_buffer"].map(|dir| story.path(".").join(dir));
    let is_swept = |path: &&PathBuf| {
        path.starts_with(story.path(".").join("state/nights"))
            || !shared.iter().any(|dir| path.starts_with(dir))
    };
    assert_eq!(staged.iter().find(is_swept), None);
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
