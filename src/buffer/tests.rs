//! Stories of the buffer as a whole: what goes in comes out, whatever happens in between.

mod export;
mod formats;
mod fuzz;
mod gone;
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

mod aggregates;
mod flips;
mod judged;
mod keep;
mod mend;
mod model;
mod rotation;
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

#[track_caller]
fn bad_lines(file: &str, expected: &[(u64, &str)]) {
    let Some(path) = shared(&format!("bad/{file}")) else { return };
    let bench = bad_bench();
    bench.append_file(&path);
    let expected: BTreeMap<u64, String> =
        expected.iter().map(|(n, reason)| (*n, reason.to_string())).collect();
    assert_eq!(quarantined(&bench), expected, "{file}");
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
