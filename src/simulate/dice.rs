//! Randomness as a function of place and time.
//!
//! Every random number of the simulator is drawn from a little generator keyed by (seed, topic, which, when).
//! Nothing is drawn in sequence across servers or ticks, so a server's life does not depend on how many
//! others there are, on the tick, or on when the simulation began.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood 2014): two multiplications a number, the same on every
//! platform, and a new stream costs nothing, which matters when there is one per server and moment.

use std::convert::Infallible;

use rand::{Rng, RngExt, TryRng};
use rand_distr::{Distribution, LogNormal, StandardNormal};

/// What a stream of random numbers is used for; keeps streams with equal numbers apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Topic {
    Identity = 1,
    Fragile,
    Dependencies,
    StateWeek,
    IncidentWeek,
    Cascade,
    ServerNoise,
    SharedNoise,
    DiskCycle,
    DeploymentCycle,
    PatchPhase,
    MissingRow,
    MissingCell,
    LateCell,
    Duplicate,
    Clock,
    UnitDay,
    Tenure,
    Jitter,
}

/// The seed of a simulation, ready to be asked for streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice {
    seed: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed: mix(seed ^ 0x7466_7463_746C_0001) }
    }

    /// The stream of `topic` for one thing (`which`) at one time (`when`).
    pub(super) fn stream(self, topic: Topic, which: u64, when: i64) -> Stream {
        let key = mix(self.seed ^ mix((topic as u64) << 48 ^ which));
        Stream { state: mix(key ^ mix(when.cast_unsigned().wrapping_add(GOLDEN))) }
    }

    /// One uniform number in [0, 1), the same whenever it is asked for.
    pub(super) fn uniform(self, topic: Topic, which: u64, when: i64) -> f64 {
        self.stream(topic, which, when).random()
    }
}

/// The step of SplitMix64: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64: every input bit reaches every output bit.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// One keyed stream of random numbers.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    state: u64,
}

impl Stream {
    /// A standard normal number.
    pub(super) fn normal(&mut self) -> f64 {
        StandardNormal.sample(self)
    }

    /// A positive number with the given median, `exp(spread)` times more or less at one standard deviation.
    pub(super) fn lognormal(&mut self, median: f64, spread: f64) -> f64 {
        LogNormal::new(median.ln(), spread).expect("medians and spreads are positive constants").sample(self)
    }

    /// A uniform number in `[low, high)`.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.random::<f64>()
    }

    /// Whether something of this probability happens.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.random::<f64>() < probability
    }

    /// One entry by weight; the last if the weights sum to nothing.
    pub(super) fn pick<T: Copy>(&mut self, weighted: &[(T, f64)]) -> T {
        let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random::<f64>() * total;
        for (item, weight) in weighted {
            left -= weight;
            if left < 0.0 {
                return *item;
            }
        }
        weighted.last().expect("there is something to pick from").0
    }

    /// A Poisson number, for means up to a few hundred.
    pub(super) fn poisson(&mut self, mean: f64) -> u32 {
        if mean <= 0.0 {
            return 0;
        }
        let poisson = rand_distr::Poisson::new(mean).expect("the mean is positive and finite");
        let count: f64 = poisson.sample(self);
        count as u32
    }
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.state = self.state.wrapping_add(GOLDEN);
        Ok(mix(self.state))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_repeatable_and_differ_by_every_part_of_their_key() {
        let first = |seed, topic, which, when| Dice::new(seed).stream(topic, which, when).next_u64();
        let here = first(7, Topic::Identity, 3, 5);
        assert_eq!(here, first(7, Topic::Identity, 3, 5));
        assert_ne!(here, first(8, Topic::Identity, 3, 5));
        assert_ne!(here, first(7, Topic::Clock, 3, 5));
        assert_ne!(here, first(7, Topic::Identity, 4, 5));
        assert_ne!(here, first(7, Topic::Identity, 3, -5));
    }

    #[test]
    fn neighbouring_keys_give_independent_uniform_numbers() {
        let dice = Dice::new(1);
        let draws: Vec<f64> = (0..20_000).map(|when| dice.uniform(Topic::MissingRow, 9, when)).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let lagged = draws.windows(2).map(|w| (w[0] - 0.5) * (w[1] - 0.5)).sum::<f64>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
        assert!(lagged.abs() < 0.003, "covariance of neighbours {lagged}");
    }
}
