//! `buffer repair`: mends what is damaged, and keeps whatever it takes away in `removed/`, with the reason.
//!
//! - A segment gets its good frames written anew, those behind the damage too.
//! - A day file whose footer lost one bit gets it back.
//! - Of any other damaged day file the good rows go back to segments of the days they belong to, which are then sealed as
//!   ever; so do those of a file that holds rows of other days or repeats keys.
//! - Aggregates are derived and made anew, lines of quarantine that are not as they were written are taken out.
//! - A day that is gone cannot be mended: it is told until its file is back, or until a person gives it up.
//!
//! Each file in this order: the damaged one is copied aside and the copy proven; what was saved becomes durable; the
//! damaged one goes. A kill in between leaves saved rows in two places, where they are the same rows, and a second repair
//! ends the work. Repairs and rotations exclude each other.

mod refile;
mod salvage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::error::{HintExt, Refusal, message_and_hint};
use crate::fsx;
use crate::progress::Progress;

use super::Buffer;
use super::gone::Gone;
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
use super::trouble::{Trouble, way_back};
use refile::Refile;
use salvage::{Salvage, salvage};

/// How to repair.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    /// Only this day.
    pub day: Option<NaiveDate>,
    /// Says what would be done, and touches nothing.
    pub dry_run: bool,
    /// Gives up days that are gone: nobody misses them any more.
    pub forget: bool,
    /// Days that must be there, as in [`VerifyOptions`](super::VerifyOptions).
    pub known_days: BTreeMap<NaiveDate, String>,
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
    /// Saved rows whose profile and status could not be read.
    pub n_labels_lost: u64,
    /// The damaged file as it was.
    pub kept: Option<PathBuf>,
}

impl Mended {
    /// Mended without a loss so far.
    fn new(date: NaiveDate, file: &Path, problem: String, kept: Option<PathBuf>) -> Self {
        let action = String::new();
        let (n_rows_saved, n_rows_lost, n_values_lost, n_labels_lost) = (0, Some(0), 0, 0);
        let file = file.to_owned();
        Self { date, file, problem, action, n_rows_saved, n_rows_lost, n_values_lost, n_labels_lost, kept }
    }

