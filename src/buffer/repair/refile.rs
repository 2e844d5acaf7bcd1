//! Saved rows on their way back: into segments of the days they belong to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;
use chrono::NaiveDate;

use crate::buffer::Buffer;
use crate::buffer::open::writer::SegmentWriter;
use crate::buffer::rows::Rows;
use crate::calendar;

/// Rows of a frame.
const FRAME_ROWS: usize = 8192;

/// Files rows into segments of the days they belong to, as rows that came before any late one.
pub(super) struct Refile<'a> {
    buffer: &'a Buffer,
    metrics: Vec<String>,
    /// Counts only.
    is_dry_run: bool,
    writers: BTreeMap<NaiveDate, SegmentWriter>,
    n_rows: BTreeMap<NaiveDate, u64>,
}

impl<'a> Refile<'a> {
    pub fn new(buffer: &'a Buffer, metrics: Vec<String>, is_dry_run: bool) -> Self {
        Self { buffer, metrics, is_dry_run, writers: BTreeMap::new(), n_rows: BTreeMap::new() }
    }

    pub fn take(&mut self, rows: &Rows) -> Result<()> {
        let mut by_day: BTreeMap<NaiveDate, Rows> = BTreeMap::new();
        for idx in 0..rows.len() {
            let row = rows.row(idx);
            let date = calendar::day_of(row.time_ms, self.buffer.zone);
            let of_day = by_day.entry(date).or_insert_with(|| Rows::new(rows.n_metrics));
            of_day.push(row);
            if of_day.len() >= FRAME_ROWS {
                self.write(date, of_day)?;
                of_day.clear();
            }
        }
        by_day
            .iter()
            .filter(|(_, rows)| !rows.is_empty())
            .try_for_each(|(date, rows)| self.write(*date, rows))
    }

    /// Late rows came after the day was sealed, so after its newest row less the skew that a sender may have: a frame
    /// written at that time is older than they are, and as new as readers of the newest row expect it to be.
    fn write(&mut self, date: NaiveDate, rows: &Rows) -> Result<()> {
        *self.n_rows.entry(date).or_default() += rows.len() as u64;
        if self.is_dry_run {
            return Ok(());
        }
        let newest_ms = rows.time_ms.iter().copied().max().unwrap_or_default();
        let written_ms = newest_ms - 1000 * i64::from(self.buffer.max_future_secs);
        let buffer = self.buffer;
        let writer = match self.writers.entry(date) {
            Entry::Occupied(writer) => writer.into_mut(),
            Entry::Vacant(place) => place.insert(SegmentWriter::create(
                &buffer.open_dir,
                date,
                &self.metrics,
                &buffer.schema.digest(),
                false,
            )?),
        };
        writer.append(rows, written_ms.max(0))
    }

    /// Makes everything durable; the days that got rows, and how many.
    pub fn finish(mut self) -> Result<BTreeMap<NaiveDate, u64>> {
        self.writers.values_mut().try_for_each(SegmentWriter::sync)?;
        Ok(self.n_rows)
    }
}
