//! What a repair takes away stays: `removed/<day>/` holds each damaged file as it was, with the reason beside it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::fsx;

/// `<file>.reason.json`.
#[derive(Serialize)]
struct Reason<'a> {
    at: DateTime<Utc>,
    /// Where it was.
    file: &'a Path,
    sha256: &'a str,
    problem: &'a str,
}

/// Copies `path` aside, durably and proven, with its `problem`; the original stays. Doing it again changes nothing.
///
/// - Errors: the disk refuses, or the copy is not the original.
pub(super) fn keep(
    removed_dir: &Path,
    date: NaiveDate,
    path: &Path,
    problem: &str,
    now: DateTime<Utc>,
) -> Result<PathBuf> {
    let sha256 = fsx::sha256_file(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = removed_dir.join(date.to_string()).join(format!("{}-{name}", &sha256[..12]));
    if !fsx::exists(&copy)? {
        fsx::write_durable_with(&copy, |file| {
            let mut source = File::open(path).with_context(|| format!("read {}", path.display()))?;
            io::copy(&mut source, file)?;
            Ok(())
        })?;
    }
    ensure!(fsx::sha256_file(&copy)? == sha256, "{} is not what was copied there", copy.display());
    let reason = Reason { at: now, file: path, sha256: &sha256, problem };
    let mut beside = copy.as_os_str().to_owned();
    beside.push(".reason.json");
    fsx::write_json(Path::new(&beside), &reason)?;
    Ok(copy)
}

/// Folders of days, each with its date.
pub(in crate::buffer) fn days(removed_dir: &Path) -> Result<Vec<(NaiveDate, PathBuf)>> {
    let dated = |entry: &std::fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    Ok(fsx::list_dir(removed_dir)?.iter().filter_map(dated).collect())
}
