//! What is damaged is named, and stands in the way of nothing that does not need it.

use std::fs;

use crate::common::Story;

/// A small site after one night that promoted its model.
fn after_one_night() -> Story {
    let mut story = Story::with_small_fleet();
    story.set("require_validation", "false");
    story.at("2024-01-07T02:00").run("nightly").exit(0);
    story.at("2024-01-08T02:00");
    story
}

fn flip_a_byte(path: std::path::PathBuf) {
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_changed_byte_of_a_model_is_found_before_it_serves() {
    let story = after_one_night();
    let id = story.names("models").into_iter().find(|name| name.starts_with("tft_model_")).unwrap();
    flip_a_byte(story.path(&format!("models/{id}/model.safetensors")));
    story.run("predict").exit(1).stderr(&id);
    story.run(&format!("models show {id}")).exit(0).stdout("damage");
    assert_ne!(story.run("promote").code, Some(0));
}

#[test]
fn a_truncated_day_is_found_by_verify() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00").run("buffer rotate").exit(0);
    story.run("buffer verify --read-data").exit(0).stdout("0 findings");
    let day = story.path("data_buffer/metrics_2024-01-05.parquet");
    let bytes = fs::read(&day).unwrap();
    fs::write(&day, &bytes[..bytes.len() / 2]).unwrap();
    story.run("buffer verify").exit(1).stdout("2024-01-05");
    // One bad day is no reason not to see the others.
    story.run("buffer status").exit(0).stdout("UNREADABLE").stdout("2024-01-06");
    story.run("status").exit(0).stdout("buffer repair --day 2024-01-05");
}

#[test]
fn damaged_checkpoints_give_way_to_a_fresh_lineage() {
    let story = after_one_night();
    story.run("window build").exit(0);
    for folder in ["last", "previous"] {
        let path = story.path(&format!("checkpoints/{folder}/optimizer.safetensors"));
        if path.exists() {
            flip_a_byte(path);
        }
    }
    story.run("train --epochs 1 --resume").exit(1).stderr("--fresh");
    story.run("train --epochs 1 --fresh").exit(0);
}

#[test]
fn lost_checkpoints_are_told_and_the_champion_is_continued() {
    let story = after_one_night();
    fs::remove_dir_all(story.path("checkpoints")).unwrap();
    story.run("nightly").exit(0).stderr("checkpoints/ is gone");
    let models = story.run("models list --json").exit(0).json();
    assert!(models[0]["total_epochs"].as_u64().unwrap() > 1, "{models}");
}

#[test]
fn a_damaged_window_is_built_anew_and_a_damaged_old_night_is_passed_over() {
    let story = after_one_night();
    story.run("window build").exit(0);
    let id = story.names("windows").into_iter().find(|name| name.starts_with("2024-01-08")).unwrap();
    story.run("window verify").exit(0).stdout("is what was published");
    flip_a_byte(story.path(&format!("windows/{id}/steps.parquet")));
    story.run(&format!("window verify {id}")).exit(1).stdout("sha256 differs");
    let listed = story.run("window list --json").exit(0).json();
    let of_id = listed.as_array().unwrap().iter().find(|window| window["id"] == id.as_str()).unwrap();
    assert!(of_id["damage"].as_str().unwrap().contains("sha256 differs"), "{listed}");
    story.run("buffer repair --dry-run").exit(0).stdout(&format!("window {id} would be set aside"));
    story.run("window build").exit(0).stderr("built anew");
    story.run("window show --all").exit(0).stdout("longest gap");
    let manifest = story.path(&format!("windows/{id}/manifest.json"));
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    story.run("window list").exit(0).stdout(&format!("{id}  damaged: "));
    fs::write(&manifest, whole).unwrap();
    fs::write(story.path("state/nights/2024-01-07.json"), "x").unwrap();
    story.run("status").exit(0);
    story.run("nightly").exit(0);
}

#[test]
fn a_refused_model_cannot_pass_on_rows_it_was_trained_on() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00");
    story.run("window build").exit(0);
    story.run("train --epochs 1 --resume").exit(0);
    story.run("window build --end 2024-01-06").exit(0);
    story.run("validate").exit(3).stdout("may know the answers");
    story.run("promote").exit(3);
}

#[test]
fn what_is_lost_is_told_by_every_verb_and_ends_by_one_rule() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00").run("buffer rotate").exit(0);
    let day = |day: u32| story.path(&format!("data_buffer/metrics_2024-01-{day:02}.parquet"));
    fs::copy(day(4), day(3)).unwrap();
    fs::remove_file(day(5)).unwrap();
    let (misnamed, gone) =
        ("its rows are those of 2024-01-04", "metrics_2024-01-05.parquet: the day is gone");
    for dry_run in [" --dry-run", ""] {
        let ran = story.run(&format!("buffer rotate{dry_run}")).exit(4);
        ran.stderr(misnamed).stderr(gone).stderr("2024-01-08T02:00:00Z warning: ");
    }
    story.run("buffer status").exit(0).stdout("DAMAGED").stdout(misnamed).stdout(gone);
    story.run("status").exit(0).stdout(misnamed).stdout(gone);
    story.run("buffer verify").exit(1).stdout(misnamed).stdout("the day is gone");
    let exported = story.run("buffer export --output all.csv").exit(4);
    exported
        .stderr(misnamed)
        .stderr("2024-01-08T02:00:00Z warning: ")
        .stderr("repair --day 2024-01-05 --forget");
    story.run("window build").stderr(misnamed).stderr(gone);
    story.run("buffer repair").exit(1).stdout("0 values lost").stdout("2024-01-03 failed: ").stdout("hint: ");
    story.run("buffer verify").exit(1).stdout("2024-01-03").stdout("2024-01-05");
    story.run("buffer repair --forget").exit(2);
    for day in ["2024-01-03", "2024-01-05"] {
        story.run(&format!("buffer repair --day {day} --forget")).exit(0).stdout("given up");
    }
    story.run("buffer verify").exit(0).stdout("0 findings");
    story.run("buffer rotate").exit(0);
}

#[test]
fn a_merge_that_fails_is_told_once_with_what_helps() {
    let mut story = Story::with_small_fleet();
    story.at("2024-01-08T02:00").run("buffer rotate").exit(0);
    let path = story.path("data_buffer/metrics_2024-01-05.parquet");
    let mut bytes = fs::read(&path).unwrap();
    bytes[5] ^= 1;
    fs::write(&path, bytes).unwrap();
    let servers = story.run("buffer export --from 2024-01-04 --to 2024-01-04 --format csv").exit(0).stdout;
    let late = servers.lines().take(2).collect::<Vec<_>>().join("\n").replace("2024-01-04", "2024-01-05");
    story.run_with_input("buffer append - --plain", late.as_bytes()).exit(0);
    let ran = story.run("buffer rotate").exit(1).stdout("hint: `tftctl buffer repair --day 2024-01-05`");
    assert_eq!((ran.stdout + &ran.stderr).matches("not those that were sealed").count(), 1);
    story.run("buffer status").exit(0).stdout("DAMAGED").stdout("buffer repair --day 2024-01-05");
    story.run("buffer export").exit(1).stderr("buffer repair --day 2024-01-05");
}
