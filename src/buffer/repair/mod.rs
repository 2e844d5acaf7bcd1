//! `buffer repair`: mends what is damaged, and keeps whatever it takes away in `removed/`, with the reason.
//!
//! - A segment gets its good frames written anew, those behind the damage too.
//! - A day file whose footer lost one bit gets it back.
//! - Of any other damaged day file the good rows go back to segments of the days they belong to, which are then sealed as
//!   ever; so do those of a file that holds rows of other days or repeats keys.
//! - Aggregates are derived and made anew, lines of quarantine that are not as they were written are taken out.
//!
//! Each file in this order: the damaged one is copied aside and the copy proven; what was saved becomes durable; the
//! damaged one goes. A kill in between leaves saved rows in two places, where they are the same rows, and a second repair
//! ends the work. Repairs and rotations exclude each other.

mod refile;
mod salvage;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::error::{Refusal, message_and_hint};
use crate::fsx;
use crate::progress::Progress;

use super::Buffer;
use super::intake::quarantine;
use super::open::rescue::Rescued;
use super::open::segment;
use super::removed;
use super::rotate::{DayFailure, RotateOptions, RotateReport};
use super::seal::SealedDay;
use super::sealed::day_file;
use super::sealed::parquet_rows::ParquetFile;
use super::sealed::stamp::{self, Stamped};
use super::steps::cache;
use refile::Refile;
use salvage::{Salvage, salvage};

/// How to repair.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Only this day.
    pub day: Option<NaiveDate>,
    /// Says what would be done, and touches nothing.
    pub dry_run: bool,
}

/// One file that was mended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mended {
    pub date: NaiveDate,
    pub file: PathBuf,
    pub problem: String,
    /// What became of it.
    pub action: String,
    pub n_rows_saved: u64,
    /// Rows that could not be read; `None` where nobody can know how many there were.
    pub n_rows_lost: Option<u64>,
    /// Values of saved rows that could not be read, and are missing now.
    pub n_values_lost: u64,
    /// The damaged file as it was.
    pub kept: Option<PathBuf>,
}

/// What a repair did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RepairReport {
    pub is_dry_run: bool,
    pub mended: Vec<Mended>,
    /// Days whose saved rows were sealed anew.
    pub sealed: Vec<SealedDay>,
    /// What could not be mended; it is where it was.
    pub failed: Vec<DayFailure>,
    pub duration_secs: f64,
}

/// What is wrong with a day file.
enum Problem {
    /// Its bytes are not those that were sealed, or cannot be read.
    Damaged(String),
    /// Its rows can be read, and are not those of one day in order.
    Misfiled(String),
}

impl Buffer {
    /// Mends what is damaged as of `now`; doing it again finds nothing to do.
    ///
    /// - Errors: the buffer is foreign ([`Refusal::Usage`]); a rotation runs (`LockHeld`); a folder cannot be listed. What
    ///   cannot be mended is in [`RepairReport::failed`].
    pub fn repair(
        &self,
        options: &RepairOptions,
        now: DateTime<Utc>,
        progress: &dyn Progress,
    ) -> Result<RepairReport> {
        if self.is_foreign {
            let dir = self.dir.display();
            return Err(Refusal::usage(format!("{dir} lies outside of this site and is only read")));
        }
        let started = Instant::now();
        let RepairOptions { day, dry_run } = *options;
        let _lock = self.lock_rotation(&RotateOptions { dry_run, ..RotateOptions::default() }, now)?;
        let covers = |date: NaiveDate| day.is_none_or(|day| day == date);
        let mut repair = Repair {
            buffer: self,
            now,
            report: RepairReport { is_dry_run: dry_run, ..RepairReport::default() },
            touched: BTreeSet::new(),
        };
        for (date, dir) in self.open_dates()?.into_iter().filter(|(date, _)| covers(*date)) {
            for path in segment::list(&dir)? {
                repair.each(date, |repair| repair.mend_segment(date, &path));
            }
        }
        for (date, path) in day_file::list(&self.dir)?.into_iter().filter(|(date, _)| covers(*date)) {
            repair.each(date, |repair| repair.mend_day_file(date, &path));
        }
        for (date, path) in cache::list(&self.steps_dir)?.into_iter().filter(|(date, _)| covers(*date)) {
            repair.each(date, |repair| repair.mend_aggregates(date, &path));
        }
        for (date, path) in
            quarantine::files(&self.quarantine_dir)?.into_iter().filter(|(date, _)| covers(*date))
        {
            repair.each(date, |repair| repair.mend_quarantine(date, &path));
        }
        repair.seal_again(progress)?;
        let mut report = repair.report;
        report.duration_secs = started.elapsed().as_secs_f64();
        Ok(report)
    }
}

