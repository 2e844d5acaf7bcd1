//! How imperfectly a fleet is observed: rows that never arrive, arrive late or arrive twice, clocks that are
//! wrong and rates in another unit.
//!
//! Each answer is drawn from dice keyed by (server, time), so that faults befall the same rows whatever else
//! is asked of the simulation.

use super::dice::{Dice, Topic};
use super::spec::FleetSpec;

/// Agents fail for stretches of this length.
const MISSING_CELL_MS: i64 = 7 * 60_000;
/// Links fail for stretches of this length; what they held back arrives together.
const LATE_CELL_MS: i64 = 5 * 60_000;
/// A row is late by one minute to six hours after the link failed, every magnitude as likely.
const LATE_MINUTES: (f64, f64) = (1.0, 360.0);
/// A sender that heard no answer repeats itself within this time.
const REPEAT_MS: f64 = 60_000.0;

/// The faults of one simulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    dice: Dice,
    /// Chance that one row is lost alone, and that all of a cell are: together the rate asked for.
    missing_each: f64,
    late_rate: f64,
    duplicate_rate: f64,
    skewed_share: f64,
    unit_error_rate: f64,
}

impl Faults {
    pub(super) fn of(spec: &FleetSpec, dice: Dice) -> Self {
        Self {
            dice,
            missing_each: 1.0 - (1.0 - spec.missing_rate).sqrt(),
            late_rate: spec.late_rate,
            duplicate_rate: spec.duplicate_rate,
            skewed_share: spec.skewed_share,
            unit_error_rate: spec.unit_error_rate,
        }
    }

    /// Whether the row never arrives.
    pub(super) fn is_missing(&self, server: u32, time_ms: i64) -> bool {
        let missing = self.missing_each;
        missing > 0.0
            && (self.draw(Topic::MissingRow, server, time_ms) < missing
                || self.draw(Topic::MissingCell, server, cell(server, time_ms, MISSING_CELL_MS)) < missing)
    }

    /// When the row arrives: at once, or when the link is up again.
    pub(super) fn arrival_ms(&self, server: u32, time_ms: i64) -> i64 {
        if self.late_rate <= 0.0 {
            return time_ms;
        }
        let cell = cell(server, time_ms, LATE_CELL_MS);
        let mut stream = self.dice.stream(Topic::LateCell, u64::from(server), cell);
        if !stream.chance(self.late_rate) {
            return time_ms;
        }
        let (shortest, longest) = LATE_MINUTES;
        let minutes = shortest * (longest / shortest).powf(stream.between(0.0, 1.0));
        cell_start(server, cell + 1, LATE_CELL_MS) + (minutes * 60_000.0) as i64
    }

    /// How long after its arrival the row arrives again, if it does.
    pub(super) fn repeat_after_ms(&self, server: u32, time_ms: i64) -> Option<i64> {
        if self.duplicate_rate <= 0.0 {
            return None;
        }
        let mut stream = self.dice.stream(Topic::Duplicate, u64::from(server), time_ms);
        stream.chance(self.duplicate_rate).then(|| stream.between(0.0, REPEAT_MS) as i64)
    }

    /// How far a server's clock is ahead, in whole seconds as milliseconds.
    pub(super) fn clock_error_ms(&self, server: u32) -> i64 {
        let mut stream = self.dice.stream(Topic::Clock, u64::from(server), 0);
        if !stream.chance(self.skewed_share) {
            return 0;
        }
        let ahead = stream.between(20.0, 180.0) as i64 * 1000;
        if stream.chance(0.5) { ahead } else { -ahead }
    }

    /// What network rates are multiplied with on this local day (counted from anywhere):
    /// 1024 if they come in another unit.
    pub(super) fn unit_factor(&self, server: u32, day: i64) -> f64 {
        let is_wrong =
            self.unit_error_rate > 0.0 && self.draw(Topic::UnitDay, server, day) < self.unit_error_rate;
        if is_wrong { 1024.0 } else { 1.0 }
    }

    fn draw(&self, topic: Topic, server: u32, when: i64) -> f64 {
        self.dice.uniform(topic, u64::from(server), when)
    }
}

/// Servers fail at their own moments: their cells begin a prime number of seconds apart.
fn cell_shift(server: u32, width_ms: i64) -> i64 {
    (i64::from(server) * 97_000) % width_ms
}

fn cell(server: u32, time_ms: i64, width_ms: i64) -> i64 {
    (time_ms + cell_shift(server, width_ms)).div_euclid(width_ms)
}

fn cell_start(server: u32, cell: i64, width_ms: i64) -> i64 {
    cell * width_ms - cell_shift(server, width_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(change: impl FnOnce(&mut FleetSpec)) -> Faults {
        let mut spec = FleetSpec::default();
        change(&mut spec);
        Faults::of(&spec, Dice::new(2))
    }

    /// Share of (server, minute) for which `is_hit`.
    fn share(is_hit: impl Fn(u32, i64) -> bool) -> f64 {
        let pairs = (0..40_u32).flat_map(|server| (0..5000_i64).map(move |minute| (server, minute * 60_000)));
        pairs.filter(|(server, time_ms)| is_hit(*server, *time_ms)).count() as f64 / 200_000.0
    }

    #[test]
    fn rates_are_those_asked_for() {
        for rate in [0.0, 0.02, 0.3, 1.0] {
            let faults = faults(|spec| {
                (spec.missing_rate, spec.late_rate, spec.duplicate_rate) = (rate, rate, rate);
            });
            let near = |share: f64| (share - rate).abs() <= 0.12 * rate;
            assert!(near(share(|server, time| faults.is_missing(server, time))), "missing {rate}");
            assert!(near(share(|server, time| faults.arrival_ms(server, time) != time)), "late {rate}");
            assert!(
                near(share(|server, time| faults.repeat_after_ms(server, time).is_some())),
                "twice {rate}"
            );
        }
    }

    #[test]
    fn late_rows_of_a_stretch_arrive_together_and_within_bounds() {
        let faults = faults(|spec| spec.late_rate = 1.0);
        for time_ms in (0..86_400_000).step_by(5000) {
            let late_ms = faults.arrival_ms(3, time_ms) - time_ms;
            assert!((60_000..=(360 + 5) * 60_000).contains(&late_ms), "{late_ms}");
        }
        let cell_ms = cell_start(3, 40, LATE_CELL_MS);
        assert_eq!(faults.arrival_ms(3, cell_ms), faults.arrival_ms(3, cell_ms + LATE_CELL_MS - 1));
    }

    #[test]
    fn clocks_are_right_unless_asked_otherwise() {
        let (right, wrong) = (faults(|_| ()), faults(|spec| spec.skewed_share = 1.0));
        for server in 0..50 {
            assert_eq!(right.clock_error_ms(server), 0);
            let error_ms = wrong.clock_error_ms(server).abs();
            assert!((20_000..=180_000).contains(&error_ms) && error_ms % 1000 == 0);
        }
    }
}
