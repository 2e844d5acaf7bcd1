//! `buffer verify`: finds what is damaged, gone or misplaced, and changes nothing.
//!
//! Whatever this program wrote carries its own digest or checksums, so that any flipped bit is a finding: day files and
//! step aggregates a stamp, segments a checksum per block, quarantine one per line. Files from elsewhere have none; they
//! are named, and compared with the sha256 that was taken when they were aggregated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use chrono::NaiveDate;
use serde::Serialize;

use crate::calendar;
use crate::fsx;
use crate::progress::{Progress, Tick};

use super::Buffer;
use super::gone::Gone;
use super::intake::quarantine;
use super::merge::{DayInputs, Survey};
use super::open::segment;
use super::removed::{self, SetAside};
use super::sealed::day_file;
use super::sealed::parquet_rows::ParquetFile;
use super::sealed::proof::{self, Checksums, Proof};
use super::sealed::stamp::{self, Stamped};
use super::steps::cache::{self, FileId};

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Decodes every value too, and checks order and days of the rows.
    pub read_data: bool,
    /// Only this day.
    pub day: Option<NaiveDate>,
    /// Days that must be there, each with the sign of it, as a phrase: what was made of the buffer remembers them.
    pub known_days: BTreeMap<NaiveDate, String>,
}

impl VerifyOptions {
    fn covers(&self, date: NaiveDate) -> bool {
        self.day.is_none_or(|day| day == date)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub date: NaiveDate,
    /// The file it was found in, or that is gone.
    pub file: PathBuf,
    pub message: String,
}

/// A segment that ends in a block that was never completed: nobody was told that its rows are safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornSegment {
    pub date: NaiveDate,
    pub file: PathBuf,
    pub n_bytes: u64,
}

/// What a check of the buffer found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Empty: everything is as it should be.
    pub findings: Vec<Finding>,
    pub n_files: u64,
    pub n_segments: u64,
    /// Step aggregates.
    pub n_aggregates: u64,
    /// Day files without a digest of their own: from elsewhere, or older. A flipped bit in them may stay unseen.
    pub unstamped: Vec<NaiveDate>,
    /// Days without data, of which nothing says that there ever was any: no finding.
    pub missing: Vec<NaiveDate>,
    /// Segments whose writer was stopped in the middle of a block.
    pub torn: Vec<TornSegment>,
    /// What repairs and rotations took away because it is damaged.
    pub set_aside: Vec<SetAside>,
    /// Rows by the footers, or with `read_data` rows that were read.
    pub n_rows: u64,
    pub has_read_data: bool,
    pub duration_secs: f64,
}