    /// Whether anything of it is lost, or may be.
    pub fn has_loss(&self) -> bool {
        self.n_rows_lost != Some(0) || self.n_values_lost > 0 || self.n_labels_lost > 0
    }
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

impl RepairReport {
    /// Whether everything is as it was before it was damaged.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && !self.mended.iter().any(Mended::has_loss)
    }
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
        let RepairOptions { day, dry_run, forget, .. } = *options;
        let _lock = self.lock_rotation(&RotateOptions { dry_run, ..RotateOptions::default() }, now)?;
        let covers = |date: NaiveDate| day.is_none_or(|day| day == date);
        let mut repair = Repair {
            buffer: self,
            now,
            report: RepairReport { is_dry_run: dry_run, ..RepairReport::default() },
            touched: BTreeMap::new(),
        };
        for (date, dir) in self.open_dates()?.into_iter().filter(|(date, _)| covers(*date)) {
            for path in segment::list(&dir)? {
                repair.each(date, |repair| repair.mend_segment(date, &path));
            }
        }
        for (date, path) in day_file::list(&self.dir)?.into_iter().filter(|(date, _)| covers(*date)) {
            repair.each(date, |repair| repair.mend_day_file(date, &path));
        }
        for Gone { trouble, is_noted } in self.gone_days(&covers, &options.known_days)? {
            repair.each(trouble.date, |repair| repair.face_loss(&trouble, is_noted, forget));
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
    /// Days that rows were put back into, and how many.
    touched: BTreeMap<NaiveDate, u64>,
}

impl Repair<'_> {
    /// One damaged file does not hold up the others.
    fn each(&mut self, date: NaiveDate, mend: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = mend(self) {
            self.report.failed.push(DayFailure::of(date, &error));
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
        let action = match rescued.n_rows {
            0 => "none of its blocks is good",
            _ => "its good blocks were written anew",
        };
        self.report.mended.push(Mended {
            action: action.into(),
            n_rows_saved: rescued.n_rows,
            n_rows_lost: damage.n_rows_lost,
            ..Mended::new(date, path, problem, kept)
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
        let mut mended = Mended::new(date, path, text.clone(), kept);
        if let Some((start, end)) = mended_end {
            if !self.report.is_dry_run {
                restore(path, start, &end)?;
                mended.n_rows_saved = ParquetFile::open(path)?.n_rows() as u64;
            }
            mended.action = "the flipped bit of its footer was turned back: nothing is lost".into();
        } else {
            let n_remembered = self.buffer.rows_remembered(date);
            let n_back = self.unpack(date, path, &mut mended)?;
            if n_back == 0 && n_remembered.is_some_and(|n| n > 0) {
                // All that is left of the day is what its aggregates say.
                mended.n_rows_lost = mended.n_rows_lost.max(n_remembered);
            } else {
                self.take_away(&cache::path(&self.buffer.steps_dir, date))?;
            }
        }
        self.report.mended.push(mended);
        Ok(())
    }

    /// Puts the good rows of the file of `date` back into segments, and takes the file away; rows of its own day among them.
    fn unpack(&mut self, date: NaiveDate, path: &Path, mended: &mut Mended) -> Result<u64> {
        let Ok(mut file) = ParquetFile::open(path) else {
            mended.n_rows_lost = None;
            mended.action = "nothing of it can be read".into();
            return self.take_away(path).map(|()| 0);
        };
        let mut refile = Refile::new(self.buffer, file.numeric_columns(), self.report.is_dry_run);
        let saved = salvage(path, &mut file, &mut |rows| refile.take(rows))?;
        let n_rows = refile.finish()?;
        self.take_away(path)?;
        let Salvage { n_saved, n_lost, n_values_lost, n_labels_lost, is_checked } = saved;
        (mended.n_rows_saved, mended.n_rows_lost) = (n_saved, Some(n_lost));
        (mended.n_values_lost, mended.n_labels_lost) = (n_values_lost, n_labels_lost);
        let checked = if is_checked { "by their checksums" } else { "as far as they can be read, unchecked" };
        mended.action = match n_saved {
            0 => "none of its rows is good".into(),
            _ => format!("its rows were filed anew, {checked}"),
        };
        let n_back = n_rows.get(&date).copied().unwrap_or(0);
        n_rows.into_iter().for_each(|(date, n)| *self.touched.entry(date).or_default() += n);
        Ok(n_back)
    }

    fn take_away(&self, path: &Path) -> Result<()> {
        if self.report.is_dry_run { Ok(()) } else { fsx::remove_file(path) }
    }

    /// A day that is gone is written down and told again, or given up.
    ///
    /// - Errors: it is not given up.
    fn face_loss(&mut self, trouble: &Trouble, is_noted: bool, forget: bool) -> Result<()> {
        let Trouble { date, file, problem, .. } = trouble;
        let is_due = forget || !is_noted;
        let kept = match is_due && !self.report.is_dry_run {
            true => self.buffer.note_gone(trouble, forget, self.now)?,
            false => None,
        };
        if !forget {
            return Err(anyhow!("{}: {problem}", file.display())).hint(|| way_back(*date));
        }
        let action = "given up: nobody misses it any more".into();
        self.report.mended.push(Mended { action, ..Mended::new(*date, file, problem.clone(), kept) });
        Ok(())
    }

    fn mend_aggregates(&mut self, date: NaiveDate, path: &Path) -> Result<()> {
        if !cache::is_damaged(path) {
            return Ok(());
        }
        self.take_away(path)?;
        if !self.report.is_dry_run {
            self.buffer.ensure_steps(date)?;
        }
        let problem = "its bytes are not those that were aggregated".into();
        let action = "the day is aggregated anew".into();
        self.report.mended.push(Mended { action, ..Mended::new(date, path, problem, None) });
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
        let action = "they were taken out".into();
        self.report.mended.push(Mended { action, ..Mended::new(date, path, problem, kept) });
        Ok(())
    }

    /// Seals the days that rows were put back into, if they are over.
    fn seal_again(&mut self, progress: &dyn Progress) -> Result<()> {
        let today = self.now.with_timezone(&self.buffer.zone).date_naive();
        let mut planned = match self.touched.is_empty() {
            true => Vec::new(),
            false => self.buffer.plan_seals(today, &RotateOptions::default())?,
        };
        planned.retain(|plan| self.touched.contains_key(&plan.date));
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
            return Ok(self.misnamed(date, &self.look_at(path)?).map(Problem::Misfiled));
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
