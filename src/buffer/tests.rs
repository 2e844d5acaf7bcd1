//! Stories of the buffer as a whole: what goes in comes out, whatever happens in between.

mod export;
mod formats;
mod fuzz;
mod hostile;
mod power;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::Exit;
use crate::progress::Silent;
use crate::schema::{Metric, OutOfRange};
use crate::site::Site;

use super::intake::quarantine;
use super::open::{open_days, segment};
use super::sealed::day_file;
use super::sealed::parquet_rows::ParquetFile;
use super::step_table::StepTable;
use super::steps::cache;
use super::*;

mod flips;
mod keep;
mod mend;
mod model;
mod zones;

/// A file of the real data next to the checkout; `None`, with a line, where there is none.
pub(super) fn shared(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["../shared/data", "../../shared/data"].iter().map(|up| root.join(up).join(name));
    let path = found.into_iter().find(|path| path.exists());
    if path.is_none() {
        println!("skipped: there is no shared/data/{name}");
    }
    path
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// A site in a temporary folder.
struct Bench {
    dir: tempfile::TempDir,
    config: Config,
    now: DateTime<Utc>,
}

impl Bench {
    fn new(metrics: &[&str], now: &str) -> Self {
        let metrics = metrics.iter().map(|name| Metric::new(name, "")).collect();
        let config = Config { metrics, ..Config::default() };
        Self { dir: tempfile::tempdir().unwrap(), config, now: time(now) }
    }

    fn at(mut self, now: &str) -> Self {
        self.now = time(now);
        self
    }

    fn buffer(&self) -> Buffer {
        let root = self.dir.path().canonicalize().unwrap();
        Buffer::open(&Site::of(&root, self.config.clone()))
    }

    fn try_append(&self, source: Source) -> anyhow::Result<AppendReport> {
        self.buffer().append(source, &AppendOptions::default(), &Clock::Fixed(self.now), &Silent)
    }

    fn append(&self, text: &str) -> AppendReport {
        self.try_append(Source::reader("stdin", std::io::Cursor::new(text.to_owned()))).unwrap()
    }

    fn append_file(&self, path: &Path) -> AppendReport {
        self.try_append(Source::File(path.to_owned())).unwrap()
    }

    fn rotate(&self) -> RotateReport {
        let report = self.buffer().rotate(&RotateOptions::default(), self.now, &Silent).unwrap();
        assert_eq!(report.failed, []);
        report
    }

    /// Rows of a sealed day as text, in the file's order.
    fn sealed(&self, day: &str) -> Vec<String> {
        let buffer = self.buffer();
        rows_of(&day_file::path(&buffer.dir, date(day)), &buffer.metric_names())
    }
}

pub(super) fn rows_of(path: &Path, metrics: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    ParquetFile::open(path)
        .unwrap()
        .read_rows(metrics, None, &mut |rows| {
            for idx in 0..rows.len() {
                let row = rows.row(idx);
                let labels = format!("{}{}", row.profile.unwrap_or(""), row.status.unwrap_or(""));
                found.push(format!("{} {} {labels}{:?}", row.server, row.time_ms, row.values));
            }
            Ok(())
        })
        .unwrap();
    found
}

fn record(time: &str, server: &str, value: f64) -> String {
    format!("{{\"timestamp\":\"{time}\",\"server_name\":\"{server}\",\"cpu\":{value}}}\n")
}

/// Every file below `dir` with its content.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.append(&mut snapshot(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

#[track_caller]
fn feed(inputs: &[&str], expected: &str, now: &str) {
    let Some(expected) = shared(&format!("feed/{expected}")) else { return };
    let names = ParquetFile::open(&expected).unwrap().numeric_columns();
    let mut rows = rows_of(&expected, &names);
    rows.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for input in inputs {
        let bench = Bench::new(&names, now);
        let report = bench.append_file(&shared(&format!("feed/{input}")).unwrap());
        assert_eq!((report.n_bad, report.n_unknown_fields.len()), (0, 0), "{input}");
        let day = *report.n_per_day.keys().next().unwrap();
        let rotated = Bench { now: bench.now + chrono::Duration::days(1), ..bench };
        assert_eq!(rotated.rotate().sealed[0].n_duplicates, report.n_good - rows.len() as u64);
        let mut sealed = rotated.sealed(&day.to_string());
        assert!(sealed.is_sorted_by_key(|row| row.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>()));
        sealed.sort();
        assert_eq!(sealed, rows, "{input}");
    }
}

#[test]
fn real_feeds_come_out_as_they_went_in() {
    feed(
        &[
            "bitbrains_2013-08-14T10.ndjson",
            "bitbrains_2013-08-14T10.flat.ndjson",
            "bitbrains_2013-08-14T10.ndjson.gz",
            "bitbrains_2013-08-14T10.expected.parquet",
        ],
        "bitbrains_2013-08-14T10.expected.parquet",
        "2013-08-14T11:00:00Z",
    );
    feed(
        &["bitbrains_rawdup_2013-09-06T23.ndjson"],
        "bitbrains_rawdup_2013-09-06T23.expected.parquet",
        "2013-09-07T00:00:00Z",
    );
    feed(&["smd_2024-01-10T10.ndjson"], "smd_2024-01-10T10.expected.parquet", "2024-01-10T11:00:00Z");
}

/// The metrics of the records in `shared/data/bad`, with a range that keeps what real data exceeds.
fn bad_bench() -> Bench {
    let names = [
        "cpu_cores",
        "cpu_capacity_mhz",
        "cpu_usage_mhz",
        "cpu_usage_pct",
        "mem_capacity_kb",
        "mem_usage_kb",
        "disk_read_kb_s",
        "disk_write_kb_s",
        "net_in_kb_s",
        "net_out_kb_s",
    ];
    let mut bench = Bench::new(&names, "2013-08-14T11:00:00Z");
    for metric in &mut bench.config.metrics {
        metric.min = Some(0.0);
        metric.out_of_range = OutOfRange::Quarantine;
    }
    bench.config.metrics[3].max = Some(200.0);
    bench
}

/// Lines that were quarantined, with their reason; every entry says where it came from.
fn quarantined(bench: &Bench) -> BTreeMap<u64, String> {
    let buffer = bench.buffer();
    let mut lines = BTreeMap::new();
    for (_, path) in quarantine::files(&buffer.quarantine_dir).unwrap() {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(entry["raw"].as_str().unwrap().len() <= 3 * 4096);
            assert!(!entry["file"].as_str().unwrap().is_empty() && entry["at"].is_string());
            lines.insert(entry["line"].as_u64().unwrap(), entry["reason"].as_str().unwrap().to_owned());
        }
    }
    lines
}

