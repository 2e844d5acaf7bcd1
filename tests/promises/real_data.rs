//! Real server metrics, where the shared data set is there: three nights, and schemas nobody wrote by hand.

use serde_json::Value;

use crate::common::{Story, fingerprint, shared_data, text};

/// The sizes that make a night on real data a matter of seconds in a test build.
const SMALL: [(&str, &str); 10] = [
    ("training_window_days", "14"),
    ("model.encoder_length", "48"),
    ("model.horizon", "12"),
    ("model.hidden_size", "8"),
    ("model.hidden_continuous_size", "4"),
    ("model.attention_heads", "2"),
    ("training.samples_per_epoch", "512"),
    ("training.learning_rate", "0.005"),
    ("validation.max_samples", "256"),
    ("min_training_samples", "5000"),
];

fn site_from(data: &std::path::Path) -> Story {
    let story = Story::new();
    story.run(&format!("init --from {}", text(data))).exit(0);
    for (key, value) in SMALL {
        story.set(key, value);
    }
    story
}

#[test]
fn three_nights_on_asd() {
    let Some(data) = shared_data("asd") else { return };
    let before = fingerprint(&data);
    let mut story = site_from(&data);
    let mut digests: Vec<String> = Vec::new();
    for (night, day) in [29, 30, 31].into_iter().enumerate() {
        let ran = story.at(&format!("2024-01-{day}T02:00")).run("nightly --json");
        assert!([Some(0), Some(3)].contains(&ran.code), "{}", ran.stderr);
        let record = ran.json();
        assert!(record["optimizer_steps"].as_u64().unwrap() > 0, "{record}");
        for key in ["validation_loss", "persistence_loss", "seasonal_naive_loss", "training_loss"] {
            assert!(record[key].as_f64().is_some_and(f64::is_finite), "{key} in {record}");
        }
        assert!(record["outcome"].is_string(), "each night has a verdict: {record}");
        let models = story.run("models list --json").exit(0).json();
        let newest = &models[0];
        assert_eq!(newest["total_epochs"], night as u64 + 1);
        digests.push(newest["weights_sha256"].as_str().unwrap().to_owned());
    }
    digests.dedup();
    assert_eq!(digests.len(), 3, "the weights differ from the night before");
    assert_eq!(fingerprint(&data), before, "a buffer from elsewhere is only read");
}

#[test]
fn schemas_are_derived_and_windows_build_on_smd_and_bitbrains() {
    for (name, now, n_metrics) in [("smd", "2024-01-20T02:00", 38), ("bitbrains", "2013-09-10T02:00", 10)] {
        let Some(data) = shared_data(name) else { continue };
        let mut story = site_from(&data);
        story.set("model.targets", first_targets(&story).as_str());
        let checked = story.at(now).run("config check --json").exit(0).json();
        assert_eq!(checked["n_metrics"], n_metrics, "{name}");
        let window = story.run("window build --json").exit(0).json();
        assert!(window["servers"].as_array().unwrap().len() >= 10, "{name}: {window}");
    }
}

/// The first two targets that `init --from` chose, as a TOML list.
fn first_targets(story: &Story) -> String {
    let settings = story.run("config show --json").exit(0).json();
    let targets = settings.as_array().unwrap().iter().find(|s| s["key"] == "model.targets").unwrap();
    let names: Vec<&Value> = targets["value"].as_array().unwrap().iter().take(2).collect();
    serde_json::to_string(&names).unwrap()
}
