//! Folders in the making, and the sweeping of what nobody finished.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::digest::{FileDigest, MANIFEST, digest_dir};
use super::disk::{self, File};
use super::{create_dir_durable, folder_of, list_dir, nonce, sync_dir, write_json};

/// What the names of unfinished files and folders begin with.
pub const STAGING_PREFIX: &str = ".staging-";

/// A name that nothing in any folder has yet.
pub(super) fn fresh_name() -> String {
    format!("{STAGING_PREFIX}{}-{:08x}", std::process::id(), nonce())
}

/// A file in the making: dropped before [`StagedFile::rename`], it is deleted.
pub(super) struct StagedFile {
    pub file: File,
    path: PathBuf,
    is_staged: bool,
}

impl StagedFile {
    pub fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(fresh_name());
        Ok(Self { file: File::create_new(&path)?, path, is_staged: true })
    }

    /// Puts it under its name, in the place of what was there.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        disk::rename(&self.path, to)?;
        self.is_staged = false;
        Ok(())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.is_staged {
            // Tidiness only: what stays is swept later.
            let _ = disk::remove_file(&self.path);
        }
    }
}

/// A folder in the making, invisible under its own name until [`StagedDir::publish`].
///
/// Dropped unpublished, it is deleted.
pub struct StagedDir {
    staging: PathBuf,
    target: PathBuf,
    is_staged: bool,
}

impl StagedDir {
    /// Starts a folder that will become `target`.
    pub fn new(target: &Path) -> Result<Self> {
        let folder = folder_of(target);
        create_dir_durable(folder)?;
        let staging = folder.join(fresh_name());
        disk::create_dir(&staging).with_context(|| format!("stage {}", target.display()))?;
        Ok(Self { staging, target: target.to_owned(), is_staged: true })
    }

    /// Where to write the files meanwhile.
    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// Syncs every file, writes `manifest.json` last, and renames the folder to its target.
    ///
    /// `manifest` is given the sha256 of every file and returns what to store. A crash before the rename
    /// leaves a `.staging-` folder, after it the complete target.
    ///
    /// - Errors: `target` exists already, or the disk refuses.
    pub fn publish<M: Serialize>(mut self, manifest: impl FnOnce(Vec<FileDigest>) -> M) -> Result<PathBuf> {
        self.seal(manifest)?;
        anyhow::ensure!(!self.target.exists(), "{} exists already", self.target.display());
        self.show()?;
        Ok(self.target.clone())
    }

    /// [`StagedDir::publish`] over an existing `target`, which is kept as `previous`.
    ///
    /// The old `previous` is set aside and deleted last. A crash in between can leave `target` missing while
    /// `previous` holds the older state: readers fall back to `previous`.
    pub fn publish_over<M: Serialize>(
        mut self,
        previous: &Path,
        manifest: impl FnOnce(Vec<FileDigest>) -> M,
    ) -> Result<()> {
        self.seal(manifest)?;
        let aside = folder_of(&self.target).join(fresh_name());
        let has_aside = self.target.exists() && previous.exists();
        if has_aside {
            disk::rename(previous, &aside).with_context(|| format!("set {} aside", previous.display()))?;
        }
        if self.target.exists() {
            disk::rename(&self.target, previous).with_context(|| format!("keep {}", previous.display()))?;
        }
        self.show()?;
        if has_aside {
            // Tidiness only, now that the new one is durable: what stays is swept later.
            let _ = disk::remove_dir_all(&aside);
        }
        Ok(())
    }

    /// Syncs every file, and completes the folder with its manifest.
    fn seal<M: Serialize>(&self, manifest: impl FnOnce(Vec<FileDigest>) -> M) -> Result<()> {
        let digests = digest_dir(self.path())?;
        for digest in &digests {
            let path = self.path().join(&digest.name);
            File::open_existing(&path)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("sync {}", path.display()))?;
        }
        write_json(&self.path().join(MANIFEST), &manifest(digests))
    }

    /// Gives it its own name.
    fn show(&mut self) -> Result<()> {
        let target = &self.target;
        disk::rename(&self.staging, target).with_context(|| format!("publish {}", target.display()))?;
        self.is_staged = false;
        sync_dir(folder_of(target))
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        if self.is_staged {
            // Tidiness only: what stays is swept later.
            let _ = disk::remove_dir_all(&self.staging);
        }
    }
}

/// Deletes unfinished work in `dir` that nobody has touched for `untouched_for`.
///
/// Where every writer holds the site lock, and so does the caller, that can be zero; elsewhere it must be longer
/// than any write takes, or the work of a living process is deleted.
pub fn sweep_staging(dir: &Path, untouched_for: Duration) -> Result<()> {
    for entry in list_dir(dir)? {
        if !entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
            continue;
        }
        let path = entry.path();
        let sweep = || -> io::Result<()> {
            let metadata = entry.metadata()?;
            // A time in the future is no reason to keep it for ever, nor to delete it now.
            if metadata.modified()?.elapsed().unwrap_or_default() < untouched_for {
                return Ok(());
            }
            if metadata.is_dir() { disk::remove_dir_all(&path) } else { disk::remove_file(&path) }
        };
        match sweep() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{read_json, sha256_bytes, verify_digests};
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_appears_whole_with_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let staged = StagedDir::new(&target).unwrap();
        fs::write(staged.path().join("weights"), b"abc").unwrap();
        assert!(!target.exists());
        staged.publish(|files| files).unwrap();
        let files: Vec<FileDigest> = read_json(&target.join(MANIFEST)).unwrap();
        assert_eq!(files[0].sha256, sha256_bytes(b"abc"));
        verify_digests(&target, &files).unwrap();
        fs::write(target.join("weights"), b"abd").unwrap();
        assert!(verify_digests(&target, &files).is_err());
    }

    #[test]
    fn publishing_over_keeps_one_previous() {
        let dir = tempfile::tempdir().unwrap();
        let (last, previous) = (dir.path().join("last"), dir.path().join("previous"));
        for content in ["1", "2", "3"] {
            let staged = StagedDir::new(&last).unwrap();
            fs::write(staged.path().join("state"), content).unwrap();
            staged.publish_over(&previous, |files| files).unwrap();
        }
        assert_eq!(fs::read_to_string(last.join("state")).unwrap(), "3");
        assert_eq!(fs::read_to_string(previous.join("state")).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_sweep_takes_unfinished_work_only_and_spares_what_is_fresh() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".staging-file"), b"half").unwrap();
        fs::create_dir(dir.path().join(".staging-dir")).unwrap();
        fs::write(dir.path().join("kept"), b"whole").unwrap();
        sweep_staging(dir.path(), Duration::from_secs(3600)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        sweep_staging(dir.path(), Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        sweep_staging(&dir.path().join("nowhere"), Duration::ZERO).unwrap();
    }
}
