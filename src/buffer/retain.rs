//! Lets old days go: the plan over what there is, and doing it one day after the other.
//!
//! A day goes in this order: where the site archives, it is copied and the copy proven; the gate of the readers is closed,
//! and who reads the day now is looked for once more; the file is renamed out of every reader's sight; it is
//! removed. A kill in between leaves the day, or a name that the next rotation sweeps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use chrono::NaiveDate;

use crate::{calendar, fsx};

use super::Buffer;
use super::intake::quarantine;
use super::removed;
use super::rotate::RotateReport;
use super::sealed::retention::{
    self, RetentionAction, RetentionDecision, RetentionPolicy, RetentionReason, plan_retention,
};
use super::sealed::{archive, day_file};
use super::steps::cache;

impl Buffer {
    /// Plans retention as of `today` into the report and, unless it is a dry run, does what the plan says.
    pub(super) fn retain(&self, report: &mut RotateReport, today: NaiveDate) -> Result<()> {
        if !report.is_dry_run {
            retention::sweep(&self.dir)?;
        }
        let files = day_file::list(&self.dir)?;
        report.retention = self.plan_retention(report, &files, today)?;
        if retention::is_refused(&report.retention) {
            report.warnings.push(format!(
                "data_retention_days = {} would let every day go as of {today}; none went",
                self.retention.kept_days
            ));
        }
        if report.is_dry_run {
            return Ok(());
        }
        let mut decisions = std::mem::take(&mut report.retention);
        for decision in decisions.iter_mut().filter(|decision| decision.action != RetentionAction::Keep) {
            match self.let_go(decision, &files[&decision.date]) {
                Ok(true) => report.n_days_deleted += 1,
                Ok(false) => {
                    decision.action = RetentionAction::Keep;
                    decision.reason = RetentionReason::Reading;
                }
                Err(error) => report.fail(decision.date, "let go of", &error),
            }
        }
        report.retention = decisions;
        self.drop_old_quarantine(today)
    }

    fn plan_retention(
        &self,
        report: &RotateReport,
        files: &BTreeMap<NaiveDate, PathBuf>,
        today: NaiveDate,
    ) -> Result<Vec<RetentionDecision>> {
        let mut days: Vec<NaiveDate> = files.keys().copied().collect();
        let open = self.open_dates()?;
        let is_to_be_sealed = |date: NaiveDate| {
            report.planned.iter().any(|plan| plan.date == date && plan.n_live_segments == 0)
        };
        if report.is_dry_run {
            days.extend(report.planned.iter().filter(|plan| plan.n_segments > 0).map(|plan| plan.date));
            days.sort_unstable();
            days.dedup();
        }
        let leased = self.leased_now()?;
        let is_read = |date: NaiveDate| leased.iter().any(|(first, end)| (*first..*end).contains(&date));
        // In a dry run, segments lie there that a rotation would have sealed by now.
        let has_open_rows =
            |date: NaiveDate| open.contains_key(&date) && !(report.is_dry_run && is_to_be_sealed(date));
        let hold = |date: NaiveDate| match (is_read(date), has_open_rows(date)) {
            (true, _) => Some(RetentionReason::Reading),
            (_, true) => Some(RetentionReason::LateRows),
            _ => None,
        };
        Ok(plan_retention(&days, today, &self.retention, &hold))
    }

    /// Archives or deletes one day; false if somebody has begun to read it since the plan.
    fn let_go(&self, decision: &RetentionDecision, path: &Path) -> Result<bool> {
        if decision.action == RetentionAction::Archive {
            archive::copy(path, decision.date, &self.archive_dir)?;
        }
        let gate = self.close_gate()?;
        if gate.leased()?.iter().any(|(first, end)| (*first..*end).contains(&decision.date)) {
            return Ok(false);
        }
        // First, and for good, because aggregates without their day are the sign of a day that is lost.
        let steps = cache::path(&self.steps_dir, decision.date);
        if fsx::exists(&steps)? {
            fsx::remove_file(&steps)?;
            fsx::sync_dir(&self.steps_dir)?;
        }
        retention::delete(path)?;
        Ok(true)
    }

    fn drop_old_quarantine(&self, today: NaiveDate) -> Result<()> {
        let RetentionPolicy { kept_days, .. } = self.retention;
        let oldest_kept = calendar::days_before(today, kept_days);
        for (date, path) in quarantine::files(&self.quarantine_dir)? {
            if date < oldest_kept {
                fsx::remove_file(&path)?;
            }
        }
        for (date, dir) in removed::days(&self.removed_dir)? {
            if date < oldest_kept {
                fsx::discard_dir(&dir)?;
            }
        }
        Ok(())
    }
}
