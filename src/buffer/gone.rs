//! Days that are gone: rows that were sealed and aggregated, and whose day file is not there any more or holds another day.
//!
//! What remembers such a day first are its step aggregates. They are derived, so whoever finds the day gone and may write (a
//! rotation, a repair) sets them aside and writes the loss down beside them, in `removed/<day>/lost.reason.json`. The note
//! stands until as many rows of the day are back as were lost, or until a person gives them up (`repair --forget`): until
//! then every verb tells the day. Rows of the day that come late are sealed as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::fsx;

use super::Buffer;
use super::removed;
use super::sealed::day_file;
use super::steps::cache;
use super::trouble::{Trouble, TroubleKind};

const FORMAT: u32 = 1;
/// The name of the note in the folder of a day.
const NOTE: &str = "lost.reason.json";

#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    at: DateTime<Utc>,
    problem: String,
    n_rows_lost: Option<u64>,
    /// When a person said that the rows are missed no more.
    given_up_at: Option<DateTime<Utc>>,
}

/// A day that is gone.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub trouble: Trouble,
    /// Whether it is written down and its aggregates are set aside, so that nothing else has to remember it.
    pub is_noted: bool,
}

impl Buffer {
    /// The days that `covers` chooses which are gone, ascending; `known` days must be there, each with the sign of it.
    pub(super) fn gone_days(
        &self,
        covers: &dyn Fn(NaiveDate) -> bool,
        known: &BTreeMap<NaiveDate, String>,
    ) -> Result<Vec<Gone>> {
        let there: BTreeSet<NaiveDate> = self.days()?.into_iter().map(|day| day.date).collect();
        let mut given_up = BTreeSet::new();
        let mut gone: BTreeMap<NaiveDate, Gone> = BTreeMap::new();
        let mut add = |date: NaiveDate, problem: String, n_rows_lost: Option<u64>, is_noted: bool| {
            let file = day_file::path(&self.dir, date);
            let trouble = Trouble { date, kind: TroubleKind::Gone, file, problem, n_rows_lost };
            gone.entry(date).or_insert(Gone { trouble, is_noted });
        };
        for (date, dir) in removed::days(&self.removed_dir)? {
            match fsx::read_versioned::<Note>(&dir.join(NOTE), FORMAT) {
                Ok(Some(note)) if note.given_up_at.is_some() => drop(given_up.insert(date)),
                Ok(Some(note)) if covers(date) && !self.are_back(date, note.n_rows_lost) => {
                    add(date, note.problem, note.n_rows_lost, !self.has_forsaken_steps(date)?);
                }
                // One damaged note must not hold up the other days. How many rows it missed nobody knows; the aggregates do
                // where they were not set aside yet.
                Err(error) if covers(date) && !self.has_forsaken_steps(date)? => {
                    add(
                        date,
                        format!("rows of it are gone, and the note of them is damaged: {error:#}"),
                        None,
                        true,
                    );
                }
                _ => {}
            }
        }
        for (date, path) in cache::list(&self.steps_dir)?.into_iter().filter(|(date, _)| covers(*date)) {
            let (named, all) = (self.rows_remembered(date), cache::rows_recorded(&path, None));
            let is_gone = match (named, all) {
                _ if fsx::exists(&day_file::path(&self.dir, date))? => false,
                (Some(n), _) if n > 0 => true,
                (_, all) => !there.contains(&date) && all != Some(0),
            };
            if is_gone {
                let rows = all.map_or("rows of it".to_owned(), |n| format!("{n} rows of it"));
                add(date, format!("the day is gone: its step aggregates were made of {rows}"), all, false);
            }
        }
        for (date, sign) in known.iter().filter(|(date, _)| covers(**date) && !there.contains(date)) {
            if !given_up.contains(date) {
                add(*date, format!("the day is gone: {sign}"), None, false);
            }
        }
        Ok(gone.into_values().collect())
    }

    /// Whether the aggregates of `date` lie where they were, and its day file does not: whoever wrote the day down was killed
    /// before it had set them aside.
    fn has_forsaken_steps(&self, date: NaiveDate) -> Result<bool> {
        let has_steps = fsx::exists(&cache::path(&self.steps_dir, date))?;
        Ok(has_steps && !fsx::exists(&day_file::path(&self.dir, date))?)
    }

    /// Rows that the file of `date` had when the day was aggregated; `None` where nothing remembers it.
    pub(super) fn rows_remembered(&self, date: NaiveDate) -> Option<u64> {
        let file = day_file::path(&self.dir, date);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        cache::rows_recorded(&cache::path(&self.steps_dir, date), Some(&name))
    }

    /// Whether the day file has as many rows of its day as were lost.
    fn are_back(&self, date: NaiveDate, n_rows_lost: Option<u64>) -> bool {
        let look = self.look_at(&day_file::path(&self.dir, date));
        look.is_ok_and(|look| self.misnamed(date, &look).is_none() && look.n_rows >= n_rows_lost.unwrap_or(1))
    }

    /// Writes a day down that is gone, `given_up` or not; its aggregates are set aside. Doing it again changes nothing.
    ///
    /// - Errors: the disk refuses; the aggregates are where they were.
    pub(super) fn note_gone(
        &self,
        trouble: &Trouble,
        given_up: bool,
        now: DateTime<Utc>,
    ) -> Result<Option<PathBuf>> {
        let Trouble { date, problem, n_rows_lost, .. } = trouble;
        let given_up_at = given_up.then_some(now);
        let note = Note {
            format: FORMAT,
            at: now,
            problem: problem.clone(),
            n_rows_lost: *n_rows_lost,
            given_up_at,
        };
        fsx::write_json(&self.removed_dir.join(date.to_string()).join(NOTE), &note)?;
        let steps = cache::path(&self.steps_dir, *date);
        if !fsx::exists(&steps)? {
            return Ok(None);
        }
        let kept = removed::keep(&self.removed_dir, *date, &steps, problem, now)?;
        fsx::remove_file(&steps)?;
        Ok(Some(kept))
    }
}
