//! Days of the site's zone: where they begin and end, and which one a moment belongs to.
//!
//! A day has 23, 24 or 25 hours; nothing here assumes 24. All instants are epoch milliseconds, UTC.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

/// Times a machine can have measured, in epoch milliseconds: the years 1970 to 2199.
///
/// Files of others hold anything; a time outside of this is no time.
pub const PLAUSIBLE_MS: std::ops::Range<i64> = 0..7_258_118_400_000;

/// How far from the epoch a time may be told, some 190,000 years; every zone's clock can still say it.
const FARTHEST_MS: i64 = 6_000_000_000_000_000;

/// The date that `time_ms` falls on in `zone`; a time beyond all calendars counts as the farthest one.
pub fn day_of(time_ms: i64, zone: Tz) -> NaiveDate {
    to_utc(time_ms).with_timezone(&zone).date_naive()
}

/// Epoch milliseconds as a UTC time; a time beyond all calendars becomes the farthest one.
pub fn to_utc(time_ms: i64) -> DateTime<Utc> {
    let within = time_ms.clamp(-FARTHEST_MS, FARTHEST_MS);
    DateTime::from_timestamp_millis(within).expect("chrono reaches 260,000 years")
}

/// The date `n_days` before `day`; the first of all dates where there is none so long ago.
pub fn days_before(day: NaiveDate, n_days: u32) -> NaiveDate {
    day.checked_sub_days(Days::new(n_days.into())).unwrap_or(NaiveDate::MIN)
}

/// The date `n_days` after `day`; the last of all dates where there is none so late.
pub fn days_after(day: NaiveDate, n_days: u32) -> NaiveDate {
    day.checked_add_days(Days::new(n_days.into())).unwrap_or(NaiveDate::MAX)
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
    let next = days_after(day, 1);
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

    #[test]
    fn no_number_is_too_large() {
        let today: NaiveDate = "2026-03-08".parse().unwrap();
        assert_eq!(days_before(today, 7).to_string(), "2026-03-01");
        assert_eq!(days_after(today, 24).to_string(), "2026-04-01");
        for zone in [Tz::UTC, chrono_tz::America::New_York, chrono_tz::Asia::Kolkata] {
            for day in [days_before(today, u32::MAX), days_after(today, u32::MAX)] {
                let (start, end) = day_bounds_ms(day, zone);
                assert!(start <= end, "{day} in {zone}");
            }
            assert!(day_of(i64::MIN, zone) < today && today < day_of(i64::MAX, zone));
        }
        assert_eq!(to_utc(PLAUSIBLE_MS.end).to_rfc3339(), "2200-01-01T00:00:00+00:00");
    }
}
