//! Writes a segment: frames that are durable after the next sync.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;

use crate::fsx::{self, disk};

use super::frame::{Header, encode_frame, encode_header};
use super::segment::{day_dir, fresh_names, segments_lock};
use crate::buffer::rows::Rows;

/// A segment that this process writes.
pub(in crate::buffer) struct SegmentWriter {
    file: disk::File,
    path: PathBuf,
    lock_path: PathBuf,
    _lock: disk::File,
    frame: Vec<u8>,
    is_name_durable: bool,
    is_broken: bool,
    pub size_bytes: u64,
    pub begun: Instant,
}

impl SegmentWriter {
    /// Begins a segment of `day` for rows with the given metrics.
    pub fn create(
        open_dir: &Path,
        day: NaiveDate,
        metrics: &[String],
        schema_digest: &str,
        completes_rows: bool,
    ) -> Result<Self> {
        let guard = segments_lock(open_dir)?;
        guard.lock_shared().with_context(|| format!("lock {}", open_dir.display()))?;
        let dir = day_dir(open_dir, day);
        fsx::create_dir_durable(&dir)?;
        let (path, lock_path) = fresh_names(&dir)?;
        let create =
            |path: &Path| disk::File::create_new(path).with_context(|| format!("create {}", path.display()));
        let lock = create(&lock_path)?;
        lock.lock().with_context(|| format!("lock {}", lock_path.display()))?;
        let mut file = create(&path)?;
        let header = encode_header(&Header::new(metrics, schema_digest, completes_rows));
        file.write_all(&header).with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            file,
            path,
            lock_path,
            _lock: lock,
            frame: Vec::new(),
            is_name_durable: false,
            is_broken: false,
            size_bytes: header.len() as u64,
            begun: Instant::now(),
        })
    }

    /// Writes `rows` as one frame; they are durable after the next [`SegmentWriter::sync`].
    pub fn append(&mut self, rows: &Rows, written_ms: i64) -> Result<()> {
        ensure!(!self.is_broken, "write {}: an earlier write failed", self.path.display());
        encode_frame(rows, written_ms, &mut self.frame)?;
        // A frame behind a torn one would never be read, so nothing may follow a failed write.
        self.is_broken = true;
        self.file.write_all(&self.frame).with_context(|| format!("write {}", self.path.display()))?;
        self.is_broken = false;
        self.size_bytes += self.frame.len() as u64;
        Ok(())
    }

    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all rows appended so far durable, and the name of the segment; those of its folders are.
    pub fn sync(&mut self) -> Result<()> {
        ensure!(!self.is_broken, "sync {}: an earlier write failed", self.path.display());
        // What a failed sync was to write may be lost although the next one succeeds.
        self.is_broken = true;
        self.file.sync_data().with_context(|| format!("sync {}", self.path.display()))?;
        if !self.is_name_durable {
            fsx::sync_dir(self.path.parent().expect("a segment lies in the folder of its day"))?;
            self.is_name_durable = true;
        }
        self.is_broken = false;
        Ok(())
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        // Tidiness only: a lock file that stays is removed by the next rotation.
        let _ = disk::remove_file(&self.lock_path);
    }
}
