//! The segments of the open days: where they lie, how they are named, and which get no more rows.
//!
//! `open/YYYY-MM-DD/00000001-4711-5f2c81aa.seg`: a number that orders them, the process, and a number of its own. What is
//! in one says [`super::frame`]; [`super::writer`] and [`super::reader`] write and read them.
//!
//! Beside a segment that is being written lies `NAME.lock`, locked by its writer from before the segment exists
//! until after its last sync: a segment without a locked file beside it gets no more rows, ever. A writer makes
//! both files while it shares `open/.segments.lock`, which a rotation takes alone to see which are finished.

use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::NaiveDate;

use crate::fsx::{self, disk};

const EXTENSION: &str = "seg";
const LOCK_EXTENSION: &str = "lock";

/// The lock that keeps rotations from looking while writers make segments.
pub(in crate::buffer) fn segments_lock(open_dir: &Path) -> Result<disk::File> {
    let path = open_dir.join(".segments.lock");
    fsx::create_dir_durable(open_dir)?;
    disk::File::open_or_create(&path).with_context(|| format!("open {}", path.display()))
}

/// The folder of one open day.
pub(in crate::buffer) fn day_dir(open_dir: &Path, day: NaiveDate) -> PathBuf {
    open_dir.join(day.to_string())
}

/// The segments in the folder of a day, in the order they were begun.
pub(in crate::buffer) fn list(day_dir: &Path) -> Result<Vec<PathBuf>> {
    list_by_extension(day_dir, EXTENSION)
}

/// Bytes of the segments in the folder of a day; one that is sealed meanwhile counts for nothing.
pub(in crate::buffer) fn size_bytes(day_dir: &Path) -> Result<u64> {
    if !day_dir.is_dir() {
        return Ok(0);
    }
    let sizes =
        list(day_dir)?.into_iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
    Ok(sizes.sum())
}

fn list_by_extension(day_dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fsx::list_dir(day_dir)?.iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    Ok(paths)
}

/// The segments of a day that get no more rows, and how many still may. Call it holding the segments lock alone.
pub(in crate::buffer) fn claim_finished(day_dir: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let mut finished = Vec::new();
    let mut n_live = 0;
    for path in list(day_dir)? {
        if is_live(&path.with_extension(LOCK_EXTENSION))? {
            n_live += 1;
        } else {
            finished.push(path);
        }
    }
    for lock in list_by_extension(day_dir, LOCK_EXTENSION)? {
        if !is_live(&lock)? {
            fsx::remove_file(&lock)?;
        }
    }
    Ok((finished, n_live))
}

/// Whether a writer holds this lock file.
pub(in crate::buffer) fn is_live(lock: &Path) -> Result<bool> {
    let file = match fs::File::open(lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.with_context(|| format!("open {}", lock.display()))?,
    };
    // Shared, so that two who ask at the same time do not take each other for the writer.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", lock.display())),
    }
}

/// Whether the writer of a segment is still at work.
pub(in crate::buffer) fn is_segment_live(segment: &Path) -> Result<bool> {
    is_live(&segment.with_extension(LOCK_EXTENSION))
}
/// Names for a new segment in the folder of a day, behind those that are there, and for its lock.
pub(super) fn fresh_names(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let (number, process, nonce) = (next_number(dir)?, std::process::id(), fsx::nonce());
    let stem = dir.join(format!("{number:08}-{process}-{nonce:08x}"));
    Ok((stem.with_extension(EXTENSION), stem.with_extension(LOCK_EXTENSION)))
}

/// One more than the highest number in the folder, so that later segments sort behind earlier ones.
fn next_number(dir: &Path) -> Result<u64> {
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        name.split('-').next()?.parse::<u64>().ok()
    };
    Ok(list(dir)?.iter().filter_map(number).max().unwrap_or(0) + 1)
}

/// A name for a segment that takes the place of the one at `path` in the order of segments.
pub(super) fn name_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split('-').next().unwrap_or_default();
    path.with_file_name(format!("{number}-{}-{:08x}.{EXTENSION}", std::process::id(), fsx::nonce()))
}
