//! Where bad rows go: `quarantine/YYYY-MM-DD.ndjson` of the day they arrived, one JSON object per row with
//! `at`, `file`, `line`, `reason`, `detail` and the first 4 KiB of its text.
//!
//! Several appenders write to the same file; each adds whole lines while it holds `quarantine/.lock`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::fsx::{self, disk::File};

use super::record::Reject;

/// How much of a bad row is kept.
const MAX_RAW_BYTES: usize = 4096;
/// Lines are written once they take this much memory, or when rows are acknowledged.
const BUFFER_BYTES: usize = 1 << 18;

#[derive(Serialize)]
struct Entry<'a> {
    at: DateTime<Utc>,
    file: &'a str,
    line: u64,
    /// Position in the batch, where the line was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<usize>,
    reason: &'static str,
    detail: &'a str,
    raw: &'a str,
}

/// Collects the bad rows of one appender.
pub(in crate::buffer) struct Quarantine {
    dir: PathBuf,
    pending: Vec<u8>,
    date: NaiveDate,
    /// The file written last, if any row was bad.
    pub path: Option<PathBuf>,
}

/// Where a bad row was found.
pub(in crate::buffer) struct Place<'a> {
    pub file: &'a str,
    pub line: u64,
    pub record: Option<usize>,
}

impl Quarantine {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), pending: Vec::new(), date: NaiveDate::MIN, path: None }
    }

    /// Takes a bad row that arrived at `now`, on `date`.
    pub fn add(
        &mut self,
        place: &Place<'_>,
        reject: &Reject,
        raw: &[u8],
        now: DateTime<Utc>,
        date: NaiveDate,
    ) -> Result<()> {
        if date != self.date {
            self.flush()?;
            self.date = date;
        }
        let raw = String::from_utf8_lossy(&raw[..raw.len().min(MAX_RAW_BYTES)]);
        let entry = Entry {
            at: now,
            file: place.file,
            line: place.line,
            record: place.record,
            reason: reject.reason.name(),
            detail: &reject.detail,
            raw: &raw,
        };
        serde_json::to_writer(&mut self.pending, &entry).context("encode a bad row")?;
        self.pending.push(b'\n');
        if self.pending.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Makes everything taken so far durable.
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(format!("{}.ndjson", self.date));
        let is_first = self.path.as_ref() != Some(&path);
        if is_first {
            fsx::create_dir_durable(&self.dir)?;
        }
        let lock = self.dir.join(".lock");
        let guard = File::open_or_create(&lock).and_then(|file| file.lock().map(|()| file));
        let _guard = guard.with_context(|| format!("lock {}", lock.display()))?;
        fsx::append_synced(&path, &self.pending)?;
        if is_first {
            fsx::sync_dir(&self.dir)?;
        }
        self.pending.clear();
        self.path = Some(path);
        Ok(())
    }
}

/// What lies in quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuarantineStatus {
    pub n_files: u64,
    pub n_rows: u64,
    pub size_bytes: u64,
}

/// Counts the bad rows in `dir`, in bounded memory.
pub(in crate::buffer) fn status(dir: &Path) -> Result<QuarantineStatus> {
    let mut status = QuarantineStatus::default();
    for (_, path) in files(dir)? {
        let mut file = fs::File::open(&path).with_context(|| format!("read {}", path.display()))?;
        status.n_files += 1;
        let mut chunk = vec![0; 1 << 16];
        loop {
            let n_read = file.read(&mut chunk).with_context(|| format!("read {}", path.display()))?;
            if n_read == 0 {
                break;
            }
            status.size_bytes += n_read as u64;
            status.n_rows += chunk[..n_read].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }
    Ok(status)
}

/// The dated files in `dir`, ascending.
pub(in crate::buffer) fn files(dir: &Path) -> Result<Vec<(NaiveDate, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fsx::list_dir(dir)? {
        let path = entry.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(date) = name.strip_suffix(".ndjson").and_then(|date| date.parse().ok()) {
            files.push((date, path));
        }
    }
    files.sort();
    Ok(files)
}
