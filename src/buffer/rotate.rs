//! `buffer rotate`: seals the days that are over, aggregates them, and lets old days go.
//!
//! A day is sealed in this order: its finished segments are claimed; their rows are merged with the sealed file, if
//! there is one; the new file is written aside, read back, synced and renamed; only then the segments are
//! deleted. A kill between any two steps leaves all rows readable, and the next rotation ends the work (rows that
//! are in both places then are the same rows, and resolved as duplicates).
//!
//! A segment that a live process still writes is left for the next rotation. Rotations exclude each other by
//! `open/.rotate.lock`; appenders never wait for one, readers only to end a race they keep losing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::calendar;
use crate::fsx::{self, Lock, disk};
use crate::progress::{Progress, Tick};

use super::Buffer;
use super::days::Day;
use super::merge::{self, DayInputs, Survey};
use super::open::flaws::{Damage, DamagedSegment};
use super::open::segment;
use super::removed;
use super::sealed::day_file::{self, Layout};
use super::sealed::retention::RetentionDecision;
use super::steps::cache;

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

/// One day that is to be sealed: the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SealPlan {
    pub date: NaiveDate,
    /// Segments that get no more rows and are merged.
    pub n_segments: usize,
    /// Segments that a running process still writes; they wait for the next rotation.
    pub n_live_segments: usize,
    /// Bytes of the finished segments.
    pub size_bytes: u64,
    /// Whether the day is sealed already and late rows are merged.
    pub is_merge: bool,
    pub reason: String,
    #[serde(skip)]
    segments: Vec<PathBuf>,
}

/// One day that was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SealedDay {
    pub date: NaiveDate,
    /// Rows in the day file now.
    pub n_rows: u64,
    /// Rows dropped because a later row had the same server and time.
    pub n_duplicates: u64,
    /// Rows dropped from a foreign-made file because they had no time or no server.
    pub n_without_key: u64,
    pub n_servers: usize,
    /// Segments merged and deleted.
    pub n_segments: usize,
    /// Length of the day file; 0 if the day turned out to have no rows and got none.
    pub size_bytes: u64,
    pub is_merge: bool,
    /// Segments of which not all could be read: damaged ones lie in `removed/`, as they were.
    pub damaged: Vec<DamagedSegment>,
    /// Bytes at the end of segments that were never completed, and never acknowledged.
    pub n_bytes_torn: u64,
}

/// A day that could not be dealt with; its data is where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DayFailure {
    pub date: NaiveDate,
    pub error: String,
}

