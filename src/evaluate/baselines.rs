//! What one gets without a model: persistence and the seasonal-naive forecasts, as honest quantile forecasts.
//!
//! A naive forecast is one number. To be compared with quantiles fairly it is *dressed*: its own errors in the
//! training part of the window are collected per server, target and horizon bucket, and their empirical
//! quantiles are added to the number. A baseline thus knows how uncertain it is, and a model that beats it beats
//! the best use of that number, not a straw man. Nothing after the training part enters the dressing; the number
//! itself uses everything before the cutoff, as a model does.

use rayon::prelude::*;

use super::divisor::{Divisors, steps_per_day};
use crate::dataset::SampleKey;
use crate::window::grid::Grid;

/// Horizon buckets of dressing and of the scores.
pub const N_BUCKETS: usize = 4;
/// Cutoffs per server from which errors are collected, at most.
const ORIGINS_MAX: usize = 128;
/// Horizon steps looked at per bucket and cutoff.
const STEPS_PER_BUCKET: usize = 2;
/// Errors below which a server is dressed with the fleet's.
const ERRORS_MIN: usize = 40;
/// Errors each server lends to the fleet's pool per target and bucket.
const ERRORS_LENT: usize = 64;

/// Which number a naive forecast repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naive {
    /// The last observed value.
    Persistence,
    /// The value at the same time of the last day that is known at the cutoff.
    SeasonalDay,
    /// The same, of the last week.
    SeasonalWeek,
}

impl Naive {
    /// All of them, the simplest first.
    pub const ALL: [Naive; 3] = [Naive::Persistence, Naive::SeasonalDay, Naive::SeasonalWeek];

    /// Its name in [`super::scores::Scores::forecaster`].
    pub fn name(self) -> &'static str {
        match self {
            Naive::Persistence => "persistence",
            Naive::SeasonalDay => "seasonal_naive_day",
            Naive::SeasonalWeek => "seasonal_naive_week",
        }
    }

    /// Steps after which it repeats; none for persistence.
    fn season(self, grid: &Grid) -> Option<usize> {
        match self {
            Naive::Persistence => None,
            Naive::SeasonalDay => Some(steps_per_day(grid)),
            Naive::SeasonalWeek => Some(7 * steps_per_day(grid)),
        }
    }
}

/// Where in a grid a baseline works.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    pub grid: &'a Grid,
    /// Metric positions of the targets.
    pub targets: &'a [usize],
    /// The training part is steps `[0, train_end)`.
    pub train_end: usize,
    pub horizon: usize,
    /// Ascending.
    pub quantiles: &'a [f64],
}

/// A naive forecast dressed with its own errors.
pub struct Baseline<'a> {
    naive: Naive,
    ground: Ground<'a>,
    /// `[S, N, bucket, Q]`: what to add to the number.
    offsets: Vec<f32>,
    /// Per target: the value of a server that was never observed.
    fallback: Vec<f32>,
}

/// The horizon bucket of step `h` (from 0).
pub fn bucket_of(h: usize, horizon: usize) -> usize {
    h / bucket_width(horizon)
}

/// Steps in a bucket; the last one may be shorter.
fn bucket_width(horizon: usize) -> usize {
    horizon.div_ceil(N_BUCKETS).max(1)
}

/// The names of the horizon buckets, such as `h001-024`; steps count from 1.
pub fn bucket_names(horizon: usize) -> Vec<String> {
    let width = bucket_width(horizon);
    let starts = (0..horizon).step_by(width);
    starts.map(|start| format!("h{:03}-{:03}", start + 1, (start + width).min(horizon))).collect()
}

impl<'a> Baseline<'a> {
    /// Collects the naive forecast's errors in the training part.
    ///
    /// None where the training part does not reach over one season and one horizon: there is nothing to
    /// measure, and a seasonal forecast would mostly be persistence.
    pub fn fit(naive: Naive, ground: Ground<'a>, divisors: &Divisors) -> Option<Self> {
        let first_origin = naive.season(ground.grid).unwrap_or(1);
        if first_origin + ground.horizon >= ground.train_end.min(ground.grid.n_steps) {
            return None;
        }
        let fallback = ground.targets.iter().map(|&metric| fleet_mean(ground.grid, metric, ground.train_end));
        let mut baseline = Self { naive, ground, offsets: Vec::new(), fallback: fallback.collect() };
        let n_servers = ground.grid.servers.len();
        let errors: Vec<Errors> =
            (0..n_servers).into_par_iter().map(|server| baseline.errors(server, first_origin)).collect();
        let fleet = baseline.fleet_offsets(&errors, divisors);
        let dress = |(server, errors): (usize, Errors)| baseline.dress(server, errors, &fleet, divisors);
        baseline.offsets = errors.into_par_iter().enumerate().flat_map_iter(dress).collect();
        Some(baseline)
    }

