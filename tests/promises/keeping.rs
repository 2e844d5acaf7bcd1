//! Days are kept, mended and let go by several processes at once, and none of them spoils another's work.

use std::fs;
use std::process::Child;

use crate::common::Story;

const N_SERVERS: usize = 4;
const N_ROUNDS: usize = 6;

fn record(day: u32, minute: usize, server: usize) -> String {
    let (hour, minute) = (minute / 60, minute % 60);
    format!(
        "{{\"timestamp\":\"2024-01-{day:02}T{hour:02}:{minute:02}:00Z\",\"server_name\":\"ppdb{server:03}\",\"cpu_user_pct\":{minute}}}\n"
    )
}

fn site() -> Story {
    let mut story = Story::new();
    story.run("init").exit(0);
    story.at("2024-01-04T12:00:00Z");
    story
}

#[track_caller]
fn ended(children: Vec<Child>) {
    for child in children {
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{:?}: {told}", output.status);
    }
}

#[test]
fn appends_rotations_and_readers_in_their_own_processes_lose_nothing() {
    let story = site();
    for round in 0..N_ROUNDS {
        let mut children = Vec::new();
        for server in 0..N_SERVERS {
            let rows: String =
                (1..=3).map(|day| record(day, round, server) + &record(day, 0, server)).collect();
            let name = format!("rows-{round}-{server}.ndjson");
            story.write(&name, &rows);
            children.push(story.command(&format!("buffer append {name}")).spawn().unwrap());
        }
        for command in
            ["buffer rotate", "buffer rotate --include-open", "buffer verify", "buffer status --json"]
        {
            children.push(story.command(command).spawn().unwrap());
        }
        ended(children);
    }
    story.run("buffer rotate").exit(0);
    story.run("buffer rotate").exit(0).stdout("nothing to do");
    let status = story.run("buffer status --json").exit(0).json();
    let rows: Vec<u64> =
        status["days"].as_array().unwrap().iter().map(|day| day["n_rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [(N_ROUNDS * N_SERVERS) as u64; 3], "{status}");
    story.run("buffer verify --read-data").exit(0).stdout("0 findings");
}

#[test]
fn what_is_damaged_is_mended_and_what_was_taken_away_is_kept() {
    let story = site();
    story.write(
        "rows.ndjson",
        &(0..300).map(|minute| record(1 + minute as u32 / 100, minute, 0)).collect::<String>(),
    );
    story.run("buffer append rows.ndjson").exit(0);
    story.run("buffer rotate").exit(0);
    story.run("buffer repair").exit(0).stdout("nothing to mend");
    let path = story.path("data_buffer/metrics_2024-01-02.parquet");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    story.run("buffer verify --day 2024-01-02").exit(1).stdout("2024-01-02");
    story.run("buffer verify --day 2024-01-01").exit(0);
    story.run("buffer repair --dry-run").exit(0).stdout("would be done");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a dry run touches nothing");
    let report = story.run("buffer repair --json").exit(0).json();
    assert_eq!(report["mended"][0]["n_rows_saved"], 100, "{report}");
    assert_eq!(fs::read(&path).unwrap(), whole);
    let kept = story.names("data_buffer/removed/2024-01-02");
    assert_eq!(kept.len(), 2, "the file as it was, and the reason: {kept:?}");
    story.run("buffer repair").exit(0).stdout("nothing to mend");
    story.run("buffer verify").exit(0);
}

#[test]
fn old_days_move_to_the_archive_as_the_dry_run_said() {
    let mut story = site();
    story.write(
        "rows.ndjson",
        &(0..300).map(|minute| record(1 + minute as u32 / 100, minute, 0)).collect::<String>(),
    );
    story.run("buffer append rows.ndjson").exit(0);
    story.run("buffer rotate").exit(0);
    let day = fs::read(story.path("data_buffer/metrics_2024-01-01.parquet")).unwrap();
    story.set("training_window_days", "2").set("data_retention_days", "2");
    story.set("buffer.retention_action", "\"archive\"").set("buffer.archive_dir", "\"old/days\"");
    story.at("2024-01-04T13:00:00Z");
    let planned = story.run("buffer rotate --dry-run --json").exit(0).json();
    story
        .run("buffer rotate --dry-run")
        .exit(0)
        .stdout("2024-01-01 would be archived: 3 days old, 2 are kept");
    assert_eq!(story.names("old/days"), Vec::<String>::new());
    let done = story.run("buffer rotate --json").exit(0).json();
    assert_eq!(done["retention"], planned["retention"]);
    assert_eq!(fs::read(story.path("old/days/metrics_2024-01-01.parquet")).unwrap(), day);
    assert!(!story.path("data_buffer/metrics_2024-01-01.parquet").exists());
}

#[test]
fn a_disk_without_room_stops_rows_and_windows_and_seals_days() {
    let story = site();
    story.write("rows.ndjson", &record(1, 0, 0));
    story.run("buffer append rows.ndjson").exit(0);
    story.set("buffer.min_free_disk_mb", "1000000000");
    story.run("buffer append rows.ndjson").exit(1).stderr("MiB free").stderr("min_free_disk_mb");
    // Nor may bad rows take the room of good ones.
    story.write("bad.ndjson", "no row\n");
    story.run("buffer append bad.ndjson").exit(1).stderr("keep bad rows").stderr("MiB free");
    assert_eq!(story.names("data_buffer/quarantine"), Vec::<String>::new());
    story.run("window build").exit(1).stderr("MiB free");
    story.run("buffer rotate").exit(0).stdout("2024-01-01 sealed: 1 row of");
}

#[test]
fn rows_behind_a_damaged_byte_are_read_and_the_damaged_ones_told_by_everybody() {
    let mut story = site();
    for minutes in [0..20, 20..50] {
        story.write("rows.ndjson", &minutes.map(|minute| record(4, minute, 0)).collect::<String>());
        story.run("buffer append rows.ndjson").exit(0).stdout("rows taken");
    }
    let day = "data_buffer/open/2024-01-04";
    let segment = story.names(day).into_iter().find(|name| name.ends_with(".seg")).unwrap();
    let path = story.path(&format!("{day}/{segment}"));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 4;
    fs::write(&path, bytes).unwrap();
    let told = "bytes of it are damaged, and 20 rows are lost";
    story.run("buffer status").exit(0).stdout(told).stdout("buffer repair").stdout("1 day, 30 rows");
    story.run("buffer verify").exit(1).stdout(told);
    story.run("window build --end 2024-01-05").exit(4).stderr(told);
    story.run("buffer export").exit(4).stderr(told);
    story.at("2024-01-05T12:00:00Z");
    let rotated =
        story.run("buffer rotate").exit(4).stdout("sealed: 30 rows of 1 server, 0 duplicates").stderr(told);
    assert_eq!(rotated.stderr.matches(told).count(), 1, "{}", rotated.stderr);
    story.run("buffer rotate").exit(0).stdout("nothing to do");
    story.run("buffer verify").exit(0).stdout("1 damaged or torn file set aside").stdout("0 findings");
    let status = story.run("buffer status --json").exit(0).json();
    let kept = status["set_aside"][0]["kept"].as_str().unwrap();
    assert!(fs::exists(kept).unwrap() && kept.ends_with(&segment), "{status}");
}

#[test]
fn an_export_is_what_its_name_says_and_knows_its_servers() {
    let story = site();
    story.write("rows.ndjson", &(0..3).map(|minute| record(1, minute, 7)).collect::<String>());
    story.run("buffer append rows.ndjson").exit(0);
    story.run("buffer export --server ppdb07").exit(2).stderr("did you mean `ppdb007`?");
    let plain = story.run("buffer export --format csv --server ppdb007").exit(0).stdout;
    story.run("buffer export --output out.csv.gz").exit(0).stdout("3 rows of 1 day");
    let mut text = String::new();
    let packed = fs::File::open(story.path("out.csv.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
    assert_eq!(text, plain);
    story.run("buffer export --output out.ndjson.zst").exit(0);
    let text = zstd::decode_all(fs::File::open(story.path("out.ndjson.zst")).unwrap()).unwrap();
    assert_eq!(String::from_utf8(text).unwrap().lines().count(), 3);
    story.run("buffer export --output out.parquet.gz").exit(2).stderr("not once more");
    story.run("simulate --servers 1 --out fleet.csv").exit(2).stderr("NDJSON");
}

#[test]
fn what_is_wrong_with_a_call_is_said_in_the_form_that_was_asked_for() {
    let story = site();
    let error: serde_json::Value =
        serde_json::from_str(&story.run("buffer export --fron 2024-01-01 --json").exit(2).stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("--fron") && error["exit_code"] == 2, "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--from"), "{error}");
    story.run("init other --timezone Europe/Berln").exit(2).stderr("did you mean `Europe/Berlin`?");
    let follow = story.run_with_input("buffer append - --follow --json", record(1, 0, 0).as_bytes()).exit(0);
    assert_eq!(follow.stdout.lines().count(), 1, "{}", follow.stdout);
    story.write(
        "renamed.ndjson",
        "{\"timestamp\":\"2024-01-01T00:00:00Z\",\"host\":\"a\",\"cpu_user_pct\":1}\n",
    );
    let hint = story.run("buffer append renamed.ndjson").exit(4).stderr;
    assert!(hint.contains("[input] maps them") && !hint.contains("--now"), "{hint}");
    story.write("old.ndjson", &record(1, 0, 0).replace("2024", "2011"));
    story.run("buffer append old.ndjson").exit(4).stderr("give `--now`");
}
