//! The only clock of the program, so that any night can be replayed on old data.
//!
//! `--now TIME` (or `TFTCTL_NOW`) fixes it; without them it is the real one. Short functions take a plain
//! `now: DateTime<Utc>`; only work that outlasts a moment takes a [`Clock`]. Durations are measured with
//! [`std::time::Instant`], never with this.

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;

use crate::error::Refusal;

/// Where "now" comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    Real,
    /// A moment given on the command line; it does not advance.
    Fixed(DateTime<Utc>),
}

impl Clock {
    /// The present moment, to the millisecond.
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Clock::Real => {
                let millis = Utc::now().timestamp_millis();
                DateTime::from_timestamp_millis(millis).expect("the present is within chrono's range")
            }
            Clock::Fixed(now) => *now,
        }
    }
}

/// Reads a moment: RFC 3339 (seconds may be left out), a local date and time in `zone`, or a date (its local
/// midnight).
///
/// - Errors: the text is none of these, or names a local time that `zone` skips.
pub fn parse_time(text: &str, zone: Tz) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    if let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%MZ") {
        return Ok(time.and_utc());
    }
    let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let local = formats
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    let Some(local) = local else {
        return Err(Refusal::usage(format!(
            "`{text}` is not a time: write 2024-05-31, 2024-05-31T02:00 or 2024-05-31T02:00:00Z"
        )));
    };
    zone.from_local_datetime(&local)
        .earliest()
        .map(|time| time.with_timezone(&Utc))
        .ok_or_else(|| Refusal::usage(format!("the local time `{text}` does not exist in {zone}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(text: &str, zone: Tz, expected: Option<&str>) {
        let got = parse_time(text, zone).ok().map(|time| time.to_rfc3339());
        assert_eq!(got.as_deref(), expected, "{text} in {zone}");
    }

    #[test]
    fn times_are_read_in_the_zone_unless_they_name_one() {
        let ny = chrono_tz::America::New_York;
        case("2024-01-31T02:00:00Z", ny, Some("2024-01-31T02:00:00+00:00"));
        case("2024-01-31T02:00Z", ny, Some("2024-01-31T02:00:00+00:00"));
        case("2024-01-31T02:00", ny, Some("2024-01-31T07:00:00+00:00"));
        case("2024-07-01", ny, Some("2024-07-01T04:00:00+00:00"));
        case("2024-07-01", Tz::UTC, Some("2024-07-01T00:00:00+00:00"));
        case("2026-03-08T02:30", ny, None); // skipped by daylight saving
        case("tomorrow", Tz::UTC, None);
    }
}
