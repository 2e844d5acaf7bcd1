//! Who reads which days: a lease keeps retention away from the days that a running job reads.
//!
//! A lease is a file `readers/<first>_<end>_<pid>-<nonce>.lock`, locked by its holder for as long as it reads the days
//! `[first, end)`. The name says everything, because where locks are mandatory nobody else can read a locked file. The
//! operating system lets go of the lock when its holder dies, so the dead hold nobody up. Leases are made while sharing
//! `readers/.gate.lock`, which retention takes alone from looking at them until a day is out of sight: a reader is seen, or
//! it does not see the day.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::NaiveDate;

use crate::fsx::{self, File, disk};

use super::Buffer;
use super::open::segment;

/// The days that somebody reads; given back when dropped.
pub struct Lease {
    path: PathBuf,
    _file: Option<File>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Tidiness only: a file that nobody locks is no lease, and the next retention removes it.
        let _ = fsx::remove_file(&self.path);
    }
}

/// Keeps new leases from being made while it lives.
pub(super) struct Gate {
    dir: PathBuf,
    _file: File,
}

impl Buffer {
    /// Says that the days `[first, end)` are read from now on, until the lease is dropped.
    ///
    /// A buffer from elsewhere is never deleted from, and needs none.
    pub fn lease(&self, first: NaiveDate, end: NaiveDate) -> Result<Lease> {
        if self.is_foreign {
            return Ok(Lease { path: PathBuf::new(), _file: None });
        }
        let gate = open_gate(&self.readers_dir)?;
        gate.lock_shared().with_context(|| format!("lock {}", self.readers_dir.display()))?;
        let name = format!("{first}_{end}_{}-{:08x}.lock", std::process::id(), fsx::nonce());
        let path = self.readers_dir.join(name);
        let file = disk::File::create_new(&path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(Lease { path, _file: Some(file) })
    }

    /// Waits until no lease is in the making, and lets none be made.
    pub(super) fn close_gate(&self) -> Result<Gate> {
        let file = open_gate(&self.readers_dir)?;
        file.lock().with_context(|| format!("lock {}", self.readers_dir.display()))?;
        Ok(Gate { dir: self.readers_dir.clone(), _file: file })
    }

    /// [`Gate::leased`] of this moment, without keeping anybody waiting.
    pub(super) fn leased_now(&self) -> Result<Vec<(NaiveDate, NaiveDate)>> {
        Ok(leases(&self.readers_dir)?
            .into_iter()
            .filter(|lease| lease.is_live)
            .map(|lease| lease.days)
            .collect())
    }
}

impl Gate {
    /// The days that are read, as `[first, end)` each. What the dead left is removed.
    pub fn leased(&self) -> Result<Vec<(NaiveDate, NaiveDate)>> {
        let mut live = Vec::new();
        for lease in leases(&self.dir)? {
            if lease.is_live {
                live.push(lease.days);
            } else {
                fsx::remove_file(&lease.path)?;
            }
        }
        Ok(live)
    }
}

struct Found {
    path: PathBuf,
    days: (NaiveDate, NaiveDate),
    is_live: bool,
}

fn leases(dir: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fsx::list_dir(dir)? {
        let Some(days) = entry.file_name().to_str().and_then(days_of) else { continue };
        let path = entry.path();
        let is_live = segment::is_live(&path)?;
        found.push(Found { path, days, is_live });
    }
    Ok(found)
}

fn days_of(name: &str) -> Option<(NaiveDate, NaiveDate)> {
    let mut parts = name.strip_suffix(".lock")?.split('_');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn open_gate(dir: &Path) -> Result<File> {
    fsx::create_dir_durable(dir)?;
    let path = dir.join(".gate.lock");
    File::open_or_create(&path).with_context(|| format!("open {}", path.display()))
}
