//! Learns a site's schema from a sample of the user's own data, for `init --from`.
//!
//! The sample is one parquet, CSV or NDJSON file, or a folder of `metrics_*.parquet`, of which the first, the middle
//! and the last day are read. Nothing is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::calendar;
use crate::error::Refusal;
use crate::schema::{Metric, Schema};
use crate::stats;

use super::lines::LineSplitter;
use super::source::{Format, Input, Source, detect_text};
use super::text_sample::{HEAD_BYTES, TextSample, csv_metrics, json_metrics};
use crate::buffer::rows::Rows;
use crate::buffer::sealed::day_file;
use crate::buffer::sealed::parquet_rows::{Columns, ParquetFile};

/// Rows kept of each file.
const MAX_SAMPLE_ROWS: usize = 400_000;
/// Targets proposed at most.
pub const MAX_TARGETS: usize = 8;
/// The step proposed at least, in seconds.
const MIN_STEP_SECS: u32 = 300;
/// Metrics that move less than this are not proposed as targets.
const MIN_VARIATION: f64 = 1e-3;
const DAY_SECS: u32 = 86_400;

/// What a sample says about the feed it came from: everything `init --from` writes into a config.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Derived {
    pub schema: Schema,
    /// Metrics that vary, at most eight, in the order of the schema.
    pub targets: Vec<String>,
    /// Median seconds between two rows of the same server.
    pub sample_secs: u32,
    /// At least 300 and the cadence, dividing a day.
    pub step_secs: u32,
    /// Rows of all servers per day, at the cadence, as the fullest sampled day has them.
    pub n_rows_per_day: u64,
    /// Servers seen in the sample.
    pub n_servers: usize,
    /// Half of what a window of the feed holds.
    pub min_training_samples: u64,
    pub has_profile: bool,
    pub has_status: bool,
    /// First and last event time of the sample.
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    /// The sample is a folder of day files, which can serve as a buffer as it stands.
    pub is_day_folder: bool,
    /// Good rows read, over all sampled files.
    pub n_rows_read: u64,
    /// Rows and lines that taught nothing; `append` would quarantine them.
    pub n_bad_rows: u64,
    /// Columns that are not metrics, with the reason.
    pub ignored: BTreeMap<String, String>,
    /// Metrics that sound like percentages and go beyond 100, with their largest value: their range is left open.
    pub over_100: BTreeMap<String, f32>,
}

/// Derives the schema, the clock and the targets of the data at `sample`.
///
/// `training_window_days` is what `min_training_samples` is half of.
///
/// - Errors: the sample cannot be read, has no `timestamp`, `server_name` or numeric column, or no good rows.
pub fn derive(sample: &Path, training_window_days: u32) -> Result<Derived> {
    let read = || {
        let files = sample_files(sample)?;
        let mut survey = Sample::default();
        for path in &files {
            survey.add(path).with_context(|| format!("read {}", path.display()))?;
        }
        survey.derive(sample.is_dir(), training_window_days)
    };
    read().with_context(|| format!("learn from {}", sample.display()))
}

/// One file, or the first, middle and last day of a folder.
fn sample_files(sample: &Path) -> Result<Vec<PathBuf>> {
    if !sample.is_dir() {
        return Ok(vec![sample.to_owned()]);
    }
    let files: Vec<PathBuf> = day_file::list(sample)?.into_values().collect();
    if files.is_empty() {
        let message = format!("{} has no metrics_YYYY-MM-DD.parquet", sample.display());
        return Err(Refusal::usage(message));
    }
    let picks: BTreeSet<usize> = [0, files.len() / 2, files.len() - 1].into();
    Ok(picks.into_iter().map(|idx| files[idx].clone()).collect())
}

fn is_percent(name: &str) -> bool {
    name.contains("pct") || name.contains("percent")
}

/// The values of one metric in the sample.
#[derive(Default)]
struct Column {
    /// By server number, in the order of the rows.
    by_server: Vec<Vec<f32>>,
    min: f32,
    max: f32,
}

