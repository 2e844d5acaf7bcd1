//! The writing side of the open days: rows go to the segment of the day their event time belongs to.
//!
//! Rows wait in memory until a block is full; [`OpenDays::acknowledge`] makes all of them durable. Each process
//! writes segments of its own, so appenders do not wait for each other. A segment is ended when it is large or
//! old, or when its day is over and no row came for a while, so that a rotation can take it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::NaiveDate;
use chrono_tz::Tz;

use crate::{calendar, fsx};

use super::segment;
use super::writer::SegmentWriter;
use crate::buffer::Buffer;
use crate::buffer::rows::{Row, Rows};
use crate::buffer::sealed::day_file;

/// Rows that wait in memory, over all days.
const BLOCK_ROWS: usize = 8192;
const SEGMENT_BYTES: u64 = 64 << 20;
const SEGMENT_AGE: Duration = Duration::from_secs(15 * 60);
/// A segment of a day that is over ends after this long without rows, or this old.
const OVER_IDLE: Duration = Duration::from_secs(5);
const OVER_AGE: Duration = Duration::from_secs(60);
/// Segments written at the same time; a backfill of many days ends some and begins new ones.
const MAX_WRITERS: usize = 64;
/// How often room on the disk is looked for, if what was found lasts as long.
const ROOM_EVERY: Duration = Duration::from_secs(1);

struct OpenDay {
    rows: Rows,
    writer: Option<SegmentWriter>,
    is_dirty: bool,
    is_sealed: bool,
    written_at: Instant,
}

/// The open days of one appender.
pub(in crate::buffer) struct OpenDays<'a> {
    open_dir: &'a Path,
    buffer_dir: &'a Path,
    zone: Tz,
    metrics: Vec<String>,
    schema_digest: String,
    days: BTreeMap<NaiveDate, OpenDay>,
    n_waiting: usize,
    /// Whether the rows complete earlier ones of the same key instead of replacing them; set before the first row.
    pub completes_rows: bool,
    /// When the newest block was written: a clock that is set back must not make later rows the older ones.
    written_ms: i64,
    /// The day of the last row with its bounds: rows mostly come in order.
    current: Option<(i64, i64, NaiveDate)>,
    min_free_bytes: u64,
    /// When room on the disk was looked for last, and what is left of it.
    room_seen_at: Option<Instant>,
    room_left: u64,
}

impl<'a> OpenDays<'a> {
    pub fn new(buffer: &'a Buffer) -> Self {
        Self {
            open_dir: &buffer.open_dir,
            buffer_dir: &buffer.dir,
            zone: buffer.zone,
            metrics: buffer.metric_names(),
            schema_digest: buffer.schema.digest(),
            days: BTreeMap::new(),
            n_waiting: 0,
            completes_rows: false,
            written_ms: i64::MIN,
            current: None,
            min_free_bytes: buffer.min_free_bytes,
            room_seen_at: None,
            room_left: 0,
        }
    }

    /// Takes a row; returns its day, and whether that day is sealed already.
    pub fn push(&mut self, row: Row<'_>, now_ms: i64) -> Result<(NaiveDate, bool)> {
        let date = self.date_of(row.time_ms);
        let n_metrics = self.metrics.len();
        let day = match self.days.entry(date) {
            Entry::Occupied(day) => day.into_mut(),
            Entry::Vacant(place) => place.insert(OpenDay {
                rows: Rows::new(n_metrics),
                writer: None,
                is_dirty: false,
                is_sealed: fsx::exists(&day_file::path(self.buffer_dir, date))?,
                written_at: Instant::now(),
            }),
        };
        day.rows.push(row);
        let is_sealed = day.is_sealed;
        self.n_waiting += 1;
        if self.n_waiting >= BLOCK_ROWS {
            self.write_blocks(now_ms)?;
        }
        Ok((date, is_sealed))
    }

    fn date_of(&mut self, time_ms: i64) -> NaiveDate {
        match self.current {
            Some((start, end, date)) if (start..end).contains(&time_ms) => date,
            _ => {
                let date = calendar::day_of(time_ms, self.zone);
                let (start, end) = calendar::day_bounds_ms(date, self.zone);
                self.current = Some((start, end, date));
                date
            }
        }
    }

    /// Writes what waits; it is durable after [`OpenDays::acknowledge`].
    fn write_blocks(&mut self, now_ms: i64) -> Result<()> {
        if self.n_waiting > 0 {
            self.ensure_room()?;
        }
        self.written_ms = self.written_ms.max(now_ms);
        for (date, day) in &mut self.days {
            if day.rows.is_empty() {
                continue;
            }
            let writer = match &mut day.writer {
                Some(writer) => writer,
                None => day.writer.insert(SegmentWriter::create(
                    self.open_dir,
                    *date,
                    &self.metrics,
                    &self.schema_digest,
                    self.completes_rows,
                )?),
            };
            writer.append(&day.rows, self.written_ms)?;
            day.rows.clear();
            day.is_dirty = true;
            day.written_at = Instant::now();
        }
        self.n_waiting = 0;
        if self.days.values().filter(|day| day.writer.is_some()).count() > MAX_WRITERS {
            self.sync()?;
            self.days.values_mut().for_each(|day| day.writer = None);
        }
        Ok(())
    }

    /// Refuses before the disk is so full that the largest open day could not be sealed any more.
    fn ensure_room(&mut self) -> Result<()> {
        // Written now as segments, and later once more as part of a day file.
        let wanted = 2 * self.n_waiting as u64 * Rows::row_bytes(self.metrics.len()) as u64;
        let is_fresh = self.room_seen_at.is_some_and(|at| at.elapsed() < ROOM_EVERY);
        if !(is_fresh && self.room_left >= wanted) {
            let kept = self.min_free_bytes.saturating_add(self.room_to_seal()?);
            self.room_left = fsx::ensure_room(self.open_dir, kept.saturating_add(wanted))? + wanted;
            self.room_seen_at = Some(Instant::now());
        }
        self.room_left -= wanted;
        Ok(())
    }

    /// What sealing the largest open day takes at most: its segments and its day file, written anew as one.
    fn room_to_seal(&self) -> Result<u64> {
        let mut largest = 0;
        for entry in fsx::list_dir(self.open_dir)? {
            let Some(date) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let sealed = fs::metadata(day_file::path(self.buffer_dir, date));
            let sealed_bytes = sealed.map_or(0, |metadata| metadata.len());
            largest = largest.max(segment::size_bytes(&entry.path())? + sealed_bytes);
        }
        Ok(largest)
    }

    /// Makes every row taken so far durable.
    pub fn acknowledge(&mut self, now_ms: i64) -> Result<()> {
        self.write_blocks(now_ms)?;
        self.sync()?;
        let today = calendar::day_of(now_ms, self.zone);
        for (date, day) in &mut self.days {
            let is_over = *date < today;
            let is_done = day.writer.as_ref().is_some_and(|writer| {
                let age = writer.begun.elapsed();
                let is_full = writer.size_bytes >= SEGMENT_BYTES || age >= SEGMENT_AGE;
                is_full || (is_over && (day.written_at.elapsed() >= OVER_IDLE || age >= OVER_AGE))
            });
            if is_done {
                day.writer = None;
            }
        }
        // Days without a segment are forgotten, so that a day sealed meanwhile is noticed.
        self.days.retain(|_, day| day.writer.is_some());
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        for day in self.days.values_mut().filter(|day| day.is_dirty) {
            if let Some(writer) = &mut day.writer {
                writer.sync()?;
            }
            day.is_dirty = false;
        }
        Ok(())
    }
}
