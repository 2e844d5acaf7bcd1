//! Every exit code of the table, from the real program; errors name what is wrong and what to do.

use crate::common::Story;

#[test]
fn each_documented_exit_code_happens() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    story.run("status").exit(0);
    story.run("models show tft_model_nope").exit(2);
    story.run("frobnicate").exit(2);
    story.run("predict").exit(1).stderr("no champion");
    story.run_with_input("buffer append - --strict", b"not json\n").exit(4).stderr("1 of 1");
    story.run("window build --end 2023-06-01").exit(4).stderr("not enough");
}

#[test]
fn a_held_lock_is_its_own_exit_code() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    story.run("window build").exit(0);
    let path = story.path("state/site.lock");
    let held = tftctl::fsx::Lock::acquire(&path, "pid 1 `nightly`").unwrap();
    story.run("nightly").exit(5).stderr("pid 1 `nightly`");
    story.run("train --epochs 1 --resume").exit(5);
    story.run("validate").exit(5);
    story.run("buffer status").exit(0);
    drop(held);
}

#[test]
fn a_refused_challenger_exits_3_and_the_champion_stays() {
    let mut story = Story::with_small_fleet();
    // A network that has learned nothing cannot beat the naive forecasts.
    story.set("training.samples_per_epoch", "32").set("training.learning_rate", "1e-9");
    story.at("2024-01-08T02:00").run("nightly").exit(3).stdout("refused");
    let status = story.run("status --json").exit(0).json();
    assert!(status["champion"].is_null());
    story.run("promote").exit(3);
    story.run("promote --dry-run").exit(3).stdout("would be refused");
}

#[test]
fn force_needs_a_verdict_and_a_dry_run_says_so() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    story.run("window build").exit(0);
    story.run("train --epochs 1 --resume").exit(0);
    story.run("promote --dry-run --force --reason testing").exit(3).stdout("never examined");
    story.run("promote --force --reason testing").exit(3).stderr("hint: `tftctl validate` first");
    story.run("validate");
    story.run("promote --dry-run --force --reason testing").exit(0).stdout("would become");
    assert!(!story.path("models/champion.json").exists());
    story.run("promote --force --reason testing").exit(0);
}

#[test]
fn what_is_kept_is_the_forecast_that_nights_score() {
    let story = Story::with_small_fleet();
    story.run("predict --keep --at 2024-01-08").exit(2).stderr("--at");
    story.run("predict --keep --server s1").exit(2);
}

#[test]
fn several_files_are_one_document() {
    let story = Story::new();
    story.run("init").exit(0);
    let row = |second: u32| {
        format!(
            "{{\"timestamp\":\"2024-01-01T10:00:{second:02}Z\",\"server_name\":\"s1\",\"metrics\":{{\"cpu_user_pct\":1}}}}\n"
        )
    };
    story.write("a.ndjson", &row(1)).write("b.ndjson", &row(2));
    let both = story.run("buffer append a.ndjson b.ndjson --json --now 2024-01-01T12:00").exit(0).json();
    assert_eq!(both.as_array().unwrap().len(), 2, "{both}");
    let one = story.run("buffer append a.ndjson --json --now 2024-01-01T12:00").exit(0).json();
    assert!(one["n_rows"].is_number(), "{one}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_checkpoints_and_exits_130() {
    let mut story = Story::with_small_fleet();
    story.set("training.samples_per_epoch", "0").set("training_window_days", "6");
    story.set("training.checkpoint_secs", "1");
    story.at("2024-01-08T02:00");
    story.run("window build").exit(0);
    let mut child = story.command("train --epochs 500 --resume").spawn().unwrap();
    let pid = child.id().to_string();
    // The first checkpoint shows that it trains.
    while !story.path("checkpoints/last/manifest.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the training ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    let output = child.wait_with_output().unwrap();
    assert!(sent.unwrap().success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(story.path("checkpoints/last/manifest.json").exists());
}

#[test]
fn config_errors_name_the_key_and_the_nearest_one() {
    let story = Story::new();
    story.run("status").exit(2).stderr("hint: `tftctl init`");
    story.run("init").exit(0);
    story.run("init").exit(2).stderr("exists");
    story.write("tftctl.toml", "training_windows_days = 3\n");
    story.run("config check").exit(2).stderr("did you mean `training_window_days`");
    let object = story.run("config check --json").exit(2);
    let error: serde_json::Value = serde_json::from_str(object.stderr.trim()).unwrap();
    assert_eq!(error["exit_code"], 2);
}

#[test]
fn results_go_to_stdout_and_talk_to_stderr() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    let ran = story.run("window build --json").exit(0);
    ran.json();
    let quiet = story.run("window build --quiet").exit(0);
    assert_eq!(quiet.stderr, "");
    story.run("completions bash").exit(0).stdout("tftctl");
    story.run("config show --origin").exit(0).stdout("training.seed").stdout("file");
}

#[test]
fn a_listener_that_goes_away_does_not_end_a_night() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    let mut child = story.command("nightly").spawn().unwrap();
    drop(child.stderr.take());
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert!([Some(0), Some(3)].contains(&status.code()), "{status}");
    assert!(story.path("logs/continuous_learning/metrics.json").is_file());
}
