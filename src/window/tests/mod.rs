//! What a window promises, on made-up days.

mod disk;
mod power;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};

use super::build::{DaySource, WindowRequest, build_from, inspect_from, recent_from};
use super::manifest::Source;
use super::*;
use crate::buffer::step_table::{StepOutline, StepTable};
use crate::calendar;
use crate::config::Config;
use crate::error::{Exit, message_and_hint};
use crate::progress::Silent;
use crate::schema::Metric;
use crate::site::Site;

const STEP_MS: i64 = testing::STEP_MS;

/// A buffer of made-up days that remembers what was read.
#[derive(Default)]
struct Days {
    tables: BTreeMap<NaiveDate, StepTable>,
    reads: RefCell<Vec<NaiveDate>>,
    /// Changes the sources of every day for the first so many looks.
    n_late_rows: Cell<u64>,
}

impl DaySource for Days {
    fn dates(&self) -> Result<Vec<NaiveDate>> {
        Ok(self.tables.keys().copied().collect())
    }

    fn sources(&self, day: NaiveDate) -> Result<Vec<Source>> {
        let late = self.n_late_rows.get();
        self.n_late_rows.set(late.saturating_sub(1));
        let table = &self.tables[&day];
        let sha256 = crate::fsx::sha256_bytes(format!("{late} {table:?}").as_bytes());
        Ok(vec![Source {
            date: day,
            file: format!("metrics_{day}.parquet"),
            sha256,
            n_rows: table.n_raw_rows(),
            damage: None,
        }])
    }

    fn outline(&self, day: NaiveDate) -> Result<StepOutline> {
        Ok(self.tables[&day].outline())
    }

    fn read(&self, day: NaiveDate) -> Result<(StepTable, Vec<Source>)> {
        self.reads.borrow_mut().push(day);
        Ok((self.tables[&day].clone(), self.sources(day)?))
    }
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn config() -> Config {
    let percent = |name: &str| Metric { min: Some(0.0), max: Some(100.0), ..Metric::new(name, "%") };
    let mut config = Config {
        metrics: vec![percent("cpu"), percent("mem")],
        min_training_samples: 1000,
        ..Config::default()
    };
    config.series.sample_secs = 30;
    config.model.targets = vec!["cpu".into()];
    config.model.encoder_length = 12;
    config.model.horizon = 4;
    config.window.holdout_hours = 6;
    config.window.max_gap_steps = 2;
    config
}

/// Days from `first` on with every step of `servers` that `has` lets through (by server and time).
fn days_of(
    config: &Config,
    first: &str,
    n_days: usize,
    servers: &[&str],
    has: impl Fn(&str, i64) -> bool,
) -> Days {
    let mut days = Days::default();
    for day in date(first).iter_days().take(n_days) {
        let (start, end) = calendar::day_bounds_ms(day, config.timezone);
        let mut entries = Vec::new();
        for server in servers {
            for time in (start..end).step_by(STEP_MS as usize).filter(|time| has(server, *time)) {
                entries.push((*server, time / STEP_MS, 50.0 + (time / STEP_MS % 40) as f32));
            }
        }
        days.tables.insert(day, testing::table(2, &entries));
    }
    days
}

struct Bench {
    dir: tempfile::TempDir,
    site: Site,
}

impl Bench {
    fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::of(dir.path(), config);
        Self { dir, site }
    }

    fn build(&self, days: &Days, end: &str) -> Result<Window> {
        self.build_with(days, WindowRequest { end: Some(date(end)), ..WindowRequest::default() })
    }

    fn build_with(&self, days: &Days, request: WindowRequest) -> Result<Window> {
        build_from(days, &self.site, &request, DateTime::<Utc>::UNIX_EPOCH, &Silent)
    }

    /// Names of the files in the site's window folder.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("windows"));
        entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into())
            .collect()
    }
}

fn rules(window: &Window) -> Vec<(&str, &str)> {
    let findings = &window.manifest.quality.findings;
    findings.iter().map(|finding| (finding.subject.as_str(), finding.rule.as_str())).collect()
}

#[test]
fn a_window_holds_what_its_days_hold() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 30, &["a", "b"], |_, _| true);
    let window = bench.build(&days, "2024-01-31").unwrap();
    let manifest = &window.manifest;
    assert!(window.id.starts_with("2024-01-31-"));
    assert_eq!((manifest.n_steps, manifest.n_raw_rows), (30 * 288, 30 * 288 * 2 * 10));
    assert_eq!((manifest.split.train_end, manifest.split.holdout_start), (8640 - 72 - 8, 8640 - 72 - 4));
    assert_eq!(manifest.sources.len(), 30);
    assert_eq!(rules(&window), []);
    let grid = window.read_grid().unwrap();
    assert_eq!(grid.row(1, 77), [50.0 + ((grid.time_ms(77) / STEP_MS) % 40) as f32; 2]);
    assert!(grid.values.iter().all(|value| value.is_finite()));
}