#[test]
fn bad_text_files_are_judged_line_by_line_as_their_manifest_says() {
    let Some(dir) = shared("bad") else { return };
    let text = std::fs::read(dir.join("manifest.json")).unwrap();
    let manifest: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    for entry in manifest.iter().filter(|entry| entry["lines"].is_array()) {
        let file = entry["file"].as_str().unwrap();
        let bench = bad_bench();
        let report = bench.append_file(&dir.join(file));
        let bad = quarantined(&bench);
        let lines = entry["lines"].as_array().unwrap();
        let mut n_policy = 0;
        for line in lines {
            let number = line["n"].as_u64().unwrap();
            match line["class"].as_str().unwrap() {
                "good" => assert!(!bad.contains_key(&number), "{file}:{number} {:?}", bad[&number]),
                "bad" => assert!(bad.contains_key(&number), "{file}:{number} {}", line["why"]),
                _ => n_policy += 1,
            }
        }
        assert!(report.n_good >= entry["good"].as_u64().unwrap(), "{file}");
        assert!(report.n_good + report.n_bad <= lines.len() as u64, "{file}");
        assert!(report.n_good <= entry["good"].as_u64().unwrap() + n_policy, "{file}");
        assert!(bench.dir.path().parent().unwrap().join("outside").metadata().is_err());
    }
}

#[track_caller]
fn bad_lines(file: &str, expected: &[(u64, &str)]) {
    let Some(path) = shared(&format!("bad/{file}")) else { return };
    let bench = bad_bench();
    bench.append_file(&path);
    let expected: BTreeMap<u64, String> =
        expected.iter().map(|(n, reason)| (*n, reason.to_string())).collect();
    assert_eq!(quarantined(&bench), expected, "{file}");
}

#[test]
fn our_policies_are_these() {
    bad_lines(
        "02_missing_keys.ndjson",
        &[
            (5, "missing_timestamp"),
            (6, "missing_timestamp"),
            (7, "missing_timestamp"),
            (8, "missing_server_name"),
            (9, "missing_timestamp"),
            (10, "missing_timestamp"),
        ],
    );
    // A null is a missing value.
    let not_finite = [4, 5, 6, 7, 8, 9].map(|line| (line, "not_finite"));
    bad_lines("03_nan_infinity.ndjson", &not_finite);
    // A number written as text is text.
    let not_a_number = [3, 4, 5, 6, 7, 8, 9, 10, 11].map(|line| (line, "not_a_number"));
    bad_lines("04_strings_in_numbers.ndjson", &not_a_number);
    bad_lines("05_percent_out_of_range.ndjson", &[7, 8, 9, 10].map(|line| (line, "out_of_range")));
    bad_lines("06_duplicate_rows.ndjson", &[]);
    // The name `_` has no letter or digit to begin with.
    bad_lines("09_unknown_servers.ndjson", &[(7, "bad_server_name")]);
    // Letters of any script; no emoji, decomposed accents, invisible or formatting characters.
    bad_lines("10_unicode_server_names.ndjson", &[5, 7, 8, 9, 11].map(|line| (line, "bad_server_name")));
    bad_lines("12_huge_line.ndjson", &[(3, "line_too_long")]);
    bad_lines("19b_blank_lines.ndjson", &[]);
    bad_lines("20_missing_and_extra_metrics.ndjson", &[(6, "no_metrics"), (10, "no_metrics")]);
    bad_lines("21_partial_last_line.ndjson", &[(11, "malformed_json")]);
}

