//! Days of the site's zone: where they begin and end, and which one a moment belongs to.
//!
//! A day has 23, 24 or 25 hours; nothing here assumes 24. All instants are epoch milliseconds, UTC.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

/// The date that `time_ms` falls on in `zone`.
///
/// - Panics: the time is outside of chrono's range (some 260,000 years); `append` holds times to a few years.
pub fn day_of(time_ms: i64, zone: Tz) -> NaiveDate {
    to_utc(time_ms).with_timezone(&zone).date_naive()
}

/// Epoch milliseconds as a UTC time.
pub fn to_utc(time_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time_ms).expect("times are checked when rows come in")
}

/// The first instant of `day` in `zone`.
///
/// Where midnight is skipped by daylight saving, the day begins at the first instant that exists; where it
/// happens twice, at the first of the two.
pub fn day_start(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    (0..=4 * 60)
        .step_by(15)
        .find_map(|minutes| {
            zone.from_local_datetime(&(midnight + chrono::Duration::minutes(minutes))).earliest()
        })
        .map_or_else(|| midnight.and_utc(), |time| time.with_timezone(&Utc))
}

/// The half-open range `[start, end)` of `day`, in epoch milliseconds.
pub fn day_bounds_ms(day: NaiveDate, zone: Tz) -> (i64, i64) {
    let next = day + Days::new(1);
    (day_start(day, zone).timestamp_millis(), day_start(next, zone).timestamp_millis())
}

/// All dates in `[first, end)`.
pub fn days_between(first: NaiveDate, end: NaiveDate) -> impl Iterator<Item = NaiveDate> {
    first.iter_days().take_while(move |day| *day < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn hours(date: &str, zone: Tz, expected: i64) {
        let (start, end) = day_bounds_ms(date.parse().unwrap(), zone);
        assert_eq!(end - start, expected * 3_600_000, "{date} in {zone}");
        assert_eq!(day_of(start, zone).to_string(), date);
        assert_eq!(day_of(end - 1, zone).to_string(), date);
    }

    #[test]
    fn days_have_23_24_or_25_hours() {
        let ny = chrono_tz::America::New_York;
        hours("2026-03-08", ny, 23);
        hours("2026-03-09", ny, 24);
        hours("2026-11-01", ny, 25);
        hours("2026-03-08", Tz::UTC, 24);
        // Midnight itself is skipped in Santiago on this date.
        hours("2024-09-08", chrono_tz::America::Santiago, 23);
    }
}
