//! What one unit of scaled loss is: how much a series changes from one day to the next.
//!
//! The divisor of a series (a server's target) is its mean absolute day-to-day change in the training part of
//! the window: the mean absolute error of a seasonal-naive forecast there. It comes from the window and never
//! from a model, so every forecaster is divided by the same number, and a target in MB/s weighs as much as one
//! in per cent. Series that hardly move would be divided by almost nothing; they get at least a tenth of the
//! fleet's mean divisor for that target.

use rayon::prelude::*;

use crate::window::grid::Grid;

/// Smallest divisor of a series as a share of the fleet's mean.
const FLOOR_SHARE: f64 = 0.1;
/// Changes below which a series says nothing about itself.
const CHANGES_MIN: usize = 12;

/// The divisors of every server and target of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Divisors {
    n_targets: usize,
    /// `[S, N]`, positive.
    floored: Vec<f64>,
    /// `[S, N]`: before the floor; none where there is too little history or no change at all.
    own: Vec<Option<f64>>,
}

impl Divisors {
    /// Measures steps `[0, train_end)` of `grid`; `targets` are metric positions.
    ///
    /// A training part of a day or less is measured from step to step instead of from day to day.
    pub fn fit(grid: &Grid, targets: &[usize], train_end: usize) -> Self {
        let steps_per_day = steps_per_day(grid);
        let lag = if train_end > steps_per_day + CHANGES_MIN { steps_per_day } else { 1 };
        let per_server = |server: usize| {
            targets.iter().map(move |&metric| mean_change(grid, server, metric, train_end, lag))
        };
        let own: Vec<Option<f64>> =
            (0..grid.servers.len()).into_par_iter().flat_map_iter(per_server).collect();
        let n_targets = targets.len();
        let fleet: Vec<f64> = (0..n_targets).map(|target| fleet_mean(&own, target, n_targets)).collect();
        let floored = own.iter().enumerate().map(|(i, own)| {
            let fleet = fleet[i % n_targets];
            own.map_or(fleet, |own| own.max(FLOOR_SHARE * fleet))
        });
        Self { n_targets, floored: floored.collect(), own: own.clone() }
    }

    /// The divisor of a series; always positive.
    pub fn of(&self, server: usize, target: usize) -> f64 {
        self.floored[server * self.n_targets + target]
    }

    /// The series' own mean absolute day-to-day change, if it has one: the denominator of MASE.
    pub fn own(&self, server: usize, target: usize) -> Option<f64> {
        self.own[server * self.n_targets + target]
    }
}

/// Steps of one day.
pub fn steps_per_day(grid: &Grid) -> usize {
    (86_400 / grid.step_secs).max(1) as usize
}

fn mean_change(grid: &Grid, server: usize, metric: usize, train_end: usize, lag: usize) -> Option<f64> {
    let (mut sum, mut n) = (0.0, 0usize);
    for step in lag..train_end.min(grid.n_steps) {
        let change = grid.row(server, step)[metric] - grid.row(server, step - lag)[metric];
        if change.is_finite() {
            sum += f64::from(change.abs());
            n += 1;
        }
    }
    (n >= CHANGES_MIN && sum > 0.0).then(|| sum / n as f64)
}

/// Mean divisor of a target over the servers that have one; 1 (the target's own unit) if none has.
fn fleet_mean(own: &[Option<f64>], target: usize, n_targets: usize) -> f64 {
    let known: Vec<f64> = own.iter().skip(target).step_by(n_targets).filter_map(|own| *own).collect();
    if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::grid_of;

    #[test]
    fn a_series_is_divided_by_its_day_to_day_change() {
        // Hourly steps. Server 0 rises by 2 a day, server 1 never moves, server 2 changes by 0.02 a day.
        let grid = grid_of(3600, 24 * 4, 3, |server, step| match server {
            0 => step as f32 * 2.0 / 24.0,
            1 => 7.0,
            _ => step as f32 * 0.02 / 24.0,
        });
        let divisors = Divisors::fit(&grid, &[0], 24 * 3);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-5, "{a} is not {b}");
        close(divisors.of(0, 0), 2.0);
        close(divisors.of(1, 0), 1.01); // the fleet's mean
        close(divisors.of(2, 0), 0.101); // a tenth of it
        assert_eq!(divisors.own(1, 0), None);
        close(divisors.own(2, 0).unwrap(), 0.02);
    }

    #[test]
    fn nothing_known_is_the_unit_itself() {
        let grid = grid_of(3600, 30, 2, |_, _| f32::NAN);
        assert_eq!(Divisors::fit(&grid, &[0], 30).of(1, 0), 1.0);
    }

    #[test]
    fn a_short_history_is_measured_step_by_step() {
        let grid = grid_of(3600, 24, 1, |_, step| (step % 2) as f32);
        assert_eq!(Divisors::fit(&grid, &[0], 24).of(0, 0), 1.0);
    }
}