    /// Its name in [`super::scores::Scores::forecaster`].
    pub fn name(&self) -> &'static str {
        self.naive.name()
    }

    /// Appends the forecast of one sample, `[N, H, Q]` in original units, sorted along Q.
    pub fn forecast(&self, key: &SampleKey, out: &mut Vec<f32>) {
        let Ground { targets, horizon, quantiles, .. } = self.ground;
        let (server, cutoff) = (key.server as usize, key.cutoff as usize);
        for target in 0..targets.len() {
            for h in 0..horizon {
                let value = self.number(server, target, cutoff, h);
                let start = self.offset_start(server, target, bucket_of(h, horizon));
                out.extend(self.offsets[start..start + quantiles.len()].iter().map(|offset| value + offset));
            }
        }
    }

    fn offset_start(&self, server: usize, target: usize, bucket: usize) -> usize {
        ((server * self.ground.targets.len() + target) * N_BUCKETS + bucket) * self.ground.quantiles.len()
    }

    /// The naive forecast of step `cutoff + h`: the same time in the last season known at the cutoff, in the
    /// one before where that is missing, else the last observed value.
    fn number(&self, server: usize, target: usize, cutoff: usize, h: usize) -> f32 {
        let metric = self.ground.targets[target];
        if let Some(season) = self.naive.season(self.ground.grid) {
            let n_back = h / season + 1;
            for back in [n_back * season, (n_back + 1) * season] {
                let value =
                    (cutoff + h).checked_sub(back).map(|step| self.ground.grid.row(server, step)[metric]);
                if let Some(value) = value.filter(|value| value.is_finite()) {
                    return value;
                }
            }
        }
        let observed = |step: &usize| self.ground.grid.row(server, *step)[metric].is_finite();
        let last = (0..cutoff.min(self.ground.grid.n_steps)).rev().find(observed);
        last.map_or(self.fallback[target], |step| self.ground.grid.row(server, step)[metric])
    }

    /// The errors (truth less number) of one server, per target and bucket.
    fn errors(&self, server: usize, first_origin: usize) -> Errors {
        let Ground { grid, targets, horizon, train_end, .. } = self.ground;
        let mut errors = vec![Vec::new(); targets.len() * N_BUCKETS];
        let last_origin = train_end.min(grid.n_steps) - horizon;
        let stride = stride((last_origin - first_origin).div_ceil(ORIGINS_MAX), steps_per_day(grid));
        let step_stride = bucket_width(horizon).div_ceil(STEPS_PER_BUCKET);
        for (turn, cutoff) in (first_origin..=last_origin).step_by(stride).enumerate() {
            for h in (turn % step_stride..horizon).step_by(step_stride) {
                for (target, &metric) in targets.iter().enumerate() {
                    let truth = grid.row(server, cutoff + h)[metric];
                    if truth.is_finite() {
                        let error = truth - self.number(server, target, cutoff, h);
                        errors[target * N_BUCKETS + bucket_of(h, horizon)].push(error);
                    }
                }
            }
        }
        errors
    }

    /// Quantiles of all servers' errors in units of their divisors, `[N * bucket][Q]`.
    fn fleet_offsets(&self, errors: &[Errors], divisors: &Divisors) -> Vec<Vec<f32>> {
        let n_groups = self.ground.targets.len() * N_BUCKETS;
        let pooled = |group: usize| {
            let mut pool: Vec<f32> = Vec::new();
            for (server, errors) in errors.iter().enumerate() {
                let divisor = divisors.of(server, group / N_BUCKETS) as f32;
                let stride = errors[group].len().div_ceil(ERRORS_LENT).max(1);
                pool.extend(errors[group].iter().step_by(stride).map(|error| error / divisor));
            }
            quantiles_of(&mut pool, self.ground.quantiles)
        };
        (0..n_groups).map(pooled).collect()
    }

    /// The offsets of one server, `[N, bucket, Q]`.
    fn dress(&self, server: usize, errors: Errors, fleet: &[Vec<f32>], divisors: &Divisors) -> Vec<f32> {
        let dress_group = |(group, mut errors): (usize, Vec<f32>)| {
            if errors.len() >= ERRORS_MIN {
                return quantiles_of(&mut errors, self.ground.quantiles);
            }
            let divisor = divisors.of(server, group / N_BUCKETS) as f32;
            fleet[group].iter().map(|offset| offset * divisor).collect()
        };
        errors.into_iter().enumerate().flat_map(dress_group).collect()
    }
}

/// Errors per target and bucket.
type Errors = Vec<Vec<f32>>;