/// What was read so far.
#[derive(Default)]
struct Sample {
    /// Metric names in the order of the files.
    names: Vec<String>,
    columns: Vec<Column>,
    servers: HashMap<String, usize>,
    times: Vec<Vec<i64>>,
    /// Rows per UTC day; the fullest one counts.
    n_per_day: BTreeMap<i64, u64>,
    has_profile: bool,
    has_status: bool,
    n_rows: u64,
    n_bad: u64,
    ignored: BTreeMap<String, String>,
}

impl Sample {
    fn add(&mut self, path: &Path) -> Result<()> {
        match Input::open(Source::File(path.to_owned()), Format::Auto)? {
            Input::Parquet(input) => self.add_parquet(ParquetFile::of(input.file)?),
            Input::Text { reader, format, .. } => {
                let mut head = Vec::new();
                reader.take(HEAD_BYTES).read_to_end(&mut head).context("read its beginning")?;
                let format = if format == Format::Auto {
                    detect_text(&head, ["timestamp", "server_name"])
                } else {
                    format
                };
                let found = if format == Format::Csv { csv_metrics(&head) } else { json_metrics(&head) };
                self.add_text(path, format, &found)
            }
        }
    }

    fn add_parquet(&mut self, file: ParquetFile) -> Result<()> {
        for key in ["timestamp", "server_name"] {
            ensure!(file.has_column(key), "it has no column `{key}`");
        }
        self.has_profile |= file.has_column("profile");
        self.has_status |= file.has_column("status");
        let names = file.numeric_columns();
        for name in file.other_columns() {
            self.ignored.insert(name, "not numeric".to_owned());
        }
        let targets = self.targets_of(&names);
        let mut n_left = MAX_SAMPLE_ROWS;
        for slice in file.slices() {
            if n_left == 0 {
                break;
            }
            let slice = slice.start..slice.end.min(slice.start + n_left);
            n_left -= slice.len();
            let mut rows = Rows::new(names.len());
            self.n_bad += file.read_slice(&slice, &Columns::plain(&names))?.push_into(&mut rows, None);
            self.take(&rows, &targets);
        }
        Ok(())
    }

    /// Reads a text file with a schema made of the metrics found in its beginning, and every time allowed.
    fn add_text(&mut self, path: &Path, format: Format, names: &[String]) -> Result<()> {
        let metrics: Vec<Metric> = names.iter().map(|name| Metric::new(name, "")).collect();
        let schema = Schema { metrics, profiles: Vec::new() };
        let Input::Text { mut reader, .. } = Input::open(Source::File(path.to_owned()), format)? else {
            anyhow::bail!("it changed while it was read");
        };
        let mut text = TextSample::new(&schema, format);
        let mut lines = LineSplitter::default();
        let mut chunk = vec![0; 1 << 16];
        while text.rows.len() < MAX_SAMPLE_ROWS {
            let n_read = reader.read(&mut chunk).context("read it")?;
            if n_read == 0 {
                lines.finish(&mut |_, line| text.take(line))?;
                break;
            }
            lines.push(&chunk[..n_read], &mut |_, line| text.take(line))?;
        }
        let targets = self.targets_of(names);
        self.n_bad += text.n_bad;
        let rows = text.rows;
        self.has_profile |= rows.profile.iter().any(|id| rows.texts.get(*id).is_some());
        self.has_status |= rows.status.iter().any(|id| rows.texts.get(*id).is_some());
        for name in text.unknown.0.into_keys() {
            self.ignored.entry(name).or_insert_with(|| "not numeric".to_owned());
        }
        self.take(&rows, &targets);
        Ok(())
    }

    /// Where the metrics of a file go, adding those that are new.
    fn targets_of(&mut self, names: &[String]) -> Vec<usize> {
        let place = |name: &String| {
            self.names.iter().position(|known| known == name).unwrap_or_else(|| {
                self.names.push(name.clone());
                self.columns.push(Column { min: f32::INFINITY, max: f32::NEG_INFINITY, ..Column::default() });
                self.names.len() - 1
            })
        };
        names.iter().map(place).collect()
    }