/// What a rotation did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RotateReport {
    pub is_dry_run: bool,
    /// A buffer from elsewhere gets step aggregates only.
    pub is_foreign: bool,
    pub planned: Vec<SealPlan>,
    pub sealed: Vec<SealedDay>,
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
    /// Whether rows that were acknowledged could not be sealed.
    pub fn has_damage(&self) -> bool {
        self.sealed.iter().any(|day| !day.damaged.is_empty())
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
        if options.dry_run {
            report.steps_written = self.plan_steps(&report.planned)?;
        } else {
            self.apply_seals(&mut report, now, progress);
            self.write_steps(&mut report, today, progress)?;
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

    /// Which days are to be sealed from which segments.
    ///
    /// While it looks, no appender can begin a segment; a segment without a live writer stays that way.
    pub(super) fn plan_seals(&self, today: NaiveDate, options: &RotateOptions) -> Result<Vec<SealPlan>> {
        let _guard = if options.dry_run {
            None
        } else {
            let guard = segment::segments_lock(&self.open_dir)?;
            guard.lock().with_context(|| format!("lock {}", self.open_dir.display()))?;
            Some(guard)
        };
        let end = if options.include_open { calendar::days_after(today, 1) } else { today };
        let mut plans = Vec::new();
        for (date, dir) in self.open_dates()?.range(..end) {
            let (segments, n_live_segments) = if options.dry_run {
                let (live, finished) = partition_live(segment::list(dir)?)?;
                (finished, live.len())
            } else {
                segment::claim_finished(dir)?
            };
            plans.push(self.plan_seal(*date, segments, n_live_segments, today)?);
        }
        Ok(plans)
    }

    fn plan_seal(
        &self,
        date: NaiveDate,
        segments: Vec<PathBuf>,
        n_live_segments: usize,
        today: NaiveDate,
    ) -> Result<SealPlan> {
        let is_merge = fsx::exists(&day_file::path(&self.dir, date))?;
        let reason = match (segments.is_empty(), is_merge) {
            (true, _) => "all its segments are still being written",
            (false, true) => "late rows for a sealed day",
            (false, false) if date < today => "the day is over",
            (false, false) => "the open day was asked for",
        };
        let mut size_bytes = 0;
        for path in &segments {
            size_bytes += fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
        }
        Ok(SealPlan {
            date,
            n_segments: segments.len(),
            n_live_segments,
            size_bytes,
            is_merge,
            reason: reason.into(),
            segments,
        })
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
                    let warning = |segment: &DamagedSegment| {
                        let (file, damage) = (segment.file.display(), segment.damage);
                        format!(
                            "{file}: {damage}; the others are sealed, and it lies as it was in {}",
                            dir.display()
                        )
                    };
                    report.warnings.extend(sealed.damaged.iter().map(warning));
                    report.sealed.push(sealed);
                }
                Err(error) => report.fail(plan.date, "seal", &error),
            }
        }
    }

    /// Merges what the plan names into the day file; the segments stay.
    pub(super) fn write_sealed(&self, plan: &SealPlan, now: DateTime<Utc>) -> Result<SealedDay> {
        let path = day_file::path(&self.dir, plan.date);
        let sealed = if fsx::exists(&path)? { vec![path.clone()] } else { Vec::new() };
        // Sealed anew, what was damaged would pass for whole.
        sealed.iter().try_for_each(|path| day_file::ensure_whole(path, plan.date).map(drop))?;
        let (segments, spare) = (plan.segments.clone(), self.segment_header());
        let inputs = DayInputs { sealed, segments, bounds: None, spare };
        let survey = Survey::of(&inputs, &self.metric_names())?;
        let damaged = self.set_flawed_aside(plan, &survey, now)?;
        let mut day = SealedDay {
            date: plan.date,
            n_rows: 0,
            n_duplicates: 0,
            n_without_key: survey.n_without_key,
            n_servers: survey.servers.len(),
            n_segments: plan.segments.len(),
            size_bytes: 0,
            is_merge: plan.is_merge,
            damaged,
            n_bytes_torn: survey.flaws.iter().map(|flaws| flaws.n_bytes_torn).sum(),
        };
        if survey.n_rows() > 0 {
            self.ensure_room_to_seal(plan, &path)?;
            let layout = self.layout_of(plan.date, &survey);
            day.n_rows = day_file::write(&path, &layout, &mut |each| {
                day.n_duplicates = merge::for_each_sorted(&inputs, &survey, &layout.metrics, each)?;
                Ok(())
            })?;
            day.size_bytes = fs::metadata(&path).with_context(|| format!("read {}", path.display()))?.len();
        }
        Ok(day)
    }

    /// A day file is smaller than what it is made of; appending stops early enough to leave that much.
    fn ensure_room_to_seal(&self, plan: &SealPlan, path: &Path) -> Result<()> {
        let sealed_bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        fsx::ensure_room(&self.dir, plan.size_bytes + sealed_bytes).map(drop)
    }

    fn layout_of(&self, date: NaiveDate, survey: &Survey) -> Layout {
        let mut metadata = vec![
            (day_file::FORMAT_KEY.to_owned(), day_file::FORMAT.to_string()),
            ("tftctl.schema_digest".to_owned(), self.schema.digest()),
            (day_file::SERVERS_KEY.to_owned(), survey.servers.len().to_string()),
        ];
        // Only a file with no row of another day may claim to be cut by this zone.
        let (start, end) = calendar::day_bounds_ms(date, self.zone);
        if survey.time_range_ms.is_some_and(|(min, max)| min >= start && max < end) {
            metadata.push((day_file::ZONE_KEY.to_owned(), self.zone.name().to_owned()));
        }
        Layout {
            metrics: survey.columns.clone(),
            has_profile: survey.has_profile,
            has_status: survey.has_status,
            metadata,
        }
    }

    /// Copies segments that cannot be read to their end aside before they are deleted; returns the damaged ones.
    fn set_flawed_aside(
        &self,
        plan: &SealPlan,
        survey: &Survey,
        now: DateTime<Utc>,
    ) -> Result<Vec<DamagedSegment>> {
        let mut damaged = Vec::new();
        for (path, flaws) in plan.segments.iter().zip(&survey.flaws) {
            let problem = match (flaws.damage, flaws.n_bytes_torn) {
                (Some(damage), _) => damage.to_string(),
                (None, 0) => continue,
                (None, n) => format!("{n} bytes at its end were never completed"),
            };
            removed::keep(&self.removed_dir, plan.date, path, &problem, now)?;
            let segment = |damage: Damage| DamagedSegment { date: plan.date, file: path.clone(), damage };
            damaged.extend(flaws.damage.map(segment));
        }
        Ok(damaged)
    }

    /// Deletes the segments whose rows are in the day file now.
    pub(super) fn drop_segments(&self, plan: &SealPlan) -> Result<()> {
        for path in &plan.segments {
            fsx::remove_file(path)?;
        }
        let guard = segment::segments_lock(&self.open_dir)?;
        guard.lock().with_context(|| format!("lock {}", self.open_dir.display()))?;
        let dir = segment::day_dir(&self.open_dir, plan.date);
        if fsx::list_dir(&dir)?.is_empty() {
            disk::remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fsx::sync_dir(&self.open_dir)
    }

    /// The days that [`Buffer::write_steps`] would aggregate once `seals` are done.
    fn plan_steps(&self, seals: &[SealPlan]) -> Result<Vec<NaiveDate>> {
        let mut planned = Vec::new();
        for Day { date, .. } in self.days()? {
            let seal = seals.iter().find(|seal| seal.date == date);
            let is_due = match seal {
                Some(seal) => seal.n_segments > 0 && seal.n_live_segments == 0,
                None => self.needs_steps(date)?,
            };
            if is_due {
                planned.push(date);
            }
        }
        Ok(planned)
    }

    /// Aggregates every sealed day that has no fresh aggregates.
    fn write_steps(
        &self,
        report: &mut RotateReport,
        today: NaiveDate,
        progress: &dyn Progress,
    ) -> Result<()> {
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
        self.drop_orphan_steps(&days, today, report)
    }

    /// Aggregates of days that are gone go, too; that a day is gone which retention keeps is told.
    fn drop_orphan_steps(
        &self,
        days: &[NaiveDate],
        today: NaiveDate,
        report: &mut RotateReport,
    ) -> Result<()> {
        let oldest_kept = calendar::days_before(today, self.retention.kept_days);
        for (date, path) in cache::list(&self.steps_dir)? {
            if days.contains(&date) {
                continue;
            }
            if date >= oldest_kept {
                let file = day_file::path(&self.dir, date);
                report.warnings.push(format!("{} is gone; its step aggregates went, too", file.display()));
            }
            fsx::remove_file(&path)?;
        }
        Ok(())
    }
}

impl RotateReport {
    pub(super) fn fail(&mut self, date: NaiveDate, verb: &str, error: &anyhow::Error) {
        let (message, _) = crate::error::message_and_hint(error);
        self.failed.push(DayFailure { date, error: format!("{verb}: {message}") });
    }
}

fn partition_live(segments: Vec<PathBuf>) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut parts = (Vec::new(), Vec::new());
    for path in segments {
        if segment::is_segment_live(&path)? { parts.0.push(path) } else { parts.1.push(path) }
    }
    Ok(parts)
}