#[test]
fn broken_files_are_refused_by_name_and_what_was_read_is_kept() {
    let Some(dir) = shared("bad") else { return };
    for file in [
        "14_zero_length.parquet",
        "15_truncated_footer.parquet",
        "16a_no_server_name.parquet",
        "16c_text_metric.parquet",
        "17_csv_named.parquet",
    ] {
        let error = bad_bench().try_append(Source::File(dir.join(file))).unwrap_err();
        assert!(format!("{error:#}").contains(file), "{error:#}");
        assert_eq!(Exit::of(&error), Exit::Failed);
    }
    let bench = bad_bench();
    let error = bench.try_append(Source::File(dir.join("13_truncated.ndjson.gz"))).unwrap_err();
    let message = format!("{error:#}");
    let n_kept: u64 = message.split("the ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(n_kept > 0 && message.contains("13_truncated.ndjson.gz"), "{message}");
    assert_eq!(bench.buffer().status(bench.now).unwrap().n_rows, n_kept);
    let cases = [
        ("16b_string_timestamp.parquet", 4000, 0),
        ("16d_null_keys.parquet", 3920, 80),
        ("18_nan_inf_values.parquet", 3920, 80),
    ];
    for (file, n_good, n_bad) in cases {
        let report = bad_bench().append_file(&dir.join(file));
        assert_eq!((report.n_good, report.n_bad), (n_good, n_bad), "{file} {:?}", report.reasons);
    }
}

#[test]
fn a_day_is_sealed_once_and_rotating_again_changes_nothing() {
    let bench = Bench::new(&["cpu", "mem"], "2024-01-02T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:05Z", "b", 2.0) + &record("2024-01-01T00:00:00Z", "b", 1.0)));
    bench.append(&(record("2024-01-01T23:59:59Z", "a", 3.0) + &record("2024-01-02T00:00:00Z", "a", 4.0)));
    let dry =
        bench.buffer().rotate(&RotateOptions { dry_run: true, ..Default::default() }, bench.now, &Silent);
    assert_eq!(dry.unwrap().planned.len(), 1);
    let report = bench.rotate();
    assert_eq!(report.sealed.len(), 1);
    assert_eq!(report.steps_written, [date("2024-01-01")]);
    assert_eq!(
        bench.sealed("2024-01-01"),
        ["a 1704153599000 [3.0, NaN]", "b 1704067200000 [1.0, NaN]", "b 1704067205000 [2.0, NaN]",]
    );
    let before = snapshot(bench.dir.path());
    let again = bench.rotate();
    assert_eq!((again.planned.len(), again.sealed.len(), again.steps_written.len()), (0, 0, 0));
    assert_eq!(snapshot(bench.dir.path()), before);
    let days = bench.buffer().days().unwrap();
    assert_eq!(
        days.iter().map(|day| (day.date.to_string(), day.is_open)).collect::<Vec<_>>(),
        [("2024-01-01".to_owned(), false), ("2024-01-02".to_owned(), true)]
    );
}

#[test]
fn late_rows_are_merged_and_the_last_duplicate_wins() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:00:05Z", "a", 2.0)));
    bench.rotate();
    let late =
        bench.append(&(record("2024-01-01T00:00:05Z", "a", 9.0) + &record("2024-01-01T00:00:02Z", "a", 3.0)));
    assert_eq!(late.n_late, 2);
    assert_eq!(bench.buffer().status(bench.now).unwrap().n_late_segments, 1);
    // Readers see late rows before they are merged.
    let table = bench.buffer().read_steps(date("2024-01-01")).unwrap();
    assert_eq!((table.n_rows[0], table.values[0][0]), (3, 13.0 / 3.0));
    bench.append(&record("2024-01-01T00:00:05Z", "a", 10.0));
    let report = bench.rotate();
    assert_eq!((report.sealed[0].n_rows, report.sealed[0].n_duplicates), (3, 2));
    assert!(report.sealed[0].is_merge);
    assert_eq!(
        bench.sealed("2024-01-01"),
        ["a 1704067200000 [1.0]", "a 1704067202000 [3.0]", "a 1704067205000 [10.0]"]
    );
    let table = bench.buffer().read_steps(date("2024-01-01")).unwrap();
    assert_eq!((table.n_rows[0], table.values[0][0]), (3, 14.0 / 3.0));
}

#[test]
fn a_kill_between_any_two_steps_of_a_rotation_loses_and_doubles_nothing() {
    let fill = || {
        let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
        bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:00:00Z", "b", 2.0)));
        bench.append(&record("2024-01-01T00:05:00Z", "a", 3.0));
        bench
    };
    let day = date("2024-01-01");
    let straight = fill();
    straight.rotate();
    let expected = (straight.sealed("2024-01-01"), straight.buffer().read_steps(day).unwrap());

    // After the claim.
    let bench = fill();
    let plans = bench.buffer().plan_seals(date("2024-01-02"), &RotateOptions::default()).unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), expected.1);
    // After the day file, before any segment is dropped.
    bench.buffer().write_sealed(&plans[0], bench.now).unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), expected.1);
    // After one of the two segments is dropped.
    let segments = segment::list(&segment::day_dir(&bench.buffer().open_dir, day)).unwrap();
    std::fs::remove_file(&segments[0]).unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), expected.1);
    bench.rotate();
    assert_eq!((bench.sealed("2024-01-01"), bench.buffer().read_steps(day).unwrap()), expected);
    assert!(!segment::day_dir(&bench.buffer().open_dir, day).exists());
}