#[test]
fn the_same_inputs_give_the_same_name_and_the_same_bytes_and_are_not_read_again() {
    let days = days_of(&config(), "2024-01-01", 5, &["a", "b"], |_, _| true);
    let (one, two) = (Bench::new(config()), Bench::new(config()));
    let first = one.build(&days, "2024-01-06").unwrap();
    let second = two.build(&days, "2024-01-06").unwrap();
    assert_eq!(first.id, second.id);
    for file in ["steps.parquet", "manifest.json"] {
        let bytes = |window: &Window| std::fs::read(window.dir.join(file)).unwrap();
        assert!(bytes(&first) == bytes(&second), "{file} differs");
    }
    days.reads.borrow_mut().clear();
    assert_eq!(one.build(&days, "2024-01-06").unwrap().manifest, first.manifest);
    assert!(days.reads.borrow().is_empty());
}

#[test]
fn other_inputs_give_another_name() {
    let bench = Bench::new(config());
    let mut days = days_of(&config(), "2024-01-01", 5, &["a", "b"], |_, _| true);
    let first = bench.build(&days, "2024-01-06").unwrap().id;
    let longer =
        WindowRequest { end: Some(date("2024-01-06")), holdout_extra_days: 1, ..WindowRequest::default() };
    let longer = bench.build_with(&days, longer).unwrap();
    assert_ne!(longer.id, first);
    assert_eq!(longer.manifest.split.holdout_start, 5 * 288 - 72 - 288 - 4);
    days.tables.get_mut(&date("2024-01-03")).unwrap().values[0][7] += 1.0;
    assert_ne!(bench.build(&days, "2024-01-06").unwrap().id, first);
    let ids: Vec<String> = list(&bench.site).unwrap().into_iter().map(|window| window.id).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn only_the_days_of_the_window_are_read() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 10, &["a"], |_, _| true);
    let request = WindowRequest { days: Some(4), end: Some(date("2024-01-09")), ..WindowRequest::default() };
    let window = bench.build_with(&days, request).unwrap();
    assert_eq!(window.manifest.n_steps, 4 * 288);
    let mut read = days.reads.borrow().clone();
    read.sort();
    read.dedup();
    assert_eq!(read, date("2024-01-05").iter_days().take(4).collect::<Vec<_>>());
}

#[test]
fn days_of_23_hours_have_fewer_steps() {
    let config = Config { timezone: chrono_tz::America::New_York, ..config() };
    let bench = Bench::new(config.clone());
    let days = days_of(&config, "2026-03-06", 4, &["a"], |_, _| true);
    let window = bench.build(&days, "2026-03-10").unwrap();
    assert_eq!(window.manifest.n_steps, 4 * 288 - 12);
    assert_eq!(window.manifest.start.to_rfc3339(), "2026-03-06T05:00:00+00:00");
    assert_eq!(window.manifest.end.to_rfc3339(), "2026-03-10T04:00:00+00:00");
    assert!(window.manifest.quality.days.iter().all(|day| day.completeness == 1.0));
    assert!(window.read_grid().unwrap().values.iter().all(|value| value.is_finite()));
}

#[test]
fn too_little_data_is_refused_with_every_reason_and_leaves_nothing() {
    let bench = Bench::new(Config { min_training_samples: 100_000, ..config() });
    let days = days_of(&config(), "2024-01-05", 1, &["a"], |_, _| true);
    let error = bench.build(&days, "2024-01-06").unwrap_err();
    assert_eq!(Exit::of(&error), Exit::NotEnoughData);
    let message = format!("{error:#}");
    assert!(message.contains("2880 raw rows, min_training_samples asks for 100000"), "{message}");
    assert!(message.contains("days with data: 1, window.min_days asks for 2"), "{message}");
    assert_eq!(bench.files(), [""; 0]);
}

#[test]
fn a_buffer_without_those_days_says_which_it_has() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let error = bench.build(&days, "2025-01-06").unwrap_err();
    assert_eq!(Exit::of(&error), Exit::NotEnoughData);
    let (message, hint) = message_and_hint(&error);
    assert!(message.contains("days from 2024-01-01 to 2024-01-03"), "{message}");
    assert!(hint.unwrap().contains("--end 2024-01-04"));
}

