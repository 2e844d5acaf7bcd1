//! Where bad rows go: `quarantine/YYYY-MM-DD.ndjson` of the day they arrived, one JSON object per row with
//! `at`, `file`, `line`, `reason`, `detail` and the first 4 KiB of its text, and last `crc32` of the line without it.
//!
//! Several appenders write to the same file; each adds whole lines while it holds `quarantine/.lock`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::fsx::{self, disk::File};

use super::record::Reject;

/// How much of a bad row is kept.
const MAX_RAW_BYTES: usize = 4096;
/// Longer than any line written here: each byte of a row may take six, and names of files are bounded.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Held by whoever writes to the folder.
const LOCK: &str = ".lock";
/// How a line goes on where its last member would have ended it.
const CRC_HEAD: &str = ",\"crc32\":\"";
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
    /// Room on the disk that bad rows leave to good ones.
    min_free_bytes: u64,
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
    /// In `dir`, as long as `min_free_bytes` of its disk stay free.
    pub fn new(dir: &Path, min_free_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), min_free_bytes, pending: Vec::new(), date: NaiveDate::MIN, path: None }
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
        let start = self.pending.len();
        serde_json::to_writer(&mut self.pending, &entry).context("encode a bad row")?;
        let sum = crc32fast::hash(&self.pending[start..]);
        self.pending.pop();
        self.pending.extend(format!("{CRC_HEAD}{sum:08x}\"}}\n").as_bytes());
        if self.pending.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Makes everything taken so far durable.
    ///
    /// - Errors: it cannot be written, or too little of the disk would stay free.
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        fsx::ensure_room(&self.dir, self.min_free_bytes.saturating_add(self.pending.len() as u64))
            .context("keep bad rows")?;
        let path = self.dir.join(format!("{}.ndjson", self.date));
        let is_first = self.path.as_ref() != Some(&path);
        if is_first {
            fsx::create_dir_durable(&self.dir)?;
        }
        let lock = self.dir.join(LOCK);
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

/// The lines in a file that are not as they were written, by their numbers.
#[derive(Default)]
pub(in crate::buffer) struct DamagedLines {
    /// All of them, ascending.
    pub numbers: Vec<u64>,
    /// The last line, where it has no end: an appender died before it acknowledged it.
    pub torn: Option<u64>,
}

/// Looks at every line of a file.
///
/// A line without a checksum (an older program wrote it) only has to be JSON.
pub(in crate::buffer) fn damaged_lines(path: &Path) -> Result<DamagedLines> {
    let mut file = BufReader::new(fs::File::open(path).with_context(|| format!("read {}", path.display()))?);
    let (mut damaged, mut line, mut number) = (DamagedLines::default(), Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        // No line of ours is longer; one that is cut here is damaged for that.
        let n_read = (&mut file)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .with_context(|| format!("read {}", path.display()))?;
        if n_read == 0 {
            return Ok(damaged);
        }
        if !is_as_written(&line) {
            damaged.numbers.push(number);
            damaged.torn = (!line.ends_with(b"\n")).then_some(number);
        }
    }
}

/// Rewrites a file without its damaged lines, while no appender adds any.
pub(in crate::buffer) fn drop_damaged_lines(path: &Path) -> Result<()> {
    let lock = File::open_or_create(&path.with_file_name(LOCK)).context("open the lock of quarantine")?;
    lock.lock().context("lock quarantine")?;
    let damaged = damaged_lines(path)?.numbers;
    fsx::write_durable_with(path, |target| {
        let mut file = BufReader::new(fs::File::open(path)?);
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            number += 1;
            if (&mut file).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if damaged.binary_search(&number).is_err() {
                target.write_all(&line)?;
            }
        }
    })
}

fn is_as_written(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b"\n") else { return false };
    let head_at = line.len().saturating_sub(CRC_HEAD.len() + 8 + 2);
    let (entry, tail) = line.split_at(head_at);
    let said = tail.strip_prefix(CRC_HEAD.as_bytes()).and_then(|tail| tail.strip_suffix(b"\"}"));
    match said {
        Some(said) => format!("{:08x}", crc32fast::hash(&[entry, b"}"].concat())).as_bytes() == said,
        None => {
            // An older line has no such member; one whose member was damaged still nearly has.
            let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
            value.is_some_and(|value| value.as_object().is_some_and(is_of_before_checksums))
        }
    }
}

fn is_of_before_checksums(entry: &serde_json::Map<String, serde_json::Value>) -> bool {
    let known = ["at", "file", "line", "record", "reason", "detail", "raw"];
    entry.keys().all(|key| known.contains(&key.as_str()))
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
