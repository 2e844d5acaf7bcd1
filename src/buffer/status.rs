//! `buffer status`: what is there, read from footers and from the blocks of segments, by their checksums; no row is decoded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::Buffer;
use super::intake::quarantine::{self, QuarantineStatus};
use super::open::reader::Contents;
use super::open::segment;
use super::removed::{self, SetAside};
use super::sealed::day_file::{self, SERVERS_KEY};
use super::sealed::parquet_rows::ParquetFile;
use super::sealed::stamp::{self, Stamped};
use super::trouble::{Trouble, TroubleKind};

/// What a day consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DayState {
    /// Segments only.
    Open,
    /// A day file only.
    Sealed,
    /// A day file, and late rows that wait for the next rotation.
    Late,
    /// A day file that is damaged or holds another day, with or without late rows.
    Damaged,
    /// A day file, or a segment, that cannot be read.
    Unreadable,
}

/// One day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DayStatus {
    pub date: NaiveDate,
    pub state: DayState,
    /// Rows in the day file and in segments, duplicates included.
    pub n_rows: u64,
    /// Rows that wait in segments.
    pub n_open_rows: u64,
    pub size_bytes: u64,
    pub n_segments: usize,
    /// Segments that a running process writes.
    pub n_live_segments: usize,
    /// Servers in the day file, where it says so.
    pub n_servers: Option<u64>,
}

/// The whole buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BufferStatus {
    pub dir: PathBuf,
    /// A buffer from elsewhere, which is only read.
    pub is_foreign: bool,
    pub zone: String,
    pub today: NaiveDate,
    /// Ascending; by the names of files and folders.
    pub days: Vec<DayStatus>,
    pub n_rows: u64,
    pub size_bytes: u64,
    pub oldest: Option<NaiveDate>,
    pub newest: Option<NaiveDate>,
    /// Dates between the oldest and the newest without any data.
    pub missing: Vec<NaiveDate>,
    /// Segments of days that are sealed already.
    pub n_late_segments: usize,
    pub n_unreadable: usize,
    /// What is wrong with the rows, by day. Bytes of day files are looked at only where late rows wait to be merged with them;
    /// `verify` looks at all.
    pub troubles: Vec<Trouble>,
    pub quarantine: QuarantineStatus,
    /// What repairs and rotations took away because it is damaged.
    pub set_aside: Vec<SetAside>,
}

impl Buffer {
    /// The state of the buffer as of `now`. An unreadable day is listed as such and is no error.
    pub fn status(&self, now: DateTime<Utc>) -> Result<BufferStatus> {
        let files = day_file::list(&self.dir)?;
        let open = self.open_dates()?;
        let mut dates: Vec<NaiveDate> = files.keys().chain(open.keys()).copied().collect();
        dates.sort_unstable();
        dates.dedup();
        let found = self.day_troubles(&|_| true, &BTreeMap::new())?;
        let mut troubles = [found.unreadable.clone(), found.passed_over()].concat();
        let mut days = Vec::new();
        for date in &dates {
            days.push(self.day_status(*date, files.get(date), open.get(date), &mut troubles)?);
        }
        troubles.sort_by_key(|trouble| trouble.date);
        let missing = match (dates.first(), dates.last()) {
            (Some(first), Some(last)) => crate::calendar::days_between(*first, *last)
                .filter(|date| dates.binary_search(date).is_err())
                .collect(),
            _ => Vec::new(),
        };
        Ok(BufferStatus {
            dir: self.dir.clone(),
            is_foreign: self.is_foreign,
            zone: self.zone.name().to_owned(),
            today: now.with_timezone(&self.zone).date_naive(),
            n_rows: days.iter().map(|day| day.n_rows).sum(),
            size_bytes: days.iter().map(|day| day.size_bytes).sum(),
            oldest: dates.first().copied(),
            newest: dates.last().copied(),
            missing,
            n_late_segments: days.iter().filter(|d| d.state == DayState::Late).map(|d| d.n_segments).sum(),
            n_unreadable: days.iter().filter(|d| d.state == DayState::Unreadable).count(),
            quarantine: quarantine::status(&self.quarantine_dir)?,
            set_aside: removed::list(&self.removed_dir)?,
            troubles,
            days,
        })
    }

    fn day_status(
        &self,
        date: NaiveDate,
        file: Option<&PathBuf>,
        open: Option<&PathBuf>,
        troubles: &mut Vec<Trouble>,
    ) -> Result<DayStatus> {
        let mut day = DayStatus {
            date,
            state: if file.is_some() { DayState::Sealed } else { DayState::Open },
            n_rows: 0,
            n_open_rows: 0,
            size_bytes: 0,
            n_segments: 0,
            n_live_segments: 0,
            n_servers: None,
        };
        if let Some(dir) = open {
            self.add_segments(&mut day, dir, troubles)?;
        }
        if let Some(path) = file {
            self.add_day_file(&mut day, path, troubles)?;
        }
        Ok(day)
    }

    fn add_day_file(&self, day: &mut DayStatus, path: &Path, troubles: &mut Vec<Trouble>) -> Result<()> {
        day.size_bytes += fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
        let is_known = troubles.iter().any(|trouble| trouble.file == path);
        let Ok(file) = ParquetFile::open(path) else {
            day.state = DayState::Unreadable;
            return Ok(());
        };
        day.n_rows += file.n_rows() as u64;
        day.n_servers = file.value_of(SERVERS_KEY).and_then(|n| n.parse().ok());
        let is_late = day.n_segments > 0;
        if !is_known && is_late && stamp::check(path)? == Stamped::Damaged {
            let error = day_file::damaged(path);
            troubles.push(Trouble::of_file(day.date, path, &error));
        }
        day.state =
            match troubles.iter().any(|trouble| trouble.file == path && trouble.kind != TroubleKind::Gone) {
                true => DayState::Damaged,
                false if day.state == DayState::Unreadable => DayState::Unreadable,
                false if is_late => DayState::Late,
                false => DayState::Sealed,
            };
        Ok(())
    }

    fn add_segments(&self, day: &mut DayStatus, dir: &Path, troubles: &mut Vec<Trouble>) -> Result<()> {
        let spare = self.segment_header();
        let look = |path: &Path| -> Result<(u64, Contents, bool)> {
            let size_bytes = fs::metadata(path).context("its length")?.len();
            Ok((size_bytes, Contents::of(path, &spare)?, segment::is_segment_live(path)?))
        };
        for path in segment::list(dir)? {
            match look(&path) {
                Ok((size_bytes, Contents { n_rows, flaws }, is_live)) => {
                    let damaged = |damage| Trouble::of_segment(day.date, path.clone(), damage);
                    troubles.extend(flaws.damage.map(damaged));
                    day.n_segments += 1;
                    day.n_live_segments += usize::from(is_live);
                    day.size_bytes += size_bytes;
                    day.n_open_rows += n_rows;
                }
                // A rotation may take a segment away while we look.
                Err(_) if !path.exists() => {}
                Err(error) => {
                    day.state = DayState::Unreadable;
                    troubles.push(Trouble::of_file(day.date, &path, &error));
                }
            }
        }
        day.n_rows += day.n_open_rows;
        Ok(())
    }
}
