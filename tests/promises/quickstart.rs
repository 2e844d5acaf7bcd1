//! The first command of the README: a fleet, two nights, verdicts, a forecast or the reason why there is none.

use crate::common::Story;

/// Smaller still than quickstart's own sizes: this is about the path, not about the numbers.
const TINY: [(&str, &str); 7] = [
    ("TFTCTL_TRAINING__SAMPLES_PER_EPOCH", "512"),
    ("TFTCTL_MODEL__ENCODER_LENGTH", "48"),
    ("TFTCTL_MODEL__HORIZON", "16"),
    ("TFTCTL_MODEL__HIDDEN_SIZE", "8"),
    ("TFTCTL_MODEL__HIDDEN_CONTINUOUS_SIZE", "4"),
    ("TFTCTL_MODEL__ATTENTION_HEADS", "2"),
    ("TFTCTL_VALIDATION__MAX_SAMPLES", "256"),
];

#[test]
fn quickstart_shows_two_nights_and_says_what_became_of_them() {
    let story = Story::new();
    let mut command = story.command("quickstart site --servers 6 --json --now 2026-06-17T09:15");
    command.env("TFTCTL_MIN_TRAINING_SAMPLES", "50000");
    let output = command.envs(TINY).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!([Some(0), Some(3)].contains(&output.status.code()), "{stderr}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let nights = shown["nights"].as_array().unwrap();
    assert_eq!(nights.len(), 2);
    assert_eq!(nights[0]["total_epochs"], 3);
    assert_eq!(nights[1]["total_epochs"], 4, "the second night resumes");
    for night in nights {
        assert!(night["validation_loss"].as_f64().unwrap() > 0.0, "{night}");
        assert!(night["persistence_loss"].as_f64().unwrap() > 0.0, "{night}");
    }
    let has_champion = !shown["champion"].is_null();
    assert_eq!(output.status.code(), Some(if has_champion { 0 } else { 3 }), "{stderr}");
    assert_eq!(has_champion, shown["forecast"]["series"].is_array());
    assert!(story.path("site/simulated_incidents.ndjson").is_file());
    // A second start does not run over the first.
    story.run("quickstart site").exit(2).stderr("not empty");
}
