//! Makes a day file of a day's segments: what of them is to be merged, the merge, and letting the segments go.
//!
//! A day is sealed in this order: its finished segments are claimed; their rows are merged with the sealed file, if
//! there is one; the new file is written aside, read back, synced and renamed; only then the segments are
//! deleted. A kill between any two steps leaves all rows readable, and the next rotation ends the work (rows that
//! are in both places then are the same rows, and resolved as duplicates).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::calendar;
use crate::fsx::{self, disk};

use super::Buffer;
use super::merge::{self, DayInputs, Survey};
use super::open::flaws::Flaws;
use super::open::reader::Contents;
use super::open::segment;
use super::removed;
use super::rotate::RotateOptions;
use super::sealed::day_file::{self, Layout};
use super::trouble::Trouble;

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
    pub(super) segments: Vec<PathBuf>,
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
    /// Segments of which not all could be read.
    pub damaged: Vec<Trouble>,
    /// Damaged and torn segments as they were.
    pub set_aside: Vec<PathBuf>,
    /// Bytes at the end of segments that were never completed, and never acknowledged.
    pub n_bytes_torn: u64,
}

impl SealPlan {
    fn damage_of(&self, path: &Path, flaws: &Flaws) -> Option<Trouble> {
        flaws.damage.map(|damage| Trouble::of_segment(self.date, path.to_owned(), damage))
    }
}

impl Buffer {
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

    /// Merges what the plan names into the day file; the segments stay.
    pub(super) fn write_sealed(&self, plan: &SealPlan, now: DateTime<Utc>) -> Result<SealedDay> {
        let path = day_file::path(&self.dir, plan.date);
        let sealed = if fsx::exists(&path)? { vec![path.clone()] } else { Vec::new() };
        sealed.iter().try_for_each(|path| self.ensure_sound(path, plan.date))?;
        let (segments, spare) = (plan.segments.clone(), self.segment_header());
        let inputs = DayInputs { sealed, segments, bounds: None, spare };
        let survey = Survey::of(&inputs, &self.metric_names())?;
        let (damaged, set_aside) = self.set_flawed_aside(plan, &survey.flaws, now)?;
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
            set_aside,
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

    /// Copies segments that cannot be read to their end aside before they are deleted: what is damaged, and the copies.
    fn set_flawed_aside(
        &self,
        plan: &SealPlan,
        flaws: &[Flaws],
        now: DateTime<Utc>,
    ) -> Result<(Vec<Trouble>, Vec<PathBuf>)> {
        let (mut damaged, mut kept) = (Vec::new(), Vec::new());
        for (path, flaws) in plan.segments.iter().zip(flaws) {
            let problem = match (flaws.damage, flaws.n_bytes_torn) {
                (Some(damage), _) => damage.to_string(),
                (None, 0) => continue,
                (None, n) => format!("{n} bytes at its end were never completed"),
            };
            kept.push(removed::keep(&self.removed_dir, plan.date, path, &problem, now)?);
            damaged.extend(plan.damage_of(path, flaws));
        }
        Ok((damaged, kept))
    }

    /// What sealing `plan` would meet: the damage of its segments.
    ///
    /// - Errors: what would keep it from being sealed.
    pub(super) fn foresee_seal(&self, plan: &SealPlan) -> Result<Vec<Trouble>> {
        if plan.is_merge && plan.n_segments > 0 {
            self.ensure_sound(&day_file::path(&self.dir, plan.date), plan.date)?;
        }
        let mut damaged = Vec::new();
        for path in &plan.segments {
            damaged.extend(plan.damage_of(path, &Contents::of(path, &self.segment_header())?.flaws));
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
}

fn partition_live(segments: Vec<PathBuf>) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut parts = (Vec::new(), Vec::new());
    for path in segments {
        if segment::is_segment_live(&path)? { parts.0.push(path) } else { parts.1.push(path) }
    }
    Ok(parts)
}
