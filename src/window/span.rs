//! The stretch of time a grid covers, in whole steps since the epoch.

use chrono::NaiveDate;
use chrono_tz::Tz;

use crate::calendar;

/// `n_steps` steps from `start_ms` on; both a multiple of the step since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Start of step 0 in epoch milliseconds.
    pub start_ms: i64,
    pub step_secs: u32,
    pub n_steps: usize,
}

impl Span {
    /// The steps that begin in `[start_ms, end_ms)`.
    pub fn between(start_ms: i64, end_ms: i64, step_secs: u32) -> Self {
        let step_ms = i64::from(step_secs) * 1000;
        let first = -(-start_ms).div_euclid(step_ms);
        let end = -(-end_ms).div_euclid(step_ms);
        Self { start_ms: first * step_ms, step_secs, n_steps: usize::try_from(end - first).unwrap_or(0) }
    }

    /// The steps that begin on the days `[first, end)` of `zone`.
    pub fn of_days(first: NaiveDate, end: NaiveDate, zone: Tz, step_secs: u32) -> Self {
        let start = calendar::day_start(first, zone).timestamp_millis();
        Self::between(start, calendar::day_start(end, zone).timestamp_millis(), step_secs)
    }

    /// End of the last step in epoch milliseconds.
    pub fn end_ms(&self) -> i64 {
        self.time_ms(self.n_steps)
    }

    /// Start of a step in epoch milliseconds.
    pub fn time_ms(&self, step: usize) -> i64 {
        self.start_ms + step as i64 * i64::from(self.step_secs) * 1000
    }

    /// The step that begins at `time_ms`, if it is one of these.
    pub fn step_at(&self, time_ms: i64) -> Option<usize> {
        let step_ms = i64::from(self.step_secs) * 1000;
        let offset = time_ms - self.start_ms;
        let step = usize::try_from(offset / step_ms).ok()?;
        (offset >= 0 && offset % step_ms == 0 && step < self.n_steps).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(first: &str, end: &str, zone: Tz, step_secs: u32, expected: usize) {
        let span = Span::of_days(first.parse().unwrap(), end.parse().unwrap(), zone, step_secs);
        assert_eq!(span.n_steps, expected, "{first}..{end} in {zone}");
        assert_eq!(span.start_ms.rem_euclid(i64::from(step_secs) * 1000), 0);
    }

    #[test]
    fn days_have_the_steps_their_length_allows() {
        let ny = chrono_tz::America::New_York;
        case("2026-03-07", "2026-03-08", ny, 300, 288);
        case("2026-03-08", "2026-03-09", ny, 300, 276); // 23 h
        case("2026-11-01", "2026-11-02", ny, 300, 300); // 25 h
        case("2026-03-01", "2026-03-31", ny, 300, 30 * 288 - 12);
        case("2024-02-01", "2024-02-01", ny, 300, 0);
    }

    #[test]
    fn where_midnight_is_no_step_a_step_belongs_to_the_day_it_begins_on() {
        let kolkata = chrono_tz::Asia::Kolkata; // UTC+5:30
        case("2024-01-01", "2024-01-02", kolkata, 3600, 24);
        case("2024-01-01", "2024-01-02", kolkata, 86_400, 1);
        let span = Span::between(-500, 1500, 1);
        assert_eq!((span.start_ms, span.n_steps), (0, 2));
    }

    #[test]
    fn times_and_steps_lead_back_to_each_other() {
        let span = Span::between(600_000, 1_500_000, 300);
        assert_eq!(
            (0..3).map(|step| span.step_at(span.time_ms(step))).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!([300_000, 600_001, 1_500_000].map(|time| span.step_at(time)), [None; 3]);
    }
}
