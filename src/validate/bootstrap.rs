//! How sure is a ratio of two losses? A paired bootstrap over blocks of time, crossed with servers.
//!
//! Forecasts whose spans overlap share their luck, and so do all servers at one moment and all moments of one
//! server. So whole blocks of time are drawn, at least a horizon long, together with whole servers; a sample
//! counts as often as its block and its server were drawn, for both models alike.
//!
//! # How often the bounds hold
//!
//! Each bound is meant to be right 19 times in 20. It is where luck is each server's own, or where the holdout has many
//! blocks. A default night has three (a day of cutoffs, horizons of a third of a day), and three draws cannot show how
//! much a whole fleet's luck changes from day to day: where all servers share half of their luck, each bound was found
//! wrong on one night in four or five (measured in the tests below). So one night's *better or equal* is good evidence
//! and no proof; what it lets through by luck, the ratchet adds up over many nights. With fewer than
//! [`MIN_WHOLE_BLOCKS`] nothing is said at all.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Replicates of an exam.
pub const N_REPLICATES: usize = 1000;
/// Share of replicates below the lower and above the upper bound: each is meant to be right 19 times in 20.
const TAIL: f64 = 0.05;
/// A holdout is cut into at least this many blocks, even if they get shorter than a horizon: one block would
/// make every replicate the same, and the interval a lie.
const MIN_BLOCKS: usize = 3;
/// Whole blocks that a holdout must hold before its interval may decide anything.
pub const MIN_WHOLE_BLOCKS: u64 = 3;

/// Where a sample lies: which server, and at which step its forecast begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplePlace {
    pub server: u32,
    pub cutoff: u32,
}

/// A ratio of summed losses and its 5 % and 95 % bootstrap quantiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    /// Pairs that were compared.
    pub n_samples: u64,
    pub n_servers: u64,
    /// Blocks of time that the holdout holds.
    pub n_blocks: u64,
    /// Blocks of the full length asked for that the holdout holds, to the nearest: an exam of some of the cutoffs may
    /// miss the first and the last few. The blocks that are drawn may be shorter.
    pub n_whole_blocks: u64,
}

/// The ratio of `new` to `old` summed losses, with its interval.
///
/// Pairs where both losses are not numbers (no truth arrived) are left out. The time blocks are moving and
/// circular; `seed` alone decides the draws, whatever the number of threads.
///
/// - None: the lists differ in length, nothing is left, or only one of a pair is a number.
pub fn paired_ratio(
    new: &[f64],
    old: &[f64],
    places: &[SamplePlace],
    block_steps: u32,
    n_replicates: usize,
    seed: u64,
) -> Option<Interval> {
    if new.len() != old.len() || new.len() != places.len() {
        return None;
    }
    let pairs: Vec<(f64, f64, SamplePlace)> = (0..new.len())
        .map(|idx| (new[idx], old[idx], places[idx]))
        .filter(|(new, old, _)| new.is_finite() || old.is_finite())
        .collect();
    if pairs.is_empty() || pairs.iter().any(|(new, old, _)| !(new + old).is_finite()) {
        return None;
    }
    let table = Table::of(&pairs, block_steps);
    let replicate = |idx: usize| table.replicate(&mut ChaCha8Rng::seed_from_u64(seed), idx);
    let mut ratios: Vec<f64> = (0..n_replicates).into_par_iter().map(replicate).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = table.ratio(|_, _| 1);
    let at = |share: f64| ratios.get(((n_replicates as f64 - 1.0) * share).round() as usize);
    Some(Interval {
        ratio,
        low: at(TAIL).copied().unwrap_or(ratio),
        high: at(1.0 - TAIL).copied().unwrap_or(ratio),
        n_samples: pairs.len() as u64,
        n_servers: table.n_servers as u64,
        n_blocks: table.n_times.div_ceil(table.block_len) as u64,
        n_whole_blocks: (f64::from(span_steps(&pairs)) / f64::from(block_steps.max(1))).round() as u64,
    })
}

/// Paired losses with dense server and time indices.
struct Table {
    /// `(server, time, new, old)`.
    cells: Vec<(usize, usize, f64, f64)>,
    n_servers: usize,
    n_times: usize,
    /// Distinct times in one block.
    block_len: usize,
}

impl Table {
    fn of(pairs: &[(f64, f64, SamplePlace)], block_steps: u32) -> Self {
        let servers = distinct(pairs.iter().map(|(_, _, place)| place.server));
        let times = distinct(pairs.iter().map(|(_, _, place)| place.cutoff));
        let idx_of = |list: &[u32], value: u32| list.binary_search(&value).expect("listed just before");
        let cells = pairs
            .iter()
            .map(|(new, old, place)| {
                (idx_of(&servers, place.server), idx_of(&times, place.cutoff), *new, *old)
            })
            .collect();
        let n_times = times.len();
        Self { cells, n_servers: servers.len(), n_times, block_len: block_len(&times, block_steps) }
    }

