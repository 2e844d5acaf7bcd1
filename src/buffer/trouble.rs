//! What is wrong with the rows of the buffer and what it costs: one list, and one phrase each, for every verb that tells it.
//!
//! - A segment with damaged blocks: whoever reads it finds the good ones, and says what is missing.
//! - A day file whose bytes are not those that were sealed, or whose footer cannot be read: nobody reads it as if it were
//!   whole, so the day fails, with the way to a repair.
//! - A day file that holds the rows of another day: none of its rows is found where readers look; nothing is made of it.
//! - A day that is gone ([`super::gone`]).
//!
//! Readers go on with what is good, and warn. A rotation that met any of these, and an export that left something out, end
//! with exit code 4, a day that failed with 1; `verify` with 1, and `repair` with 1 if anything is lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use chrono::NaiveDate;
use serde::Serialize;

use crate::error::{HintExt, message_and_hint};

use super::Buffer;
use super::gone::Gone;
use super::open::flaws::Damage;
use super::sealed::day_file;

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TroubleKind {
    /// Bytes are not as they were written.
    Damaged,
    /// The rows are those of another day than the name says.
    Misnamed,
    /// The rows were there, and are not any more.
    Gone,
}

/// Something that is wrong with the rows of a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    pub date: NaiveDate,
    pub kind: TroubleKind,
    /// The file that is damaged or misnamed, or that is gone.
    pub file: PathBuf,
    /// What is wrong, as a phrase.
    pub problem: String,
    /// Rows that are lost by it; `None` where nobody can know.
    pub n_rows_lost: Option<u64>,
}

impl Trouble {
    /// A segment of `date` that is damaged.
    pub fn of_segment(date: NaiveDate, file: PathBuf, damage: Damage) -> Self {
        let (problem, n_rows_lost) = (damage.to_string(), damage.n_rows_lost);
        Self { date, kind: TroubleKind::Damaged, file, problem, n_rows_lost }
    }

    /// The file at `path`, of which nobody can read anything because of `error`.
    pub(super) fn of_file(date: NaiveDate, path: &Path, error: &anyhow::Error) -> Self {
        let message = message_and_hint(error).0;
        // The message names the file, and so does whoever tells it.
        let problem = message.trim_start_matches(&format!("read {}: ", path.display()));
        let problem = problem.trim_start_matches(&format!("{}: ", path.display())).to_owned();
        Self { date, kind: TroubleKind::Damaged, file: path.to_owned(), problem, n_rows_lost: None }
    }

    /// Whether whoever reads goes without rows because of it.
    pub fn hides_rows(&self) -> bool {
        self.kind != TroubleKind::Damaged || self.n_rows_lost != Some(0)
    }

    /// What whoever goes on without these rows says, and what helps.
    pub fn warning(&self) -> String {
        let Self { date, kind, file, problem, .. } = self;
        let remedy = match kind {
            TroubleKind::Damaged => remedy(*date),
            TroubleKind::Misnamed => {
                format!("`tftctl buffer repair --day {date}` files them where they belong")
            }
            TroubleKind::Gone => way_back(*date),
        };
        format!("{}: {problem}; {remedy}", file.display())
    }
}

/// What helps where a file of `date` is damaged.
pub(super) fn remedy(date: NaiveDate) -> String {
    format!("`tftctl buffer repair --day {date}` keeps what is good of it")
}

/// What helps where the rows of `date` are gone.
pub(super) fn way_back(date: NaiveDate) -> String {
    format!("put it back from a copy, or give the day up: `tftctl buffer repair --day {date} --forget`")
}

/// What is wrong with days, by the names and footers of their files.
#[derive(Debug, Default)]
pub(super) struct DayTroubles {
    /// Day files whose footer cannot be read: whoever reads such a day fails.
    pub unreadable: Vec<Trouble>,
    pub misnamed: Vec<Trouble>,
    pub gone: Vec<Gone>,
}

impl DayTroubles {
    /// Rows that readers pass over without an error.
    pub fn passed_over(self) -> Vec<Trouble> {
        self.misnamed.into_iter().chain(self.gone.into_iter().map(|gone| gone.trouble)).collect()
    }
}

impl Buffer {
    /// What is wrong with the days that `covers` chooses, without reading their rows. `known` days must be there, each with the
    /// sign of it.
    pub(super) fn day_troubles(
        &self,
        covers: &dyn Fn(NaiveDate) -> bool,
        known: &BTreeMap<NaiveDate, String>,
    ) -> Result<DayTroubles> {
        let mut found = DayTroubles { gone: self.gone_days(covers, known)?, ..DayTroubles::default() };
        for (date, path) in day_file::list(&self.dir)?.into_iter().filter(|(date, _)| covers(*date)) {
            match self.look_at(&path) {
                Ok(look) => {
                    let misnamed =
                        self.misnamed(date, &look).map(|problem| self.trouble_of_name(date, problem));
                    found.misnamed.extend(misnamed);
                }
                // Let go meanwhile.
                Err(_) if !path.exists() => {}
                Err(error) => found.unreadable.push(Trouble::of_file(date, &path, &error)),
            }
        }
        Ok(found)
    }

    /// Days from `first` up to `end` of which rows are missing that readers pass over.
    pub fn missing_rows(&self, first: NaiveDate, end: NaiveDate) -> Result<Vec<Trouble>> {
        let covers = |date: NaiveDate| (first..end).contains(&date);
        Ok(self.day_troubles(&covers, &BTreeMap::new())?.passed_over())
    }

    /// The file of `date` holds the rows of another day; what is lost is what was there when the day was aggregated.
    fn trouble_of_name(&self, date: NaiveDate, problem: String) -> Trouble {
        let n_rows_lost = Some(self.rows_remembered(date).unwrap_or(0));
        Trouble {
            date,
            kind: TroubleKind::Misnamed,
            file: day_file::path(&self.dir, date),
            problem,
            n_rows_lost,
        }
    }

    /// Checks that the day file at `path` is the one that was sealed, and of its day: what is merged with it is sealed anew,
    /// and what was wrong would pass for right.
    ///
    /// - Errors: it is not, with the hint to mend it; or it cannot be read.
    pub(super) fn ensure_sound(&self, path: &Path, date: NaiveDate) -> Result<()> {
        day_file::ensure_whole(path, date)?;
        let look = self.look_at(path).hint(|| remedy(date))?;
        match self.misnamed(date, &look) {
            None => Ok(()),
            Some(problem) => Err(anyhow!("{}: {problem}", path.display())).hint(|| remedy(date)),
        }
    }
}
