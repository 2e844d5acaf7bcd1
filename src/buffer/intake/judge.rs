//! Decides about each candidate: a good one goes to its open day, a bad one to quarantine.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use crate::calendar;

use super::append::YEAR_2000_MS;
use super::join::Joiner;
use super::quarantine::{Place, Quarantine};
use super::record::{Candidate, Reason, Reject, Rules};
use crate::buffer::open::open_days::OpenDays;
use crate::buffer::rows::Row;

/// The part of an intake that decides about one candidate; apart, so that a parser can hold the rest.
pub(super) struct Judge<'a> {
    pub rules: Rules<'a>,
    pub open: OpenDays<'a>,
    pub quarantine: Quarantine,
    pub file: String,
    pub now_ms: i64,
    pub today: NaiveDate,
    /// Records of days that are not kept are counted, not quarantined.
    pub leaves_out_old: bool,
    pub tally: Tally,
    /// Records that are parts of rows, waiting for the other parts.
    pub joiner: Joiner,
    /// The first failure to write.
    pub failure: Option<anyhow::Error>,
}

/// Counts that become part of a report when they are durable.
#[derive(Default)]
pub(super) struct Tally {
    pub n_good: u64,
    pub n_bad: u64,
    pub n_too_old: u64,
    pub n_joined: u64,
    pub n_late: u64,
    pub n_out_of_range_kept: u64,
    pub reasons: BTreeMap<Reason, u64>,
    pub n_per_day: BTreeMap<NaiveDate, u64>,
}

impl Judge<'_> {
    /// Files or quarantines a candidate that was found at `line` (and `record` of it).
    pub fn judge(&mut self, candidate: &mut Candidate, line: u64, record: Option<usize>, raw: &[u8]) {
        match self.rules.check(candidate) {
            Ok(n_kept) => {
                self.tally.n_out_of_range_kept += n_kept as u64;
                self.accept(candidate);
            }
            Err(reject) if self.is_left_out(&reject, candidate) => self.tally.n_too_old += 1,
            Err(reject) => self.reject(&reject, line, record, raw),
        }
    }

    /// Whether a record is a plausible one of a day that is not kept, and those are not wanted in quarantine.
    fn is_left_out(&self, reject: &Reject, candidate: &Candidate) -> bool {
        let is_old = reject.reason == Reason::TimestampTooOld;
        self.leaves_out_old && is_old && candidate.time_ms.is_some_and(|time_ms| time_ms >= YEAR_2000_MS)
    }

    fn accept(&mut self, candidate: &Candidate) {
        self.tally.n_good += 1;
        if !candidate.is_partial {
            return self.file(candidate.row());
        }
        self.tally.n_joined += u64::from(self.joiner.add(candidate));
        if self.joiner.is_full() {
            self.file_joined();
        }
    }

    /// Files the rows that were joined from several records so far.
    pub fn file_joined(&mut self) {
        for candidate in self.joiner.take() {
            self.file(candidate.row());
        }
    }

    fn file(&mut self, row: Row<'_>) {
        match self.open.push(row, self.now_ms) {
            Ok((date, is_sealed)) => {
                self.tally.n_late += u64::from(is_sealed);
                *self.tally.n_per_day.entry(date).or_default() += 1;
            }
            Err(error) => self.fail(error),
        }
    }

    pub fn reject(&mut self, reject: &Reject, line: u64, record: Option<usize>, raw: &[u8]) {
        self.tally.n_bad += 1;
        *self.tally.reasons.entry(reject.reason).or_default() += 1;
        let place = Place { file: &self.file, line, record };
        let now = calendar::to_utc(self.now_ms);
        if let Err(error) = self.quarantine.add(&place, reject, raw, now, self.today) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: anyhow::Error) {
        self.failure.get_or_insert(error);
    }
}