    /// The ratio of one draw of blocks and servers.
    fn replicate(&self, rng: &mut ChaCha8Rng, idx: usize) -> f64 {
        rng.set_stream(idx as u64);
        let mut by_server = vec![0u32; self.n_servers];
        for _ in 0..self.n_servers {
            by_server[rng.random_range(0..self.n_servers)] += 1;
        }
        let mut by_time = vec![0u32; self.n_times];
        for _ in 0..self.n_times.div_ceil(self.block_len) {
            let start = rng.random_range(0..self.n_times);
            for step in 0..self.block_len {
                by_time[(start + step) % self.n_times] += 1;
            }
        }
        let ratio = self.ratio(|server, time| by_server[server] * by_time[time]);
        // A sparse table can miss every sample in a draw; such a draw says nothing against either.
        if ratio.is_nan() { 1.0 } else { ratio }
    }

    /// Ratio of weighted sums; NaN where no sample has weight.
    fn ratio(&self, weight: impl Fn(usize, usize) -> u32) -> f64 {
        let (mut new_sum, mut old_sum, mut weights) = (0.0, 0.0, 0.0);
        for (server, time, new, old) in &self.cells {
            let weight = f64::from(weight(*server, *time));
            new_sum += weight * new;
            old_sum += weight * old;
            weights += weight;
        }
        match (new_sum == old_sum, weights > 0.0) {
            (_, false) => f64::NAN,
            (true, _) => 1.0,
            _ => new_sum / old_sum,
        }
    }
}

/// Steps from the first cutoff to the last one, both included.
fn span_steps(pairs: &[(f64, f64, SamplePlace)]) -> u32 {
    let cutoffs = || pairs.iter().map(|(_, _, place)| place.cutoff);
    cutoffs().max().zip(cutoffs().min()).map_or(0, |(last, first)| last - first + 1)
}