    fn take(&mut self, rows: &Rows, targets: &[usize]) {
        self.n_rows += rows.len() as u64;
        for idx in 0..rows.len() {
            let row = rows.row(idx);
            let server = match self.servers.get(row.server) {
                Some(server) => *server,
                None => {
                    self.servers.insert(row.server.to_owned(), self.times.len());
                    self.times.push(Vec::new());
                    self.times.len() - 1
                }
            };
            self.times[server].push(row.time_ms);
            *self.n_per_day.entry(row.time_ms.div_euclid(1000 * i64::from(DAY_SECS))).or_default() += 1;
            for (value, target) in row.values.iter().zip(targets).filter(|(value, _)| value.is_finite()) {
                self.columns[*target].take(server, *value);
            }
        }
    }

    fn derive(mut self, is_day_folder: bool, training_window_days: u32) -> Result<Derived> {
        ensure!(self.n_rows > 0, "it has no good rows");
        let times = || self.times.iter().flatten();
        let (first, last) = (times().min().copied(), times().max().copied());
        let (first, last) = (first.context("it has no good rows")?, last.context("it has no good rows")?);
        let sample_secs = cadence_secs(&mut self.times);
        let step_secs = step_for(sample_secs);
        let n_rows_per_day = self.n_per_day.values().copied().max().unwrap_or(0);
        let (schema, ignored) = self.schema();
        let over_100 = self.over_100();
        if schema.metrics.is_empty() {
            return Err(Refusal::usage("it has no numeric column with values"));
        }
        self.ignored.extend(ignored);
        let targets = self.targets(&schema);
        Ok(Derived {
            targets,
            sample_secs,
            step_secs,
            n_rows_per_day,
            n_servers: self.servers.len(),
            min_training_samples: (n_rows_per_day * u64::from(training_window_days) / 2).max(1),
            has_profile: self.has_profile,
            has_status: self.has_status,
            first: calendar::to_utc(first),
            last: calendar::to_utc(last),
            is_day_folder,
            n_rows_read: self.n_rows,
            n_bad_rows: self.n_bad,
            ignored: self.ignored,
            over_100,
            schema,
        })
    }

    /// The metrics that have values, with the ranges that the values speak for.
    fn schema(&self) -> (Schema, BTreeMap<String, String>) {
        let mut ignored = BTreeMap::new();
        let mut metrics = Vec::new();
        for (name, column) in self.names.iter().zip(&self.columns) {
            if column.min > column.max {
                ignored.insert(name.clone(), "no values".to_owned());
                continue;
            }
            metrics.push(Metric {
                min: (column.min >= 0.0).then_some(0.0),
                max: (is_percent(name) && column.max <= 100.0).then_some(100.0),
                ..Metric::new(name, unit_of(name))
            });
        }
        (Schema { metrics, profiles: Vec::new() }, ignored)
    }

    /// Percentages by their names, not by their values.
    fn over_100(&self) -> BTreeMap<String, f32> {
        let columns = self.names.iter().zip(&self.columns);
        let over = columns.filter(|(name, column)| is_percent(name) && column.max > 100.0);
        over.map(|(name, column)| (name.clone(), column.max)).collect()
    }

