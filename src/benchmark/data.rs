//! Appending and window building: a simulated fleet through the buffer of a site that is thrown away afterwards.
//!
//! The folder is the caller's choice, because what is measured is its disk, too.

use std::fs::{self, File};
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Duration, TimeZone, Utc};
use polars::prelude::{ParquetReader, SerReader};
use serde::Serialize;

use crate::buffer::{AppendOptions, Buffer, RotateOptions, Source};
use crate::calendar;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Refusal;
use crate::fsx;
use crate::progress::{Progress, Silent};
use crate::simulate::{Fleet, FleetSpec};
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
    /// As a night finds it: everything aggregated but the last day.
    pub night_secs: f64,
    /// What a night takes of a full build.
    pub night_share: f64,
    /// Bare decoding of the same files, all columns, nothing done with them.
    pub floor_rows_per_s: f64,
    /// Of the floor's rate, for the full build.
    pub ratio: f64,
}

/// Times `buffer append` and `buffer rotate` of a fleet's rows, in a new folder inside `dir`.
///
/// - Errors: the sizes make no rows (a usage error), or the disk refuses.
pub fn append(sizes: DataSizes, dir: &Path, progress: &dyn Progress) -> Result<AppendBench> {
    let scene = Scene::new(sizes, dir)?;
    progress.stage("simulate");
    let text = scene.text()?;
    let text_bytes = text.len() as u64;
    progress.stage("append");
    let begun = Instant::now();
    let rows = scene.append(text)?;
    let append_secs = begun.elapsed().as_secs_f64();
    let segment_bytes = bytes_below(&scene.site.open_days_dir())?;
    progress.stage("rotate");
    let begun = Instant::now();
    scene.rotate()?;
    let rotate_secs = begun.elapsed().as_secs_f64();
    let sealed_bytes = sealed_days(&scene.site)?.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let metrics = scene.site.config.metrics.len();
    let payload = rows * metrics as u64 * 4;
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
pub fn window(sizes: DataSizes, dir: &Path, progress: &dyn Progress) -> Result<WindowBench> {
    let scene = Scene::new(sizes, dir)?;
    progress.stage("simulate, append, rotate");
    let rows = scene.append(scene.text()?)?;
    scene.rotate()?;
    progress.stage("build");
    let floor_secs = decode_secs(&scene.site)?;
    remove(&scene.site.steps_dir())?;
    let full_secs = scene.build()?;
    scene.forget_last_day()?;
    let night_secs = scene.build()?;
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
        floor_rows_per_s,
        ratio: full_rows_per_s / floor_rows_per_s,
    })
}

/// A site in a folder that goes with it, and the fleet that reports to it.
struct Scene {
    folder: tempfile::TempDir,
    site: Site,
    fleet: Fleet,
    end: DateTime<Utc>,
}

impl Scene {
    fn new(sizes: DataSizes, dir: &Path) -> Result<Self> {
        let DataSizes { servers, days, tick_secs } = sizes;
        let possible = [(1..=MAX_SERVERS, servers), (1..=MAX_DAYS, days), (1..=MAX_TICK_SECS, tick_secs)];
        if possible.iter().any(|(range, n)| !range.contains(n)) {
            return Err(Refusal::usage(format!(
                "a fleet has 1 to {MAX_SERVERS} servers, 1 to {MAX_DAYS} days and a row every 1 to {MAX_TICK_SECS} seconds"
            )));
        }
        let folder = tempfile::Builder::new().prefix(".tftctl-bench-").tempdir_in(dir);
        let folder = folder.with_context(|| format!("make a folder in {}", dir.display()))?;
        let mut config = Config {
            training_window_days: days,
            data_retention_days: days + 1,
            min_training_samples: 1,
            ..Config::default()
        };
        config.series.sample_secs = tick_secs;
        // Short enough for a window of a single day.
        (config.model.encoder_length, config.model.horizon) = (48, 12);
        config.window.min_days = 1;
        let end = Utc.with_ymd_and_hms(2026, 3, 2, 0, 0, 0).single().context("the end of the fleet")?;
        let start = end - Duration::days(i64::from(days));
        let spec = FleetSpec { n_servers: servers, start, end, tick_secs, ..FleetSpec::default() };
        let (site, fleet) = (Site::of(folder.path(), config), Fleet::new(&spec)?);
        Ok(Self { folder, site, fleet, end })
    }

    /// The fleet's rows as NDJSON.
    fn text(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        self.fleet.reader().read_to_end(&mut text).context("simulate the fleet")?;
        Ok(text)
    }

    /// The number of rows, all good.
    fn append(&self, text: Vec<u8>) -> Result<u64> {
        let source = Source::reader("the simulated fleet", Cursor::new(text));
        let (buffer, clock) = (Buffer::open(&self.site), Clock::Fixed(self.end));
        let report = buffer.append(source, &AppendOptions::default(), &clock, &Silent)?;
        ensure!(report.n_bad == 0 && report.n_good > 0, "{} of {} rows are bad", report.n_bad, report.n_rows);
        Ok(report.n_good)
    }

    fn rotate(&self) -> Result<()> {
        let report = Buffer::open(&self.site).rotate(&RotateOptions::default(), self.end, &Silent)?;
        ensure!(report.failed.is_empty(), "{} days could not be sealed", report.failed.len());
        Ok(())
    }

    /// Builds the window anew and says how long it took.
    fn build(&self) -> Result<f64> {
        remove(&self.site.windows_dir())?;
        let begun = Instant::now();
        window::build(&self.site, &WindowRequest::default(), self.end, &Silent)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Deletes the step aggregates of the last day.
    fn forget_last_day(&self) -> Result<()> {
        let last = calendar::days_before(self.end.date_naive(), 1).to_string();
        let mut n_removed = 0;
        for entry in fsx::list_dir(&self.site.steps_dir())? {
            if entry.file_name().to_string_lossy().contains(&last) {
                fs::remove_file(entry.path()).context("delete a step aggregate")?;
                n_removed += 1;
            }
        }
        ensure!(n_removed > 0, "there is no step aggregate of {last}");
        Ok(())
    }
}

/// The sealed days' files and sizes.
fn sealed_days(site: &Site) -> Result<Vec<(std::path::PathBuf, u64)>> {
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
fn write_secs(dir: &Path, n_bytes: u64) -> Result<f64> {
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

/// Seconds to decode all sealed days.
fn decode_secs(site: &Site) -> Result<f64> {
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

    const SMALL: DataSizes = DataSizes { servers: 3, days: 1, tick_secs: 60 };

    #[test]
    fn rows_become_durable_and_then_a_window_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let appended = append(SMALL, dir.path(), &Silent).unwrap();
        assert!(appended.rows > 2000 && appended.metrics == 14, "{appended:?}");
        assert!(appended.rows_per_s > 0.0 && appended.write_amplification > 0.5, "{appended:?}");
        let built = window(SMALL, dir.path(), &Silent).unwrap();
        assert_eq!(built.rows, appended.rows);
        assert!(built.full_secs > 0.0 && built.night_secs > 0.0, "{built:?}");
        assert_eq!(fsx::list_dir(dir.path()).unwrap().len(), 0);
    }

    #[test]
    fn impossible_fleets_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = append(DataSizes { servers: 0, ..SMALL }, dir.path(), &Silent).unwrap_err();
        assert!(error.to_string().contains("1 to 10000 servers"), "{error}");
        let error = append(DataSizes { days: u32::MAX, ..SMALL }, dir.path(), &Silent).unwrap_err();
        assert!(error.to_string().contains("1 to 366 days"), "{error}");
    }
}
