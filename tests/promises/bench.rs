//! `bench` measures what was asked for, refuses what cannot be, and leaves nothing behind.

use std::fs;

use crate::common::Story;

const SMALL: &str =
    "--encoder-length 12 --horizon 4 --hidden 8 --heads 2 --batch 4 --targets 1 --device cpu --time 0s";

#[test]
fn networks_are_measured_in_a_site_and_outside_of_one() {
    let story = Story::new();
    for what in ["train", "predict"] {
        let found = story.run(&format!("bench {what} {SMALL} --json")).exit(0).json();
        assert_eq!(found["what"], what);
        assert_eq!(found["sizes"]["targets"], 1);
        assert!(found["samples_per_s"].as_f64().unwrap() > 0.0, "{found}");
        let ratio = found["samples_per_s"].as_f64().unwrap() / found["floor_samples_per_s"].as_f64().unwrap();
        assert!((found["ratio"].as_f64().unwrap() / ratio - 1.0).abs() < 1e-6, "{found}");
    }
    story.run(&format!("bench train {SMALL}")).exit(0).stdout("of the floor's rate");
    let setting = ("TFTCTL_MODEL__DROPOUT", "0.5");
    let found = story.run_with_env(&format!("bench train {SMALL} --json"), setting).exit(0).json();
    assert_eq!(found["sizes"]["dropout"], 0.5);
    story.run("init").exit(0);
    story.set("model.dropout", "0.25");
    assert_eq!(story.run(&format!("bench train {SMALL} --json")).exit(0).json()["sizes"]["dropout"], 0.25);
    for wrong in
        ["--heads 9", "--metrics 0", "--horizon 9000000000000000000", "--dropout 1.5", "--targets 99"]
    {
        story.run(&format!("bench train --hidden 8 {wrong}")).exit(2);
    }
}

#[test]
fn rows_and_windows_are_measured_on_the_disk_that_was_named() {
    let story = Story::new();
    fs::create_dir(story.path("disk")).unwrap();
    let fleet = "--servers 3 --days 1 --tick-secs 60 --dir disk --json";
    let appended = story.run(&format!("bench append {fleet}")).exit(0).json();
    assert!(appended["rows_per_s"].as_f64().unwrap() > 0.0, "{appended}");
    let built = story.run(&format!("bench window {fleet}")).exit(0).json();
    assert_eq!(built["rows"], appended["rows"]);
    assert_eq!(fs::read_dir(story.path("disk")).unwrap().count(), 0, "something stayed behind");
    story.run("bench append --days 4294967295 --dir disk").exit(2).stderr("366 days");
    story.run("bench append --dir nowhere").exit(1).stderr("nowhere");
}
