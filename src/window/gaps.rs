//! Where a server's series has holes too long to bridge, answered in constant time for any range of steps.
//!
//! A step is *present* when at least one target is observed. Runs of absent steps up to the limit are bridged
//! (the last value stands in, and is masked); every step of a longer run is *broken*, and so is everything
//! before a server's first present step, where there is no value to carry forward.

use std::ops::Range;

use super::grid::Grid;

/// Broken steps of every server of a grid, as prefix sums.
#[derive(Clone, Debug)]
pub struct Gaps {
    n_steps: usize,
    /// `[S, T + 1]`: broken steps before each step.
    n_broken_before: Vec<u32>,
}

/// Whether any of `targets` (positions in `row`) has a value.
pub fn is_present(row: &[f32], targets: &[usize]) -> bool {
    targets.iter().any(|target| row[*target].is_finite())
}

impl Gaps {
    /// Finds the broken steps of `grid`; `targets` are positions in `grid.metrics`.
    pub fn find(grid: &Grid, targets: &[usize], max_gap_steps: usize) -> Self {
        let n_steps = grid.n_steps;
        let mut n_broken_before = Vec::with_capacity(grid.servers.len() * (n_steps + 1));
        let mut is_broken = vec![false; n_steps];
        for server in 0..grid.servers.len() {
            let present = |step: usize| is_present(grid.row(server, step), targets);
            mark_broken(&mut is_broken, present, max_gap_steps);
            let mut sum = 0;
            n_broken_before.push(sum);
            n_broken_before.extend(is_broken.iter().map(|broken| {
                sum += u32::from(*broken);
                sum
            }));
        }
        Self { n_steps, n_broken_before }
    }

    /// Whether `server` has no broken step in `steps`; steps beyond the grid count as not broken.
    pub fn is_whole(&self, server: usize, steps: Range<usize>) -> bool {
        let base = server * (self.n_steps + 1);
        let at = |step: usize| self.n_broken_before[base + step.min(self.n_steps)];
        at(steps.start) == at(steps.end)
    }

    /// The cutoffs among `candidates` around which `server` has a whole sample.
    pub fn cutoffs(
        &self,
        server: usize,
        encoder_length: usize,
        horizon: usize,
        candidates: Range<usize>,
    ) -> impl Iterator<Item = usize> {
        candidates.filter(move |cutoff| self.is_whole(server, cutoff - encoder_length..cutoff + horizon))
    }
}

fn mark_broken(is_broken: &mut [bool], present: impl Fn(usize) -> bool, max_gap_steps: usize) {
    let mut gap_start = 0;
    let mut was_seen = false;
    let n_steps = is_broken.len();
    for step in 0..=n_steps {
        if step < n_steps && !present(step) {
            continue;
        }
        let is_long = step - gap_start > max_gap_steps || !was_seen;
        is_broken[gap_start..step].fill(is_long);
        if step < n_steps {
            is_broken[step] = false;
            was_seen = true;
            gap_start = step + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(series: &str, max_gap: usize, expected: &str) {
        let mut is_broken = vec![true; series.len()];
        mark_broken(&mut is_broken, |step| series.as_bytes()[step] == b'x', max_gap);
        let got: String = is_broken.iter().map(|broken| if *broken { '!' } else { '.' }).collect();
        assert_eq!(got, expected, "{series} with gaps up to {max_gap}");
    }

    #[test]
    fn short_gaps_are_bridged_long_and_leading_ones_are_not() {
        case("xxxx", 0, "....");
        case("xx-x", 1, "....");
        case("x--x", 1, ".!!.");
        case("-xxx", 3, "!...");
        case("xx--", 2, "....");
        case("x---", 2, ".!!!");
        case("----", 9, "!!!!");
        case("", 1, "");
    }
}
