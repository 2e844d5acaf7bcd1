//! Appending and window building: a simulated fleet through the buffer of a site that is thrown away afterwards.
//!
//! The folder is the caller's choice, because what is measured is its disk, too. The metrics are those of the caller's
//! config, so that what is measured is a site's own width; their values are the fleet's, in turn.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chrono::{DateTime, Duration, TimeZone, Utc};
use polars::prelude::{ParquetReader, SerReader};
use serde::Serialize;

use crate::buffer::{AppendOptions, Buffer, RotateOptions, Source};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Refusal;
use crate::fsx;
use crate::progress::{Progress, Silent};
use crate::simulate::{Fleet, FleetSpec, RowEncoder};
use crate::site::Site;
use crate::window::{self, WindowRequest};

const MAX_SERVERS: u32 = 10_000;
const MAX_DAYS: u32 = 366;
/// Half a step.
const MAX_TICK_SECS: u32 = 150;

/// The fleet whose rows are taken in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DataSizes {
    pub servers: u32,
    pub days: u32,
    /// Seconds between two rows of a server.
    pub tick_secs: u32,
}

/// How fast rows become durable.
#[derive(Clone, Debug, Serialize)]
pub struct AppendBench {
    /// `append`.
    pub what: &'static str,
    pub sizes: DataSizes,
    pub rows: u64,
    pub metrics: usize,
    /// NDJSON in.
    pub text_bytes: u64,
    /// From text to rows on stable storage; the files of a command are one source.
    pub rows_per_s: f64,
    /// Sealing the days: merge, sort, write, read back, aggregate.
    pub rotate_rows_per_s: f64,
    pub sealed_bytes_per_row: f64,
    /// Bytes of segments and sealed days, per byte of the metrics as float32.
    pub write_amplification: f64,
    /// Bare writing and syncing of the metrics as float32 into the same folder.
    pub floor_rows_per_s: f64,
    /// Of the floor's rate.
    pub ratio: f64,
}

/// How fast sealed days become a window.
#[derive(Clone, Debug, Serialize)]
pub struct WindowBench {
    /// `window`.
    pub what: &'static str,
    pub sizes: DataSizes,
    pub rows: u64,
    pub metrics: usize,
    /// From raw sealed days, no aggregate there.
    pub full_secs: f64,
    pub full_rows_per_s: f64,
    /// A night's build: a day is new since the window before, and all days are aggregated, as `rotate` leaves them.
    pub night_secs: f64,
    /// What that takes of a full build.
    pub night_share: f64,
    /// The same where the aggregates of the last day are missing.
    pub night_unaggregated_secs: f64,
    /// What comes before it: `rotate` of the new day, its aggregates included.
    pub night_rotate_secs: f64,
    /// Bare decoding of the same files, all columns, nothing done with them.
    pub floor_rows_per_s: f64,
    /// Of the floor's rate, for the full build.
    pub ratio: f64,
}

/// Times `buffer append` and `buffer rotate` of a fleet's rows, in a new folder inside `dir`.
///
/// - Errors: the sizes make no rows (a usage error), or the disk refuses.
pub fn append(config: &Config, sizes: DataSizes, dir: &Path, progress: &dyn Progress) -> Result<AppendBench> {
    let scene = Scene::new(config, sizes, dir)?;
    progress.stage("simulate");
    let text = scene.text()?;
    let text_bytes = text.len() as u64;
    progress.stage("append");
    let begun = Instant::now();
    let rows = scene.append(text)?;
    let append_secs = begun.elapsed().as_secs_f64();
    let segment_bytes = bytes_below(&scene.site.open_days_dir())?;
    progress.stage("rotate");
    let rotate_secs = scene.rotate(scene.end)?;
    let sealed_bytes = scene.sealed_bytes()?;
    let metrics = scene.site.config.metrics.len();
    let payload = scene.payload_bytes(rows);
    let floor_secs = write_secs(scene.folder.path(), payload)?;
    let (rows_per_s, floor_rows_per_s) = (rows as f64 / append_secs, rows as f64 / floor_secs);
    Ok(AppendBench {
        what: "append",
        sizes,
        rows,
        metrics,
        text_bytes,
        rows_per_s,
        rotate_rows_per_s: rows as f64 / rotate_secs,
        sealed_bytes_per_row: sealed_bytes as f64 / rows as f64,
        write_amplification: (segment_bytes + sealed_bytes) as f64 / payload as f64,
        floor_rows_per_s,
        ratio: rows_per_s / floor_rows_per_s,
    })
}

