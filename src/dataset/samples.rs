//! Which slices of the grid are samples.

use serde::{Deserialize, Serialize};

use crate::window::Split;

use super::{Cutoffs, Dataset};

/// One sample: the `encoder_length` steps of a server before `cutoff` and the `horizon` steps from it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleKey {
    /// Position among the grid's servers.
    pub server: u32,
    /// First decoder step.
    pub cutoff: u32,
}

impl SampleKey {
    pub fn new(server: usize, cutoff: usize) -> Self {
        Self { server: server as u32, cutoff: cutoff as u32 }
    }
}

impl Dataset {
    /// Every sample whose targets all lie before `split.train_end` and that no broken step interrupts, by
    /// server and time. A training finds its samples by [`Cutoffs`] instead: they may be millions.
    pub fn train_keys(&self, split: &Split) -> Vec<SampleKey> {
        let of_server = |server: usize| {
            let cutoffs = Cutoffs::of_train_part(&self.gaps, server, split, self.lengths());
            (0..cutoffs.len()).map(move |place| SampleKey::new(server, cutoffs.at(place) as usize))
        };
        (0..self.grid().servers.len()).flat_map(of_server).collect()
    }

    /// The samples of the exam, by server and time; at most `max_samples` of them if that is not 0.
    ///
    /// A smaller number is shared out evenly: every server gets the same share as far as it has samples, spread
    /// over its whole holdout and staggered between servers, always the same ones.
    pub fn holdout_keys(&self, split: &Split, max_samples: usize) -> Vec<SampleKey> {
        let (encoder_length, horizon) = self.lengths();
        let candidates = split.holdout_cutoffs(encoder_length, horizon);
        let mut by_server: Vec<Vec<SampleKey>> = (0..self.grid().servers.len())
            .map(|server| self.keys_of(server, candidates.clone()).collect())
            .collect();
        if max_samples > 0 {
            let counts: Vec<usize> = by_server.iter().map(Vec::len).collect();
            let shares = share_out(&counts, max_samples);
            for (server, (keys, share)) in by_server.iter_mut().zip(shares).enumerate() {
                *keys = spread(keys, share, server);
            }
        }
        by_server.concat()
    }

    /// The sample that ends with the grid, for every server with enough recent history: its decoder lies in
    /// the future, where only the calendar is known.
    pub fn forecast_keys(&self) -> Vec<SampleKey> {
        let n_steps = self.grid().n_steps;
        if n_steps < self.lengths().0 {
            return Vec::new();
        }
        let cutoff = n_steps..n_steps + 1;
        (0..self.grid().servers.len()).flat_map(|server| self.keys_of(server, cutoff.clone())).collect()
    }

    fn keys_of(
        &self,
        server: usize,
        candidates: std::ops::Range<usize>,
    ) -> impl Iterator<Item = SampleKey> + '_ {
        let (encoder_length, horizon) = self.lengths();
        let cutoffs = self.gaps.cutoffs(server, encoder_length, horizon, candidates);
        cutoffs.map(move |cutoff| SampleKey::new(server, cutoff))
    }
}

/// Shares `n_wanted` out over holders of `counts`, as evenly as their counts allow.
fn share_out(counts: &[usize], n_wanted: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|holder| counts[*holder]);
    let mut shares = vec![0; counts.len()];
    let mut n_left = n_wanted;
    for (n_served, holder) in order.into_iter().enumerate() {
        let share = n_left / (counts.len() - n_served);
        shares[holder] = share.min(counts[holder]);
        n_left -= shares[holder];
    }
    shares
}

/// `share` of `keys`, evenly spaced; the offset differs from server to server (steps of the golden ratio).
fn spread(keys: &[SampleKey], share: usize, server: usize) -> Vec<SampleKey> {
    let offset = (server as f64 * 0.618_033_988_749_895).fract();
    let at = |i: usize| ((i as f64 + offset) * keys.len() as f64 / share as f64) as usize;
    (0..share).map(|i| keys[at(i).min(keys.len() - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_use_what_the_short_ones_leave() {
        assert_eq!(share_out(&[100, 100, 100, 2], 62), [20, 20, 20, 2]);
        assert_eq!(share_out(&[5, 5], 100), [5, 5]);
        assert_eq!(share_out(&[9; 5], 3).iter().sum::<usize>(), 3);
        assert_eq!(share_out(&[], 3), [0usize; 0]);
        assert_eq!(share_out(&[0, 9], 4), [0, 4]);
    }

    #[test]
    fn spread_keys_are_distinct_ascending_and_cover_the_range() {
        let keys: Vec<SampleKey> = (0..289).map(|cutoff| SampleKey::new(0, cutoff)).collect();
        for server in 0..50 {
            let chosen = spread(&keys, 40, server);
            assert!(chosen.windows(2).all(|pair| pair[0].cutoff < pair[1].cutoff));
            assert!(chosen[0].cutoff < 8 && chosen[39].cutoff > 280);
        }
        assert_eq!(spread(&keys, 289, 7), keys);
    }
}