#[test]
fn a_feed_that_stopped_before_the_exam_is_refused() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 5, &["a"], |_, _| true);
    let error = bench.build(&days, "2024-01-08").unwrap_err();
    assert_eq!(Exit::of(&error), Exit::NotEnoughData);
    assert!(format!("{error:#}").contains("left for the exam; the newest step"), "{error:#}");
}

#[test]
fn newcomers_and_sparse_and_vanished_servers_change_nothing_for_the_others() {
    let start = calendar::day_start(date("2024-01-01"), chrono_tz::UTC).timestamp_millis();
    let has = |server: &str, time: i64| {
        let step = (time - start) / STEP_MS;
        match server {
            "new" => step >= 5 * 288 - 10,
            "sparse" => step % 4 == 0,
            "gone" => step < 2 * 288,
            _ => true,
        }
    };
    let bench = Bench::new(config());
    let alone = days_of(&config(), "2024-01-01", 5, &["a", "b"], has);
    let mixed = days_of(&config(), "2024-01-01", 5, &["a", "b", "gone", "new", "sparse"], has);
    let alone = bench.build(&alone, "2024-01-06").unwrap();
    let mixed = bench.build(&mixed, "2024-01-06").unwrap();
    let names: Vec<&str> = mixed.manifest.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "gone"]);
    assert_eq!(mixed.manifest.split, alone.manifest.split);
    assert_eq!(mixed.manifest.quality.servers[..2], alone.manifest.quality.servers[..]);
    let rules = rules(&mixed);
    for expected in [("servers", "excluded"), ("new", "new"), ("gone", "vanished")] {
        assert!(rules.contains(&expected), "{expected:?} is not in {rules:?}");
    }
    let (of_mixed, of_alone) = (mixed.read_grid().unwrap(), alone.read_grid().unwrap());
    assert_eq!(of_mixed.values[..of_alone.values.len()], of_alone.values[..]);
    let gone = &mixed.manifest.quality.servers[2];
    assert_eq!((gone.completeness_in_life, gone.n_holdout_samples), (1.0, 0));
}

#[test]
fn holes_are_measured_and_a_missing_day_is_told() {
    let bench = Bench::new(config());
    let start = calendar::day_start(date("2024-01-01"), chrono_tz::UTC).timestamp_millis();
    let mut days = days_of(&config(), "2024-01-01", 6, &["a", "b"], |server, time| {
        server == "a" || !(100..110).contains(&((time - start) / STEP_MS))
    });
    days.tables.remove(&date("2024-01-03"));
    let window = bench.build(&days, "2024-01-07").unwrap();
    let quality = &window.manifest.quality;
    assert_eq!(quality.servers[0].longest_gap_secs, 86_400);
    assert!((quality.servers[1].completeness - (5.0 * 288.0 - 10.0) / (6.0 * 288.0)).abs() < 1e-9);
    assert!(quality.servers[0].n_train_samples > quality.servers[1].n_train_samples);
    assert_eq!((quality.days.len(), quality.days[2].n_raw_rows), (6, 0));
    assert_eq!(quality.fleet_gaps.len(), 1);
    let (hole, message) = (&quality.fleet_gaps[0], &quality.findings[0].message);
    assert_eq!((hole.n_silent, hole.n_servers, quality.servers[0].longest_own_gap_secs), (2, 2, 0));
    assert_eq!(message, "2 of 2 servers have no rows from 2024-01-03 00:00 to 2024-01-04 00:00 (24.0 h)");
    // A row's place in the grid is its time, however many rows are missing before it.
    let grid = window.read_grid().unwrap();
    for (server, step) in [(0, 600), (1, 99), (1, 110), (1, 900)] {
        let is_lost = (576..864).contains(&step);
        let value = 50.0 + ((grid.time_ms(step) / STEP_MS) % 40) as f32;
        assert!(grid.row(server, step).iter().all(|found| found.is_nan() == is_lost));
        assert!(is_lost || grid.row(server, step) == [value; 2], "server {server}, step {step}");
    }
    assert!((100..110).all(|step| grid.row(1, step).iter().all(|value| value.is_nan())));
}

