//! Windows straight from a site's buffer.

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use rayon::prelude::*;

use crate::buffer::step_table::{StepOutline, StepTable};
use crate::buffer::{Buffer, SourceDigest, Trouble};
use crate::fsx;
use crate::progress::Progress;
use crate::site::Site;

use super::build::{self, DaySource, WindowRequest};
use super::grid::Grid;
use super::manifest::Source;
use super::quality::QualityReport;
use super::store::Window;
use super::verify::{self, WindowCheck};

impl DaySource for Buffer {
    fn dates(&self) -> Result<Vec<NaiveDate>> {
        Ok(self.days()?.into_iter().map(|day| day.date).collect())
    }

    fn missing_rows(&self, first: NaiveDate, end: NaiveDate) -> Result<Vec<String>> {
        Ok(Buffer::missing_rows(self, first, end)?.iter().map(Trouble::warning).collect())
    }

    fn prepare(&self, days: &[NaiveDate]) {
        self.prepare_steps(days);
    }

    fn sources(&self, day: NaiveDate) -> Result<Vec<Source>> {
        Ok(sources_of(day, self.source_digests(day)?))
    }

    fn outline(&self, day: NaiveDate) -> Result<StepOutline> {
        self.outline_day(day)
    }

    fn read(&self, day: NaiveDate) -> Result<(StepTable, Vec<Source>)> {
        let (table, digests) = self.read_day(day)?;
        Ok((table, sources_of(day, digests)))
    }

    fn read_all(&self, days: &[NaiveDate]) -> Result<Vec<(StepTable, Vec<Source>)>> {
        // Rows that have to be sorted first take memory, one day at a time. A day that is read alone is so large that each
        // thread that had read one would keep as much memory.
        if days.len() > 1 && days.iter().all(|day| self.has_steps(*day)) {
            return days.par_iter().map(|day| self.read(*day)).collect();
        }
        days.iter().map(|day| self.read(*day)).collect()
    }
}

fn sources_of(date: NaiveDate, digests: Vec<SourceDigest>) -> Vec<Source> {
    let source = |found: SourceDigest| {
        let SourceDigest { file, sha256, n_rows, damage } = found;
        Source { date, file, sha256, n_rows, damage }
    };
    digests.into_iter().map(source).collect()
}

/// Builds the window `request` asks for from the site's buffer, or reuses the one that is there.
///
/// Identical inputs give the identical window: its name is a digest of source files, schema, step, split and
/// settings. Only the steps of the window's days are read; rows that come in meanwhile make it read again.
///
/// - Errors: [`Refusal::NotEnoughData`](crate::error::Refusal::NotEnoughData) with every hard finding; a day
///   that cannot be read.
pub fn build(
    site: &Site,
    request: &WindowRequest,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<Window> {
    fsx::ensure_room(&site.windows_dir(), site.config.buffer.min_free_bytes())?;
    let buffer = Buffer::open(site);
    // Retention leaves alone what is read here.
    let _lease = buffer.lease(request.first_day(site, now), request.end_day(site, now))?;
    build::build_from(&buffer, site, request, now, progress)
}

/// Examines what [`build()`] would build without writing a window; hard findings are part of the report.
///
/// - Errors: the buffer has no rows of those days; a day that cannot be read.
pub fn inspect(
    site: &Site,
    request: &WindowRequest,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<QualityReport> {
    build::inspect_from(&Buffer::open(site), site, request, now, progress)
}

/// Compares a window with its manifest, and with the site's buffer as it is now.
///
/// - Errors: a day of the buffer cannot be read. What is wrong with the window is part of the answer.
pub fn check(site: &Site, window: &Window) -> Result<WindowCheck> {
    verify::check_against(&Buffer::open(site), window)
}

/// The newest `n_steps` complete steps before `now` of every server in the buffer: what a forecast starts from.
///
/// Ask for `encoder_length + max_gap_steps`, so that a short gap at the encoder's start can be filled.
pub fn read_recent(site: &Site, n_steps: usize, now: DateTime<Utc>, progress: &dyn Progress) -> Result<Grid> {
    build::recent_from(&Buffer::open(site), site, n_steps, now, progress)
}