struct Repair<'a> {
    buffer: &'a Buffer,
    now: DateTime<Utc>,
    report: RepairReport,
    /// Days that rows were put back into.
    touched: BTreeSet<NaiveDate>,
}

impl Repair<'_> {
    /// One damaged file does not hold up the others.
    fn each(&mut self, date: NaiveDate, mend: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = mend(self) {
            self.report.failed.push(DayFailure { date, error: message_and_hint(&error).0 });
        }
    }

    fn keep(&self, date: NaiveDate, path: &Path, problem: &str) -> Result<Option<PathBuf>> {
        if self.report.is_dry_run {
            return Ok(None);
        }
        removed::keep(&self.buffer.removed_dir, date, path, problem, self.now).map(Some)
    }

    fn mend_segment(&mut self, date: NaiveDate, path: &Path) -> Result<()> {
        if segment::is_segment_live(path)? {
            return Ok(());
        }
        let rescued = Rescued::of(path, &self.buffer.segment_header())?;
        let Some(damage) = rescued.damage else { return Ok(()) };
        let problem = damage.to_string();
        let kept = self.keep(date, path, &problem)?;
        if !self.report.is_dry_run {
            rescued.write()?;
            fsx::remove_file(path)?;
        }
        self.report.mended.push(Mended {
            date,
            file: path.to_owned(),
            problem,
            action: "its good blocks were written anew".into(),
            n_rows_saved: rescued.n_rows,
            n_rows_lost: damage.n_rows_lost,
            n_values_lost: 0,
            kept,
        });
        Ok(())
    }

    fn mend_day_file(&mut self, date: NaiveDate, path: &Path) -> Result<()> {
        let Some(problem) = self.buffer.problem_of(date, path)? else { return Ok(()) };
        let (Problem::Damaged(text) | Problem::Misfiled(text)) = &problem;
        let mended_end = match &problem {
            Problem::Damaged(_) => stamp::mended_end(&mut File::open(path)?)?,
            Problem::Misfiled(_) => None,
        };
        let kept = self.keep(date, path, text)?;
        let mut mended = Mended {
            date,
            file: path.to_owned(),
            problem: text.clone(),
            action: String::new(),
            n_rows_saved: 0,
            n_rows_lost: Some(0),
            n_values_lost: 0,
            kept,
        };
        if let Some((start, end)) = mended_end {
            if !self.report.is_dry_run {
                restore(path, start, &end)?;
                mended.n_rows_saved = ParquetFile::open(path)?.n_rows() as u64;
            }
            mended.action = "the flipped bit of its footer was turned back: nothing is lost".into();
        } else {
            // What was derived from it; made anew where rows come back.
            self.take_away(&cache::path(&self.buffer.steps_dir, date))?;
            self.unpack(path, &mut mended)?;
        }
        self.report.mended.push(mended);
        Ok(())
    }

    /// Puts the good rows of a day file back into segments, and takes the file away.
    fn unpack(&mut self, path: &Path, mended: &mut Mended) -> Result<()> {
        let Ok(mut file) = ParquetFile::open(path) else {
            mended.n_rows_lost = None;
            mended.action = "nothing of it can be read: restore it from a copy, or go on without".into();
            return self.take_away(path);
        };
        let mut refile = Refile::new(self.buffer, file.numeric_columns());
        let is_dry_run = self.report.is_dry_run;
        let saved =
            salvage(path, &mut file, &mut |rows| if is_dry_run { Ok(()) } else { refile.take(rows) })?;
        self.touched.extend(refile.finish()?);
        self.take_away(path)?;
        let Salvage { n_saved, n_lost, n_values_lost, n_labels_lost, is_checked } = saved;
        (mended.n_rows_saved, mended.n_rows_lost, mended.n_values_lost) =
            (n_saved, Some(n_lost), n_values_lost);
        let labels = match n_labels_lost {
            0 => String::new(),
            n => format!("; profile and status of {n} rows are lost"),
        };
        let checked = if is_checked { "by their checksums" } else { "as far as they can be read, unchecked" };
        mended.action = format!("its rows were filed anew, {checked}{labels}");
        Ok(())
    }

    fn take_away(&self, path: &Path) -> Result<()> {
        if self.report.is_dry_run { Ok(()) } else { fsx::remove_file(path) }
    }

    fn mend_aggregates(&mut self, date: NaiveDate, path: &Path) -> Result<()> {
        let is_left = self.buffer.days()?.iter().any(|day| day.date == date);
        ensure!(
            is_left || self.report.is_dry_run,
            "the day is gone, and only {} is left of it: put its day file back from a copy, or rotate to forget it",
            path.display()
        );
        if !cache::is_damaged(path) {
            return Ok(());
        }
        self.take_away(path)?;
        if !self.report.is_dry_run {
            self.buffer.ensure_steps(date)?;
        }
        self.report.mended.push(Mended {
            date,
            file: path.to_owned(),
            problem: "its bytes are not those that were aggregated".into(),
            action: "the day is aggregated anew".into(),
            n_rows_saved: 0,
            n_rows_lost: Some(0),
            n_values_lost: 0,
            kept: None,
        });
        Ok(())
    }

    fn mend_quarantine(&mut self, date: NaiveDate, path: &Path) -> Result<()> {
        let damaged = quarantine::damaged_lines(path)?.numbers;
        if damaged.is_empty() {
            return Ok(());
        }
        let problem = format!("{} of its lines are not as they were written", damaged.len());
        let kept = self.keep(date, path, &problem)?;
        if !self.report.is_dry_run {
            quarantine::drop_damaged_lines(path)?;
        }
        self.report.mended.push(Mended {
            date,
            file: path.to_owned(),
            problem,
            action: "they were taken out".into(),
            n_rows_saved: 0,
            n_rows_lost: Some(0),
            n_values_lost: 0,
            kept,
        });
        Ok(())
    }

    /// Seals the days that rows were put back into, if they are over.
    fn seal_again(&mut self, progress: &dyn Progress) -> Result<()> {
        let today = self.now.with_timezone(&self.buffer.zone).date_naive();
        let mut planned = match self.touched.is_empty() {
            true => Vec::new(),
            false => self.buffer.plan_seals(today, &RotateOptions::default())?,
        };
        planned.retain(|plan| self.touched.contains(&plan.date));
        let mut rotation = RotateReport { planned, ..RotateReport::default() };
        self.buffer.apply_seals(&mut rotation, self.now, progress);
        for day in &rotation.sealed {
            let date = day.date;
            self.each(date, |repair| repair.buffer.ensure_steps(date).map(drop));
        }
        self.report.sealed = rotation.sealed;
        self.report.failed.extend(rotation.failed);
        Ok(())
    }
}

