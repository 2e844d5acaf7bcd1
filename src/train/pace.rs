//! Time inside one training process: how fast it goes, whether another batch fits, when a checkpoint is due.
//!
//! The only part of a training that looks at the wall clock. Nothing here reaches a weight, with one exception that
//! the caller decides on: the batches that still fit before a limit.

use std::time::{Duration, Instant};

/// Batches after which the measured speed is trusted for planning.
const BATCHES_TO_TRUST: u64 = 16;

/// The stopwatch of a process.
pub struct Pace {
    started: Instant,
    /// The limit on this process's training time.
    limit: Option<Duration>,
    /// Training seconds of the run's earlier processes.
    secs_before: f64,
    batches: u64,
    last_checkpoint: Instant,
    checkpoint_cost: Duration,
    /// Whether anything was trained since the last checkpoint.
    is_dirty: bool,
}

impl Pace {
    /// Starts the watch.
    pub fn begin(limit: Option<Duration>, secs_before: f64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            limit,
            secs_before,
            batches: 0,
            last_checkpoint: now,
            checkpoint_cost: Duration::ZERO,
            is_dirty: false,
        }
    }

    /// Counts a batch.
    pub fn note_batch(&mut self) {
        self.batches += 1;
        self.is_dirty = true;
    }

    /// Something else than a batch changed what a checkpoint would hold.
    pub fn note_change(&mut self) {
        self.is_dirty = true;
    }

    /// A checkpoint was written; it was begun at `begun`.
    pub fn note_checkpoint(&mut self, begun: Instant) {
        self.checkpoint_cost = begun.elapsed();
        self.last_checkpoint = Instant::now();
        self.is_dirty = false;
    }

    /// Whether a checkpoint would hold anything that the last one does not.
    pub fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Whether the last checkpoint is `every_secs` old; 0 means after every batch.
    pub fn is_checkpoint_due(&self, every_secs: u64) -> bool {
        self.is_dirty && self.last_checkpoint.elapsed().as_secs() >= every_secs
    }

    /// Training seconds of all the run's processes so far.
    pub fn secs_in_all(&self) -> f64 {
        self.secs_before + self.started.elapsed().as_secs_f64()
    }

    /// Batches of this process so far.
    pub fn n_batches(&self) -> u64 {
        self.batches
    }

    /// Measured in this process; never 0.
    pub fn secs_per_batch(&self) -> f64 {
        (self.started.elapsed().as_secs_f64() / self.batches.max(1) as f64).max(1e-9)
    }

    /// Seconds left for batches: the limit less what the last checkpoint will take (twice the last one).
    fn secs_left(&self) -> Option<f64> {
        let reserve = 2.0 * self.checkpoint_cost.as_secs_f64();
        self.limit.map(|limit| limit.as_secs_f64() - reserve - self.started.elapsed().as_secs_f64())
    }

    /// Whether another batch would not fit.
    pub fn is_out_of_time(&self) -> bool {
        let next = if self.batches == 0 { 0.0 } else { self.secs_per_batch() };
        self.secs_left().is_some_and(|left| left < next)
    }

    /// Batches that fit, once the speed is known.
    pub fn batches_left(&self) -> Option<u64> {
        let left = self.secs_left().filter(|_| self.batches >= BATCHES_TO_TRUST)?;
        Some((left.max(0.0) / self.secs_per_batch()) as u64)
    }
}

/// Seconds for people.
pub fn duration_text(secs: f64) -> String {
    match secs {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_speed_says_how_many_batches_fit() {
        let mut pace = Pace::begin(Some(Duration::from_secs(30)), 0.0);
        pace.started = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
        pace.batches = BATCHES_TO_TRUST - 1;
        assert_eq!(pace.batches_left(), None);
        pace.batches = 40;
        assert_eq!(pace.batches_left(), Some(19)); // a little less than 10 s at 0.5 s each
        assert!(!pace.is_out_of_time());
        pace.checkpoint_cost = Duration::from_millis(4900);
        assert!(pace.is_out_of_time());
        pace.limit = None;
        assert!(!pace.is_out_of_time() && pace.batches_left().is_none());
    }

    #[test]
    fn a_checkpoint_is_due_after_so_many_seconds_if_there_is_anything_new() {
        let mut pace = Pace::begin(None, 0.0);
        assert!(!pace.is_checkpoint_due(0), "nothing was trained");
        pace.note_batch();
        assert!(pace.is_checkpoint_due(0) && !pace.is_checkpoint_due(60));
        pace.last_checkpoint = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
        assert!(pace.is_checkpoint_due(60));
        pace.note_checkpoint(Instant::now());
        assert!(!pace.is_checkpoint_due(0) && !pace.is_dirty());
    }

    #[test]
    fn durations_are_for_people() {
        let texts = [3.4, 400.0, 9000.0].map(duration_text);
        assert_eq!(texts, ["3 s", "7 min", "2.5 h"]);
    }
}
