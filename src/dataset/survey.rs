//! One look at the train part of every server: what has to be known before the first batch.
//!
//! Every server is looked at by itself, so a window can be looked at a few servers at a time and the result is the same to
//! the last bit. What is kept is small: runs of cutoffs and a few numbers per series, nothing per step.

use std::ops::Range;

use anyhow::Result;
use rayon::prelude::*;

use crate::config::Config;
use crate::stats::{self, Moments};
use crate::window::gaps::Gaps;
use crate::window::{Feed, Grid, Split};

use super::preprocessing::positions;

/// A window's servers and what there is to learn from them.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The grid of all servers, without their values.
    pub outline: Grid,
    /// In the order of the outline's servers.
    pub servers: Vec<ServerSurvey>,
}

/// One server of a survey.
#[derive(Clone, Debug)]
pub struct ServerSurvey {
    /// Where there is a whole sample in the train part.
    pub cutoffs: Cutoffs,
    /// Of every metric of the grid, over the observed steps of the train part; empty where nobody asked for them.
    pub moments: Vec<Moments>,
}

/// Ascending cutoffs of a server, kept as runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cutoffs {
    /// First cutoff of each run, and the cutoffs in the runs before.
    runs: Vec<(u32, u32)>,
    n: u32,
}

impl Survey {
    /// Looks at every server of `feed`, one part after the other; at its moments too where `with_moments` says so.
    ///
    /// - Errors: a target of `config` is no metric of the window, or a part cannot be read.
    pub fn of(feed: &Feed, split: &Split, config: &Config, with_moments: bool) -> Result<Self> {
        let outline = feed.outline().clone();
        let mut servers = Vec::with_capacity(outline.servers.len());
        let blocks: Vec<usize> = (0..feed.blocks().len()).collect();
        for part in blocks.chunks(feed.n_at_once()) {
            servers.extend(look_at(&*feed.read(part)?, split, config, with_moments)?);
        }
        Ok(Self { outline, servers })
    }

    /// Looks at every server of a grid in memory.
    ///
    /// - Errors: a target of `config` is no metric of the grid.
    pub fn of_grid(grid: &Grid, split: &Split, config: &Config) -> Result<Self> {
        Ok(Self { outline: grid.outline(), servers: look_at(grid, split, config, true)? })
    }
}

fn look_at(grid: &Grid, split: &Split, config: &Config, with_moments: bool) -> Result<Vec<ServerSurvey>> {
    let model = &config.model;
    let gaps = Gaps::find(grid, &positions(&grid.metrics, &model.targets)?, config.window.max_gap_steps);
    let of_server = |server: usize| ServerSurvey {
        cutoffs: Cutoffs::of_train_part(&gaps, server, split, (model.encoder_length, model.horizon)),
        moments: if with_moments { observe(grid, server, split.train_end) } else { Vec::new() },
    };
    Ok((0..grid.servers.len()).into_par_iter().map(of_server).collect())
}

/// Moments of every metric of a server over the observed steps before `train_end`.
fn observe(grid: &Grid, server: usize, train_end: usize) -> Vec<Moments> {
    let mut values = Vec::with_capacity(train_end);
    let mut moments_of = |metric: usize| {
        values.clear();
        let series = (0..train_end).map(|step| grid.row(server, step)[metric]);
        values.extend(series.filter(|value| value.is_finite()));
        stats::winsorised_moments(&mut values)
    };
    (0..grid.metrics.len()).map(&mut moments_of).collect()
}

impl Cutoffs {
    /// The cutoffs of `server` whose sample, of so many encoder and horizon steps, lies in the train part and meets no
    /// broken step.
    pub(super) fn of_train_part(
        gaps: &Gaps,
        server: usize,
        split: &Split,
        (encoder_length, horizon): (usize, usize),
    ) -> Self {
        let candidates = split.train_cutoffs(encoder_length, horizon);
        gaps.cutoff_runs(server, encoder_length, horizon, candidates).into_iter().collect()
    }

    pub fn len(&self) -> usize {
        self.n as usize
    }

    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The cutoff at `place`, which must be below [`Cutoffs::len`].
    pub fn at(&self, place: usize) -> u32 {
        debug_assert!(place < self.len());
        let place = place as u32;
        let (first, n_before) = self.runs[self.runs.partition_point(|(_, n_before)| *n_before <= place) - 1];
        first + (place - n_before)
    }
}

impl FromIterator<Range<usize>> for Cutoffs {
    /// From ascending runs that are not empty.
    fn from_iter<I: IntoIterator<Item = Range<usize>>>(runs: I) -> Self {
        let mut cutoffs = Self::default();
        for run in runs {
            cutoffs.runs.push((run.start as u32, cutoffs.n));
            cutoffs.n += run.len() as u32;
        }
        cutoffs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutoffs_are_found_by_their_place() {
        let cutoffs: Cutoffs = [3..5, 9..10, 20..23].into_iter().collect();
        let found: Vec<u32> = (0..cutoffs.len()).map(|place| cutoffs.at(place)).collect();
        assert_eq!(found, [3, 4, 9, 20, 21, 22]);
        assert!(Cutoffs::default().is_empty());
    }
}
