//! What a repair or a rotation takes away because it is damaged stays: `removed/<day>/` holds each such file as it was, with
//! the reason beside it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::fsx;

/// What the name of a note ends with.
const NOTE: &str = ".reason.json";

/// `<file>.reason.json`.
#[derive(Serialize, Deserialize)]
struct Reason {
    at: DateTime<Utc>,
    /// Where it was.
    file: PathBuf,
    sha256: String,
    problem: String,
}

/// A file that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    pub date: NaiveDate,
    /// Where it is kept.
    pub kept: PathBuf,
    /// Where it was, when it was set aside, and why; `None` if the note beside it is gone.
    pub file: Option<PathBuf>,
    pub at: Option<DateTime<Utc>>,
    pub problem: Option<String>,
}

/// Copies `path` aside, durably and proven, with its `problem`; the original stays. Doing it again changes nothing.
///
/// - Errors: the disk refuses, or the copy is not the original.
pub(in crate::buffer) fn keep(
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
    let note = note_of(&copy);
    // Whoever set the same bytes aside before a kill said why.
    if !fsx::exists(&note)? {
        let reason = Reason { at: now, file: path.to_owned(), sha256, problem: problem.to_owned() };
        fsx::write_json(&note, &reason)?;
    }
    Ok(copy)
}

/// The note that says why `kept` was set aside.
fn note_of(kept: &Path) -> PathBuf {
    let mut name = kept.as_os_str().to_owned();
    name.push(NOTE);
    name.into()
}

/// Everything that was set aside, by day.
pub(in crate::buffer) fn list(removed_dir: &Path) -> Result<Vec<SetAside>> {
    let mut all = Vec::new();
    for (date, dir) in days(removed_dir)? {
        let kept = fsx::list_dir(&dir)?.into_iter().map(|entry| entry.path());
        let is_hidden = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.ends_with(NOTE) || name.starts_with(fsx::STAGING_PREFIX)
        };
        for kept in kept.filter(|path| !is_hidden(path)) {
            // A note that cannot be read hides nothing.
            let reason: Option<Reason> = fsx::read_json_if_exists(&note_of(&kept)).unwrap_or_default();
            let (file, at, problem) = reason
                .map_or((None, None, None), |Reason { at, file, problem, .. }| {
                    (Some(file), Some(at), Some(problem))
                });
            all.push(SetAside { date, kept, file, at, problem });
        }
    }
    Ok(all)
}

/// Folders of days, each with its date.
pub(in crate::buffer) fn days(removed_dir: &Path) -> Result<Vec<(NaiveDate, PathBuf)>> {
    let dated = |entry: &std::fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    Ok(fsx::list_dir(removed_dir)?.iter().filter_map(dated).collect())
}
