//! `buffer rotate`: seals the days that are over, aggregates them, and lets old days go.
//!
//! How a day is sealed is [`super::seal`]'s. A segment that a live process still writes is left for the next rotation. Rotations exclude each other by
//! `open/.rotate.lock`; appenders never wait for one, readers only to end a race they keep losing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::calendar;
use crate::error::message_and_hint;
use crate::fsx::{self, Lock};
use crate::progress::{Progress, Tick};

use super::Buffer;
use super::days::Day;
use super::gone::Gone;
use super::removed;
use super::seal::{SealPlan, SealedDay};
use super::sealed::day_file;
use super::sealed::retention::RetentionDecision;
use super::steps::cache;
use super::trouble::Trouble;

/// How long a rotation waits for another one.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// How long unfinished work lies untouched before it counts as abandoned, where others write without our lock.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// How to rotate.
#[derive(Clone, Copy, Debug, Default)]
pub struct RotateOptions {
    /// Seals today so far, too.
    pub include_open: bool,
    /// Says what would be done, and touches nothing.
    pub dry_run: bool,
}

/// A day that could not be dealt with; its data is where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DayFailure {
    pub date: NaiveDate,
    pub error: String,
    /// What helps.
    pub hint: Option<String>,
}

impl DayFailure {
    pub(super) fn of(date: NaiveDate, error: &anyhow::Error) -> Self {
        let (error, hint) = message_and_hint(error);
        Self { date, error, hint }
    }

    /// Everything in one line, for a night's log and messages.
    pub fn line(&self) -> String {
        let hint: String = self.hint.iter().map(|hint| format!(" ({hint})")).collect();
        format!("{}: {}{hint}", self.date, self.error)
    }
}

/// What a rotation did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RotateReport {
    pub is_dry_run: bool,
    /// A buffer from elsewhere gets step aggregates only.
    pub is_foreign: bool,
    pub planned: Vec<SealPlan>,
    pub sealed: Vec<SealedDay>,
    /// Days that are misnamed, or that were found gone; in a dry run also segments that are damaged.
    pub troubles: Vec<Trouble>,
    /// Days whose step aggregates were made, or would be.
    pub steps_written: Vec<NaiveDate>,
    /// One decision per sealed day.
    pub retention: Vec<RetentionDecision>,
    pub n_days_deleted: usize,
    /// Days that failed; the others were dealt with nevertheless. Not empty: the command failed.
    pub failed: Vec<DayFailure>,
    pub warnings: Vec<String>,
    pub duration_secs: f64,
}

impl RotateReport {
    /// Whether rows that were acknowledged are damaged, misplaced or gone.
    pub fn has_damage(&self) -> bool {
        !self.troubles.is_empty() || self.sealed.iter().any(|day| !day.damaged.is_empty())
    }
}

impl Buffer {
    /// Seals, aggregates and deletes as of `now`; doing it again changes nothing.
    ///
    /// One damaged day does not hold up the others: look at [`RotateReport::failed`].
    ///
    /// - Errors: another rotation runs for longer than a minute (`LockHeld`), or the folders cannot be listed.
    pub fn rotate(
        &self,
        options: &RotateOptions,
        now: DateTime<Utc>,
        progress: &dyn Progress,
    ) -> Result<RotateReport> {
        let started = Instant::now();
        let today = now.with_timezone(&self.zone).date_naive();
        let mut report = RotateReport {
            is_dry_run: options.dry_run,
            is_foreign: self.is_foreign,
            ..RotateReport::default()
        };

        let _lock = self.lock_rotation(options, now)?;
        if !options.dry_run {
            self.sweep_staging(&mut report);
        }
        if !self.is_foreign {
            report.planned = self.plan_seals(today, options)?;
        }
        self.find_troubles(&mut report, today, now)?;
        if options.dry_run {
            self.plan_steps(&mut report)?;
        } else {
            self.apply_seals(&mut report, now, progress);
            self.write_steps(&mut report, progress)?;
        }
        if !self.is_foreign {
            self.retain(&mut report, today)?;
        }
        report.warnings.iter().for_each(|warning| progress.warn(warning));
        report.duration_secs = started.elapsed().as_secs_f64();
        Ok(report)
    }

    pub(super) fn lock_rotation(&self, options: &RotateOptions, now: DateTime<Utc>) -> Result<Option<Lock>> {
        if options.dry_run {
            return Ok(None);
        }
        self.lock_rotations(&format!("rotating since {}", now.to_rfc3339())).map(Some)
    }

    /// Lets no rotation of this buffer begin for as long as the answer lives; nobody rotates one from elsewhere.
    pub(super) fn keep_rotations_out(&self) -> Result<Option<Lock>> {
        if self.is_foreign { Ok(None) } else { self.lock_rotations("reading").map(Some) }
    }

    fn lock_rotations(&self, doing: &str) -> Result<Lock> {
        let holder = format!("pid {} {doing}", std::process::id());
        Lock::acquire_within(&self.open_dir.join(".rotate.lock"), &holder, LOCK_WAIT)
    }

