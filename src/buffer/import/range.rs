//! The times of an import: `start`, `start + step`, ... before `end`, cut into pages.

use std::fmt;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::PrometheusImport;
use crate::calendar;
use crate::error::Refusal;

/// What is left of an import; all times in epoch milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The next time to ask for.
    pub next_ms: i64,
    /// Times from here on are not asked for.
    end_ms: i64,
    step_ms: i64,
}

/// Consecutive times that one request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRange {
    pub first_ms: i64,
    pub step_ms: i64,
    /// At least 1.
    pub n_points: u32,
}

impl Range {
    /// The times of `import` from `next` on that are not after `now`.
    ///
    /// - Errors: there is no step, or the end is not after the start.
    pub fn new(import: &PrometheusImport, next: DateTime<Utc>, now: DateTime<Utc>) -> Result<Self> {
        if import.step_secs == 0 {
            return Err(Refusal::usage("--step must be at least 1 second"));
        }
        if let Some(end) = import.end.filter(|end| *end <= import.start) {
            return Err(Refusal::usage(format!(
                "--end {} is not after --start {}",
                end.format("%Y-%m-%dT%H:%M:%SZ"),
                import.start.format("%Y-%m-%dT%H:%M:%SZ")
            )));
        }
        let past_now_ms = now.timestamp_millis() + 1;
        Ok(Self {
            next_ms: next.timestamp_millis(),
            end_ms: import.end.map_or(past_now_ms, |end| end.timestamp_millis().min(past_now_ms)),
            step_ms: 1000 * i64::from(import.step_secs),
        })
    }

    /// Times that are left.
    pub fn n_left(&self) -> u64 {
        let span_ms = self.end_ms.saturating_sub(self.next_ms).max(0);
        u64::try_from(span_ms).unwrap_or(0).div_ceil(self.step_ms.unsigned_abs())
    }

    /// The last time that is left, where there is one.
    pub fn last_ms(&self) -> i64 {
        self.next_ms + (self.n_left().max(1) as i64 - 1) * self.step_ms
    }

    /// The next page of at most `max_points` times; none when nothing is left.
    pub fn next_page(&self, max_points: u32) -> Option<PageRange> {
        let n_points = self.n_left().min(u64::from(max_points)) as u32;
        (n_points > 0).then_some(PageRange { first_ms: self.next_ms, step_ms: self.step_ms, n_points })
    }
}

impl PageRange {
    pub fn time_ms(&self, idx: usize) -> i64 {
        self.first_ms + idx as i64 * self.step_ms
    }

    pub fn last_ms(&self) -> i64 {
        self.time_ms(self.n_points as usize - 1)
    }

    /// The first time after the page.
    pub fn end_ms(&self) -> i64 {
        self.time_ms(self.n_points as usize)
    }

    /// The position of a time; none for one that was not asked for.
    pub fn idx_of(&self, time_ms: i64) -> Option<usize> {
        let ahead = time_ms.checked_sub(self.first_ms)?;
        let is_asked = (0..self.end_ms() - self.first_ms).contains(&ahead) && ahead % self.step_ms == 0;
        is_asked.then(|| (ahead / self.step_ms) as usize)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |time_ms| calendar::to_utc(time_ms).format("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "{} to {}", say(self.first_ms), say(self.last_ms()))
    }
}
