//! `buffer verify`: finds what is damaged, missing or misplaced, and changes nothing.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use chrono::NaiveDate;
use serde::Serialize;

use crate::calendar;
use crate::fsx;
use crate::progress::{Progress, Tick};

use super::Buffer;
use super::merge::{DayInputs, Survey};
use super::open::segment;
use super::sealed::day_file::{self, CRC_KEY, Proof};
use super::sealed::parquet_rows::ParquetFile;
use super::steps::aggregate::StepBuilder;
use super::steps::cache::{self, FileId};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub date: NaiveDate,
    /// The file it was found in; none for a missing day.
    pub file: Option<PathBuf>,
    pub message: String,
}

/// What a check of the whole buffer found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Empty: everything is as it should be.
    pub findings: Vec<Finding>,
    pub n_files: u64,
    pub n_segments: u64,
    /// Rows by the footers, or with `read_data` rows that were read.
    pub n_rows: u64,
    pub has_read_data: bool,
    pub duration_secs: f64,
}

impl Buffer {
    /// Checks every day of the buffer: footers, schema, checksums of segments, days without data; with `read_data`
    /// also every value of the day files, their order, and that each row lies in its day.
    ///
    /// - Errors: a folder cannot be listed. What is wrong with a file is a finding, not an error.
    pub fn verify(&self, read_data: bool, progress: &dyn Progress) -> Result<VerifyReport> {
        let started = Instant::now();
        let mut report = VerifyReport { has_read_data: read_data, ..VerifyReport::default() };
        let files = day_file::list(&self.dir)?;
        for (done, (date, path)) in files.iter().enumerate() {
            let (done, total) = (done as u64, files.len() as u64);
            progress.tick(&Tick { stage: "verify", done, total, unit: "days", detail: date.to_string() });
            report.n_files += 1;
            if let Err(error) = self.verify_day(*date, path, &mut report) {
                report.add(*date, path, format!("{error:#}"));
            }
        }
        let open = self.open_dates()?;
        for (date, dir) in &open {
            for path in segment::list(dir)? {
                report.n_segments += 1;
                self.verify_segment(*date, &path, &mut report);
            }
        }
        let dates: Vec<NaiveDate> = self.days()?.into_iter().map(|day| day.date).collect();
        if let (Some(first), Some(last)) = (dates.first(), dates.last()) {
            for date in calendar::days_between(*first, *last).filter(|date| !dates.contains(date)) {
                let message = "there is no data for this day".to_owned();
                report.findings.push(Finding { date, file: None, message });
            }
        }
        report.duration_secs = started.elapsed().as_secs_f64();
        Ok(report)
    }

    fn verify_day(&self, date: NaiveDate, path: &Path, report: &mut VerifyReport) -> Result<()> {
        let mut file = ParquetFile::open(path)?;
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
        if report.has_read_data {
            let recorded = cache::recorded_sha256(&cache::path(&self.steps_dir, date), &FileId::of(path)?);
            if let Some(recorded) = recorded
                && recorded != fsx::sha256_file(path)?
            {
                report.add(date, path, "its bytes changed since they were aggregated: sha256 differs".into());
            }
            return self.verify_rows(date, path, &mut file, report);
        }
        report.n_rows += file.n_rows() as u64;
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
        let mut proof = Proof::default();
        let bounds = self.is_cut_here(file).then(|| calendar::day_bounds_ms(date, self.zone));
        // Only the order of the rows is of interest here, which the builder checks.
        let mut order = StepBuilder::new(&self.schema, self.step_secs);
        let (mut n_rows, mut n_outside, mut n_disordered) = (0u64, 0u64, 0u64);
        let n_without_key = file.read_rows(&columns, None, &mut |rows| {
            n_rows += rows.len() as u64;
            for idx in 0..rows.len() {
                let row = rows.row(idx);
                let is_inside = bounds.is_none_or(|(start, end)| (start..end).contains(&row.time_ms));
                n_outside += u64::from(!is_inside);
                n_disordered += u64::from(!order.push(row));
                proof.add(row);
            }
            Ok(())
        })?;
        report.n_rows += n_rows;
        if file.value_of(CRC_KEY).is_some_and(|sealed| sealed != proof.text()) {
            report.add(
                date,
                path,
                "its rows are not those that were sealed: the checksum differs".to_owned(),
            );
        }
        let counts = [
            (n_without_key, "rows have no time that can be, or no server"),
            (n_outside, "rows belong to another day"),
            (n_disordered, "rows repeat a time of their server or come before it"),
        ];
        for (n, what) in counts.into_iter().filter(|(n, _)| *n > 0) {
            report.add(date, path, format!("{n} {what}"));
        }
        Ok(())
    }

    fn verify_segment(&self, date: NaiveDate, path: &Path, report: &mut VerifyReport) {
        let inputs = DayInputs { segments: vec![path.to_owned()], ..DayInputs::default() };
        match Survey::of(&inputs, &[]) {
            Ok(survey) => {
                report.n_rows += survey.n_rows();
                // The writer of a live segment may be in the middle of a block.
                let is_live = segment::is_segment_live(path).unwrap_or(false);
                for (_, n_bytes) in survey.cut.iter().filter(|_| !is_live) {
                    report.add(date, path, format!("{n_bytes} bytes at its end are unreadable"));
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
        self.findings.push(Finding { date, file: Some(path.to_owned()), message });
    }
}