/// At least `wanted`, and without a common divisor with a day, so that all times of day are met.
fn stride(wanted: usize, steps_per_day: usize) -> usize {
    let coprime = |n: &usize| gcd(*n, steps_per_day) == 1;
    (wanted.max(1)..).find(coprime).expect("there is always a next number without common divisors")
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Empirical quantiles, linear between the order statistics; zeros where there is nothing.
fn quantiles_of(values: &mut [f32], levels: &[f64]) -> Vec<f32> {
    if values.is_empty() {
        return vec![0.0; levels.len()];
    }
    values.sort_unstable_by(f32::total_cmp);
    let at = |level: &f64| {
        let place = level * (values.len() - 1) as f64;
        let (below, share) = (place.floor() as usize, place.fract() as f32);
        let above = (below + 1).min(values.len() - 1);
        values[below] + share * (values[above] - values[below])
    };
    levels.iter().map(at).collect()
}

/// The mean of a metric over all servers in the training part; 0 where it was never observed.
fn fleet_mean(grid: &Grid, metric: usize, train_end: usize) -> f32 {
    let rows = (0..grid.servers.len()).flat_map(|server| (0..train_end).map(move |step| (server, step)));
    let values = rows.map(|(server, step)| grid.row(server, step)[metric]).filter(|value| value.is_finite());
    let (sum, n) = values.fold((0.0, 0u64), |(sum, n), value| (sum + f64::from(value), n + 1));
    if n == 0 { 0.0 } else { (sum / n as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::grid_of;
    use std::f32::consts::TAU;

    const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

    fn ground(grid: &Grid, train_end: usize) -> Ground<'_> {
        Ground { grid, targets: &[0], train_end, horizon: 8, quantiles: &QUANTILES }
    }

    fn forecast(grid: &Grid, naive: Naive, train_end: usize, cutoff: u32) -> Vec<f32> {
        let divisors = Divisors::fit(grid, &[0], train_end);
        let baseline = Baseline::fit(naive, ground(grid, train_end), &divisors).unwrap();
        let mut out = Vec::new();
        baseline.forecast(&SampleKey { server: 0, cutoff }, &mut out);
        out
    }

    /// A daily sine over hourly steps.
    fn sine(n_days: usize) -> Grid {
        grid_of(3600, 24 * n_days, 2, |_, step| 10.0 + (step as f32 / 24.0 * TAU).sin())
    }

    #[test]
    fn a_pure_daily_rhythm_is_forecast_exactly_by_the_day_before() {
        let grid = sine(9);
        let got = forecast(&grid, Naive::SeasonalDay, 24 * 8, 24 * 8);
        for (h, quantiles) in got.chunks(3).enumerate() {
            let truth = grid.row(0, 24 * 8 + h)[0];
            assert!(quantiles.iter().all(|q| (q - truth).abs() < 1e-4), "step {h}: {quantiles:?}, {truth}");
        }
    }

    #[test]
    fn persistence_knows_that_it_grows_less_certain() {
        let grid = sine(9);
        let got = forecast(&grid, Naive::Persistence, 24 * 8, 24 * 8);
        let width = |h: usize| got[3 * h + 2] - got[3 * h];
        assert!(width(0) > 0.1 && width(7) > 2.0 * width(0), "{} {}", width(0), width(7));
        // The errors of a sine are symmetric, so the median is the last value.
        assert!((got[1] - grid.row(0, 24 * 8 - 1)[0]).abs() < 0.15);
    }

    #[test]
    fn a_week_needs_a_week() {
        let grid = sine(7);
        let divisors = Divisors::fit(&grid, &[0], 24 * 6);
        assert!(Baseline::fit(Naive::SeasonalWeek, ground(&grid, 24 * 6), &divisors).is_none());
        assert!(Baseline::fit(Naive::SeasonalDay, ground(&grid, 24 * 6), &divisors).is_some());
    }

    #[test]
    fn a_missing_day_is_replaced_by_the_one_before_and_then_by_the_last_value() {
        let mut grid = grid_of(3600, 24 * 5, 1, |_, step| step as f32);
        let divisors = Divisors::fit(&grid, &[0], 24 * 4);
        grid.values[24 * 3] = f32::NAN;
        let plain = |grid: &Grid| {
            let fitted = Baseline::fit(Naive::SeasonalDay, ground(grid, 24 * 4), &divisors).unwrap();
            fitted.number(0, 0, 24 * 4, 0)
        };
        assert_eq!(plain(&grid), 48.0);
        grid.values[48] = f32::NAN;
        assert_eq!(plain(&grid), 95.0);
    }

    #[test]
    fn what_comes_after_the_training_part_does_not_dress() {
        let mut grid = sine(9);
        let before = forecast(&grid, Naive::Persistence, 24 * 7, 24 * 7);
        grid.values[24 * 7..24 * 9].fill(1e6);
        assert_eq!(before, forecast(&grid, Naive::Persistence, 24 * 7, 24 * 7));
    }

    #[test]
    fn a_newcomer_is_dressed_with_the_fleets_errors() {
        let noise = |step: usize| ((step * 7919) % 101) as f32 / 101.0;
        let grid = grid_of(3600, 24 * 5, 2, |server, step| match server {
            1 => 50.0 + noise(step),
            _ if step >= 24 * 4 - 3 => 5.0,
            _ => f32::NAN,
        });
        let got = forecast(&grid, Naive::Persistence, 24 * 4, 24 * 4);
        assert!(got[0] < 5.0 && got[2] > 5.0, "{:?}", &got[..3]);
    }

    #[test]
    fn buckets_cover_the_horizon() {
        assert_eq!(bucket_names(96), ["h001-024", "h025-048", "h049-072", "h073-096"]);
        assert_eq!(bucket_names(3), ["h001-001", "h002-002", "h003-003"]);
        assert_eq!(bucket_names(10), ["h001-003", "h004-006", "h007-009", "h010-010"]);
        assert_eq!(bucket_of(95, 96), 3);
    }
}