#[test]
fn a_torn_segment_is_sealed_up_to_the_tear_and_set_aside_without_a_word() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    bench.append(&record("2024-01-01T00:00:00Z", "a", 1.0));
    let buffer = bench.buffer();
    let path = segment::list(&segment::day_dir(&buffer.open_dir, date("2024-01-01"))).unwrap().remove(0);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"torn").unwrap();
    let verified = buffer.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert_eq!((verified.findings.len(), verified.torn.len(), verified.torn[0].n_bytes), (0, 1, 4));
    assert!(buffer.repair(&RepairOptions::default(), bench.now, &Silent).unwrap().mended.is_empty());
    let report = bench.rotate();
    assert_eq!((report.sealed[0].n_rows, report.sealed[0].n_bytes_torn), (1, 4));
    assert!(report.sealed[0].damaged.is_empty() && report.warnings.is_empty());
    let set_aside = buffer.status(bench.now).unwrap().set_aside;
    assert_eq!(set_aside[0].problem.as_deref(), Some("4 bytes at its end were never completed"));
    assert!(std::fs::read(&set_aside[0].kept).unwrap().ends_with(b"torn"));
}

#[test]
fn one_damaged_day_does_not_hold_up_the_others() {
    let bench = Bench::new(&["cpu"], "2024-01-03T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-02T00:00:00Z", "a", 2.0)));
    let buffer = bench.buffer();
    std::fs::write(day_file::path(&buffer.dir, date("2024-01-01")), b"PAR1 but no more of it PAR1").unwrap();
    let report = buffer.rotate(&RotateOptions::default(), bench.now, &Silent).unwrap();
    assert_eq!(report.sealed.len(), 1);
    assert!(report.failed.iter().all(|failure| failure.date == date("2024-01-01")));
    assert!(report.failed[0].error.contains("metrics_2024-01-01.parquet"), "{:?}", report.failed);
    // Its rows are still where they were.
    assert_eq!(segment::list(&segment::day_dir(&buffer.open_dir, date("2024-01-01"))).unwrap().len(), 1);
    let status = buffer.status(bench.now).unwrap();
    assert_eq!((status.n_unreadable, status.days[1].state), (1, DayState::Sealed));
    assert!(buffer.days().unwrap().len() == 2);
    let error = buffer.read_steps(date("2024-01-01")).unwrap_err();
    assert!(format!("{error:#}").contains("metrics_2024-01-01.parquet"));
}

#[test]
fn days_are_those_of_the_zone_with_their_true_length() {
    let mut bench = Bench::new(&["cpu"], "2026-03-10T12:00:00Z");
    bench.config.timezone = Tz::America__New_York;
    // 8 March 2026 has 23 hours in New York: 05:00Z to 04:00Z of the next day.
    let mut text = String::new();
    for hour in 0..48 {
        let time = time("2026-03-08T00:30:00Z") + chrono::Duration::hours(hour);
        text += &record(&time.to_rfc3339(), "a", hour as f64);
    }
    let report = bench.append(&text);
    let counts: Vec<(String, u64)> = report.n_per_day.iter().map(|(d, n)| (d.to_string(), *n)).collect();
    let expected = [("2026-03-07", 5), ("2026-03-08", 23), ("2026-03-09", 20)];
    assert_eq!(counts, expected.map(|(d, n)| (d.to_owned(), n)));
    bench.rotate();
    for (day, n) in expected {
        assert_eq!(bench.buffer().read_steps(date(day)).unwrap().n_raw_rows(), n);
        assert_eq!(bench.sealed(day).len() as u64, n);
    }
}

#[test]
fn appenders_and_rotations_at_once_lose_nothing() {
    const N_THREADS: usize = 4;
    const N_APPENDS: usize = 12;
    let bench = Bench::new(&["cpu"], "2024-01-03T00:00:00Z");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let rotator = scope.spawn(|| {
            let mut n_rotations = 0;
            while !is_done.load(Ordering::Relaxed) {
                bench.rotate();
                n_rotations += 1;
            }
            n_rotations
        });
        let appenders: Vec<_> = (0..N_THREADS)
            .map(|thread| {
                let bench = &bench;
                scope.spawn(move || {
                    for n in 0..N_APPENDS {
                        let record = |day: u32| {
                            let time = format!("2024-01-{day:02}T{thread:02}:{n:02}:00Z");
                            record(&time, &format!("s{thread}"), n as f64)
                        };
                        let report = bench.append(&(record(1) + &record(2)));
                        assert_eq!(report.n_good, 2);
                        let steps = bench.buffer().read_steps(date("2024-01-01")).unwrap();
                        let own = steps.servers.iter().position(|s| *s == format!("s{thread}")).unwrap();
                        let idx = steps.server_idx.iter().zip(&steps.n_rows);
                        let n_own: u32 = idx.filter(|(s, _)| **s == own as u32).map(|(_, n)| n).sum();
                        assert_eq!(n_own, n as u32 + 1, "an acknowledged row is not readable");
                    }
                })
            })
            .collect();
        appenders.into_iter().for_each(|thread| thread.join().unwrap());
        is_done.store(true, Ordering::Relaxed);
        assert!(rotator.join().unwrap() > 0);
    });
    bench.rotate();
    for day in ["2024-01-01", "2024-01-02"] {
        assert_eq!(bench.sealed(day).len(), N_THREADS * N_APPENDS);
    }
    assert!(bench.buffer().open_dates().unwrap().is_empty());
}

