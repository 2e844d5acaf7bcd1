//! What changes over days: disks that fill until somebody cleans up, releases that restart processes.
//!
//! Both come in cycles of a server's own length, anchored to absolute time, so that each moment's level
//! follows from the cycle it lies in.

use super::dice::{Dice, Topic};
use super::rhythm::LocalClock;
use super::roster::{Identity, Profile, Server};

const DAY_MS: f64 = 86_400_000.0;

/// The disk of one server: it fills through the cycle, faster by day, and is cleaned up at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    dice: Dice,
    server: u64,
    cycle: i64,
    phase_days: f64,
    /// Of the cycle held: level after the last clean-up and growth per day.
    start_pct: f64,
    growth_pct_day: f64,
}

impl Disk {
    pub(super) fn new(dice: Dice, server: u32, identity: &Identity) -> Self {
        let server = u64::from(server);
        let phase_days = dice.uniform(Topic::DiskCycle, server, i64::MIN) * identity.disk_cycle_days;
        Self { dice, server, cycle: i64::MIN, phase_days, start_pct: 0.0, growth_pct_day: 0.0 }
    }

    /// Fill in percent; never falls within a cycle.
    pub(super) fn level_pct(&mut self, time_ms: i64, identity: &Identity) -> f64 {
        let days = time_ms as f64 / DAY_MS + self.phase_days;
        let cycle = (days / identity.disk_cycle_days).floor();
        self.hold(cycle as i64, identity);
        let since = days - cycle * identity.disk_cycle_days;
        // Twice as fast at noon (UTC) as on the mean, hardly at all at midnight: a slope that stays positive.
        let turn = std::f64::consts::TAU;
        let (now, first) =
            ((time_ms as f64 / DAY_MS).fract(), (time_ms as f64 / DAY_MS - since).rem_euclid(1.0));
        let by_day = ((turn * first).sin() - (turn * now).sin()) * 0.8 / turn;
        (self.start_pct + self.growth_pct_day * (since + by_day)).min(98.0)
    }

    fn hold(&mut self, cycle: i64, identity: &Identity) {
        if self.cycle == cycle {
            return;
        }
        let mut stream = self.dice.stream(Topic::DiskCycle, self.server, cycle);
        self.start_pct = identity.disk_start_pct + 0.8 * stream.normal();
        self.growth_pct_day = identity.disk_growth_pct_day * stream.lognormal(1.0, 0.15);
        self.cycle = cycle;
    }
}

/// Days between two releases of a profile's software.
fn release_days(profile: Profile) -> i64 {
    match profile {
        Profile::WebApi => 4,
        Profile::MlCompute | Profile::DataIngest => 7,
        Profile::RiskAnalytics => 11,
        Profile::ConductorMgmt | Profile::Generic => 14,
        Profile::Database => 23,
    }
}

/// The releases of one server: its profile's, in working hours, rolled out server by server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Releases {
    dice: Dice,
    profile: Profile,
    rollout_ms: i64,
    /// The release in force and the next one.
    last_ms: i64,
    next_ms: i64,
}

impl Releases {
    pub(super) fn new(dice: Dice, server: &Server) -> Self {
        let rollout_ms = (server.identity.rollout_minutes * 60_000.0) as i64;
        Self { dice, profile: server.profile, rollout_ms, last_ms: i64::MAX, next_ms: i64::MIN }
    }

    /// The moment of the last release before `time_ms`.
    pub(super) fn last_ms(&mut self, time_ms: i64, clock: &LocalClock) -> i64 {
        if time_ms < self.last_ms || time_ms >= self.next_ms {
            let cycle_ms = release_days(self.profile) * 86_400_000;
            let guess = time_ms.div_euclid(cycle_ms);
            let cycle = (guess - 2..=guess + 1)
                .rev()
                .find(|cycle| self.release_ms(*cycle, clock) <= time_ms)
                .unwrap_or(guess - 2);
            self.last_ms = self.release_ms(cycle, clock);
            self.next_ms = self.release_ms(cycle + 1, clock);
        }
        self.last_ms
    }

    /// Some day early in the cycle, between ten and three; from a weekend it is put off to Monday.
    fn release_ms(&self, cycle: i64, clock: &LocalClock) -> i64 {
        let mut stream = self.dice.stream(Topic::DeploymentCycle, self.profile as u64, cycle);
        let days = release_days(self.profile);
        let day = cycle * days + (stream.between(0.0, days as f64 * 0.4)) as i64;
        let to_monday = [0, 0, 2, 1, 0, 0, 0][day.rem_euclid(7) as usize]; // 1970-01-01 was a Thursday
        clock.instant_ms(day + to_monday, stream.between(600.0, 900.0)) + self.rollout_ms
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::roster;
    use super::*;
    use chrono::{Datelike, Weekday};

    #[test]
    fn disks_only_fall_when_they_are_cleaned_up() {
        let dice = Dice::new(6);
        for server in roster(10, dice) {
            let mut disk = Disk::new(dice, server.index, &server.identity);
            let mut last = disk.level_pct(0, &server.identity);
            let mut n_cleanups = 0;
            for hour in 1..90 * 24 {
                let level = disk.level_pct(hour * 3_600_000, &server.identity);
                assert!((0.0..=98.0).contains(&level));
                n_cleanups += usize::from(level < last);
                assert!((level - last).abs() < 25.0 && level - last < 0.5);
                last = level;
            }
            let expected = 90.0 / server.identity.disk_cycle_days;
            assert!((n_cleanups as f64 - expected).abs() <= 1.0, "{n_cleanups} clean-ups, {expected}");
        }
    }

    #[test]
    fn releases_come_on_workdays_in_order_and_roll_out() {
        let dice = Dice::new(6);
        let clock = LocalClock::new(chrono_tz::Tz::UTC, &[]);
        for server in roster(20, dice) {
            let mut releases = Releases::new(dice, &server);
            let mut last = i64::MIN;
            for hour in 450_000..452_000 {
                let release = releases.last_ms(hour * 3_600_000, &clock);
                assert!(release <= hour * 3_600_000 && release >= last);
                let day = crate::calendar::to_utc(release).weekday();
                assert!(!matches!(day, Weekday::Sat | Weekday::Sun));
                last = release;
            }
        }
    }
}