impl Buffer {
    /// Checks every day of the buffer, or one: each byte of the files that carry a digest, the checksums of segments and
    /// quarantine, footers, schema, days that are gone; with `read_data` also every value of the day files, their
    /// order, and that each row lies in its day.
    ///
    /// - Errors: a folder cannot be listed. What is wrong with a file is a finding, not an error.
    pub fn verify(&self, options: &VerifyOptions, progress: &dyn Progress) -> Result<VerifyReport> {
        let started = Instant::now();
        let mut report = VerifyReport { has_read_data: options.read_data, ..VerifyReport::default() };
        let mut files = day_file::list(&self.dir)?;
        files.retain(|date, _| options.covers(*date));
        for (done, (date, path)) in files.iter().enumerate() {
            let (done, total) = (done as u64, files.len() as u64);
            progress.tick(&Tick { stage: "verify", done, total, unit: "days", detail: date.to_string() });
            report.n_files += 1;
            if let Err(error) = self.verify_day(*date, path, &mut report) {
                report.add(*date, path, format!("{error:#}"));
            }
        }
        for (date, dir) in self.open_dates()?.iter().filter(|(date, _)| options.covers(**date)) {
            for path in segment::list(dir)? {
                report.n_segments += 1;
                self.verify_segment(*date, &path, &mut report);
            }
        }
        self.verify_aggregates(options, &mut report)?;
        self.verify_quarantine(options, &mut report)?;
        self.find_missing_days(options, &mut report)?;
        report.set_aside = removed::list(&self.removed_dir)?;
        report.set_aside.retain(|kept| options.covers(kept.date));
        report.duration_secs = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Days without data: one that was there before is a finding, one that never was is a fact.
    fn find_missing_days(&self, options: &VerifyOptions, report: &mut VerifyReport) -> Result<()> {
        let there: BTreeSet<NaiveDate> = self.days()?.into_iter().map(|day| day.date).collect();
        let mut gone = BTreeSet::new();
        for Gone { trouble, .. } in self.gone_days(&|date| options.covers(date), &options.known_days)? {
            gone.insert(trouble.date);
            report.add(trouble.date, &trouble.file, trouble.problem);
        }
        let ends = || Some((*there.first()?, *there.last()?));
        let expected = match (options.day, ends()) {
            (Some(day), _) => vec![day],
            (None, Some((first, last))) => calendar::days_between(first, last).collect(),
            (None, None) => Vec::new(),
        };
        let is_missing = |date: &NaiveDate| !there.contains(date) && !gone.contains(date);
        report.missing = expected.into_iter().filter(is_missing).collect();
        Ok(())
    }

    fn verify_day(&self, date: NaiveDate, path: &Path, report: &mut VerifyReport) -> Result<()> {
        let stamped = stamp::check(path)?;
        if stamped == Stamped::Damaged {
            report.add(date, path, "its bytes are not those that were sealed: the digest differs".to_owned());
        }
        let mut file = ParquetFile::open(path)?;
        if stamped == Stamped::Never {
            self.judge_unstamped(date, path, &file, report)?;
        }
        for key in ["timestamp", "server_name"] {
            if !file.has_column(key) {
                report.add(date, path, format!("it has no column `{key}`"));
                return Ok(());
            }
        }
        let numeric = file.numeric_columns();
        for name in self.metric_names().iter().filter(|name| !numeric.contains(name)) {
            let wrong = if file.has_column(name) { "is not numeric" } else { "is missing" };
            report.add(date, path, format!("metric `{name}` {wrong}"));
        }
        if let Some(problem) = self.misnamed(date, &self.look_at(path)?) {
            report.add(date, path, problem);
        }
        if report.has_read_data {
            return self.verify_rows(date, path, &mut file, report);
        }
        report.n_rows += file.n_rows() as u64;
        Ok(())
    }

    /// A file without a digest of its own may have lost it, or differ from what was aggregated; else it is only named.
    fn judge_unstamped(
        &self,
        date: NaiveDate,
        path: &Path,
        file: &ParquetFile,
        report: &mut VerifyReport,
    ) -> Result<()> {
        if day_file::must_be_stamped(file) {
            report.add(date, path, "the digest that it was sealed with is damaged".to_owned());
            return Ok(());
        }
        report.unstamped.push(date);
        let recorded = cache::recorded_sha256(&cache::path(&self.steps_dir, date), &FileId::of(path)?);
        if let Some(recorded) = recorded
            && recorded != fsx::sha256_file(path)?
        {
            report.add(date, path, "its bytes changed since they were aggregated: sha256 differs".into());
        }
        Ok(())
    }

    /// Aggregates are derived: a damaged one is never read, and made anew by the next rotation.
    fn verify_aggregates(&self, options: &VerifyOptions, report: &mut VerifyReport) -> Result<()> {
        for (date, path) in cache::list(&self.steps_dir)? {
            if !options.covers(date) {
                continue;
            }
            report.n_aggregates += 1;
            if cache::is_damaged(&path) {
                report.add(date, &path, "its bytes are not those that were aggregated".to_owned());
            }
        }
        Ok(())
    }

    fn verify_quarantine(&self, options: &VerifyOptions, report: &mut VerifyReport) -> Result<()> {
        for (date, path) in quarantine::files(&self.quarantine_dir)? {
            if !options.covers(date) {
                continue;
            }
            let damaged = quarantine::damaged_lines(&path)?;
            for line in damaged.numbers {
                let what = match damaged.torn == Some(line) {
                    true => "was torn while it was written",
                    false => "is not as it was written",
                };
                report.add(date, &path, format!("line {line} {what}"));
            }
        }
        Ok(())
    }

    fn verify_rows(
        &self,
        date: NaiveDate,
        path: &Path,
        file: &mut ParquetFile,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let columns = file.numeric_columns();
        let recorded = file.value_of(proof::KEY).map(Checksums::parse).transpose()?;
        let mut proof = recorded.as_ref().map(|sums| Proof::of_blocks(&columns, sums.block_rows));
        let filing = self.filing_of(date, file, &mut |row| {
            if let Some(proof) = &mut proof {
                proof.add(row);
            }
        })?;
        report.n_rows += filing.n_rows;
        if proof.map(Proof::finish) != recorded {
            let message = "its rows are not those that were sealed: their checksums differ";
            report.add(date, path, message.to_owned());
        }
        filing.problems().into_iter().for_each(|problem| report.add(date, path, problem));
        Ok(())
    }

    fn verify_segment(&self, date: NaiveDate, path: &Path, report: &mut VerifyReport) {
        let inputs = DayInputs::of_segments(vec![path.to_owned()], self.segment_header());
        match Survey::of(&inputs, &[]) {
            Ok(survey) => {
                report.n_rows += survey.n_rows();
                let flaws = survey.flaws.first().copied().unwrap_or_default();
                if let Some(damage) = flaws.damage {
                    report.add(date, path, damage.to_string());
                }
                // A writer that is at work is in the middle of a block.
                if flaws.n_bytes_torn > 0 && !segment::is_segment_live(path).unwrap_or(false) {
                    report.torn.push(TornSegment {
                        date,
                        file: path.to_owned(),
                        n_bytes: flaws.n_bytes_torn,
                    });
                }
            }
            // Sealed meanwhile.
            Err(_) if !path.exists() => {}
            Err(error) => report.add(date, path, format!("{error:#}")),
        }
    }
}

impl VerifyReport {
    fn add(&mut self, date: NaiveDate, path: &Path, message: String) {
        self.findings.push(Finding { date, file: path.to_owned(), message });
    }
}
