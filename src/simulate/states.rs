//! What a server is doing: a semi-Markov chain with dwell times of minutes to hours.
//!
//! The chain is drawn a week at a time from dice keyed by (server, week). A week begins in the small hours
//! of a day of the server's own, healthy or, every five to nine weeks, with patching and a reboot, and what
//! went before does not matter, so that any week can be told without telling the ones before it.
//! Incidents ([`super::incidents`]) lay `critical_issue` and `recovery` over these states.

use chrono::{DateTime, Days, Utc};
use rand::RngExt;

use super::dice::{Dice, Stream, Topic};
use super::rhythm::{LocalClock, LocalMoment};
use super::roster::Profile;

/// The operational state in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    CriticalIssue,
    Healthy,
    HeavyLoad,
    Idle,
    Maintenance,
    MorningSpike,
    Offline,
    Recovery,
}

impl Status {
    /// The text in a record.
    pub fn name(self) -> &'static str {
        match self {
            Status::CriticalIssue => "critical_issue",
            Status::Healthy => "healthy",
            Status::HeavyLoad => "heavy_load",
            Status::Idle => "idle",
            Status::Maintenance => "maintenance",
            Status::MorningSpike => "morning_spike",
            Status::Offline => "offline",
            Status::Recovery => "recovery",
        }
    }

    /// Demand in this state, compared with a healthy server at the same time.
    pub(super) fn demand(self) -> f64 {
        match self {
            Status::Healthy | Status::CriticalIssue => 1.0,
            Status::HeavyLoad => 1.35,
            Status::MorningSpike => 1.25,
            Status::Recovery => 0.8,
            Status::Idle => 0.55,
            Status::Maintenance => 0.3,
            Status::Offline => 0.1,
        }
    }

    /// Median minutes in this state, and the spread of their logarithm.
    fn dwell(self) -> (f64, f64) {
        match self {
            Status::Healthy => (170.0, 0.8),
            Status::Idle => (80.0, 0.6),
            Status::HeavyLoad => (40.0, 0.6),
            Status::MorningSpike => (45.0, 0.45),
            Status::Maintenance => (35.0, 0.5),
            Status::CriticalIssue => (20.0, 0.6),
            Status::Recovery => (20.0, 0.5),
            Status::Offline => (9.0, 0.6),
        }
    }
}

/// From one moment on, a status.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Segment {
    pub start_ms: i64,
    pub status: Status,
}

/// No server goes longer without being patched, and so rebooted.
pub(super) const MAX_PATCH_WEEKS: i64 = 9;

/// The shortest stay in a state, and the longest in medians.
const MIN_DWELL_MINUTES: f64 = 2.0;
const MAX_DWELL: f64 = 8.0;

/// The weeks of one server: where they begin and what happens in each.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateWeeks {
    dice: Dice,
    server: u64,
    profile: Profile,
    /// Day of the week, counted from the Thursday of 1970-01-01, and local minute at which weeks begin.
    first_day: i64,
    first_minute: f64,
    /// Every so many weeks one begins with patching.
    patch_weeks: i64,
    patch_phase: i64,
}

impl StateWeeks {
    pub(super) fn new(dice: Dice, server: u32, profile: Profile) -> Self {
        let server = u64::from(server);
        let mut stream = dice.stream(Topic::PatchPhase, server, 0);
        let patch_weeks = stream.random_range(5..=MAX_PATCH_WEEKS);
        Self {
            dice,
            server,
            profile,
            first_day: stream.random_range(0..7),
            first_minute: stream.between(60.0, 300.0),
            patch_weeks,
            patch_phase: stream.random_range(0..patch_weeks),
        }
    }

    /// The first moment of a week.
    pub(super) fn start_ms(&self, week: i64, clock: &LocalClock) -> i64 {
        clock.instant_ms(week * 7 + self.first_day, self.first_minute)
    }

    /// The week that holds a moment.
    pub(super) fn week_of(&self, time_ms: i64, clock: &LocalClock) -> i64 {
        let guess = time_ms.div_euclid(7 * 86_400_000);
        (guess - 2..=guess + 1)
            .rev()
            .find(|week| self.start_ms(*week, clock) <= time_ms)
            .expect("a week that began a week or two ago began")
    }

    /// What happens in a week, in order; the first segment begins with the week.
    pub(super) fn path(&self, week: i64, clock: &mut LocalClock) -> Vec<Segment> {
        let mut stream = self.dice.stream(Topic::StateWeek, self.server, week);
        let end_ms = self.start_ms(week + 1, clock);
        let mut time_ms = self.start_ms(week, clock);
        let is_patched = (week + self.patch_phase).rem_euclid(self.patch_weeks) == 0;
        let mut planned = if is_patched {
            vec![Status::Recovery, Status::Offline, Status::Maintenance]
        } else {
            Vec::new()
        };
        let mut status = planned.pop().unwrap_or(Status::Healthy);
        let mut path = Vec::new();
        while time_ms < end_ms {
            path.push(Segment { start_ms: time_ms, status });
            let (median, spread) = status.dwell();
            let minutes = stream.lognormal(median, spread).clamp(MIN_DWELL_MINUTES, MAX_DWELL * median);
            let stay_ms = (minutes * 60_000.0) as i64;
            let morning_ms =
                if is_calm(status) { self.morning_ms(time_ms, clock, &mut stream) } else { None };
            match morning_ms.filter(|morning_ms| *morning_ms < time_ms + stay_ms) {
                Some(morning_ms) => (time_ms, status) = (morning_ms, Status::MorningSpike),
                None => {
                    time_ms += stay_ms;
                    let moment = clock.at(time_ms);
                    status =
                        planned.pop().unwrap_or_else(|| next(status, &moment, self.profile, &mut stream));
                }
            }
        }
        path
    }

