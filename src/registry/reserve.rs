//! A few kilobytes set aside, so that `rollback` works on a full disk.
//!
//! `models/.reserve` is written after every move of the pointer. When replacing the pointer fails, the reserve is given
//! up and the replacement tried once more; a later move on a roomier disk sets it aside again.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::fsx::{self, disk};

/// Room for a staged pointer and an audit line, in file-system blocks.
const RESERVE_BYTES: usize = 64 * 1024;

fn reserve_path(models_dir: &Path) -> PathBuf {
    models_dir.join(".reserve")
}

/// Replaces the pointer, spending the reserve if the disk is full.
pub(super) fn write_pointer(models_dir: &Path, path: &Path, pointer: &impl Serialize) -> Result<()> {
    spending_reserve(models_dir, || fsx::write_json(path, pointer))
}

/// Sets the reserve aside (again), once everything else is written; best effort, since without it
/// everything works but a rollback on a full disk.
pub(super) fn replenish(models_dir: &Path) {
    if !reserve_path(models_dir).exists() {
        let _ = fsx::write_durable(&reserve_path(models_dir), &[0x5a; RESERVE_BYTES]);
    }
}

/// Runs `write`; if it fails and there is a reserve, frees it and runs `write` again.
fn spending_reserve(models_dir: &Path, write: impl Fn() -> Result<()>) -> Result<()> {
    write().or_else(|error| match disk::remove_file(&reserve_path(models_dir)) {
        Ok(()) => write(),
        Err(_) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_reserve_is_given_up_for_a_write_that_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("champion.json");
        write_pointer(dir.path(), &path, &1).unwrap();
        replenish(dir.path());
        assert_eq!(fs::metadata(reserve_path(dir.path())).unwrap().len(), RESERVE_BYTES as u64);
        let full_until_freed = || {
            anyhow::ensure!(!reserve_path(dir.path()).exists(), "no space left on device");
            fsx::write_json(&path, &2)
        };
        spending_reserve(dir.path(), full_until_freed).unwrap();
        assert_eq!(fsx::read_json::<u32>(&path).unwrap(), 2);
        assert!(spending_reserve(dir.path(), || anyhow::bail!("still full")).is_err());
        replenish(dir.path());
        assert!(reserve_path(dir.path()).exists());
    }
}