#[test]
fn a_live_segment_waits_for_the_next_rotation() {
    let bench = Bench::new(&["cpu"], "2024-01-02T00:01:00Z");
    let buffer = bench.buffer();
    let day = date("2024-01-01");
    let mut open = open_days::OpenDays::new(&buffer);
    let row = |time_ms: i64| rows::Row { time_ms, server: "a", profile: None, status: None, values: &[1.0] };
    let now_ms = bench.now.timestamp_millis();
    open.push(row(1_704_067_200_000), now_ms).unwrap();
    open.acknowledge(now_ms).unwrap();
    let report = bench.rotate();
    assert_eq!((report.planned[0].n_live_segments, report.sealed.len()), (1, 0));
    // Its acknowledged rows are readable meanwhile.
    assert_eq!(buffer.read_steps(day).unwrap().n_raw_rows(), 1);
    open.push(row(1_704_067_205_000), now_ms).unwrap();
    open.acknowledge(now_ms).unwrap();
    drop(open);
    assert_eq!(bench.rotate().sealed[0].n_rows, 2);
}

#[test]
fn a_followed_pipe_is_acknowledged_while_it_is_silent() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let options = AppendOptions {
        follow: true,
        flush_every: Duration::from_millis(100),
        stop: Some(stop.clone()),
        ..AppendOptions::default()
    };
    writer.write_all(record("2024-01-02T00:00:00Z", "a", 1.0).as_bytes()).unwrap();
    let mut acks = Vec::new();
    let started = Instant::now();
    let report = bench
        .buffer()
        .append_with(
            Source::reader("stdin", reader),
            &options,
            &Clock::Fixed(bench.now),
            &Silent,
            &mut |report| {
                acks.push(report.n_good);
                // The row is readable by others when it is acknowledged.
                assert_eq!(bench.buffer().status(bench.now).unwrap().n_rows, report.n_good);
                match report.n_good {
                    1 => writer.write_all(record("2024-01-02T00:00:05Z", "a", 1.0).as_bytes()).unwrap(),
                    _ => stop.store(true, Ordering::Relaxed),
                }
            },
        )
        .unwrap();
    assert_eq!((acks, report.n_good), (vec![1, 2], 2));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_foreign_buffer_is_cut_by_the_zone_and_never_written() {
    // Written by another program: UTC days, by time and server, no metadata of ours.
    let origin = Bench::new(&["cpu"], "2024-01-05T00:00:00Z");
    let mut text = String::new();
    for hour in 0..72 {
        let time = time("2024-01-01T00:00:00Z") + chrono::Duration::hours(hour);
        text += &record(&time.to_rfc3339(), "a", hour as f64);
    }
    origin.append(&text);
    origin.rotate();
    let foreign = origin.buffer().dir;
    for kind in ["open", "steps"] {
        std::fs::remove_dir_all(foreign.join(kind)).unwrap();
    }
    let before = snapshot(&foreign);
    let mut bench = Bench::new(&["cpu"], "2034-01-05T00:00:00Z");
    bench.config.data_buffer_dir = foreign.display().to_string();
    bench.config.timezone = Tz::America__New_York;
    let buffer = bench.buffer();
    assert!(buffer.is_foreign);
    let days: Vec<String> = buffer.days().unwrap().iter().map(|day| day.date.to_string()).collect();
    assert_eq!(days, ["2023-12-31", "2024-01-01", "2024-01-02", "2024-01-03"]);
    for (day, n) in days.iter().zip([5, 24, 24, 19]) {
        assert_eq!(buffer.read_steps(date(day)).unwrap().n_raw_rows(), n, "{day}");
    }
    let digests = buffer.source_digests(date("2024-01-01")).unwrap();
    let digests: Vec<(&str, u64)> = digests.iter().map(|d| (d.file.as_str(), d.n_rows)).collect();
    assert_eq!(digests, [("metrics_2024-01-01.parquet", 19), ("metrics_2024-01-02.parquet", 5)]);
    let report = bench.rotate();
    assert!(report.is_foreign && report.retention.is_empty() && report.steps_written.is_empty());
    let refused = bench.try_append(Source::reader("stdin", std::io::empty())).unwrap_err();
    assert_eq!(Exit::of(&refused), Exit::Usage);
    assert_eq!(snapshot(&foreign), before);
}

#[test]
fn aggregates_are_made_anew_when_anything_they_depend_on_changes() {
    let mut bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:01:00Z", "a", 3.0)));
    assert_eq!(bench.rotate().steps_written.len(), 1);
    let day = date("2024-01-01");
    let cache = cache::path(&bench.buffer().steps_dir, day);
    let first = bench.buffer().read_steps(day).unwrap();
    assert!(!bench.buffer().ensure_steps(day).unwrap());
    // Damaged.
    std::fs::write(&cache, b"PAR1 nonsense PAR1").unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), first);
    // Another aggregation.
    bench.config.metrics[0].aggregation = crate::schema::Aggregation::Max;
    assert_eq!(bench.buffer().read_steps(day).unwrap().values[0], [3.0]);
    // Another step.
    bench.config.series.step_secs = 60;
    assert_eq!(bench.buffer().read_steps(day).unwrap().values[0], [1.0, 3.0]);
    assert!(!bench.buffer().ensure_steps(day).unwrap());
    // Another metric, which the file lacks.
    bench.config.metrics.push(Metric::new("mem", ""));
    assert!(bench.buffer().read_steps(day).unwrap().values[1][0].is_nan());
    // Another day file.
    bench.append(&record("2024-01-01T00:01:00Z", "a", 7.0));
    bench.rotate();
    assert_eq!(bench.buffer().read_steps(day).unwrap().values[0], [1.0, 7.0]);
}