    /// Deletes what killed runs left unfinished; what cannot be deleted is a warning.
    ///
    /// Day files and copies of damaged files are written under the rotation's lock only, so nobody is at work
    /// on them. Aggregates are written by readers too, and quarantine belongs to appenders.
    fn sweep_staging(&self, report: &mut RotateReport) {
        let mut places = [&self.steps_dir, &self.quarantine_dir].map(|dir| (dir.clone(), ABANDONED)).to_vec();
        if !self.is_foreign {
            places.push((self.dir.clone(), Duration::ZERO));
        }
        match removed::days(&self.removed_dir) {
            Ok(days) => places.extend(days.into_iter().map(|(_, dir)| (dir, Duration::ZERO))),
            Err(error) => report.warnings.push(format!("{error:#}")),
        }
        for (dir, untouched_for) in places {
            if let Err(error) = fsx::sweep_staging(&dir, untouched_for) {
                report.warnings.push(format!("{error:#}"));
            }
        }
    }

    pub(super) fn apply_seals(&self, report: &mut RotateReport, now: DateTime<Utc>, progress: &dyn Progress) {
        let plans: Vec<SealPlan> =
            report.planned.iter().filter(|plan| plan.n_segments > 0).cloned().collect();
        for (done, plan) in plans.iter().enumerate() {
            let (done, total) = (done as u64, plans.len() as u64);
            let detail = plan.date.to_string();
            progress.tick(&Tick { stage: "seal", done, total, unit: "days", detail });
            let sealed = self.write_sealed(plan, now).and_then(|sealed| {
                self.drop_segments(plan)?;
                Ok(sealed)
            });
            match sealed {
                Ok(sealed) => {
                    let dir = self.removed_dir.join(sealed.date.to_string());
                    let warning = |Trouble { file, problem, .. }: &Trouble| {
                        let (file, dir) = (file.display(), dir.display());
                        format!("{file}: {problem}; the others are sealed, and it lies as it was in {dir}")
                    };
                    report.warnings.extend(sealed.damaged.iter().map(warning));
                    report.sealed.push(sealed);
                }
                Err(error) => report.fail(plan.date, "seal", &error),
            }
        }
    }

    /// Finds rows that no reader finds where they should be; a day that is gone is written down, and forgotten where retention
    /// keeps it no more. The owner of a buffer from elsewhere may take days away.
    fn find_troubles(&self, report: &mut RotateReport, today: NaiveDate, now: DateTime<Utc>) -> Result<()> {
        let found = self.day_troubles(&|_| true, &BTreeMap::new())?;
        report.troubles.extend(found.misnamed);
        let oldest_kept = calendar::days_before(today, self.retention.kept_days);
        for Gone { trouble, .. } in found.gone.into_iter().filter(|gone| !gone.is_noted) {
            if self.is_foreign {
                report
                    .warnings
                    .push(format!("{} is gone; its step aggregates go, too", trouble.file.display()));
            } else if trouble.date >= oldest_kept {
                if !report.is_dry_run {
                    self.note_gone(&trouble, false, now)?;
                }
                report.troubles.push(trouble);
            }
        }
        if report.is_dry_run {
            for plan in report.planned.clone() {
                match self.foresee_seal(&plan) {
                    Ok(damaged) => report.troubles.extend(damaged),
                    Err(error) => report.fail(plan.date, "seal", &error),
                }
            }
        }
        report.warnings.extend(report.troubles.iter().map(Trouble::warning));
        Ok(())
    }

    /// The days that [`Buffer::write_steps`] would aggregate once the planned ones are sealed.
    fn plan_steps(&self, report: &mut RotateReport) -> Result<()> {
        for Day { date, .. } in self.days()? {
            let seal = report.planned.iter().find(|seal| seal.date == date);
            let is_due = match seal {
                Some(seal) => Ok(seal.n_segments > 0 && seal.n_live_segments == 0),
                None => self.foresee_steps(date),
            };
            match is_due {
                Ok(true) => report.steps_written.push(date),
                Ok(false) => {}
                Err(error) => report.fail(date, "aggregate", &error),
            }
        }
        let has_failed = |date: &NaiveDate| report.failed.iter().any(|failure| failure.date == *date);
        report.steps_written.retain(|date| !has_failed(date));
        Ok(())
    }

    /// Aggregates every sealed day that has no fresh aggregates.
    fn write_steps(&self, report: &mut RotateReport, progress: &dyn Progress) -> Result<()> {
        let days = self.days()?;
        for (done, day) in days.iter().enumerate() {
            let (done, total) = (done as u64, days.len() as u64);
            let detail = day.date.to_string();
            progress.tick(&Tick { stage: "aggregate", done, total, unit: "days", detail });
            match self.ensure_steps(day.date) {
                Ok(true) => report.steps_written.push(day.date),
                Ok(false) => {}
                Err(error) => report.fail(day.date, "aggregate", &error),
            }
        }
        let days: Vec<NaiveDate> = days.iter().map(|day| day.date).collect();
        self.drop_orphan_steps(&days)
    }

    /// Aggregates of days that nobody misses go.
    fn drop_orphan_steps(&self, days: &[NaiveDate]) -> Result<()> {
        for (date, path) in cache::list(&self.steps_dir)? {
            if !days.contains(&date) && !fsx::exists(&day_file::path(&self.dir, date))? {
                fsx::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

impl RotateReport {
    pub(super) fn fail(&mut self, date: NaiveDate, verb: &str, error: &anyhow::Error) {
        let failure = DayFailure::of(date, error);
        self.failed.push(DayFailure { error: format!("{verb}: {}", failure.error), ..failure });
    }
}
