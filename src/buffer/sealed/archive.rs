//! Where old days go that are not deleted: copied, also to another disk, and proven before the original goes.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use chrono::NaiveDate;

use crate::fsx;

use super::day_file;

/// Makes sure that the day file at `path` lies in `archive_dir`, byte for byte and durably; returns where.
///
/// A crash at any moment leaves the original, and in the archive nothing, an unfinished `.staging-` file, or the whole copy,
/// which the next call finds. What lies there under the name of the day and is something else (an earlier version) is
/// kept: the copy gets a name with its digest.
///
/// - Errors: the file is damaged, so that its copy would be; the disk refuses; the copy is not the original.
pub(in crate::buffer) fn copy(path: &Path, date: NaiveDate, archive_dir: &Path) -> Result<PathBuf> {
    let sha256 = day_file::ensure_whole(path, date)?;
    for target in [day_file::path(archive_dir, date), other_name(archive_dir, date, &sha256)] {
        if fsx::exists(&target)? {
            if fsx::sha256_file(&target)? == sha256 {
                return Ok(target);
            }
            continue;
        }
        fsx::write_durable_with(&target, |file| {
            let mut source = File::open(path).with_context(|| format!("read {}", path.display()))?;
            std::io::copy(&mut source, file)?;
            Ok(())
        })?;
        ensure!(fsx::sha256_file(&target)? == sha256, "{} is not what was copied there", target.display());
        return Ok(target);
    }
    bail!("archive {}: {} holds something else under its names", path.display(), archive_dir.display())
}

fn other_name(archive_dir: &Path, date: NaiveDate, sha256: &str) -> PathBuf {
    archive_dir.join(format!("metrics_{date}.{}.parquet", &sha256[..12]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_once_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, date) = (dir.path().join("a/b"), "2024-01-01".parse().unwrap());
        let path = dir.path().join("metrics_2024-01-01.parquet");
        std::fs::write(&path, "first").unwrap();
        let first = copy(&path, date, &archive).unwrap();
        assert_eq!(copy(&path, date, &archive).unwrap(), first);
        std::fs::write(&path, "second").unwrap();
        let second = copy(&path, date, &archive).unwrap();
        assert_eq!(std::fs::read(first).unwrap(), b"first");
        assert_eq!(std::fs::read(&second).unwrap(), b"second");
        assert_eq!(copy(&path, date, &archive).unwrap(), second);
        assert_eq!(std::fs::read_dir(&archive).unwrap().count(), 2);
    }
}
