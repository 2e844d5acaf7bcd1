//! The calendar of a window: which of its steps lie on which day, and in which hour of the site's clocks.

use std::ops::Range;

use chrono::{DateTime, Datelike, NaiveDate, Utc, Weekday};
use chrono_tz::Tz;

use crate::calendar;
use crate::window::grid::Grid;
use crate::window::span::Span;

/// What the rules need to know of time.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    start_ms: i64,
    pub step_secs: u32,
    pub n_steps: usize,
    /// From the first day with data on.
    pub days: Vec<Day>,
    /// Hour of each step as the clocks on the wall count them, from the first step's on. An hour that the clocks
    /// repeat is one, one that they skip has no steps.
    pub hours: Vec<u32>,
}

/// A day and its steps, as many as it really has.
#[derive(Clone, Debug)]
pub(super) struct Day {
    pub date: NaiveDate,
    pub steps: Range<usize>,
    pub is_weekend: bool,
}

impl Frame {
    /// The calendar of `grid`, whose first day is `first` and whose end is `end`.
    pub fn of(grid: &Grid, first: NaiveDate, end: NaiveDate, zone: Tz) -> Self {
        let hour = |step: usize| {
            let local = calendar::to_utc(grid.time_ms(step)).with_timezone(&zone).naive_local();
            local.and_utc().timestamp().div_euclid(3600)
        };
        let first_hour = if grid.n_steps > 0 { hour(0) } else { 0 };
        let day = |date: NaiveDate| {
            let span = Span::of_days(date, calendar::days_after(date, 1), zone, grid.step_secs);
            let step_ms = i64::from(grid.step_secs) * 1000;
            let first = usize::try_from((span.start_ms - grid.start_ms) / step_ms).unwrap_or(0);
            let steps = first.min(grid.n_steps)..(first + span.n_steps).min(grid.n_steps);
            Day { date, steps, is_weekend: matches!(date.weekday(), Weekday::Sat | Weekday::Sun) }
        };
        Self {
            start_ms: grid.start_ms,
            step_secs: grid.step_secs,
            n_steps: grid.n_steps,
            days: calendar::days_between(first, end).map(day).collect(),
            hours: (0..grid.n_steps)
                .map(|step| u32::try_from(hour(step) - first_hour).unwrap_or(0))
                .collect(),
        }
    }

    /// Start of a step.
    pub fn time(&self, step: usize) -> DateTime<Utc> {
        calendar::to_utc(self.start_ms + step as i64 * i64::from(self.step_secs) * 1000)
    }

    /// Steps of a day of 24 hours.
    pub fn steps_a_day(&self) -> usize {
        (86_400 / self.step_secs.max(1)) as usize
    }

    /// Steps that `hours` take, at least one.
    pub fn steps_of(&self, hours: f64) -> usize {
        ((hours * 3600.0 / f64::from(self.step_secs.max(1))).round() as usize).max(1)
    }
}