    /// When the next morning rush reaches the server, if it does: on most workdays between seven and ten,
    /// where people work by day.
    fn morning_ms(&self, time_ms: i64, clock: &mut LocalClock, stream: &mut Stream) -> Option<i64> {
        let is_felt = stream.chance(0.8);
        let minutes_after_seven = stream.between(0.0, 180.0);
        if !is_felt || works_at_night(self.profile) {
            return None;
        }
        let now = clock.at(time_ms);
        let date = if now.hour() < 7.0 { now.date } else { now.date + Days::new(1) };
        let day = date.signed_duration_since(DateTime::<Utc>::UNIX_EPOCH.date_naive()).num_days();
        let morning_ms = clock.instant_ms(day, 7.0 * 60.0 + minutes_after_seven);
        let is_soon = morning_ms < time_ms + (MIN_DWELL_MINUTES * 60_000.0) as i64;
        (!is_soon && clock.at(morning_ms).is_workday()).then_some(morning_ms)
    }
}

/// Whether a morning rush can end this state.
fn is_calm(status: Status) -> bool {
    matches!(status, Status::Healthy | Status::Idle)
}

/// Whether a profile does most of its work at night.
fn works_at_night(profile: Profile) -> bool {
    matches!(profile, Profile::MlCompute | Profile::DataIngest)
}

/// The state after `from`, which depends on the hour and on whether the profile works by day or by night.
fn next(from: Status, moment: &LocalMoment, profile: Profile, stream: &mut Stream) -> Status {
    let hour = moment.hour();
    let is_night = !(6.0..22.0).contains(&hour);
    let is_office_hour = moment.is_workday() && (9.0..18.0).contains(&hour);
    let is_busy = if works_at_night(profile) { is_night } else { is_office_hour };
    let maintenance = if (1.0..5.0).contains(&hour) { 0.03 } else { 0.004 };
    match from {
        Status::Healthy => stream.pick(&[
            (Status::HeavyLoad, if is_busy { 0.5 } else { 0.15 }),
            (Status::Idle, if is_busy { 0.05 } else { 0.3 }),
            (Status::Maintenance, maintenance),
        ]),
        Status::MorningSpike => stream.pick(&[(Status::Healthy, 0.7), (Status::HeavyLoad, 0.3)]),
        Status::HeavyLoad => stream.pick(&[(Status::Healthy, 0.88), (Status::Idle, 0.12)]),
        Status::Idle => {
            stream.pick(&[(Status::Healthy, 0.9), (Status::HeavyLoad, 0.08), (Status::Maintenance, 0.02)])
        }
        Status::Maintenance => {
            stream.pick(&[(Status::Healthy, 0.6), (Status::Recovery, 0.3), (Status::Offline, 0.1)])
        }
        Status::Offline | Status::CriticalIssue => Status::Recovery,
        Status::Recovery => Status::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Completed stays in minutes by status, and each status's share of the time.
    fn stays(profile: Profile) -> (HashMap<Status, Vec<f64>>, HashMap<Status, f64>) {
        let mut clock = LocalClock::new(chrono_tz::Europe::Berlin, &[]);
        let (mut stays, mut share): (HashMap<_, Vec<f64>>, HashMap<_, f64>) = Default::default();
        for server in 0..30 {
            let weeks = StateWeeks::new(Dice::new(4), server, profile);
            for week in 2800..2808 {
                for pair in weeks.path(week, &mut clock).windows(2) {
                    let minutes = (pair[1].start_ms - pair[0].start_ms) as f64 / 60_000.0;
                    stays.entry(pair[0].status).or_default().push(minutes);
                    *share.entry(pair[0].status).or_default() += minutes;
                }
            }
        }
        let total: f64 = share.values().sum();
        share.values_mut().for_each(|minutes| *minutes /= total);
        (stays, share)
    }

    #[test]
    fn stays_last_minutes_to_hours_and_healthy_is_the_rule() {
        let (stays, share) = stays(Profile::WebApi);
        for (status, mut minutes) in stays {
            minutes.sort_by(f64::total_cmp);
            let median = minutes[minutes.len() / 2];
            let expected = status.dwell().0;
            assert!((median / expected - 1.0).abs() < 0.35, "{status:?}: {median} min, meant {expected}");
            assert!(minutes[0] >= MIN_DWELL_MINUTES && minutes[minutes.len() - 1] < 1440.0);
        }
        assert!((0.55..0.9).contains(&share[&Status::Healthy]), "{share:?}");
        assert!(share[&Status::Offline] < 0.01, "{share:?}");
    }

    #[test]
    fn mornings_are_steep_for_those_who_work_by_day_only() {
        let mornings = |profile| stays(profile).1.get(&Status::MorningSpike).copied().unwrap_or(0.0);
        assert!(mornings(Profile::RiskAnalytics) > 0.008);
        assert_eq!(mornings(Profile::DataIngest), 0.0);
    }

    #[test]
    fn weeks_join_without_gap_and_each_server_is_patched_within_nine() {
        let mut clock = LocalClock::new(chrono_tz::America::New_York, &[]);
        for server in 0..20 {
            let weeks = StateWeeks::new(Dice::new(9), server, Profile::Database);
            let mut n_reboots = 0;
            for week in 2800..2800 + MAX_PATCH_WEEKS {
                let path = weeks.path(week, &mut clock);
                assert_eq!(path[0].start_ms, weeks.start_ms(week, &clock));
                assert_eq!(weeks.week_of(path[0].start_ms, &clock), week);
                assert_eq!(weeks.week_of(path[0].start_ms - 1, &clock), week - 1);
                n_reboots += path.iter().filter(|segment| segment.status == Status::Offline).count();
            }
            assert!(n_reboots >= 1, "server {server}");
        }
    }
}
