//! Which sealed days may go: decided as a list, then done.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde::{Serialize, Serializer};

use crate::{calendar, fsx};

/// Deleted files have this before their name until they are gone.
const ASIDE_PREFIX: &str = ".deleted-";

/// What happens to one sealed day, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionDecision {
    pub date: NaiveDate,
    pub delete: bool,
    pub reason: RetentionReason,
}

/// Why a day goes or stays; shown, and serialized, as a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionReason {
    /// Its date lies in the future.
    Future,
    /// Its age alone decides: older than `kept_days`, or not.
    Age { age_days: i64, kept_days: u32 },
    /// It is too old, but so is every other day.
    WouldDeleteAll { age_days: i64 },
}

impl fmt::Display for RetentionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Future => f.write_str("its date lies in the future"),
            Self::Age { age_days, kept_days } => write!(f, "{age_days} days old, {kept_days} are kept"),
            Self::WouldDeleteAll { age_days } => {
                write!(f, "{age_days} days old, but the policy would delete every day")
            }
        }
    }
}

impl Serialize for RetentionReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Decides about every sealed day; `today` is the date of the site's zone.
///
/// Days more than `retention_days` before today go. Days in the future stay. Where that would delete every day
/// (a clock that is years ahead, a buffer that was asleep), nothing is deleted.
pub fn plan_retention(days: &[NaiveDate], today: NaiveDate, retention_days: u32) -> Vec<RetentionDecision> {
    let oldest_kept = calendar::days_before(today, retention_days);
    let is_old = |date: NaiveDate| date < oldest_kept;
    let would_delete_all = !days.is_empty() && days.iter().all(|date| is_old(*date));
    let decide = |date: &NaiveDate| {
        let age_days = (today - *date).num_days();
        let reason = if *date > today {
            RetentionReason::Future
        } else if is_old(*date) && would_delete_all {
            RetentionReason::WouldDeleteAll { age_days }
        } else {
            RetentionReason::Age { age_days, kept_days: retention_days }
        };
        RetentionDecision { date: *date, delete: is_old(*date) && !would_delete_all, reason }
    };
    days.iter().map(decide).collect()
}

/// Whether the plan keeps days only because it would have deleted all.
pub(in crate::buffer) fn is_refused(plan: &[RetentionDecision]) -> bool {
    plan.iter().any(|decision| matches!(decision.reason, RetentionReason::WouldDeleteAll { .. }))
}

/// Deletes a file in two steps, so that a crash leaves it whole or under a name that no reader looks at.
pub(in crate::buffer) fn delete(path: &Path) -> Result<()> {
    let folder = path.parent().context("a file needs a folder")?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside: PathBuf = folder.join(format!("{ASIDE_PREFIX}{name}"));
    fsx::rename_durable(path, &aside)?;
    fsx::remove_file(&aside)
}

/// Removes what a crash between the two steps left.
pub(in crate::buffer) fn sweep(dir: &Path) -> Result<()> {
    for entry in fsx::list_dir(dir)? {
        let path = entry.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(ASIDE_PREFIX) {
            fsx::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[track_caller]
    fn case(days: &[&str], today: &str, retention_days: u32, deleted: &[&str]) {
        let days: Vec<NaiveDate> = days.iter().map(|day| day.parse().unwrap()).collect();
        let plan = plan_retention(&days, today.parse().unwrap(), retention_days);
        assert_eq!(plan.len(), days.len());
        let found: Vec<String> = plan.iter().filter(|d| d.delete).map(|d| d.date.to_string()).collect();
        assert_eq!(found, deleted);
    }

    #[test]
    fn old_days_go_and_nothing_else() {
        let days = ["2024-01-01", "2024-01-09", "2024-01-10", "2024-01-20", "2024-02-01"];
        case(&days, "2024-01-20", 10, &["2024-01-01", "2024-01-09"]);
        case(&days, "2024-01-20", 60, &[]);
        case(&days, "2024-01-20", u32::MAX, &[]);
        case(&days, "2024-01-20", 0, &["2024-01-01", "2024-01-09", "2024-01-10"]);
        case(&[], "2024-01-20", 10, &[]);
    }

    #[test]
    fn a_policy_that_would_delete_everything_deletes_nothing() {
        case(&["2024-01-01", "2024-01-02"], "2034-01-01", 60, &[]);
        let days = ["2024-01-01".parse().unwrap()];
        assert!(is_refused(&plan_retention(&days, "2034-01-01".parse().unwrap(), 60)));
        assert!(!is_refused(&plan_retention(&days, "2024-01-05".parse().unwrap(), 60)));
    }

    #[test]
    fn every_decision_has_a_reason() {
        let days: Vec<NaiveDate> =
            ["2024-01-01", "2024-01-10", "2024-02-01"].map(|day| day.parse().unwrap()).to_vec();
        let plan = plan_retention(&days, "2024-01-20".parse().unwrap(), 15);
        let reasons: Vec<String> = plan.iter().map(|decision| decision.reason.to_string()).collect();
        assert_eq!(
            reasons,
            ["19 days old, 15 are kept", "10 days old, 15 are kept", "its date lies in the future"]
        );
        assert_eq!(serde_json::to_value(&plan[2]).unwrap()["reason"], "its date lies in the future");
    }

    #[test]
    fn a_crash_between_the_two_steps_leaves_nothing_behind_the_next_sweep() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics_2024-01-01.parquet");
        fs::write(&path, b"x").unwrap();
        fs::write(dir.path().join(".deleted-metrics_2023-12-31.parquet"), b"x").unwrap();
        delete(&path).unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
