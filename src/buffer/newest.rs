//! How fresh the buffer is: the time of its newest row, from footers and frames, without aggregating a day.
//!
//! Segments are looked at before day files: a rotation publishes the day file before it deletes the segments, so
//! rows that it moves meanwhile are found in one place at least.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use chrono::NaiveDate;

use crate::calendar::{self, PLAUSIBLE_MS};
use crate::fsx;

use super::Buffer;
use super::looks::REACH_DAYS;
use super::open::frame::Header;
use super::open::reader::{self, SegmentReader};
use super::open::segment;
use super::rows::Rows;
use super::sealed::day_file;
use super::sealed::parquet_rows::ParquetFile;

impl Buffer {
    /// The event time of the newest row before `before_ms`, in epoch milliseconds; `None` without such rows.
    ///
    /// Exact to the millisecond. Footers answer for day files that end before `before_ms`; of others, and of open
    /// segments that can hold something newer, the keys are read.
    ///
    /// - Errors: a file that may hold the newest row cannot be read; it is named.
    pub fn newest_time_ms(&self, before_ms: i64) -> Result<Option<i64>> {
        let open = self.open_dates()?;
        let files = day_file::list(&self.dir)?;
        let dates: BTreeSet<NaiveDate> = open.keys().chain(files.keys()).copied().collect();
        let mut newest = None;
        for date in dates.into_iter().rev() {
            let (start, end) = self.reach_ms(date);
            if start >= before_ms || newest.is_some_and(|newest| newest >= end) {
                continue;
            }
            if let Some(dir) = open.get(&date) {
                self.look_in_segments(date, dir, before_ms, &mut newest)?;
            }
            let path = day_file::path(&self.dir, date);
            if fsx::exists(&path)? {
                newest = newest.max(newest_in_file(&path, before_ms)?);
            }
        }
        Ok(newest)
    }

    /// The times that files of `date` may hold rows of.
    fn reach_ms(&self, date: NaiveDate) -> (i64, i64) {
        let first = calendar::days_before(date, REACH_DAYS);
        let last = calendar::days_after(date, REACH_DAYS);
        (calendar::day_bounds_ms(first, self.zone).0, calendar::day_bounds_ms(last, self.zone).1)
    }

    /// Looks through the segments of a day, newest first, as long as they can hold something newer.
    fn look_in_segments(
        &self,
        date: NaiveDate,
        dir: &Path,
        before_ms: i64,
        newest: &mut Option<i64>,
    ) -> Result<()> {
        let (start, end) = calendar::day_bounds_ms(date, self.zone);
        let end = end.min(before_ms);
        let spare = self.segment_header();
        // No row was ahead of the clock by more than this when it was written.
        let max_ahead_ms = 1000 * i64::from(self.max_future_secs);
        for path in segment::list(dir)?.into_iter().rev() {
            let look = || -> Result<Option<i64>> {
                let written_ms = reader::last_written_ms(&path, &spare)?;
                let bound = end.min(written_ms.map_or(i64::MIN, |ms| ms.saturating_add(max_ahead_ms + 1)));
                if newest.is_some_and(|newest| newest + 1 >= bound) {
                    return Ok(None);
                }
                newest_in_segment(&path, &spare, start, end)
            };
            match look() {
                Ok(found) => *newest = (*newest).max(found),
                // Sealed meanwhile: the day file has its rows, and is looked at next.
                Err(_) if !fsx::exists(&path)? => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn newest_in_segment(path: &Path, spare: &Header, start_ms: i64, end_ms: i64) -> Result<Option<i64>> {
    let mut reader = SegmentReader::open(path, spare)?;
    let mut rows = Rows::new(0);
    let mut newest = None;
    while reader.next_into(&[], &mut rows)?.is_some() {
        newest = newest.max(newest_of(&rows, start_ms, end_ms));
    }
    Ok(newest)
}

fn newest_in_file(path: &Path, before_ms: i64) -> Result<Option<i64>> {
    let mut file = ParquetFile::open(path)?;
    if let Some((_, last)) = file.time_range_ms()
        && last < before_ms
        && PLAUSIBLE_MS.contains(&last)
    {
        return Ok(Some(last));
    }
    let mut newest = None;
    file.read_rows(&[], Some((PLAUSIBLE_MS.start, before_ms)), &mut |rows| {
        newest = newest.max(newest_of(rows, PLAUSIBLE_MS.start, before_ms));
        Ok(())
    })
    .with_context(|| format!("read {}", path.display()))?;
    Ok(newest)
}

fn newest_of(rows: &Rows, start_ms: i64, end_ms: i64) -> Option<i64> {
    rows.time_ms.iter().copied().filter(|time_ms| (start_ms..end_ms).contains(time_ms)).max()
}
