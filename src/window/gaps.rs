//! Where a server's series has holes too long to bridge, kept as runs.
//!
//! A step is *present* when at least one target is observed. Runs of absent steps up to the limit are bridged
//! (the last value stands in, and is masked); every step of a longer run is *broken*, and so is everything
//! before a server's first present step, where there is no value to carry forward.

use std::ops::Range;

use super::grid::Grid;

/// Broken steps of every server of a grid: a few numbers per gap, nothing per step.
#[derive(Clone, Debug)]
pub struct Gaps {
    /// Runs of broken steps, ascending, server after server.
    runs: Vec<Range<usize>>,
    /// `[S + 1]`: where the runs of each server begin.
    starts: Vec<usize>,
}

/// Whether any of `targets` (positions in `row`) has a value.
pub fn is_present(row: &[f32], targets: &[usize]) -> bool {
    targets.iter().any(|target| row[*target].is_finite())
}

impl Gaps {
    /// Finds the broken steps of `grid`; `targets` are positions in `grid.metrics`.
    pub fn find(grid: &Grid, targets: &[usize], max_gap_steps: usize) -> Self {
        let mut gaps = Self { runs: Vec::new(), starts: vec![0] };
        let mut is_broken = vec![false; grid.n_steps];
        for server in 0..grid.servers.len() {
            let present = |step: usize| is_present(grid.row(server, step), targets);
            mark_broken(&mut is_broken, present, max_gap_steps);
            gaps.push_runs(&is_broken);
        }
        gaps
    }

    fn push_runs(&mut self, is_broken: &[bool]) {
        let mut step = 0;
        for run in is_broken.chunk_by(|a, b| a == b) {
            if run[0] {
                self.runs.push(step..step + run.len());
            }
            step += run.len();
        }
        self.starts.push(self.runs.len());
    }

    /// The cutoffs among `candidates` around which `server` has a whole sample, as ascending runs. Steps beyond the
    /// grid count as not broken.
    pub fn cutoff_runs(
        &self,
        server: usize,
        encoder_length: usize,
        horizon: usize,
        candidates: Range<usize>,
    ) -> Vec<Range<usize>> {
        let mut whole = Vec::new();
        let mut next = candidates.start;
        for gap in &self.runs[self.starts[server]..self.starts[server + 1]] {
            // A sample reaches from `cutoff - encoder_length` up to `cutoff + horizon`, its end not included.
            let first_spoilt = (gap.start + 1).saturating_sub(horizon).min(candidates.end);
            if next < first_spoilt {
                whole.push(next..first_spoilt);
            }
            next = next.max(gap.end + encoder_length);
        }
        if next < candidates.end {
            whole.push(next..candidates.end);
        }
        whole
    }

    /// [`Gaps::cutoff_runs`], one by one.
    pub fn cutoffs(
        &self,
        server: usize,
        encoder_length: usize,
        horizon: usize,
        candidates: Range<usize>,
    ) -> impl Iterator<Item = usize> + use<> {
        self.cutoff_runs(server, encoder_length, horizon, candidates).into_iter().flatten()
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

    #[test]
    fn runs_of_cutoffs_are_those_whose_samples_meet_no_broken_step() {
        let series = ["xxxxxxxxxxxxxxxx", "----x-xxxxxxx---", "xxx-----xxxxxx-x", "x---x---x---xxxx"];
        let mut gaps = Gaps { runs: Vec::new(), starts: vec![0] };
        let mut broken = Vec::new();
        for series in series {
            let mut is_broken = vec![false; series.len()];
            mark_broken(&mut is_broken, |step| series.as_bytes()[step] == b'x', 1);
            gaps.push_runs(&is_broken);
            broken.push(is_broken);
        }
        for (encoder_length, horizon) in [(1, 1), (2, 1), (3, 2), (1, 4), (16, 1)] {
            let candidates = encoder_length..17;
            for (server, is_broken) in broken.iter().enumerate() {
                let is_whole = |cutoff: &usize| {
                    let steps = cutoff - encoder_length..(cutoff + horizon).min(is_broken.len());
                    !is_broken[steps].contains(&true)
                };
                let expected: Vec<usize> = candidates.clone().filter(is_whole).collect();
                let got = gaps.cutoffs(server, encoder_length, horizon, candidates.clone());
                assert_eq!(
                    got.collect::<Vec<_>>(),
                    expected,
                    "{} {encoder_length} {horizon}",
                    series[server]
                );
            }
        }
    }
}