/// Times `window build` of a fleet's sealed days, in a new folder inside `dir`.
///
/// - Errors: the sizes make no window (a usage error), or the disk refuses.
pub fn window(config: &Config, sizes: DataSizes, dir: &Path, progress: &dyn Progress) -> Result<WindowBench> {
    let scene = Scene::new(config, sizes, dir)?;
    progress.stage("simulate, append, rotate");
    let rows = scene.append(scene.text()?)?;
    scene.rotate(scene.last_day())?;
    let night_rotate_secs = scene.rotate(scene.end)?;
    progress.stage("build");
    let floor_secs = decode_secs(&scene.site)?;
    scene.forget_steps()?;
    let full_secs = scene.build()?;
    let night_secs = scene.build()?;
    scene.forget_last_steps()?;
    let night_unaggregated_secs = scene.build()?;
    let (full_rows_per_s, floor_rows_per_s) = (rows as f64 / full_secs, rows as f64 / floor_secs);
    Ok(WindowBench {
        what: "window",
        sizes,
        rows,
        metrics: scene.site.config.metrics.len(),
        full_secs,
        full_rows_per_s,
        night_secs,
        night_share: night_secs / full_secs,
        night_unaggregated_secs,
        night_rotate_secs,
        floor_rows_per_s,
        ratio: full_rows_per_s / floor_rows_per_s,
    })
}

/// A site in a folder that goes with it, and the fleet that reports to it.
pub struct Scene {
    pub folder: tempfile::TempDir,
    pub site: Site,
    fleet: Fleet,
    /// When the fleet's last day is over.
    pub end: DateTime<Utc>,
}

impl Scene {
    /// A new site in `dir` with the metrics of `config`, without rows.
    ///
    /// - Errors: the sizes make no rows (a usage error), or the disk refuses.
    pub fn new(config: &Config, sizes: DataSizes, dir: &Path) -> Result<Self> {
        let DataSizes { servers, days, tick_secs } = sizes;
        let possible = [(1..=MAX_SERVERS, servers), (1..=MAX_DAYS, days), (1..=MAX_TICK_SECS, tick_secs)];
        if possible.iter().any(|(range, n)| !range.contains(n)) {
            return Err(Refusal::usage(format!(
                "a fleet has 1 to {MAX_SERVERS} servers, 1 to {MAX_DAYS} days and a row every 1 to {MAX_TICK_SECS} seconds"
            )));
        }
        let folder = tempfile::Builder::new().prefix(".tftctl-bench-").tempdir_in(dir);
        let folder = folder.with_context(|| format!("make a folder in {}", dir.display()))?;
        let end = Utc.with_ymd_and_hms(2026, 3, 2, 0, 0, 0).single().context("the end of the fleet")?;
        let start = end - Duration::days(i64::from(days));
        let spec = FleetSpec { n_servers: servers, start, end, tick_secs, ..FleetSpec::default() };
        let site = Site::of(folder.path(), config_of(config, sizes));
        Ok(Self { folder, site, fleet: Fleet::new(&spec)?, end })
    }

    /// The fleet's rows as NDJSON, in the order of time.
    pub fn text(&self) -> Result<Bytes> {
        let names: Vec<String> = self.site.config.metrics.iter().map(|metric| metric.name.clone()).collect();
        let mut encoder = RowEncoder::of_metrics(&names).context("name the fleet's metrics")?;
        let mut text = Vec::new();
        self.fleet.for_each_row(|row| {
            encoder.encode(row, &mut text);
            Ok(())
        })?;
        Ok(text.into())
    }