fn distinct(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// How many of the (evenly spread) distinct times fall into `block_steps` steps.
fn block_len(times: &[u32], block_steps: u32) -> usize {
    let span = f64::from(times[times.len() - 1] - times[0]) + 1.0;
    let len = (times.len() as f64 * f64::from(block_steps) / span).ceil() as usize;
    len.clamp(1, (times.len() / MIN_BLOCKS).max(1))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn places(n_servers: u32, n_times: u32) -> Vec<SamplePlace> {
        (0..n_servers)
            .flat_map(|server| (0..n_times).map(move |time| SamplePlace { server, cutoff: 1000 + 3 * time }))
            .collect()
    }

    /// Losses with a server effect and a slow wave, times a little noise of their own.
    fn losses(places: &[SamplePlace], factor: f64, noise: f64, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        places
            .iter()
            .map(|place| {
                let wave = 1.0 + 0.5 * (f64::from(place.cutoff) / 60.0).sin();
                let own = 1.0 + noise * (rng.random::<f64>() - 0.5);
                factor * (1.0 + f64::from(place.server % 5)) * wave * own
            })
            .collect()
    }

    #[test]
    fn identical_losses_give_exactly_one() {
        let places = places(7, 50);
        let losses = losses(&places, 1.0, 0.4, 1);
        let interval = paired_ratio(&losses, &losses, &places, 96, 200, 5).unwrap();
        assert_eq!((interval.ratio, interval.low, interval.high), (1.0, 1.0, 1.0));
        let zeros = vec![0.0; places.len()];
        assert_eq!(paired_ratio(&zeros, &zeros, &places, 96, 200, 5).unwrap().high, 1.0);
    }

    #[test]
    fn a_known_shift_is_recovered() {
        let places = places(20, 96);
        let (old, new) = (losses(&places, 1.0, 0.2, 1), losses(&places, 1.1, 0.2, 2));
        let interval = paired_ratio(&new, &old, &places, 96, N_REPLICATES, 5).unwrap();
        assert!(interval.low < interval.ratio && interval.ratio < interval.high);
        assert!((interval.ratio - 1.1).abs() < 0.01, "{interval:?}");
        assert!(interval.low > 1.08 && interval.high < 1.12, "{interval:?}");
        assert_eq!((interval.n_samples, interval.n_servers, interval.n_blocks), (1920, 20, 3));
    }

    #[test]
    fn a_shift_of_one_server_widens_the_interval() {
        let places = places(10, 96);
        let old = losses(&places, 1.0, 0.0, 1);
        let one_bad = |idx: usize| if places[idx].server == 4 { 1.5 * old[idx] } else { old[idx] };
        let new: Vec<f64> = (0..old.len()).map(one_bad).collect();
        let interval = paired_ratio(&new, &old, &places, 96, N_REPLICATES, 5).unwrap();
        assert!(interval.low <= 1.0 && interval.high > interval.ratio + 0.05, "{interval:?}");
    }

    #[test]
    fn the_seed_alone_decides() {
        let places = places(20, 40);
        let (old, new) = (losses(&places, 1.0, 0.6, 1), losses(&places, 1.0, 0.6, 2));
        let run = |seed| paired_ratio(&new, &old, &places, 24, 300, seed).unwrap();
        assert_eq!(run(5), run(5));
        assert_ne!(run(5).low, run(6).low);
    }

    #[test]
    fn the_bounds_hold_about_nineteen_times_in_twenty() {
        let places = places(30, 60);
        let n_below = (0..100u64)
            .filter(|seed| {
                let (old, new) =
                    (losses(&places, 1.0, 0.6, 2 * seed), losses(&places, 1.0, 0.6, 2 * seed + 1));
                paired_ratio(&new, &old, &places, 3, 200, *seed).unwrap().high < 1.0
            })
            .count();
        assert!(n_below <= 12, "the upper bound fell below the truth {n_below} times in 100");
    }

    /// A series whose values share their luck over 96 steps, as losses of overlapping forecasts do; unit variance.
    fn slow_noise(n_steps: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let fresh: Vec<f64> = (0..n_steps + 95).map(|_| rng.random::<f64>() - 0.5).collect();
        fresh.windows(96).map(|window| window.iter().sum::<f64>() * (12.0_f64 / 96.0).sqrt()).collect()
    }

    /// Losses of one model in the default exam: 289 cutoffs of a day, with luck of the fleet and of each server.
    fn night_losses(n_servers: usize, fleet: f64, own: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let shared = slow_noise(289, rng);
        let of_server = |_| {
            let alone = slow_noise(289, rng);
            shared
                .iter()
                .zip(alone)
                .map(|(shared, alone)| 1.0 + fleet * shared + own * alone)
                .collect::<Vec<_>>()
        };
        (0..n_servers).map(of_server).collect::<Vec<_>>().concat()
    }

    /// Of 100 nights with two equally good models, on how many each bound missed the true ratio of 1.
    fn misses(n_servers: usize, fleet: f64, own: f64) -> (usize, usize) {
        let places: Vec<SamplePlace> = (0..n_servers as u32)
            .flat_map(|server| (0..289).map(move |step| SamplePlace { server, cutoff: 1000 + step }))
            .collect();
        let night = |seed: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let [old, new] = [(); 2].map(|()| night_losses(n_servers, fleet, own, &mut rng));
            paired_ratio(&new, &old, &places, 96, 300, seed).unwrap()
        };
        let nights: Vec<Interval> = (0..100).into_par_iter().map(night).collect();
        let n = |missed: fn(&Interval) -> bool| nights.iter().filter(|one| missed(one)).count();
        (n(|one| one.high < 1.0), n(|one| one.low > 1.0))
    }

    #[test]
    fn on_a_default_night_the_bounds_hold_as_often_as_documented() {
        let (high, low) = misses(14, 0.0, 0.2);
        assert!(high.max(low) <= 12, "luck of each server: the bounds missed {high} and {low} times in 100");
        let (high, low) = misses(14, 0.1, 0.1);
        assert!(
            high.max(low) <= 35,
            "luck of the whole fleet: the bounds missed {high} and {low} times in 100"
        );
    }

    #[test]
    fn a_short_holdout_has_few_whole_blocks() {
        let n_whole = |n_times| {
            let places = places(3, n_times);
            let losses = losses(&places, 1.0, 0.4, 1);
            paired_ratio(&losses, &losses, &places, 96, 10, 5).unwrap().n_whole_blocks
        };
        assert_eq!([n_whole(1), n_whole(64), n_whole(80), n_whole(96)], [0, 2, 2, 3]);
    }

    #[test]
    fn what_cannot_be_paired_is_refused() {
        let places = places(2, 2);
        let nan = f64::NAN;
        let ratio = |new: &[f64], old: &[f64]| {
            paired_ratio(new, old, &places, 1, 50, 1).map(|interval| (interval.ratio, interval.n_samples))
        };
        assert_eq!(ratio(&[1.0; 4], &[1.0; 3]), None);
        assert_eq!(ratio(&[1.0, 1.0, 1.0, nan], &[1.0; 4]), None);
        assert_eq!(ratio(&[nan; 4], &[nan; 4]), None);
        assert_eq!(ratio(&[2.0, 2.0, 2.0, nan], &[1.0, 1.0, 1.0, nan]), Some((2.0, 3)));
        assert_eq!(ratio(&[1.0; 4], &[0.0; 4]), Some((f64::INFINITY, 4)));
        assert_eq!(paired_ratio(&[], &[], &[], 1, 50, 1), None);
    }
}
