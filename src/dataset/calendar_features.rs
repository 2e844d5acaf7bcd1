//! What is known of any step ahead of time: where it lies in the local day and week.

use std::f64::consts::TAU;

use chrono::{Datelike, Timelike};
use chrono_tz::Tz;

use crate::calendar;

/// Names of the calendar inputs, in the order of [`features`].
pub const NAMES: [&str; 5] =
    ["hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin", "day_of_week_cos", "is_weekend"];

/// The calendar inputs of the moment `time_ms` by the wall clock of `zone`.
///
/// Day and week are phases on a circle (midnight is next to 23:55, Sunday night next to Monday morning), read
/// off the wall clock: on a day of 23 or 25 hours, 09:00 is still 09:00.
pub fn features(time_ms: i64, zone: Tz) -> [f32; NAMES.len()] {
    let local = calendar::to_utc(time_ms).with_timezone(&zone);
    let day_phase = f64::from(local.num_seconds_from_midnight()) / 86_400.0;
    let weekday = local.weekday().num_days_from_monday();
    let week_phase = (f64::from(weekday) + day_phase) / 7.0;
    let circle = |phase: f64| ((phase * TAU).sin() as f32, (phase * TAU).cos() as f32);
    let ((day_sin, day_cos), (week_sin, week_cos)) = (circle(day_phase), circle(week_phase));
    [day_sin, day_cos, week_sin, week_cos, if weekday >= 5 { 1.0 } else { 0.0 }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    #[track_caller]
    fn case(local: (i32, u32, u32, u32), zone: Tz, expected: [f32; 5]) {
        let (year, month, day, hour) = local;
        let time = zone.with_ymd_and_hms(year, month, day, hour, 0, 0).unwrap();
        let got = features(time.timestamp_millis(), zone);
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{time}: {got} is not {expected}");
        }
    }

    #[test]
    fn the_local_wall_clock_counts() {
        let ny = chrono_tz::America::New_York;
        case((2024, 1, 1, 0), ny, [0.0, 1.0, 0.0, 1.0, 0.0]); // Monday midnight
        case((2024, 1, 1, 6), ny, [1.0, 0.0, 0.222_520_93, 0.974_927_9, 0.0]);
        case((2024, 7, 1, 6), ny, [1.0, 0.0, 0.222_520_93, 0.974_927_9, 0.0]); // summer time
        case((2026, 3, 8, 12), ny, [0.0, -1.0, -0.433_883_74, 0.900_968_85, 1.0]); // a day of 23 hours
    }
}