    /// Takes rows in and returns their number; all have to be good.
    pub fn append(&self, text: Bytes) -> Result<u64> {
        let source = Source::reader("the simulated fleet", Cursor::new(text));
        let (buffer, clock) = (Buffer::open(&self.site), Clock::Fixed(self.end));
        let report = buffer.append(source, &AppendOptions::default(), &clock, &Silent)?;
        ensure!(report.n_bad == 0 && report.n_good > 0, "{} of {} rows are bad", report.n_bad, report.n_rows);
        Ok(report.n_good)
    }

    /// When the fleet's last day begins.
    pub fn last_day(&self) -> DateTime<Utc> {
        self.end - Duration::days(1)
    }

    /// Seals and aggregates the days that are over at `now`, and says how many seconds it took.
    pub fn rotate(&self, now: DateTime<Utc>) -> Result<f64> {
        let begun = Instant::now();
        let report = Buffer::open(&self.site).rotate(&RotateOptions::default(), now, &Silent)?;
        ensure!(report.failed.is_empty(), "{} days could not be sealed", report.failed.len());
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Builds the window anew and says how many seconds it took.
    pub fn build(&self) -> Result<f64> {
        remove(&self.site.windows_dir())?;
        let begun = Instant::now();
        window::build(&self.site, &WindowRequest::default(), self.end, &Silent)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Deletes the step aggregates.
    pub fn forget_steps(&self) -> Result<()> {
        remove(&self.site.steps_dir())
    }

    /// Deletes the step aggregates of the last day.
    pub fn forget_last_steps(&self) -> Result<()> {
        self.forget_last_in(&self.site.steps_dir())
    }

    /// Opens the last day again, from a copy of its segments: neither sealed nor aggregated.
    pub fn reopen_last_day(&self, segments: &Path) -> Result<()> {
        self.forget_last_steps()?;
        self.forget_last_in(&self.site.buffer_dir())?;
        copy_files(segments, &self.last_segments())
    }

    /// Copies the segments of the last day, as long as it is open.
    pub fn keep_last_day(&self, segments: &Path) -> Result<()> {
        copy_files(&self.last_segments(), segments)
    }

    fn last_segments(&self) -> PathBuf {
        self.site.open_days_dir().join(self.last_day().date_naive().to_string())
    }

    /// Deletes the files in `dir` that are named after the last day.
    fn forget_last_in(&self, dir: &Path) -> Result<()> {
        let last = self.last_day().date_naive().to_string();
        let mut n_removed = 0;
        for entry in fsx::list_dir(dir)? {
            if entry.file_name().to_string_lossy().contains(&last) {
                fs::remove_file(entry.path())
                    .with_context(|| format!("delete {}", entry.path().display()))?;
                n_removed += 1;
            }
        }
        ensure!(n_removed > 0, "there is nothing of {last} in {}", dir.display());
        Ok(())
    }

    /// Bytes of the sealed days.
    pub fn sealed_bytes(&self) -> Result<u64> {
        Ok(sealed_days(&self.site)?.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Bytes of the metrics of some rows as float32.
    pub fn payload_bytes(&self, rows: u64) -> u64 {
        rows * self.site.config.metrics.len() as u64 * 4
    }
}

/// The metrics and targets of `config`, in a site that is content with any fleet.
fn config_of(config: &Config, sizes: DataSizes) -> Config {
    let mut of_scene = Config {
        training_window_days: sizes.days,
        data_retention_days: sizes.days + 1,
        min_training_samples: 1,
        metrics: config.metrics.clone(),
        profiles: config.profiles.clone(),
        ..Config::default()
    };
    of_scene.series.sample_secs = sizes.tick_secs;
    of_scene.model.targets = config.model.targets.clone();
    // Short enough for a window of a single day.
    (of_scene.model.encoder_length, of_scene.model.horizon) = (48, 12);
    of_scene.window.min_days = 1;
    of_scene
}

/// Copies the files of a folder into another one, which is made where it is missing.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fsx::list_dir(from)? {
        let path = entry.path();
        fs::copy(&path, to.join(entry.file_name())).with_context(|| format!("copy {}", path.display()))?;
    }
    Ok(())
}

/// The sealed days' files and sizes.
fn sealed_days(site: &Site) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fsx::list_dir(&site.buffer_dir())? {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push((path, entry.metadata().context("look at a sealed day")?.len()));
        }
    }
    Ok(files)
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fsx::list_dir(dir)? {
        let metadata = entry.metadata().with_context(|| format!("look at {}", entry.path().display()))?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn remove(dir: &Path) -> Result<()> {
    if fsx::exists(dir)? {
        fs::remove_dir_all(dir).with_context(|| format!("delete {}", dir.display()))?;
    }
    Ok(())
}

/// Seconds to write so many bytes to a new file in `dir`, down to the disk.
pub fn write_secs(dir: &Path, n_bytes: u64) -> Result<f64> {
    // Bytes that no disk can squeeze.
    let block: Vec<u8> = (0..1u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let begun = Instant::now();
    let mut file = tempfile::tempfile_in(dir).context("create the file of the floor")?;
    let mut left = n_bytes as usize;
    while left > 0 {
        let n = left.min(block.len());
        file.write_all(&block[..n]).context("write the file of the floor")?;
        left -= n;
    }
    file.sync_data().context("sync the file of the floor")?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds to decode all columns of all sealed days.
pub fn decode_secs(site: &Site) -> Result<f64> {
    let begun = Instant::now();
    for (path, _) in sealed_days(site)? {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let frame = ParquetReader::new(file).finish().with_context(|| format!("read {}", path.display()))?;
        std::hint::black_box(frame.height());
    }
    Ok(begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Metric;

    const SMALL: DataSizes = DataSizes { servers: 3, days: 1, tick_secs: 60 };

    #[test]
    fn rows_become_durable_and_then_a_window_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let appended = append(&Config::default(), SMALL, dir.path(), &Silent).unwrap();
        assert!(appended.rows > 2000 && appended.metrics == 14, "{appended:?}");
        assert!(appended.rows_per_s > 0.0 && appended.write_amplification > 0.5, "{appended:?}");
        let built = window(&Config::default(), SMALL, dir.path(), &Silent).unwrap();
        assert_eq!(built.rows, appended.rows);
        assert!(built.full_secs > 0.0 && built.night_secs > 0.0, "{built:?}");
        assert_eq!(fsx::list_dir(dir.path()).unwrap().len(), 0);
    }

    #[test]
    fn the_metrics_are_those_of_the_site() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = ["rps", "p99 ms"].map(|name| Metric::new(name, "")).to_vec();
        let mut config = Config { metrics, ..Config::default() };
        config.model.targets = vec!["rps".into()];
        let scene = Scene::new(&config, SMALL, dir.path()).unwrap();
        let text = scene.text().unwrap();
        let line = text.split(|byte| *byte == b'\n').next().unwrap();
        let row: serde_json::Value = serde_json::from_slice(line).unwrap();
        let names: Vec<&String> = row["metrics"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["p99 ms", "rps"]);
        let appended = append(&config, SMALL, dir.path(), &Silent).unwrap();
        assert_eq!(appended.metrics, 2);
        assert_eq!(window(&config, SMALL, dir.path(), &Silent).unwrap().rows, appended.rows);
    }

    #[test]
    fn a_day_can_be_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = DataSizes { days: 2, ..SMALL };
        let scene = Scene::new(&Config::default(), sizes, dir.path()).unwrap();
        scene.append(scene.text().unwrap()).unwrap();
        scene.rotate(scene.last_day()).unwrap();
        let segments = dir.path().join("segments");
        scene.keep_last_day(&segments).unwrap();
        scene.rotate(scene.end).unwrap();
        let sealed = sealed_days(&scene.site).unwrap();
        scene.reopen_last_day(&segments).unwrap();
        assert_eq!(sealed_days(&scene.site).unwrap(), sealed[..1]);
        scene.rotate(scene.end).unwrap();
        assert_eq!(sealed_days(&scene.site).unwrap(), sealed);
    }

    #[test]
    fn impossible_fleets_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            append(&Config::default(), DataSizes { servers: 0, ..SMALL }, dir.path(), &Silent).unwrap_err();
        assert!(error.to_string().contains("1 to 10000 servers"), "{error}");
        let error = append(&Config::default(), DataSizes { days: u32::MAX, ..SMALL }, dir.path(), &Silent)
            .unwrap_err();
        assert!(error.to_string().contains("1 to 366 days"), "{error}");
    }
}
