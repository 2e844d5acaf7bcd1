//! What the footers of day files say: which days a file can have rows of, and whether those are the ones of its name.
//!
//! A day file that this program sealed for the site's zone holds exactly its day. Other files (a buffer from
//! elsewhere, mostly cut at UTC midnight, or days sealed before the zone was changed) may hold rows of a
//! neighbouring day, so they are consulted for up to two days around their name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use chrono::NaiveDate;

use crate::calendar;
use crate::error::HintExt;

use super::Buffer;
use super::sealed::day_file::ZONE_KEY;
use super::sealed::parquet_rows::ParquetFile;
use super::steps::cache::FileId;
use super::trouble::remedy;

/// How far from its name a file that was cut elsewhere may hold rows, in days.
pub(super) const REACH_DAYS: u32 = 2;

/// Which days a day file can have rows of, by its footer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub is_cut_here: bool,
    pub n_rows: u64,
    time_range_ms: Option<(i64, i64)>,
}

/// The day files looked at, as they were then.
pub(super) type Looks = HashMap<PathBuf, (FileId, Look)>;

impl Buffer {
    /// Whether the file of `date` may have rows of `day`.
    pub(super) fn may_hold(
        &self,
        path: &Path,
        date: NaiveDate,
        day: NaiveDate,
        bounds: (i64, i64),
    ) -> Result<bool> {
        let look = match self.look_at(path) {
            Ok(look) => look,
            // A neighbour that cannot be read is that day's problem.
            Err(_) if date != day => return Ok(false),
            Err(error) => {
                return Err(error).hint(|| remedy(date));
            }
        };
        if look.is_cut_here {
            return Ok(date == day);
        }
        let is_inside = |(min, max): (i64, i64)| max >= bounds.0 && min < bounds.1;
        Ok(look.time_range_ms.map_or(date == day, is_inside))
    }

    /// What the footer of a day file says, read again only when the file looks different from outside.
    pub(super) fn look_at(&self, path: &Path) -> Result<Look> {
        let id = FileId::of(path)?;
        let seen = |looks: &Looks| looks.get(path).filter(|(known, _)| *known == id).map(|(_, look)| *look);
        if let Some(look) = seen(&self.looks.lock().expect("nobody panics while holding it")) {
            return Ok(look);
        }
        let file = ParquetFile::open(path)?;
        let look = Look {
            is_cut_here: self.is_cut_here(&file),
            n_rows: file.n_rows() as u64,
            time_range_ms: file.time_range_ms(),
        };
        self.looks.lock().expect("nobody panics while holding it").insert(path.to_owned(), (id, look));
        Ok(look)
    }

    /// Whether a day file holds exactly its day: sealed by this program for this zone.
    pub(super) fn is_cut_here(&self, file: &ParquetFile) -> bool {
        file.value_of(ZONE_KEY) == Some(self.zone.name())
    }

    /// What is wrong with the name of the file of `date`: its rows are of days that nobody looks for in it.
    pub(super) fn misnamed(&self, date: NaiveDate, look: &Look) -> Option<String> {
        let (min, max) = look.time_range_ms?;
        let (first, last) = (calendar::day_of(min, self.zone), calendar::day_of(max, self.zone));
        let is_here = if look.is_cut_here {
            (first, last) == (date, date)
        } else {
            let reach = calendar::days_before(date, REACH_DAYS)..=calendar::days_after(date, REACH_DAYS);
            first <= *reach.end() && last >= *reach.start()
        };
        (!is_here).then(|| match first == last {
            true => format!("its rows are those of {first}"),
            false => format!("its rows are those of {first} to {last}"),
        })
    }

    /// The days that a file cut elsewhere has rows of, near its name.
    pub(super) fn dates_in(&self, look: Look, date: NaiveDate) -> Vec<NaiveDate> {
        let Some((min, max)) = look.time_range_ms else { return vec![date] };
        let first = calendar::day_of(min, self.zone).max(calendar::days_before(date, REACH_DAYS));
        let last = calendar::day_of(max, self.zone).min(calendar::days_after(date, REACH_DAYS));
        calendar::days_between(first, calendar::days_after(last, 1)).collect()
    }
}
