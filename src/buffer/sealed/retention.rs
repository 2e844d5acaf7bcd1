//! Which sealed days may go: decided as a list, then done.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde::{Serialize, Serializer};

use crate::config::OldDays;
use crate::{calendar, fsx};

/// Deleted files have this before their name until they are gone.
const ASIDE_PREFIX: &str = ".deleted-";

/// What happens to one sealed day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RetentionAction {
    Keep,
    Delete,
    /// Copied to the archive, and then deleted.
    Archive,
}

/// What happens to one sealed day, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionDecision {
    pub date: NaiveDate,
    pub action: RetentionAction,
    pub reason: RetentionReason,
}

impl RetentionDecision {
    /// Whether the day stays although it is too old.
    pub fn is_held(&self) -> bool {
        let is_plain = matches!(self.reason, RetentionReason::Future | RetentionReason::Age { .. });
        self.action == RetentionAction::Keep && !is_plain
    }
}

/// Which days a site keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Days before today that are kept.
    pub kept_days: u32,
    /// Days that a training window reads.
    pub window_days: u32,
    /// What happens to the others.
    pub old_days: OldDays,
}

/// Why a day goes or stays; shown, and serialized, as a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionReason {
    /// Its date lies in the future.
    Future,
    /// Its age alone decides: older than `kept_days`, or not.
    Age { age_days: i64, kept_days: u32 },
    /// It is too old, but the next training window reads it.
    Window { age_days: i64, window_days: u32 },
    /// It is too old, but so is every other day up to today.
    WouldDeleteAll { age_days: i64 },
    /// It is too old, but a running job reads it.
    Reading,
    /// It is too old, but rows that came late are not merged yet.
    LateRows,
}

impl fmt::Display for RetentionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Future => f.write_str("its date lies in the future"),
            Self::Age { age_days, kept_days } => write!(f, "{age_days} days old, {kept_days} are kept"),
            Self::WouldDeleteAll { age_days } => {
                write!(f, "{age_days} days old, but the policy would let every day go")
            }
            Self::Window { age_days, window_days } => {
                write!(f, "{age_days} days old, but a training window reads {window_days} days")
            }
            Self::Reading => f.write_str("too old, but a running job reads it"),
            Self::LateRows => f.write_str("too old, but late rows wait to be merged"),
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
/// Days more than `policy.kept_days` before today go. Those in the future stay, those that a training window of today
/// reads, and those that `hold` names a reason for. Where no day up to today would be left (a clock that is years
/// ahead, a buffer that was asleep), all stay.
pub fn plan_retention(
    days: &[NaiveDate],
    today: NaiveDate,
    policy: &RetentionPolicy,
    hold: &dyn Fn(NaiveDate) -> Option<RetentionReason>,
) -> Vec<RetentionDecision> {
    let oldest_kept = calendar::days_before(today, policy.kept_days);
    let oldest_read = calendar::days_before(today, policy.window_days);
    let is_old = |date: NaiveDate| date < oldest_kept;
    let would_delete_all = days.iter().filter(|date| **date <= today).all(|date| is_old(*date));
    let going = match policy.old_days {
        OldDays::Delete => RetentionAction::Delete,
        OldDays::Archive => RetentionAction::Archive,
    };
    let decide = |date: &NaiveDate| {
        let age_days = (today - *date).num_days();
        let by_age = RetentionReason::Age { age_days, kept_days: policy.kept_days };
        let (action, reason) = if *date > today {
            (RetentionAction::Keep, RetentionReason::Future)
        } else if !is_old(*date) {
            (RetentionAction::Keep, by_age)
        } else if *date >= oldest_read {
            (RetentionAction::Keep, RetentionReason::Window { age_days, window_days: policy.window_days })
        } else if would_delete_all {
            (RetentionAction::Keep, RetentionReason::WouldDeleteAll { age_days })
        } else if let Some(reason) = hold(*date) {
            (RetentionAction::Keep, reason)
        } else {
            (going, by_age)
        };
        RetentionDecision { date: *date, action, reason }
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

    fn policy(kept_days: u32, window_days: u32) -> RetentionPolicy {
        RetentionPolicy { kept_days, window_days, old_days: OldDays::Delete }
    }

    fn dates(days: &[&str]) -> Vec<NaiveDate> {
        days.iter().map(|day| day.parse().unwrap()).collect()
    }

    fn plan(days: &[&str], today: &str, policy: &RetentionPolicy) -> Vec<RetentionDecision> {
        plan_retention(&dates(days), today.parse().unwrap(), policy, &|_| None)
    }

    #[track_caller]
    fn case(days: &[&str], today: &str, kept_days: u32, expected: &[&str]) {
        let plan = plan(days, today, &policy(kept_days, 0));
        assert_eq!(plan.len(), days.len());
        let deleted = plan.iter().filter(|decision| decision.action == RetentionAction::Delete);
        assert_eq!(deleted.map(|decision| decision.date).collect::<Vec<_>>(), dates(expected));
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
        // A day that a wrong clock has put into the future is no reason to delete the others.
        case(&["2024-01-01", "2024-01-02", "2035-01-01"], "2034-01-01", 60, &[]);
        assert!(is_refused(&plan(&["2024-01-01"], "2034-01-01", &policy(60, 30))));
        assert!(!is_refused(&plan(&["2024-01-01"], "2024-01-05", &policy(60, 30))));
    }

    #[test]
    fn what_a_window_or_a_job_reads_stays() {
        let days = ["2024-01-01", "2024-01-08", "2024-01-09", "2024-01-20"];
        let first =
            |decision: &RetentionDecision| (decision.date == dates(&days)[0]).then_some(decision.reason);
        let held = |date: NaiveDate| (date == dates(&days)[0]).then_some(RetentionReason::Reading);
        let today = "2024-01-20".parse().unwrap();
        let plan = plan_retention(&dates(&days), today, &policy(5, 12), &held);
        assert_eq!(plan.iter().find_map(first), Some(RetentionReason::Reading));
        let kept: Vec<String> = plan.iter().map(|decision| decision.reason.to_string()).collect();
        assert_eq!(kept[1], "12 days old, but a training window reads 12 days");
        assert!(plan.iter().all(|decision| decision.action == RetentionAction::Keep));
        let archive = RetentionPolicy { old_days: OldDays::Archive, ..policy(5, 11) };
        let plan = plan_retention(&dates(&days), today, &archive, &held);
        let actions = plan.iter().map(|decision| decision.action).collect::<Vec<_>>();
        use RetentionAction::{Archive, Keep};
        assert_eq!(actions, [Keep, Archive, Keep, Keep]);
    }

    #[test]
    fn every_decision_has_a_reason() {
        let plan = plan(&["2024-01-01", "2024-01-10", "2024-02-01"], "2024-01-20", &policy(15, 0));
        let reasons: Vec<String> = plan.iter().map(|decision| decision.reason.to_string()).collect();
        assert_eq!(
            reasons,
            ["19 days old, 15 are kept", "10 days old, 15 are kept", "its date lies in the future"]
        );
        let json = serde_json::to_value(&plan[0]).unwrap();
        assert_eq!(
            (json["action"].as_str(), json["reason"].as_str()),
            (Some("delete"), Some(reasons[0].as_str()))
        );
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
