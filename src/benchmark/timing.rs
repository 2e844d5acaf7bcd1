//! Rounds of the same work, timed one by one.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds go on until this much time has passed.
    pub time: Duration,
    /// But there are at least this many.
    pub min_rounds: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), min_rounds: 5 }
    }
}

/// What the rounds took, in seconds, ascending.
pub(super) struct Rounds(Vec<f64>);

impl Rounds {
    /// Rounds before the first one that counts.
    pub const N_WARM: usize = 2;

    /// Times `round`, which is told its number, after some that do not count.
    pub fn time(effort: Effort, mut round: impl FnMut(u64) -> Result<()>) -> Result<Self> {
        (0..Self::N_WARM as u64).try_for_each(&mut round)?;
        let (begun, mut secs) = (Instant::now(), Vec::new());
        while secs.len() < effort.min_rounds.max(1) || begun.elapsed() < effort.time {
            let started = Instant::now();
            round((Self::N_WARM + secs.len()) as u64)?;
            secs.push(started.elapsed().as_secs_f64());
        }
        secs.sort_by(f64::total_cmp);
        Ok(Self(secs))
    }

    pub fn n(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// The shortest: what the machine does when nobody else wants it.
    pub fn best(&self) -> f64 {
        self.0[0]
    }
}