#[test]
fn cached_aggregates_equal_fresh_ones() {
    let Some(dir) = shared("asd") else { return };
    let names = ParquetFile::open(&dir.join("metrics_2024-01-03.parquet")).unwrap().numeric_columns();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = Bench::new(&names, "2024-02-01T00:00:00Z");
    bench.config.data_buffer_dir = dir.canonicalize().unwrap().display().to_string();
    let buffer = bench.buffer();
    let fresh = buffer.read_steps(date("2024-01-03")).unwrap();
    assert_eq!(fresh.n_raw_rows(), fresh.len() as u64);
    let cached = buffer.read_steps(date("2024-01-03")).unwrap();
    assert_eq!(
        (&fresh.servers, &fresh.step_ms, &fresh.n_rows),
        (&cached.servers, &cached.step_ms, &cached.n_rows)
    );
    let bits = |table: &StepTable| -> Vec<Vec<u32>> {
        table.values.iter().map(|column| column.iter().map(|value| value.to_bits()).collect()).collect()
    };
    assert_eq!(bits(&fresh), bits(&cached));
    let sources = buffer.sources_of(date("2024-01-03")).unwrap();
    assert_eq!(sources.sealed.len(), 1);
}

#[test]
fn old_days_are_deleted_and_a_far_clock_deletes_nothing() {
    let mut bench = Bench::new(&["cpu"], "2024-01-12T12:00:00Z");
    bench.config.data_retention_days = 30;
    for day in [1, 5, 12] {
        bench.append(&record(&format!("2024-01-{day:02}T00:00:00Z"), "a", 1.0));
    }
    bench.rotate();
    (bench.config.data_retention_days, bench.config.training_window_days) = (8, 8);
    let report = bench.rotate();
    assert_eq!(report.n_days_deleted, 1);
    assert_eq!(bench.buffer().days().unwrap().len(), 2);
    assert!(!cache::path(&bench.buffer().steps_dir, date("2024-01-01")).exists());
    let bench = bench.at("2034-01-01T00:00:00Z");
    let report = bench.rotate();
    assert_eq!(report.n_days_deleted, 0);
    assert!(report.warnings[0].contains("would let every day go"));
}

#[test]
fn columns_that_left_the_schema_are_kept_in_the_files() {
    let mut bench = Bench::new(&["cpu", "mem"], "2024-01-02T12:00:00Z");
    bench.append("{\"timestamp\":1704067200,\"server_name\":\"a\",\"cpu\":1,\"mem\":2}\n");
    bench.config.metrics.truncate(1);
    bench.append("{\"timestamp\":1704067205,\"server_name\":\"a\",\"cpu\":3,\"mem\":4}\n");
    bench.rotate();
    bench.config.metrics.insert(0, Metric::new("mem", ""));
    assert_eq!(bench.sealed("2024-01-01"), ["a 1704067200000 [2.0, 1.0]", "a 1704067205000 [NaN, 3.0]"]);
}

#[test]
fn csv_batches_profiles_and_statuses_are_taken() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    let csv = "timestamp,server_name,profile,status,cpu,rack\n\
               2024-01-01T00:00:00Z,a,db,idle,1.5,r1\n2024-01-01T00:00:05Z,a,db,offline,,r1\n";
    let report = bench.append(csv);
    assert_eq!((report.n_good, report.n_bad, report.n_unknown_fields["rack"]), (2, 0, 2));
    let batch =
        "{\"records\":[{\"timestamp\":1704067210,\"server_name\":\"a\",\"cpu\":1},{\"timestamp\":1}]}";
    let report = bench.append(batch);
    assert_eq!((report.n_good, report.n_bad), (1, 1));
    let table = bench.buffer().read_steps(date("2024-01-01")).unwrap();
    assert_eq!((table.profiles, table.statuses), (vec![Some("db".to_owned())], vec!["offline".to_owned()]));
    assert_eq!((table.n_rows, table.values), (vec![3], vec![vec![1.25]]));
    let zst = zstd::encode_all(csv.as_bytes(), 1).unwrap();
    let path = bench.dir.path().join("rows.csv.zst");
    std::fs::write(&path, zst).unwrap();
    assert_eq!(bench.append_file(&path).n_good, 2);
}

#[test]
fn every_row_of_a_foreign_buffer_belongs_to_exactly_one_day_of_any_zone() {
    let Some(dir) = shared("bitbrains") else { return };
    let dir = dir.canonicalize().unwrap();
    let names = ["cpu_usage_pct", "no_such_metric"];
    for zone in [Tz::UTC, Tz::America__New_York] {
        let mut bench = Bench::new(&names, "2013-10-01T00:00:00Z");
        bench.config.data_buffer_dir = dir.display().to_string();
        bench.config.timezone = zone;
        let buffer = bench.buffer();
        let started = Instant::now();
        let mut n_rows = 0;
        for day in buffer.days().unwrap() {
            let table = buffer.read_steps(day.date).unwrap();
            let (start, end) = crate::calendar::day_bounds_ms(day.date, zone);
            assert!(table.step_ms.iter().all(|step| (start..end).contains(step)));
            assert!(table.values[1].iter().all(|value| value.is_nan()));
            n_rows += table.n_raw_rows();
        }
        assert_eq!(n_rows, 779_857, "{zone}");
        println!("{zone}: {:.0} rows/s aggregated", n_rows as f64 / started.elapsed().as_secs_f64());
    }
}

