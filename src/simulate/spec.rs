//! What is asked of the simulator, checked once.

use anyhow::Result;
use chrono::{DateTime, Datelike, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;

/// What the stream holds for a server that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfflineRows {
    /// Nothing, as in reality: a server that is down reports nothing.
    #[default]
    Missing,
    /// A row with status `offline` and every metric zero, as some collectors write.
    Dense,
}

/// A fleet, a stretch of time, and how imperfectly it is observed.
///
/// Rates are shares of rows in 0..1. All randomness follows from `seed`: equal specs give equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetSpec {
    pub n_servers: u32,
    /// First instant observed.
    pub start: DateTime<Utc>,
    /// First instant no longer observed.
    pub end: DateTime<Utc>,
    /// Seconds between two reports of a server; reports fall on multiples of it after `start`.
    pub tick_secs: u32,
    /// Where the fleet's people live: business hours, nights, weekends and month ends are theirs.
    pub zone: Tz,
    pub seed: u64,
    /// Local dates on which nobody works.
    pub holidays: Vec<NaiveDate>,
    /// Mean number of incidents that begin on a server in a week; what cascades from them comes on top.
    pub incidents_per_server_week: f64,
    pub offline_rows: OfflineRows,
    /// Share of rows that never arrive, half of it alone and half in gaps of some minutes.
    pub missing_rate: f64,
    /// Share of rows that arrive a minute to six hours after their time, minutes of them together.
    pub late_rate: f64,
    /// Share of rows that arrive twice.
    pub duplicate_rate: f64,
    /// Share of servers whose clock is wrong, by 20 seconds to 3 minutes.
    pub skewed_share: f64,
    /// Share of server-days on which network rates arrive in KiB/s instead of MiB/s.
    pub unit_error_rate: f64,
    /// Share of servers that are replaced by one of another name at some moment between start and end.
    pub replaced_share: f64,
    /// Share of servers that first report at some moment between start and end.
    pub newcomer_share: f64,
}

impl Default for FleetSpec {
    /// Twenty servers for one day every five seconds, cleanly observed, with an incident a server and fortnight.
    fn default() -> Self {
        let start = Utc.with_ymd_and_hms(2024, 1, 1, 0, 0, 0).single().expect("a date that exists");
        Self {
            n_servers: 20,
            start,
            end: start + chrono::Duration::days(1),
            tick_secs: 5,
            zone: Tz::UTC,
            seed: 42,
            holidays: Vec::new(),
            incidents_per_server_week: 0.5,
            offline_rows: OfflineRows::Missing,
            missing_rate: 0.0,
            late_rate: 0.0,
            duplicate_rate: 0.0,
            skewed_share: 0.0,
            unit_error_rate: 0.0,
            replaced_share: 0.0,
            newcomer_share: 0.0,
        }
    }
}

/// The most servers a fleet can have.
const MAX_SERVERS: u32 = 1_000_000;

impl FleetSpec {
    /// Checks that such a fleet can be.
    ///
    /// - Errors: [`Refusal::Usage`] naming the first value that cannot be.
    pub fn ensure_possible(&self) -> Result<()> {
        let refuse = |message: String| Err(Refusal::usage(message));
        if !(1..=MAX_SERVERS).contains(&self.n_servers) {
            return refuse(format!("a fleet has 1 to {MAX_SERVERS} servers, not {}", self.n_servers));
        }
        if self.start >= self.end {
            return refuse(format!("simulation ends at {}, not after its start {}", self.end, self.start));
        }
        if !(1..=86_400).contains(&self.tick_secs) {
            return refuse(format!("a tick has 1 to 86400 seconds, not {}", self.tick_secs));
        }
        let years = [&self.start, &self.end].map(Datelike::year);
        if years.iter().any(|year| !(1970..=2200).contains(year)) {
            return refuse("simulated time lies between the years 1970 and 2200".into());
        }
        if !(0.0..=100.0).contains(&self.incidents_per_server_week) {
            let asked = self.incidents_per_server_week;
            return refuse(format!("a server has 0 to 100 incidents a week, not {asked}"));
        }
        let shares = [
            ("missing_rate", self.missing_rate),
            ("late_rate", self.late_rate),
            ("duplicate_rate", self.duplicate_rate),
            ("skewed_share", self.skewed_share),
            ("unit_error_rate", self.unit_error_rate),
            ("replaced_share", self.replaced_share),
            ("newcomer_share", self.newcomer_share),
        ];
        match shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, share)) => refuse(format!("{name} is a share between 0 and 1, not {share}")),
            None => Ok(()),
        }
    }

    /// Reports of one server between start and end.
    pub fn n_ticks(&self) -> u64 {
        let span_ms = (self.end - self.start).num_milliseconds().max(0).cast_unsigned();
        span_ms.div_ceil(u64::from(self.tick_secs) * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut FleetSpec), expected: &str) {
        let mut spec = FleetSpec::default();
        change(&mut spec);
        let error = spec.ensure_possible().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        FleetSpec::default().ensure_possible().unwrap();
        refused(|spec| spec.n_servers = 0, "servers");
        refused(|spec| spec.end = spec.start, "not after its start");
        refused(|spec| spec.tick_secs = 0, "tick");
        refused(|spec| spec.late_rate = 1.5, "late_rate");
        refused(|spec| spec.missing_rate = f64::NAN, "missing_rate");
        refused(|spec| spec.incidents_per_server_week = f64::INFINITY, "incidents");
    }

    #[test]
    fn ticks_are_counted_without_the_end() {
        assert_eq!(FleetSpec::default().n_ticks(), 17_280);
        assert_eq!(FleetSpec { tick_secs: 7, ..FleetSpec::default() }.n_ticks(), 12_343);
    }
}