    /// The metrics that vary most within their servers, relative to their size.
    fn targets(&self, schema: &Schema) -> Vec<String> {
        let column =
            |name: &str| self.names.iter().position(|known| known == name).map(|idx| &self.columns[idx]);
        let score = |metric: &Metric| column(&metric.name).map_or(0.0, Column::variation);
        let mut ranked: Vec<(f64, usize)> =
            schema.metrics.iter().enumerate().map(|(idx, metric)| (score(metric), idx)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<usize> = ranked
            .iter()
            .filter(|(score, _)| *score >= MIN_VARIATION)
            .take(MAX_TARGETS)
            .map(|(_, idx)| *idx)
            .collect();
        if chosen.is_empty() {
            // Nothing varies in the sample; a model needs a target all the same.
            chosen.push(0);
        }
        chosen.sort_unstable();
        chosen.into_iter().map(|idx| schema.metrics[idx].name.clone()).collect()
    }
}

impl Column {
    fn take(&mut self, server: usize, value: f32) {
        if self.by_server.len() <= server {
            self.by_server.resize_with(server + 1, Vec::new);
        }
        self.by_server[server].push(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// How much the metric moves within a server, from 0 to 1: the median over servers of [`movement`].
    fn variation(&self) -> f64 {
        let with_rows = self.by_server.iter().filter(|values| values.len() > 1);
        let mut moves: Vec<f32> = with_rows.map(|values| movement(values)).collect();
        stats::quantile_nearest(&mut moves, 0.5).map_or(0.0, f64::from)
    }
}

/// The spread P90 - P10 of one server's values relative to their size |P90| + |P10|, times the share of rows that
/// differ from the row before. 0 for constants; tiny for sizes that are measured with some jitter.
fn movement(values: &[f32]) -> f32 {
    let n_changes = values.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let share = n_changes as f32 / (values.len() - 1) as f32;
    let mut values = values.to_vec();
    let mut quantile = |q: f64| stats::quantile_nearest(&mut values, q).unwrap_or(0.0);
    let (low, high) = (quantile(0.1), quantile(0.9));
    let size = low.abs() + high.abs();
    if size > 0.0 { share * ((high - low) / size).min(1.0) } else { 0.0 }
}

/// The median time between successive rows of a server, in whole seconds, at least 1.
fn cadence_secs(times: &mut [Vec<i64>]) -> u32 {
    let mut gaps_ms = Vec::new();
    for times in times {
        times.sort_unstable();
        gaps_ms.extend(times.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 0));
    }
    if gaps_ms.is_empty() {
        return MIN_STEP_SECS;
    }
    let middle = gaps_ms.len() / 2;
    let median_ms = *gaps_ms.select_nth_unstable(middle).1;
    ((median_ms + 500) / 1000).clamp(1, i64::from(DAY_SECS)) as u32
}

/// The smallest step that divides a day and is at least five minutes and the cadence.
fn step_for(sample_secs: u32) -> u32 {
    (sample_secs.max(MIN_STEP_SECS)..=DAY_SECS)
        .find(|step| DAY_SECS.is_multiple_of(*step))
        .unwrap_or(DAY_SECS)
}

/// The unit that a name ends in, for people.
fn unit_of(name: &str) -> &'static str {
    let units = [
        ("_pct", "%"),
        ("_percent", "%"),
        ("_mb_s", "MB/s"),
        ("_kb_s", "kB/s"),
        ("_mhz", "MHz"),
        ("_kb", "kB"),
        ("_mb", "MB"),
        ("_gb", "GB"),
        ("_ms", "ms"),
        ("_secs", "s"),
        ("_days", "days"),
    ];
    units.iter().find(|(suffix, _)| name.ends_with(suffix)).map_or("", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::tests::shared;

    #[track_caller]
    fn case(name: &str, sample_secs: u32, n_metrics: usize, n_servers: usize) -> Option<Derived> {
        let derived = derive(&shared(name)?, 30).unwrap();
        assert_eq!(derived.sample_secs, sample_secs, "{name}");
        assert_eq!(derived.schema.metrics.len(), n_metrics, "{name}");
        assert!(derived.n_servers >= n_servers, "{name}: {} servers", derived.n_servers);
        assert!((1..=MAX_TARGETS).contains(&derived.targets.len()), "{name}");
        assert_eq!(DAY_SECS % derived.step_secs, 0);
        println!("{name}: {} rows per day, targets {:?}", derived.n_rows_per_day, derived.targets);
        Some(derived)
    }

    #[test]
    fn real_feeds_are_understood() {
        if let Some(asd) = case("asd", 300, 19, 6) {
            assert_eq!((asd.step_secs, asd.n_rows_per_day, asd.is_day_folder), (300, 6 * 288, true));
            assert_eq!(asd.min_training_samples, 6 * 288 * 15);
            assert!(asd.schema.metrics.iter().all(|metric| metric.min == Some(0.0) && metric.max.is_none()));
        }
        if let Some(smd) = case("smd", 60, 38, 10) {
            assert_eq!((smd.step_secs, smd.n_rows_per_day), (300, 10 * 1440));
        }
        if let Some(bitbrains) = case("bitbrains", 300, 10, 55) {
            // Sizes differ between servers, but do not vary; real CPU exceeds 100 %.
            assert!(!bitbrains.targets.iter().any(|name| name.contains("capacity") || name == "cpu_cores"));
            assert!(bitbrains.targets.contains(&"cpu_usage_pct".to_owned()));
            assert_eq!(bitbrains.schema.metrics[0].min, Some(0.0));
        }
        if let Some(ett) = case("ett/ETTh1.parquet", 3600, 7, 1) {
            assert_eq!((ett.step_secs, ett.n_rows_per_day), (3600, 24));
        }
    }

    #[test]
    fn text_samples_give_what_parquet_gives() {
        let Some(ndjson) = shared("feed/bitbrains_2013-08-14T10.ndjson") else { return };
        let from_text = derive(&ndjson, 30).unwrap();
        let parquet = ndjson.with_file_name("bitbrains_2013-08-14T10.expected.parquet");
        let from_parquet = derive(&parquet, 30).unwrap();
        assert_eq!(from_text.schema.metrics.len(), 10);
        let sorted = |derived: &Derived| {
            let mut metrics = derived.schema.metrics.clone();
            metrics.sort_by(|a, b| a.name.cmp(&b.name));
            let mut targets = derived.targets.clone();
            targets.sort();
            (metrics, targets, derived.sample_secs, derived.n_rows_read)
        };
        assert_eq!(sorted(&from_text), sorted(&from_parquet));
    }

    #[test]
    fn a_small_csv_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.csv");
        let mut text = "timestamp,server_name,profile,cpu_pct,rack,level,constant\n".to_owned();
        for i in 0..20 {
            let time = calendar::to_utc(1_704_067_200_000 + 10_000 * i).to_rfc3339();
            text += &format!("{time},a,db,{},r1,{},7\n", 3 * i, -i);
        }
        std::fs::write(&path, &text).unwrap();
        let derived = derive(&path, 30).unwrap();
        let names: Vec<&str> = derived.schema.metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["cpu_pct", "level", "constant"]);
        assert_eq!(derived.targets, ["cpu_pct", "level"]);
        assert_eq!((derived.sample_secs, derived.step_secs), (10, 300));
        assert_eq!((derived.has_profile, derived.has_status), (true, false));
        let metric = &derived.schema.metrics;
        assert_eq!((metric[0].min, metric[0].max, metric[1].min), (Some(0.0), Some(100.0), None));
        assert_eq!(derived.ignored["rack"], "not numeric");
        assert!(derived.over_100.is_empty());
        // Of a percentage that goes beyond 100 no range is guessed, and that is said.
        std::fs::write(&path, text.replace("cpu_pct", "cpu_pct,disk_pct").replace(",r1,", ",250,r1,"))
            .unwrap();
        let derived = derive(&path, 30).unwrap();
        let wide = derived.schema.metrics.iter().find(|metric| derived.over_100.contains_key(&metric.name));
        assert_eq!((derived.over_100.len(), wide.unwrap().max), (1, None));
    }

    #[test]
    fn steps_divide_a_day() {
        for (sample_secs, step_secs) in
            [(5, 300), (60, 300), (300, 300), (301, 320), (3600, 3600), (50_000, 86_400)]
        {
            assert_eq!(step_for(sample_secs), step_secs);
        }
    }
}