#[test]
fn verify_finds_flipped_bits_and_wrong_schemas_and_names_gaps() {
    let mut bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    let mut text = String::new();
    for second in 0..2000 {
        let time = time("2024-01-01T00:00:00Z") + chrono::Duration::seconds(second);
        text += &record(&time.to_rfc3339(), "a", (second * second % 977) as f64 / 7.0);
    }
    text += &record("2024-01-03T00:00:00Z", "a", 1.0);
    bench.append(&text);
    bench.rotate();
    bench.append(&record("2024-01-03T00:00:05Z", "a", 2.0));
    let verify = |bench: &Bench| {
        let report = bench
            .buffer()
            .verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }, &Silent)
            .unwrap();
        let messages: Vec<String> =
            report.findings.iter().map(|found| format!("{} {}", found.date, found.message)).collect();
        (report.n_rows, messages)
    };
    assert_eq!(verify(&bench), (2002, Vec::new()));
    let missing = bench.buffer().verify(&VerifyOptions::default(), &Silent).unwrap().missing;
    assert_eq!(missing, [date("2024-01-02")], "a gap is a fact");
    bench.config.metrics.push(Metric::new("mem", ""));
    assert_eq!(verify(&bench).1.len(), 2);
    bench.config.metrics.pop();
    let path = day_file::path(&bench.buffer().dir, date("2024-01-01"));
    let bytes = std::fs::read(&path).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let rot = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    for at in (0..bytes.len()).step_by(211) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        rot(&damaged);
        let found = verify(&bench).1;
        assert!(!found.is_empty() && found[0].starts_with("2024-01-01"), "flipped at {at}: {found:?}");
    }
    rot(&bytes);
    assert_eq!(verify(&bench).1, Vec::<String>::new());
}

/// Not a test of correctness: prints the rate of the hot path (`--no-capture` shows it).
#[test]
fn append_tells_its_rate() {
    let names: Vec<String> = (0..14).map(|idx| format!("metric_{idx:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = Bench::new(&names, "2024-01-02T12:00:00Z");
    let mut text = String::new();
    for tick in 0..1000 {
        for server in 0..20 {
            let time = 1_704_067_200 + 5 * tick;
            text += &format!(
                "{{\"timestamp\":\"{}\",\"server_name\":\"ppml{server:04}\",\"status\":\"healthy\"",
                DateTime::from_timestamp(time, 0).unwrap().to_rfc3339()
            );
            for (idx, name) in names.iter().enumerate() {
                text += &format!(",\"{name}\":{}.{server:02}", (tick + idx as i64) % 100);
            }
            text += "}\n";
        }
    }
    let report = bench.append(&text);
    assert_eq!(report.n_good, 20_000);
    println!("append: {:.0} rows/s", report.n_good as f64 / report.duration_secs);
    let started = Instant::now();
    let sealed = bench.rotate().sealed.remove(0);
    println!(
        "rotate: {:.0} rows/s, {:.1} bytes per row",
        sealed.n_rows as f64 / started.elapsed().as_secs_f64(),
        sealed.size_bytes as f64 / sealed.n_rows as f64
    );
}

/// Writes a day file as others might: `(server, time in ms, cpu)`.
fn write_foreign(path: &Path, rows: &[(&str, i64, f32)]) {
    use polars::prelude::{Column, DataFrame, ParquetWriter};
    let servers: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let columns = vec![
        day_file::time_column("timestamp", rows.iter().map(|row| row.1).collect()),
        Column::new("server_name".into(), servers),
        day_file::float_column("cpu", rows.iter().map(|row| row.2)),
    ];
    let mut frame = DataFrame::new(rows.len(), columns).unwrap();
    ParquetWriter::new(std::fs::File::create(path).unwrap()).finish(&mut frame).unwrap();
}

#[test]
fn times_that_cannot_be_are_left_out_and_told() {
    let day_ms = time("2024-01-01T00:00:00Z").timestamp_millis();
    let year_2300 = time("2300-01-01T00:00:00Z").timestamp_millis();
    for zone in [Tz::UTC, Tz::America__New_York, Tz::Asia__Kolkata] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
        bench.config.timezone = zone;
        bench.config.data_buffer_dir = dir.path().canonicalize().unwrap().display().to_string();
        let good = ("a", day_ms + 12 * 3_600_000, 1.0);
        let absurd = [i64::MAX, i64::MIN, year_2300, -1].map(|time_ms| ("a", time_ms, 9.0));
        let path = day_file::path(dir.path(), date("2024-01-01"));
        write_foreign(&path, &[&absurd[..], &[good]].concat());
        let buffer = bench.buffer();
        let n_rows: u64 =
            buffer.days().unwrap().iter().map(|day| buffer.read_steps(day.date).unwrap().n_raw_rows()).sum();
        assert_eq!(n_rows, 1, "{zone}");
        assert_eq!(buffer.newest_time_ms(i64::MAX).unwrap(), Some(good.1), "{zone}");
        let findings = buffer
            .verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }, &Silent)
            .unwrap()
            .findings;
        assert!(
            findings.iter().any(|found| found.message.starts_with("it has 4 rows without a time")),
            "{findings:?}"
        );
        write_foreign(&path, &absurd);
        assert_eq!(buffer.newest_time_ms(i64::MAX).unwrap(), None);
        buffer.status(bench.now).unwrap();
    }
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    let path = bench.dir.path().join("metrics.parquet");
    write_foreign(&path, &[("a", i64::MAX, 1.0), ("a", i64::MIN, 1.0), ("a", day_ms, 1.0)]);
    let report = bench.append_file(&path);
    assert_eq!((report.n_good, report.n_bad), (1, 2));
}