#[test]
fn strange_values_are_told_and_stop_nothing() {
    let bench = Bench::new(config());
    let mut days = days_of(&config(), "2024-01-01", 4, &["a", "b"], |_, _| true);
    for table in days.tables.values_mut() {
        table.values[1].fill(7.0);
        for value in &mut table.values[0][..20] {
            *value = 180.0;
        }
    }
    let window = bench.build(&days, "2024-01-05").unwrap();
    let found = rules(&window);
    assert!(found.contains(&("mem", "constant")) && found.contains(&("cpu", "out_of_range")), "{found:?}");
    let stuck = window.manifest.quality.findings.iter().find(|finding| finding.rule == "constant").unwrap();
    assert_eq!(stuck.message, "mem never changes on 2 of 2 servers (a; b)");
}

#[test]
fn rows_that_come_in_meanwhile_make_it_read_again() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    days.n_late_rows.set(4);
    let window = bench.build(&days, "2024-01-04").unwrap();
    assert_eq!(days.reads.borrow().len(), 2 * 3, "each day once per attempt");
    days.n_late_rows.set(0);
    assert_eq!(bench.build(&days, "2024-01-04").unwrap().id, window.id);
    days.n_late_rows.set(u64::MAX);
    assert!(bench.build(&days, "2024-01-04").is_err());
}

#[test]
fn the_latest_window_is_the_one_asked_for_last() {
    let bench = Bench::new(config());
    assert!(latest(&bench.site).unwrap().is_none());
    let days = days_of(&config(), "2024-01-01", 6, &["a"], |_, _| true);
    let newer = bench.build(&days, "2024-01-07").unwrap();
    let older = bench.build(&days, "2024-01-05").unwrap();
    assert_eq!(latest(&bench.site).unwrap().unwrap().id, older.id);
    std::fs::remove_dir_all(&older.dir).unwrap();
    assert_eq!(latest(&bench.site).unwrap().unwrap().id, newer.id);
    assert_eq!(open(&bench.site, &newer.id).unwrap().manifest, newer.manifest);
    for id in ["nope", "../secret", ".", ""] {
        assert_eq!(Exit::of(&open(&bench.site, id).unwrap_err()), Exit::Usage);
    }
}

#[test]
fn one_bad_manifest_hides_one_window() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 6, &["a"], |_, _| true);
    let bad = bench.build(&days, "2024-01-05").unwrap();
    let good = bench.build(&days, "2024-01-07").unwrap();
    for damage in ["{", "{\"format\": 99}", "{}"] {
        std::fs::write(bad.dir.join("manifest.json"), damage).unwrap();
        let readable = list(&bench.site).unwrap();
        assert_eq!((readable.len(), &readable[0].id), (1, &good.id));
        let damaged = list_damaged(&bench.site).unwrap();
        assert_eq!((damaged.len(), &damaged[0].id), (1, &bad.id));
        assert_eq!(latest(&bench.site).unwrap().unwrap().id, good.id);
    }
    assert_eq!(prune(&bench.site, date("2034-01-01"), u32::MAX, &[]).unwrap(), 0);
    assert_eq!(prune(&bench.site, date("2034-01-01"), 7, &[]).unwrap(), 1);
    assert!(bad.dir.exists() && !good.dir.exists());
}

#[test]
fn windows_that_cannot_be_listed_are_no_empty_folder() {
    let bench = Bench::new(config());
    assert_eq!(list(&bench.site).unwrap().len(), 0);
    std::fs::write(bench.site.windows_dir(), "not a folder").unwrap();
    assert!(list(&bench.site).is_err());
}

#[test]
fn any_number_of_days_can_be_asked_for_but_not_every_end() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 4, &["a"], |_, _| true);
    let all = WindowRequest {
        days: Some(4_000_000_000),
        end: Some(date("2024-01-05")),
        ..WindowRequest::default()
    };
    assert_eq!(bench.build_with(&days, all).unwrap().manifest.n_steps, 4 * 288);
    let far = WindowRequest { end: Some(date("9999-01-01")), ..all };
    assert_eq!(Exit::of(&bench.build_with(&days, far).unwrap_err()), Exit::Usage);
}

#[test]
fn a_damaged_pointer_to_the_latest_window_says_what_writes_it_anew() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let window = bench.build(&days, "2024-01-04").unwrap();
    std::fs::write(bench.site.windows_dir().join("latest.json"), "{").unwrap();
    let (message, hint) = message_and_hint(&latest(&bench.site).unwrap_err());
    assert!(message.contains("latest.json") && hint.unwrap().contains("window build"), "{message}");
    assert_eq!(bench.build(&days, "2024-01-04").unwrap().id, window.id);
    assert_eq!(latest(&bench.site).unwrap().unwrap().id, window.id);
}

