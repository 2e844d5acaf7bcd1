//! Whether the rows of a day file are filed where readers look for them: `verify` tells it, `repair` acts on it.

use anyhow::Result;
use chrono::NaiveDate;

use crate::calendar;

use super::Buffer;
use super::looks::REACH_DAYS;
use super::rows::Row;
use super::sealed::parquet_rows::ParquetFile;
use super::steps::aggregate::StepBuilder;

/// What was found of the rows of a day file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filing {
    pub n_rows: u64,
    n_without_key: u64,
    /// Rows of days that no reader looks for in this file.
    n_elsewhere: u64,
    n_disordered: u64,
}

impl Filing {
    /// What is wrong with them, as phrases.
    pub fn problems(&self) -> Vec<String> {
        let counts = [
            (self.n_without_key, "without a time that can be, or without a server"),
            (self.n_elsewhere, "of a day that nobody looks for in it"),
            (self.n_disordered, "that repeat a time of their server or come before it"),
        ];
        let told = counts.into_iter().filter(|(n, _)| *n > 0);
        told.map(|(n, what)| format!("it has {n} row{} {what}", if n == 1 { "" } else { "s" })).collect()
    }
}

impl Buffer {
    /// Reads every row of the file of `date`, passing them on to `each`.
    pub(super) fn filing_of(
        &self,
        date: NaiveDate,
        file: &mut ParquetFile,
        each: &mut dyn FnMut(Row<'_>),
    ) -> Result<Filing> {
        let reach = if self.is_cut_here(file) { 0 } else { REACH_DAYS };
        let start = calendar::day_start(calendar::days_before(date, reach), self.zone).timestamp_millis();
        let end = calendar::day_start(calendar::days_after(date, reach + 1), self.zone).timestamp_millis();
        let metrics = file.numeric_columns();
        // Only the order of the rows is of interest here, which the builder checks.
        let mut order = StepBuilder::new(&self.schema, self.step_secs);
        let mut filing = Filing::default();
        filing.n_without_key = file.read_rows(&metrics, None, &mut |rows| {
            filing.n_rows += rows.len() as u64;
            for idx in 0..rows.len() {
                let row = rows.row(idx);
                filing.n_elsewhere += u64::from(!(start..end).contains(&row.time_ms));
                filing.n_disordered += u64::from(!order.push(row));
                each(row);
            }
            Ok(())
        })?;
        Ok(filing)
    }
}
