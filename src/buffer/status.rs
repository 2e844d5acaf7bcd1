//! `buffer status`: what is there, read from footers and from the blocks of segments, by their checksums; no row is decoded.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::Buffer;
use super::intake::quarantine::{self, QuarantineStatus};
use super::open::flaws::DamagedSegment;
use super::open::frame::Header;
use super::open::reader::Contents;
use super::open::segment;
use super::removed::{self, SetAside};
use super::sealed::day_file::{self, SERVERS_KEY};
use super::sealed::parquet_rows::ParquetFile;

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
    /// A day file that cannot be read.
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
    /// Segments that are damaged; the good rows behind the damage are counted.
    pub damaged: Vec<DamagedSegment>,
    /// What is wrong with an unreadable day.
    pub error: Option<String>,
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
        let spare = self.segment_header();
        let days = dates
            .iter()
            .map(|date| day_status(*date, files.get(date), open.get(date), &spare))
            .collect::<Result<Vec<DayStatus>>>()?;
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
            days,
        })
    }
}

fn day_status(
    date: NaiveDate,
    file: Option<&PathBuf>,
    open: Option<&PathBuf>,
    spare: &Header,
) -> Result<DayStatus> {
    let state = if file.is_some() { DayState::Sealed } else { DayState::Open };
    let mut day = DayStatus {
        date,
        state,
        n_rows: 0,
        n_open_rows: 0,
        size_bytes: 0,
        n_segments: 0,
        n_live_segments: 0,
        n_servers: None,
        damaged: Vec::new(),
        error: None,
    };
    if let Some(dir) = open {
        add_segments(&mut day, dir, spare)?;
    }
    if let Some(path) = file {
        day.size_bytes += fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
        if day.n_segments > 0 && day.error.is_none() {
            day.state = DayState::Late;
        }
        match ParquetFile::open(path) {
            Ok(file) => {
                day.n_rows += file.n_rows() as u64;
                day.n_servers = file.value_of(SERVERS_KEY).and_then(|n| n.parse().ok());
            }
            Err(error) => {
                day.state = DayState::Unreadable;
                day.error = Some(format!("{error:#}"));
            }
        }
    }
    Ok(day)
}

fn add_segments(day: &mut DayStatus, dir: &Path, spare: &Header) -> Result<()> {
    for path in segment::list(dir)? {
        match fs::metadata(&path).map(|meta| meta.len()).context("its length").and_then(|size_bytes| {
            Ok((size_bytes, Contents::of(&path, spare)?, segment::is_segment_live(&path)?))
        }) {
            Ok((size_bytes, Contents { n_rows, flaws }, is_live)) => {
                let damaged = |damage| DamagedSegment { date: day.date, file: path.clone(), damage };
                day.damaged.extend(flaws.damage.map(damaged));
                day.n_segments += 1;
                day.n_live_segments += usize::from(is_live);
                day.size_bytes += size_bytes;
                day.n_open_rows += n_rows;
            }
            // A rotation may take a segment away while we look.
            Err(_) if !path.exists() => {}
            Err(error) => {
                day.state = DayState::Unreadable;
                day.error = Some(format!("{error:#}"));
            }
        }
    }
    day.n_rows += day.n_open_rows;
    Ok(())
}