#[test]
fn a_retention_of_for_ever_is_no_trouble() {
    let mut bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    bench.config.data_retention_days = 99_999_999;
    assert_eq!(bench.append(&record("2024-01-01T00:00:00Z", "a", 1.0)).n_good, 1);
    assert_eq!(bench.rotate().sealed.len(), 1);
}

#[test]
fn a_rotation_sweeps_what_killed_runs_left() {
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    bench.append(&record("2024-01-01T00:00:00Z", "a", 1.0));
    bench.rotate();
    let buffer = bench.buffer();
    let removed = buffer.removed_dir.join("2024-01-01");
    let folders = [&buffer.dir, &removed, &buffer.steps_dir, &buffer.quarantine_dir];
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    for dir in folders {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(".staging-fresh"), "half").unwrap();
        let old = std::fs::File::create(dir.join(".staging-old")).unwrap();
        old.set_modified(long_ago).unwrap();
    }
    bench.rotate();
    let is_left = |dir: &Path, name: &str| dir.join(name).exists();
    assert!(folders.iter().all(|dir| !is_left(dir, ".staging-old")));
    let fresh = folders.map(|dir| is_left(dir, ".staging-fresh"));
    assert_eq!(fresh, [false, false, true, true], "others write aggregates and quarantine meanwhile");
    assert_eq!(bench.sealed("2024-01-01").len(), 1);
}

#[test]
fn digests_come_from_what_was_written_down() {
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    for second in [0, 5, 10] {
        bench.append(&record(&format!("2024-01-01T00:00:{second:02}Z"), "a", 1.0));
    }
    let (day, buffer) = (date("2024-01-01"), bench.buffer());
    assert_eq!(buffer.source_digests(day).unwrap(), buffer.read_day(day).unwrap().1, "of an open day");
    bench.rotate();
    let digests = buffer.source_digests(day).unwrap();
    assert_eq!(digests, buffer.read_day(day).unwrap().1);
    assert_eq!((digests.len(), digests[0].n_rows), (1, 3));
    // Pages of the day file that cannot be read, under a footer that is whole: nobody decodes them for a digest.
    let path = day_file::path(&buffer.dir, day);
    let (sealed, modified) =
        (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    let mut bytes = sealed.clone();
    bytes[4..64].fill(0xff);
    write(&bytes);
    assert_eq!(buffer.source_digests(day).unwrap(), digests);
    write(&sealed);
    // Aggregates that were damaged are never taken for the day's: they are made anew.
    let table = buffer.read_steps(day).unwrap();
    let path = cache::path(&buffer.steps_dir, day);
    let whole = std::fs::read(&path).unwrap();
    for at in [4, whole.len() / 2, whole.len() - 20] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(buffer.read_steps(day).unwrap(), table);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(buffer.source_digests(day).unwrap(), digests);
    }
}

#[test]
fn the_newest_row_is_found_without_aggregating() {
    let bench = Bench::new(&["cpu"], "2024-01-03T12:00:00Z");
    let newest = |bench: &Bench, before: &str| {
        bench
            .buffer()
            .newest_time_ms(time(before).timestamp_millis())
            .unwrap()
            .map(|time_ms| crate::calendar::to_utc(time_ms).format("%dT%H:%M:%S").to_string())
    };
    assert_eq!(newest(&bench, "2024-01-04T00:00:00Z"), None);
    for stamp in ["03T11:59:57", "01T23:59:58", "02T10:00:01", "03T07:00:00", "02T22:00:03", "03T11:00:00"] {
        bench.append(&record(&format!("2024-01-{stamp}Z"), "a", 1.0));
    }
    let check = |bench: &Bench| {
        for (before, expected) in [
            ("2024-01-04T00:00:00Z", Some("03T11:59:57")),
            ("2024-01-03T11:59:58Z", Some("03T11:59:57")),
            ("2024-01-03T11:59:57Z", Some("03T11:00:00")),
            ("2024-01-03T07:00:00Z", Some("02T22:00:03")),
            ("2024-01-02T22:00:03Z", Some("02T10:00:01")),
            ("2024-01-02T00:00:00Z", Some("01T23:59:58")),
            ("2024-01-01T00:00:00Z", None),
        ] {
            assert_eq!(newest(bench, before).as_deref(), expected, "before {before}");
        }
    };
    check(&bench);
    bench.rotate();
    let file = ParquetFile::open(&day_file::path(&bench.buffer().dir, date("2024-01-02"))).unwrap();
    assert!(file.time_range_ms().is_some(), "footers answer for sealed days");
    check(&bench);
    bench.append(&record("2024-01-02T23:00:00Z", "a", 1.0));
    assert_eq!(newest(&bench, "2024-01-03T00:00:00Z").as_deref(), Some("02T23:00:00"));
}
