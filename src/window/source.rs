//! The buffer as the source of windows.

use anyhow::Result;
use chrono::NaiveDate;

use super::build::DaySource;
use super::manifest::Source;
use crate::buffer::{Buffer, StepTable};

impl DaySource for Buffer {
    fn dates(&self) -> Result<Vec<NaiveDate>> {
        Ok(self.days()?.into_iter().map(|day| day.date).collect())
    }

    fn sources(&self, day: NaiveDate) -> Result<Vec<Source>> {
        let digests = self.source_digests(day)?.into_iter();
        let source = |digest: crate::buffer::SourceDigest| Source {
            date: day,
            file: digest.file,
            sha256: digest.sha256,
            n_rows: digest.n_rows,
        };
        Ok(digests.map(source).collect())
    }

    fn read_steps(&self, day: NaiveDate) -> Result<StepTable> {
        Buffer::read_steps(self, day)
    }
}