impl Buffer {
    fn problem_of(&self, date: NaiveDate, path: &Path) -> Result<Option<Problem>> {
        let stamped = stamp::check(path)?;
        if stamped == Stamped::Damaged {
            return Ok(Some(Problem::Damaged("its bytes are not those that were sealed".into())));
        }
        let mut file = match ParquetFile::open(path) {
            Ok(file) => file,
            Err(error) => return Ok(Some(Problem::Damaged(message_and_hint(&error).0))),
        };
        if stamped == Stamped::Never && day_file::must_be_stamped(&file) {
            return Ok(Some(Problem::Damaged("the digest that it was sealed with is damaged".into())));
        }
        // What was sealed for this zone is in order, and of one day: only the name can be another's.
        if stamped == Stamped::Whole && self.is_cut_here(&file) {
            return Ok(self.misnamed(date, &file).map(Problem::Misfiled));
        }
        let problems = match self.filing_of(date, &mut file, &mut |_| ()) {
            Ok(filing) => filing.problems(),
            Err(error) => return Ok(Some(Problem::Damaged(message_and_hint(&error).0))),
        };
        Ok((!problems.is_empty()).then(|| Problem::Misfiled(problems.join("; "))))
    }
}

/// Writes a file anew with another end.
fn restore(path: &Path, start: u64, end: &[u8]) -> Result<()> {
    fsx::write_durable_with(path, |file| {
        let mut source = File::open(path).with_context(|| format!("read {}", path.display()))?;
        std::io::copy(&mut source, file)?;
        file.seek(SeekFrom::Start(start))?;
        file.write_all(end)?;
        Ok(())
    })
}
