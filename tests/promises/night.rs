//! A night by hand and a night by `nightly` do the same things in the same order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use polars::prelude::{ParquetReader, SerReader};
use tftctl::stats::pinball;

use crate::common::Story;

/// Length and time of every file and folder below `dir`.
fn fingerprint_below(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.metadata().unwrap();
        if meta.is_dir() {
            found.extend(fingerprint_below(&path));
        }
        found.insert(path, (meta.len(), meta.modified().unwrap()));
    }
    found
}

#[test]
fn the_commands_work_by_hand_in_order() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    story.run("buffer rotate").exit(0).stdout("2024-01-07");
    assert!(story.names("data_buffer").contains(&"metrics_2024-01-07.parquet".to_owned()));
    let status = story.run("buffer status --json").exit(0).json();
    assert!(status["n_rows"].as_u64().unwrap() > 5000, "{status}");
    let window = story.run("window build --json").exit(0).json();
    assert_eq!(window["n_steps"], 5 * 48);
    let trained = story.run("train --epochs 1 --resume --json").exit(0).json();
    assert!(trained["optimizer_steps"].as_u64().unwrap() > 0, "{trained}");
    assert_eq!(trained["total_epochs"], 1);
    for target in trained["targets"].as_array().unwrap() {
        assert!(target["loss_scaled"].as_f64().unwrap() > 0.0, "{target}");
        assert!(target["loss_own_unit"].as_f64().unwrap() > target["loss_scaled"].as_f64().unwrap());
        assert_eq!(target["unit"], "%");
    }
    let validated = story.run("validate --json");
    assert!([Some(0), Some(3)].contains(&validated.code), "{}", validated.stderr);
    let verdict = validated.json();
    assert!(verdict["loss"].as_f64().unwrap() > 0.0);
    assert!(verdict["persistence_loss"].as_f64().unwrap() > 0.0);
    for scores in verdict["scores"].as_array().unwrap() {
        let target = &scores["targets"][0];
        assert!(
            target["slice"]["loss"].as_f64().unwrap() > 0.0
                && target["quantile_loss"].as_f64().unwrap() > 0.0
        );
    }
    let shown = story.run("validate").exit(validated.code.unwrap()).stdout("P10-P90").stdout("in own units");
    assert!(shown.stdout.contains("MAE of challenger"), "{}", shown.stdout);
    if validated.code == Some(3) {
        story.run("promote").exit(3);
        story.run("promote --force --reason testing").exit(0);
    } else {
        story.run("promote").exit(0);
    }
    let forecast = story.run("predict --json").exit(0).json();
    assert_eq!(forecast["series"].as_array().unwrap().len(), 5 * 2);
    assert_eq!(forecast["series"][0]["steps"].as_array().unwrap().len(), 6);
    assert_eq!(forecast["cutoff"], "2024-01-08T02:00:00Z", "rows after the clock must not be seen");
    story.run("rollback --reason testing").exit(1).stderr("nothing to go back to");
    let models = story.run("models list --json").exit(0).json();
    assert_eq!(models.as_array().unwrap().len(), 1);
    assert_eq!(models[0]["is_champion"], true);
    story.run("models show").exit(0).stdout("weights_sha256");
    story.run("status").exit(0).stdout("champion");
}

#[test]
fn an_exam_hands_out_the_forecasts_it_scored() {
    const LEVELS: [(&str, f64); 7] = [
        ("p02", 0.02),
        ("p10", 0.1),
        ("p25", 0.25),
        ("p50", 0.5),
        ("p75", 0.75),
        ("p90", 0.9),
        ("p98", 0.98),
    ];
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    for command in ["buffer rotate", "window build", "train --epochs 1"] {
        story.run(command).exit(0);
    }
    let file = story.path("exam/forecasts.parquet");
    let validate = format!("validate --json --forecasts {}", file.display());
    story.run(&validate).exit(2).stderr("exam");
    std::fs::create_dir(story.path("exam")).unwrap();
    let verdict = story.run(&validate).json();
    let scores = &verdict["scores"][0];
    let rows = ParquetReader::new(std::fs::File::open(file).unwrap()).finish().unwrap();
    let of = |name: &str| rows.column(name).unwrap().f32().unwrap().to_vec();
    let (truths, quantiles) = (of("truth"), LEVELS.map(|(name, _)| of(name)));
    let levels = LEVELS.map(|(_, level)| level);
    let metrics = rows.column("metric").unwrap().str().unwrap().clone();
    assert_eq!(rows.height() as u64, scores["n_samples"].as_u64().unwrap() * 2 * 6);
    for target in scores["targets"].as_array().unwrap() {
        let loss_at = |row: usize| -> Option<f64> {
            let is_ours = metrics.get(row) == target["slice"]["name"].as_str();
            let forecast: Vec<f32> = quantiles.iter().map(|column| column[row].unwrap()).collect();
            truths[row].filter(|_| is_ours).map(|truth| pinball(&forecast, truth, &levels))
        };
        let losses: Vec<f64> = (0..rows.height()).filter_map(loss_at).collect();
        assert_eq!(losses.len() as u64, target["slice"]["n_points"].as_u64().unwrap());
        let (mean, told) =
            (losses.iter().sum::<f64>() / losses.len() as f64, target["quantile_loss"].as_f64().unwrap());
        assert!((mean / told - 1.0).abs() < 1e-9, "{mean}, the exam says {told}");
    }
}