#[test]
fn a_flipped_bit_in_a_window_is_noticed() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let window = bench.build(&days, "2024-01-04").unwrap();
    let path = window.dir.join("steps.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (message, hint) = message_and_hint(&window.read_grid().unwrap_err());
    assert!(message.contains("sha256 differs") && hint.unwrap().contains("window build"), "{message}");
}

#[test]
fn a_flipped_bit_in_a_manifest_is_noticed_and_the_window_is_set_aside_by_repair() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let window = bench.build(&days, "2024-01-04").unwrap();
    let path = window.dir.join("manifest.json");
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(verify_all(&bench.site).unwrap().1.len(), 1, "byte {at}");
    }
    let damaged = std::fs::read(&path).unwrap();
    let now = "2024-01-04T02:00:00Z".parse().unwrap();
    assert_eq!(repair(&bench.site, true, now).unwrap()[0].kept.len(), 0);
    let mended = repair(&bench.site, false, now).unwrap().remove(0);
    assert_eq!((mended.id, mended.kept.len()), (window.id.clone(), 2));
    assert!(mended.kept.iter().any(|kept| std::fs::read(kept).unwrap() == damaged));
    assert!(ids(&bench.site).unwrap().is_empty() && repair(&bench.site, false, now).unwrap().is_empty());
    assert_eq!(bench.build(&days, "2024-01-04").unwrap().id, window.id);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    // And where nobody repaired it, building does.
    std::fs::write(&path, damaged).unwrap();
    assert_eq!(bench.build(&days, "2024-01-04").unwrap().manifest, window.manifest);
}

#[test]
fn a_window_of_the_format_before_is_read_without_a_digest() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let window = bench.build(&days, "2024-01-04").unwrap();
    let path = window.dir.join("manifest.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    value["format"] = 2.into();
    value.as_object_mut().unwrap().remove("digest");
    std::fs::write(&path, value.to_string()).unwrap();
    assert_eq!(list(&bench.site).unwrap()[0].manifest.digest, None);
    assert_eq!(verify_all(&bench.site).unwrap(), (1, Vec::new()));
}

#[test]
fn inspecting_writes_nothing_and_keeps_hard_findings() {
    let bench = Bench::new(Config { min_training_samples: 1_000_000, ..config() });
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let request = WindowRequest { end: Some(date("2024-01-04")), ..WindowRequest::default() };
    let report = inspect_from(&days, &bench.site, &request, DateTime::UNIX_EPOCH, &Silent).unwrap();
    assert_eq!(report.hard_reasons().len(), 1);
    assert_eq!(report.findings[0].severity, Severity::Hard);
    assert_eq!(bench.files(), [""; 0]);
}

#[test]
fn recent_steps_end_with_the_last_complete_one() {
    let bench = Bench::new(config());
    let days = days_of(&config(), "2024-01-01", 3, &["a"], |_, _| true);
    let now: DateTime<Utc> = "2024-01-02T00:17:00Z".parse().unwrap();
    let grid = recent_from(&days, &bench.site, 12, now, &Silent).unwrap();
    assert_eq!(calendar::to_utc(grid.time_ms(12)).to_rfc3339(), "2024-01-02T00:15:00+00:00");
    assert!(grid.values.iter().all(|value| value.is_finite()));
    assert!(!days.reads.borrow().contains(&date("2024-01-03")));
}

/// Not only a test of correctness: prints how long a rebuild takes (`--no-capture` shows it).
#[test]
fn a_rebuild_of_real_days_gives_the_same_window_and_tells_its_time() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["../shared/data/bitbrains", "../../shared/data/bitbrains"].map(|place| root.join(place));
    let Some(dir) = places.iter().find(|dir| dir.exists()) else {
        println!("skipped: there is no shared/data/bitbrains");
        return;
    };
    let mut config = Config { metrics: vec![Metric::new("cpu_usage_pct", "%")], ..Config::default() };
    config.data_buffer_dir = dir.canonicalize().unwrap().display().to_string();
    config.model.targets = vec!["cpu_usage_pct".into()];
    let bench = Bench::new(config);
    let request = WindowRequest { end: Some(date("2013-08-31")), ..WindowRequest::default() };
    let build = || {
        let started = std::time::Instant::now();
        let window = crate::window::build(&bench.site, &request, DateTime::UNIX_EPOCH, &Silent).unwrap();
        println!("window of {} steps: {:.2} s", window.manifest.n_steps, started.elapsed().as_secs_f64());
        window
    };
    let first = build();
    std::fs::remove_dir_all(&first.dir).unwrap();
    assert_eq!(build().manifest, first.manifest);
}
