//! What befell all servers at once: stretches in which nearly nobody reported.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::frame::Frame;

/// A stretch in which at least nine tenths of the servers that lived then had no rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetGap {
    pub from: DateTime<Utc>,
    /// End of its last step.
    pub to: DateTime<Utc>,
    /// Servers that were silent all the time, at least.
    pub n_silent: usize,
    /// Servers that lived then: first seen before it, and last seen after.
    pub n_servers: usize,
}

/// Share of the living that may report in a gap of the fleet.
const MAX_REPORTING: f64 = 0.1;

/// Servers present and alive, per step, of as many servers as have been added.
#[derive(Clone, Debug)]
pub(super) struct Presence {
    n_present: Vec<u32>,
    /// Lives that begin at a step, less those that ended before it.
    n_begun: Vec<i64>,
}

impl Presence {
    pub fn new(n_steps: usize) -> Self {
        Self { n_present: vec![0; n_steps], n_begun: vec![0; n_steps + 1] }
    }

    pub fn add(&mut self, is_present: &[bool], life: &Range<usize>) {
        for (count, is_present) in self.n_present.iter_mut().zip(is_present) {
            *count += u32::from(*is_present);
        }
        self.n_begun[life.start] += 1;
        self.n_begun[life.end] -= 1;
    }

    /// Present and living servers of each step.
    fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let alive = self.n_begun.iter().scan(0, |n_alive, begun| {
            *n_alive += begun;
            Some(u64::try_from(*n_alive).unwrap_or(0))
        });
        self.n_present.iter().map(|n| u64::from(*n)).zip(alive)
    }

    /// Share of the steps in lives that are present, of those of `steps` that are in none of `without`; none if nobody
    /// lived then.
    pub fn completeness(&self, steps: &Range<usize>, without: &[Range<usize>]) -> Option<f64> {
        let counts = self.counts().enumerate().skip(steps.start).take(steps.len());
        let counts = counts.filter(|(step, _)| !without.iter().any(|gap| gap.contains(step)));
        let (n_present, n_alive) =
            counts.fold((0, 0), |(present, alive), (_, (p, a))| (present + p, alive + a));
        (n_alive > 0).then(|| n_present as f64 / n_alive as f64)
    }

    /// Gaps of the fleet longer than `max_gap_steps`, as steps.
    pub fn gaps(&self, max_gap_steps: usize) -> Vec<(Range<usize>, FleetSilence)> {
        let mut gaps: Vec<(Range<usize>, FleetSilence)> = Vec::new();
        for (step, (n_present, n_alive)) in self.counts().enumerate() {
            if n_alive == 0 || n_present as f64 > MAX_REPORTING * n_alive as f64 {
                continue;
            }
            let now = FleetSilence { n_silent: (n_alive - n_present) as usize, n_servers: n_alive as usize };
            match gaps.last_mut() {
                Some((steps, silence)) if steps.end == step => {
                    steps.end += 1;
                    silence.n_silent = silence.n_silent.min(now.n_silent);
                    silence.n_servers = silence.n_servers.max(now.n_servers);
                }
                _ => gaps.push((step..step + 1, now)),
            }
        }
        gaps.retain(|(steps, _)| steps.len() > max_gap_steps);
        gaps
    }
}

/// How many were silent, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FleetSilence {
    n_silent: usize,
    n_servers: usize,
}

impl FleetGap {
    pub(super) fn of((steps, silence): &(Range<usize>, FleetSilence), frame: &Frame) -> Self {
        let FleetSilence { n_silent, n_servers } = *silence;
        Self { from: frame.time(steps.start), to: frame.time(steps.end), n_silent, n_servers }
    }
}

/// What the gaps of one server say beside those of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnGaps {
    /// The longest gap that no gap of the fleet explains; empty if there is none.
    pub longest: Range<usize>,
    /// Steps by which the server's clock is ahead of the fleet's, if a gap tells.
    pub clock_offset: Option<i64>,
}

/// Steps that a gap may begin or end beside that of the fleet, because rows of a step come at different moments.
const EDGE_STEPS: usize = 1;

impl OwnGaps {
    /// Compares the gaps of a server with those of the fleet.
    ///
    /// A gap as long as that of the fleet that begins earlier or later is the same gap by another clock.
    pub fn of(gaps: &[Range<usize>], fleet: &[Range<usize>], max_offset: usize) -> Self {
        let is_as_long = |a: &Range<usize>, b: &Range<usize>| a.len().abs_diff(b.len()) <= EDGE_STEPS;
        let is_far = |a: &Range<usize>, b: &Range<usize>| a.start.abs_diff(b.start) > EDGE_STEPS;
        let is_near = |a: &Range<usize>, b: &Range<usize>| a.start.abs_diff(b.start) <= max_offset;
        let has_its_own = |of_fleet: &Range<usize>| {
            gaps.iter().any(|gap| is_as_long(gap, of_fleet) && !is_far(gap, of_fleet))
        };
        let displaced = fleet.iter().filter(|of_fleet| !has_its_own(of_fleet)).find_map(|of_fleet| {
            let elsewhere = |gap: &&Range<usize>| {
                is_as_long(gap, of_fleet) && is_far(gap, of_fleet) && is_near(gap, of_fleet)
            };
            Some((gaps.iter().find(elsewhere)?, of_fleet))
        });
        let is_explained = |gap: &&Range<usize>| {
            let is_displaced = displaced.is_some_and(|(known, _)| known == *gap);
            is_displaced || fleet.iter().any(|of_fleet| 10 * n_common(gap, of_fleet) >= 8 * gap.len())
        };
        let own = gaps.iter().filter(|gap| !is_explained(gap)).max_by_key(|gap| gap.len());
        Self {
            longest: own.cloned().unwrap_or(0..0),
            clock_offset: displaced.map(|(gap, of_fleet)| gap.start as i64 - of_fleet.start as i64),
        }
    }
}

/// Steps that two stretches share.
fn n_common(a: &Range<usize>, b: &Range<usize>) -> usize {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}
