//! Whether a window is still what was published, and still what its days would give.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::calendar;
use crate::site::Site;

use super::build::DaySource;
use super::manifest::Source;
use super::store::{self, Window};

/// What became of a window since it was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowCheck {
    pub id: String,
    /// What is wrong with its files; none: every byte is the one that was published.
    pub damage: Option<String>,
    /// Days whose files in the buffer are others now: building again would give another window.
    pub changed_days: Vec<ChangedDay>,
}

/// A day whose files are others than those the window was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedDay {
    pub date: NaiveDate,
    /// Rows behind the window; 0: the day was not there.
    pub n_rows_then: u64,
    /// Rows in the buffer now; 0: the day is gone.
    pub n_rows_now: u64,
}

/// The days that windows of `site` were read from and that retention has not let go as of `now`, each with the sign of it.
///
/// - Errors: the folder of the windows cannot be listed; a damaged window is passed over.
pub fn days_read(site: &Site, now: DateTime<Utc>) -> Result<BTreeMap<NaiveDate, String>> {
    let today = now.with_timezone(&site.zone()).date_naive();
    let oldest_kept = calendar::days_before(today, site.config.data_retention_days);
    let mut days = BTreeMap::new();
    for window in store::list(site)? {
        for source in window.manifest.sources.iter().filter(|source| source.date >= oldest_kept) {
            days.insert(source.date, format!("window {} was made of it", window.id));
        }
    }
    Ok(days)
}

/// Checks the files of `window` and asks `source` for those of its days.
///
/// - Errors: a day of the source cannot be read.
pub(super) fn check_against(source: &dyn DaySource, window: &Window) -> Result<WindowCheck> {
    let manifest = &window.manifest;
    let damage = window.verify().err().map(|error| format!("{error:#}"));
    let mut dates: BTreeSet<NaiveDate> = manifest.sources.iter().map(|source| source.date).collect();
    let there: BTreeSet<NaiveDate> = source.dates()?.into_iter().collect();
    dates.extend(there.range(manifest.first_day..manifest.end_day));
    let mut changed_days = Vec::new();
    for date in dates {
        let then: Vec<&Source> = manifest.sources.iter().filter(|source| source.date == date).collect();
        let now = if there.contains(&date) { source.sources(date)? } else { Vec::new() };
        if !then.iter().copied().eq(&now) {
            changed_days.push(ChangedDay {
                date,
                n_rows_then: then.iter().map(|source| source.n_rows).sum(),
                n_rows_now: now.iter().map(|source| source.n_rows).sum(),
            });
        }
    }
    Ok(WindowCheck { id: window.id.clone(), damage, changed_days })
}
