//! How far an import came: `data_buffer/imports/<digest>.json`, one small file for each server, queries and range.
//!
//! It lies in the buffer, and not beside it, because it speaks of the buffer's rows: whoever removes the one removes the
//! other. `next` moves only after the rows before it are on stable storage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::PrometheusImport;
use crate::fsx::{self, Lock, disk};

const FORMAT: u32 = 1;

/// What makes two imports the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    url: String,
    queries: BTreeMap<String, String>,
    server_label: String,
    strip_port: bool,
    profile_label: String,
    start: DateTime<Utc>,
    end: Option<DateTime<Utc>>,
    step_secs: u32,
    /// Of the schema that the rows were judged by.
    schema: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    import: Identity,
    /// The first time whose rows are not known to be safe.
    next: DateTime<Utc>,
    /// Rows taken so far, good and bad.
    n_rows: u64,
}

/// The record of one import, on disk once the first page is safe.
pub(super) struct Ledger {
    path: PathBuf,
    record: Record,
    is_resumed: bool,
}

impl Ledger {
    /// Reads how far `import` came; a new one, and one that restarts, is at its start.
    pub fn open(dir: &Path, import: &PrometheusImport, schema: &str) -> Result<Self> {
        let identity = Identity::of(import, schema);
        let path = dir.join(format!("{}.json", identity.digest()));
        let found: Option<Record> = if import.restart { None } else { fsx::read_versioned(&path, FORMAT)? };
        let is_resumed = found.is_some();
        let new = || Record { format: FORMAT, import: identity, next: import.start, n_rows: 0 };
        Ok(Self { path, record: found.unwrap_or_else(new), is_resumed })
    }

    /// Keeps two runs of the same import apart.
    pub fn lock(dir: &Path, import: &PrometheusImport, schema: &str, now: DateTime<Utc>) -> Result<Lock> {
        let path = dir.join(format!("{}.lock", Identity::of(import, schema).digest()));
        let since = now.format("%Y-%m-%dT%H:%M:%SZ");
        Lock::acquire(&path, &format!("pid {} `buffer import` since {since}", std::process::id()))
    }

    pub fn next(&self) -> DateTime<Utc> {
        self.record.next
    }

    pub fn n_rows(&self) -> u64 {
        self.record.n_rows
    }

    /// Whether an earlier run left a record.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Remembers that everything before `next_ms` is safe, `n_rows` more rows with it.
    pub fn advance(&mut self, next_ms: i64, n_rows: u64) -> Result<()> {
        self.record.next = crate::calendar::to_utc(next_ms);
        self.record.n_rows += n_rows;
        fsx::write_json(&self.path, &self.record)
    }

    /// Removes the record.
    pub fn forget(&self) -> Result<()> {
        remove(&self.path)
    }
}

impl Identity {
    fn of(import: &PrometheusImport, schema: &str) -> Self {
        let source = &import.source;
        Self {
            url: source.url.clone(),
            queries: source.queries.clone(),
            server_label: source.server_label.clone(),
            strip_port: source.strip_port,
            profile_label: source.profile_label.clone(),
            start: import.start,
            end: import.end,
            step_secs: import.step_secs,
            schema: schema.to_owned(),
        }
    }

    fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("plain data always encodes");
        fsx::sha256_bytes(&text)[..16].to_owned()
    }
}

/// Removes the records of imports whose next time is older than what is kept: their rows are gone, or soon will be.
/// Those of imports that are running stay.
pub(super) fn sweep(dir: &Path, oldest_kept_ms: i64) -> Result<()> {
    for entry in fsx::list_dir(dir)? {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let record: Option<Record> = fsx::read_versioned(&path, FORMAT)?;
        let is_old = record.is_some_and(|record| record.next.timestamp_millis() < oldest_kept_ms);
        let lock_path = path.with_extension("lock");
        if is_old && let Ok(_lock) = Lock::acquire(&lock_path, "the removal of its record") {
            remove(&path)?;
            remove(&lock_path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    if fsx::exists(path)? {
        disk::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
