//! Takes damaged windows away, so that what they were made of can give them again: a window is derived.

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use std::path::PathBuf;

use crate::buffer::Buffer;
use crate::fsx;
use crate::site::Site;

use super::store::{self, DamagedWindow};

/// A window that was taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MendedWindow {
    pub id: String,
    pub problem: String,
    /// Its files as they were.
    pub kept: Vec<PathBuf>,
}

/// Sets every damaged window of `site` aside, where the buffer keeps what it takes away; with `dry_run` says which.
///
/// - Errors: the disk refuses. What was not set aside is where it was.
pub fn repair(site: &Site, dry_run: bool, now: DateTime<Utc>) -> Result<Vec<MendedWindow>> {
    let mut mended = Vec::new();
    for DamagedWindow { id, error } in store::verify_all(site)?.1 {
        let kept = if dry_run { Vec::new() } else { set_aside(site, &id, &error, now)? };
        mended.push(MendedWindow { id, problem: error, kept });
    }
    Ok(mended)
}

fn set_aside(site: &Site, id: &str, problem: &str, now: DateTime<Utc>) -> Result<Vec<PathBuf>> {
    let today = now.with_timezone(&site.zone()).date_naive();
    // A window is named after the day it ends.
    let end_day: NaiveDate = id.get(..10).and_then(|day| day.parse().ok()).unwrap_or(today);
    let buffer = Buffer::open(site);
    let files = fsx::list_dir(&site.windows_dir().join(id))?;
    let kept = files
        .iter()
        .map(|file| buffer.set_aside(end_day, &file.path(), &format!("window {id}: {problem}"), now))
        .collect::<Result<_>>()?;
    store::discard(site, id)?;
    Ok(kept)
}