#[test]
fn two_nights_resume_and_a_rollback_goes_back() {
    let mut story = Story::with_small_fleet();
    // A promotion is wanted here whatever the small network learned: the exam has its own tests.
    story.set("require_validation", "false");
    story.at("2024-01-07T02:00").run("nightly").exit(0);
    story.at("2024-01-08T02:00").run("nightly").exit(0);
    let models = story.run("models list --json").exit(0).json();
    let epochs: Vec<u64> =
        models.as_array().unwrap().iter().map(|m| m["total_epochs"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [2, 1], "newest first");
    assert_ne!(models[0]["weights_sha256"], models[1]["weights_sha256"]);
    assert_eq!(models[0]["is_champion"], true);
    let records: serde_json::Value = serde_json::from_str(
        &std::fs::read_to_string(story.path("logs/continuous_learning/metrics.json")).unwrap(),
    )
    .unwrap();
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 2);
    for key in [
        "timestamp",
        "total_epochs",
        "training_duration_mins",
        "validation_loss",
        "training_loss",
        "data_samples",
        "success",
    ] {
        assert!(!records[1][key].is_null(), "metrics.json lacks {key}: {}", records[1]);
    }
    assert!(story.path("logs/continuous_learning/training_2024-01-08.log").is_file());
    assert!(story.path("forecasts/2024-01-08.parquet").is_file());
    story.run("rollback --reason testing").exit(0);
    let champion = story.run("status --json").exit(0).json();
    assert_eq!(champion["champion"]["model_id"], models[1]["id"]);
    // What was rolled back is not promoted again by itself.
    let promote = format!("promote {}", models[0]["id"].as_str().unwrap());
    assert_ne!(story.run(&promote).code, Some(0));
}

#[test]
fn a_finished_night_is_not_run_again() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    let first = story.run("nightly --json");
    assert!([Some(0), Some(3)].contains(&first.code), "{}", first.stderr);
    story.at("2024-01-08T03:30").run("nightly").exit(0).stderr("already done");
    assert_eq!(story.run("models list --json").json().as_array().unwrap().len(), 1);
}

#[test]
fn a_dry_run_prints_the_plan_and_touches_nothing() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    let before = fingerprint_below(&story.path("."));
    story.run("nightly --dry-run").exit(0).stdout("train");
    assert_eq!(fingerprint_below(&story.path(".")), before);
    assert!(!story.names("data_buffer").iter().any(|name| name.ends_with(".parquet")));
}

#[test]
fn a_changed_model_begins_a_new_lineage_and_the_site_goes_on() {
    let mut story = Story::with_small_fleet();
    story.set("require_validation", "false");
    story.at("2024-01-07T02:00").run("nightly").exit(0);
    story.set("model.horizon", "4").set("model.hidden_size", "12");
    story.at("2024-01-08T02:00").run("nightly").exit(0).stderr("a new lineage begins").stderr("NOT COMPARED");
    let models = story.run("models list --json").exit(0).json();
    assert_eq!(models[0]["is_champion"], true, "{models}");
    assert_ne!(models[0]["manifest"]["lineage"], models[1]["manifest"]["lineage"]);
    let records = std::fs::read_to_string(story.path("logs/continuous_learning/metrics.json")).unwrap();
    assert!(records.contains("a new lineage begins") && records.contains("NOT COMPARED"), "{records}");
}
