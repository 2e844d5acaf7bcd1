//! Old night logs: which ones go, and their going.

use std::path::{Path, PathBuf};

use anyhow::Result;
use chrono::NaiveDate;
use serde::Serialize;

use super::training_log::file_name;
use crate::{calendar, fsx};

/// A log that retention no longer covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OldLog {
    pub path: PathBuf,
    pub logical_date: NaiveDate,
    pub reason: String,
}

/// The `training_*.log` files in `log_dir` of more than `logs_days` days before `today`, oldest first.
///
/// Only names of exactly that form count, and a date in the future is never old.
pub fn plan_log_retention(log_dir: &Path, today: NaiveDate, logs_days: u32) -> Result<Vec<OldLog>> {
    let first_kept = calendar::days_before(today, logs_days);
    let mut old = Vec::new();
    for entry in fsx::list_dir(log_dir)? {
        let Some(logical_date) = date_of(&entry.file_name().to_string_lossy()) else { continue };
        if logical_date < first_kept {
            let reason = format!("older than retention.logs_days = {logs_days}");
            old.push(OldLog { path: entry.path(), logical_date, reason });
        }
    }
    old.sort_by_key(|log| log.logical_date);
    Ok(old)
}

/// Deletes what a plan says; a file that is gone already is fine.
pub fn apply_log_retention(plan: &[OldLog]) -> Result<()> {
    for log in plan {
        fsx::remove_file(&log.path)?;
    }
    Ok(())
}

fn date_of(name: &str) -> Option<NaiveDate> {
    let date: NaiveDate = name.strip_prefix("training_")?.strip_suffix(".log")?.parse().ok()?;
    (file_name(date) == name).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_old_night_logs_go() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "training_2026-05-01.log",
            "training_2026-05-30.log",
            "training_2026-05-31.log",
            "training_2027-01-01.log",
            "training_2020-1-1.log",
            "training_2020-01-01.log.gz",
            "metrics.json",
        ];
        for name in names {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let plan = plan_log_retention(dir.path(), "2026-06-01".parse().unwrap(), 1).unwrap();
        let dates: Vec<String> = plan.iter().map(|log| log.logical_date.to_string()).collect();
        assert_eq!(dates, ["2026-05-01", "2026-05-30"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len(), "a plan touches nothing");
        apply_log_retention(&plan).unwrap();
        apply_log_retention(&plan).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len() - 2);
        let nowhere = dir.path().join("none");
        assert_eq!(plan_log_retention(&nowhere, "2026-06-01".parse().unwrap(), 1).unwrap(), []);
    }
}
