//! Reads what sources call a time: RFC 3339, epoch numbers, and clock times of a zone that the config names.

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone};
use chrono_tz::Tz;

use crate::config::{InputConfig, TimestampUnit};

/// How the times of a source are to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::buffer) struct TimeRule {
    /// What numbers count.
    pub unit: TimestampUnit,
    /// The zone of times that name none; `None`: they are refused.
    pub zone: Option<Tz>,
}

const MAX_EPOCH_MS: f64 = 9e15;
const NO_ZONE: &str = "is not RFC 3339 with a zone";
const NAIVE: &str = "names no zone, and input.timestamp_zone is not set";

impl TimeRule {
    pub fn of(input: &InputConfig) -> Self {
        Self { unit: input.timestamp_unit, zone: input.zone() }
    }

    /// Reads RFC 3339, a clock time (fractions of any precision, `T` or a blank before the hour), or a number
    /// written as text, as epoch milliseconds; `Err` completes "TEXT ...".
    pub fn read(&self, text: &str) -> Result<i64, &'static str> {
        let text = text.trim();
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(time.timestamp_millis());
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_number {
            return text.parse().ok().and_then(|number| self.epoch_ms(number)).ok_or(NO_ZONE);
        }
        let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
        let local = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        let local = local.ok_or(NO_ZONE)?;
        let zone = self.zone.ok_or(NAIVE)?;
        in_zone(local, zone)
    }

    /// An epoch number as milliseconds.
    pub fn epoch_ms(&self, number: f64) -> Option<i64> {
        let millis = match self.unit {
            TimestampUnit::Auto if number.abs() >= 1e11 => number,
            TimestampUnit::Auto | TimestampUnit::S => number * 1e3,
            TimestampUnit::Ms => number,
            TimestampUnit::Us => number / 1e3,
            TimestampUnit::Ns => number / 1e6,
        };
        (millis.is_finite() && millis.abs() < MAX_EPOCH_MS).then_some(millis.round() as i64)
    }

    /// A clock time, as milliseconds since 1970 on that clock, as epoch milliseconds: of the zone that the config
    /// names, else of UTC, as parquet readers agree on.
    pub fn local_ms(&self, local_ms: i64) -> Result<i64, &'static str> {
        let Some(zone) = self.zone else { return Ok(local_ms) };
        let local = DateTime::from_timestamp_millis(local_ms).ok_or("is no time")?;
        in_zone(local.naive_utc(), zone)
    }
}

/// Epoch milliseconds of a clock time.
fn in_zone(local: NaiveDateTime, zone: Tz) -> Result<i64, &'static str> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(time) => Ok(time.timestamp_millis()),
        LocalResult::Ambiguous(..) => Err("happens twice in input.timestamp_zone, as the clocks go back"),
        LocalResult::None => Err("does not happen in input.timestamp_zone, as the clocks go forward"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn time(text: &str, expected: Option<i64>) {
        assert_eq!(TimeRule::default().read(text).ok(), expected, "{text}");
    }

    #[test]
    fn times_are_rfc3339_or_epoch_numbers() {
        time("2013-08-14T10:01:00Z", Some(1_376_474_460_000));
        time("2013-08-14T12:01:00.5+02:00", Some(1_376_474_460_500));
        time("1376474460", Some(1_376_474_460_000));
        time("1376474460000", Some(1_376_474_460_000));
        time("1376474460.25", Some(1_376_474_460_250));
        time("2013-08-14T10:01:00", None);
        time("yesterday", None);
        time("", None);
    }

    #[test]
    fn units_can_be_said() {
        let units = [
            (TimestampUnit::S, 1_376_474_460.0),
            (TimestampUnit::Ms, 1_376_474_460_000.0),
            (TimestampUnit::Us, 1_376_474_460_000_000.0),
            (TimestampUnit::Ns, 1_376_474_460_000_000_000.0),
        ];
        for (unit, number) in units {
            let rule = TimeRule { unit, zone: None };
            assert_eq!(rule.epoch_ms(number), Some(1_376_474_460_000), "{unit:?}");
        }
        // A time in ns is not taken for one in ms.
        assert_eq!(TimeRule::default().epoch_ms(1.376_474_46e18), None);
    }

    #[test]
    fn clock_times_need_a_zone_and_an_hour_that_happens_once() {
        let rule = TimeRule { zone: Some(chrono_tz::America::New_York), ..TimeRule::default() };
        for text in ["2025-10-17T09:30:00", "2025-10-17T09:30:00.000000", "2025-10-17 09:30:00.0"] {
            assert_eq!(rule.read(text), Ok(1_760_707_800_000), "{text}");
            assert_eq!(TimeRule::default().read(text), Err(NAIVE));
        }
        assert_eq!(rule.read("2025-10-17T09:30:05.123456"), Ok(1_760_707_805_123));
        assert_eq!(rule.read("2025-10-17T13:30:00Z"), Ok(1_760_707_800_000));
        assert!(rule.read("2025-11-02T01:30:00").unwrap_err().contains("twice"));
        assert!(rule.read("2025-03-09T02:30:00").unwrap_err().contains("does not happen"));
        assert_eq!(rule.local_ms(1_760_693_400_000), Ok(1_760_707_800_000));
        assert_eq!(rule.read("2025-10-17"), Err(NO_ZONE));
    }
}
