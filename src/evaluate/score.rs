//! Forecasts against what came: accumulates sample by sample, ends as [`Scores`].
//!
//! One sample at a time passes through, so memory does not grow with the holdout. Only truly observed points
//! count. Losses are divided by the series' [`Divisors`], the same for every forecaster, so a sum over targets is
//! a sum of like things. What is scored is what would be served: sorted along the quantiles and cut to the
//! metric's range; how often cutting was needed by a margin is counted before.

use std::collections::BTreeMap;

use super::baselines::{Ground, bucket_names, bucket_of};
use super::divisor::Divisors;
use super::scores::{Scores, Slice, TargetScores};
use crate::dataset::SampleKey;
use crate::schema::Metric;
use crate::stats::pinball;

/// Scaled loss of a point whose forecast is NaN or infinite: finite, and too much for any mean to hide.
const LOSS_NOT_FINITE: f64 = 1e6;
/// Distance beyond the metric's range, in divisors, at which a value counts as out of range. Outer quantiles
/// of a metric at its limit brush it all the time; that is no fault.
const RANGE_SLACK: f64 = 1.0;
/// A truth has moved if it is this far, in divisors, from the first of its series.
const TRUTH_MOVED: f64 = 0.1;
/// The same for a median forecast.
const FORECAST_MOVED: f64 = 0.01;
/// A target can only be called collapsed if at least this share of its truths moved.
const TRUTH_MOVED_SHARE_MIN: f64 = 0.25;
/// A target is collapsed if at most this share of its median forecasts moved.
const FORECAST_MOVED_SHARE_MAX: f64 = 0.001;

/// Scores one forecaster.
pub struct Scorer<'a> {
    ground: Ground<'a>,
    divisors: &'a Divisors,
    /// One per target.
    metrics: Vec<&'a Metric>,
    median: usize,
    /// Positions of P10 and P90.
    band: Option<(usize, usize)>,
    targets: Vec<TargetTotals>,
    horizons: Vec<SliceTotals>,
    servers: BTreeMap<usize, SliceTotals>,
    /// `[S * N]`: the first truth and median forecast of each series.
    firsts: BTreeMap<(usize, usize), (f32, f32)>,
    n_values: u64,
    n_out_of_range: u64,
    n_not_finite: u64,
    n_pairs: u64,
    n_crossing: u64,
    sample_loss: Vec<f64>,
}

#[derive(Clone, Default)]
struct SliceTotals {
    n_points: u64,
    loss: f64,
    n_covered: u64,
}

#[derive(Clone, Default)]
struct TargetTotals {
    slice: SliceTotals,
    quantile_loss: f64,
    absolute_error: f64,
    absolute_truth: f64,
    relative_error: f64,
    n_relative: u64,
    n_below: Vec<u64>,
    n_finite: u64,
    n_truth_moved: u64,
    n_forecast_moved: u64,
}

/// One observed point and its served forecast.
struct Point<'f> {
    server: usize,
    target: usize,
    h: usize,
    truth: f32,
    /// `[Q]`
    forecast: &'f [f32],
}

impl<'a> Scorer<'a> {
    /// Begins with nothing scored; `metrics` has one entry per target of `ground`.
    pub fn new(ground: Ground<'a>, divisors: &'a Divisors, metrics: Vec<&'a Metric>) -> Self {
        let level = |wanted: f64| ground.quantiles.iter().position(|q| (q - wanted).abs() < 1e-9);
        let n_quantiles = ground.quantiles.len();
        let target = TargetTotals { n_below: vec![0; n_quantiles], ..Default::default() };
        Self {
            median: level(0.5).unwrap_or(n_quantiles / 2),
            band: level(0.1).zip(level(0.9)),
            targets: vec![target; ground.targets.len()],
            horizons: vec![SliceTotals::default(); bucket_names(ground.horizon).len()],
            servers: BTreeMap::new(),
            firsts: BTreeMap::new(),
            n_values: 0,
            n_out_of_range: 0,
            n_not_finite: 0,
            n_pairs: 0,
            n_crossing: 0,
            sample_loss: Vec::new(),
            ground,
            divisors,
            metrics,
        }
    }

    /// Scores one sample.
    ///
    /// - Shapes: `forecast [N, H, Q]` in original units, sorted along Q.
    pub fn add(&mut self, key: &SampleKey, forecast: &[f32]) {
        let n_quantiles = self.ground.quantiles.len();
        let (server, cutoff) = (key.server as usize, key.cutoff as usize);
        let n_targets = self.ground.targets.len();
        debug_assert_eq!(forecast.len(), n_targets * self.ground.horizon * n_quantiles);
        let (mut loss, mut n_scored_targets) = (0.0, 0usize);
        let mut served = vec![0.0; n_quantiles];
        for (target, rows) in forecast.chunks(self.ground.horizon * n_quantiles).enumerate() {
            let (mut target_loss, mut n_points) = (0.0, 0usize);
            for (h, row) in rows.chunks(n_quantiles).enumerate() {
                self.serve(server, target, row, &mut served);
                if let Some(truth) = self.truth(server, target, cutoff + h) {
                    target_loss += self.score(&Point { server, target, h, truth, forecast: &served });
                    n_points += 1;
                }
            }
            if n_points > 0 {
                loss += target_loss / n_points as f64;
                n_scored_targets += 1;
            }
        }
        self.sample_loss.push(loss / n_scored_targets.max(1) as f64);
    }

    /// Notes how often raw quantiles were out of order, of how many neighbouring pairs.
    pub fn add_crossings(&mut self, n_crossing: u64, n_pairs: u64) {
        self.n_crossing += n_crossing;
        self.n_pairs += n_pairs;
    }

    fn truth(&self, server: usize, target: usize, step: usize) -> Option<f32> {
        let grid = self.ground.grid;
        let value = (step < grid.n_steps).then(|| grid.row(server, step)[self.ground.targets[target]]);
        value.filter(|value| value.is_finite())
    }

    /// Counts what is wrong with a forecast and cuts it to the metric's range.
    fn serve(&mut self, server: usize, target: usize, forecast: &[f32], served: &mut [f32]) {
        let metric = self.metrics[target];
        let slack = (RANGE_SLACK * self.divisors.of(server, target)) as f32;
        for (value, served) in forecast.iter().zip(served) {
            self.n_values += 1;
            self.n_not_finite += u64::from(!value.is_finite());
            let is_below = metric.min.is_some_and(|min| *value < min - slack);
            let is_above = metric.max.is_some_and(|max| *value > max + slack);
            self.n_out_of_range += u64::from(is_below || is_above);
            *served = cut_to_range(metric, *value);
        }
    }

    /// Adds one point to every group it belongs to; gives its scaled loss.
    fn score(&mut self, point: &Point) -> f64 {
        let Point { server, target, h, truth, forecast } = *point;
        let is_finite = forecast.iter().all(|value| value.is_finite());
        let divisor = self.divisors.of(server, target);
        let loss = if is_finite { pinball(forecast, truth, self.ground.quantiles) } else { f64::NAN };
        let scaled = if is_finite { loss / divisor } else { LOSS_NOT_FINITE };
        let is_covered = is_finite
            && self.band.is_some_and(|(low, high)| forecast[low] <= truth && truth <= forecast[high]);
        self.targets[target].slice.add(scaled, is_covered);
        self.horizons[bucket_of(h, self.ground.horizon)].add(scaled, is_covered);
        self.servers.entry(server).or_default().add(scaled, is_covered);
        if is_finite {
            self.score_finite(point, loss);
        }
        scaled
    }

    fn score_finite(&mut self, point: &Point, loss: f64) {
        let Point { server, target, truth, forecast, .. } = *point;
        let (divisor, median) = (self.divisors.of(server, target), forecast[self.median]);
        let (first_truth, first_median) = *self.firsts.entry((server, target)).or_insert((truth, median));
        let error = f64::from((truth - median).abs());
        let totals = &mut self.targets[target];
        totals.n_finite += 1;
        totals.quantile_loss += loss;
        totals.absolute_error += error;
        totals.absolute_truth += f64::from(truth.abs());
        if let Some(own) = self.divisors.own(server, target) {
            totals.relative_error += error / own;
            totals.n_relative += 1;
        }
        for (n_below, value) in totals.n_below.iter_mut().zip(forecast) {
            *n_below += u64::from(truth <= *value);
        }
        let moved = |a: f32, b: f32, limit: f64| u64::from(f64::from((a - b).abs()) > limit * divisor);
        totals.n_truth_moved += moved(truth, first_truth, TRUTH_MOVED);
        totals.n_forecast_moved += moved(median, first_median, FORECAST_MOVED);
    }

    /// The scores of everything added, under the name of the forecaster.
    pub fn finish(self, forecaster: &str) -> Scores {
        let has_band = self.band.is_some();
        let targets: Vec<TargetScores> = self
            .targets
            .iter()
            .zip(&self.metrics)
            .map(|(totals, metric)| totals.scores(metric, has_band))
            .collect();
        let scored: Vec<&Slice> =
            targets.iter().map(|target| &target.slice).filter(|slice| slice.n_points > 0).collect();
        let loss = scored.iter().map(|slice| slice.loss).sum::<f64>() / scored.len().max(1) as f64;
        let mut all = SliceTotals::default();
        self.targets.iter().for_each(|totals| all.merge(&totals.slice));
        let collapsed = self.targets.iter().zip(&self.metrics).filter(|(totals, _)| totals.is_collapsed());
        Scores {
            forecaster: forecaster.to_owned(),
            loss,
            coverage: all.slice("", has_band).coverage,
            n_samples: self.sample_loss.len() as u64,
            n_points: all.n_points,
            horizons: bucket_names(self.ground.horizon)
                .iter()
                .zip(&self.horizons)
                .map(|(name, totals)| totals.slice(name, has_band))
                .collect(),
            servers: self.server_slices(),
            profiles: self.profile_slices(),
            crossing_rate: share(self.n_crossing, self.n_pairs),
            out_of_range_rate: share(self.n_out_of_range, self.n_values),
            n_not_finite: self.n_not_finite,
            collapsed_targets: collapsed.map(|(_, metric)| metric.name.clone()).collect(),
            targets,
            sample_loss: self.sample_loss,
        }
    }

    /// In the order of the grid, that is by name.
    fn server_slices(&self) -> Vec<Slice> {
        let name = |server: &usize| &self.ground.grid.servers[*server].name;
        self.servers.iter().map(|(server, totals)| totals.slice(name(server), self.band.is_some())).collect()
    }

    fn profile_slices(&self) -> Vec<Slice> {
        let mut profiles: BTreeMap<&str, SliceTotals> = BTreeMap::new();
        for (server, totals) in &self.servers {
            profiles.entry(&self.ground.grid.servers[*server].profile).or_default().merge(totals);
        }
        profiles.iter().map(|(name, totals)| totals.slice(name, self.band.is_some())).collect()
    }
}

impl SliceTotals {
    fn add(&mut self, loss: f64, is_covered: bool) {
        self.n_points += 1;
        self.loss += loss;
        self.n_covered += u64::from(is_covered);
    }

    fn merge(&mut self, other: &SliceTotals) {
        self.n_points += other.n_points;
        self.loss += other.loss;
        self.n_covered += other.n_covered;
    }

    fn slice(&self, name: &str, has_band: bool) -> Slice {
        Slice {
            name: name.to_owned(),
            n_points: self.n_points,
            loss: self.loss / self.n_points.max(1) as f64,
            coverage: (has_band && self.n_points > 0).then(|| share(self.n_covered, self.n_points)),
        }
    }
}

impl TargetTotals {
    fn scores(&self, metric: &Metric, has_band: bool) -> TargetScores {
        let n = self.n_finite.max(1) as f64;
        TargetScores {
            slice: self.slice.slice(&metric.name, has_band),
            unit: metric.unit.clone(),
            quantile_loss: self.quantile_loss / n,
            mae: self.absolute_error / n,
            q_risk_p50: (self.absolute_truth > 0.0).then(|| self.absolute_error / self.absolute_truth),
            mase: (self.n_relative > 0).then(|| self.relative_error / self.n_relative as f64),
            calibration: self.n_below.iter().map(|n_below| share(*n_below, self.n_finite)).collect(),
        }
    }

    /// The median forecast stands still although the truth does not.
    fn is_collapsed(&self) -> bool {
        self.n_finite > 0
            && share(self.n_truth_moved, self.n_finite) >= TRUTH_MOVED_SHARE_MIN
            && share(self.n_forecast_moved, self.n_finite) <= FORECAST_MOVED_SHARE_MAX
    }
}

/// `value` within the metric's range; NaN stays NaN.
pub fn cut_to_range(metric: &Metric, value: f32) -> f32 {
    let value = metric.min.map_or(value, |min| if value < min { min } else { value });
    metric.max.map_or(value, |max| if value > max { max } else { value })
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::grid_of;
    use crate::window::grid::Grid;

    const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

    fn ground(grid: &Grid) -> Ground<'_> {
        Ground { grid, targets: &[0], train_end: 72, horizon: 2, quantiles: &QUANTILES }
    }

    /// Two servers that rise by 24 a day; the divisor of both is 24.
    fn rising() -> Grid {
        grid_of(3600, 96, 2, |server, step| step as f32 + 100.0 * server as f32)
    }

    fn score(grid: &Grid, metric: &Metric, samples: &[(u32, u32, [f32; 6])]) -> Scores {
        let divisors = Divisors::fit(grid, &[0], 72);
        let mut scorer = Scorer::new(ground(grid), &divisors, vec![metric]);
        for (server, cutoff, forecast) in samples {
            scorer.add(&SampleKey { server: *server, cutoff: *cutoff }, forecast);
        }
        scorer.finish("test")
    }

    #[track_caller]
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got}, expected {expected}");
    }

    #[test]
    fn numbers_by_hand() {
        // Server 0 at 80: truths 80 and 81. First step (78, 80, 83): pinballs 0.2, 0, 0.3 -> 0.5 / 3. Second
        // (82, 83, 84): 0.9, 1, 0.3 -> 2.2 / 3, truth not covered. Server 1: exact, (180, 181) covered.
        let grid = rising();
        let samples = [
            (0, 80, [78.0, 80.0, 83.0, 82.0, 83.0, 84.0]),
            (1, 80, [180.0, 180.0, 180.0, 181.0, 181.0, 181.0]),
        ];
        let scores = score(&grid, &Metric::new("load", "x"), &samples);
        let target = &scores.targets[0];
        close(target.quantile_loss, 2.7 / 3.0 / 4.0);
        close(target.slice.loss, 2.7 / 3.0 / 4.0 / 24.0);
        close(scores.loss, target.slice.loss);
        close(target.mae, 2.0 / 4.0);
        close(target.mase.unwrap(), 2.0 / 4.0 / 24.0);
        close(target.q_risk_p50.unwrap(), 2.0 / (80.0 + 81.0 + 180.0 + 181.0));
        close(scores.coverage.unwrap(), 0.75);
        assert_eq!(target.calibration, [0.75, 1.0, 1.0]);
        assert_eq!((scores.n_samples, scores.n_points), (2, 4));
        close(scores.sample_loss[0], 2.7 / 3.0 / 2.0 / 24.0);
        close(scores.sample_loss[1], 0.0);
        let horizons: Vec<_> = scores.horizons.iter().map(|slice| slice.loss).collect();
        close(horizons[0], 0.5 / 3.0 / 2.0 / 24.0);
        close(horizons[1], 2.2 / 3.0 / 2.0 / 24.0);
        let names: Vec<_> = scores.servers.iter().map(|slice| slice.name.as_str()).collect();
        assert_eq!(names, ["s000", "s001"]);
        close(scores.servers[0].loss, scores.sample_loss[0]);
        assert_eq!(scores.profiles.len(), 1);
        close(scores.profiles[0].loss, scores.loss);
    }

    #[test]
    fn missing_truth_does_not_count() {
        let mut grid = rising();
        grid.values[81] = f32::NAN;
        let scores = score(&grid, &Metric::new("load", "x"), &[(0, 80, [80.0, 80.0, 80.0, 9e9, 9e9, 9e9])]);
        assert_eq!(scores.n_points, 1);
        close(scores.loss, 0.0);
    }

    #[test]
    fn a_forecast_that_is_no_number_is_counted_and_never_looks_good() {
        let scores =
            score(&rising(), &Metric::new("load", "x"), &[(0, 80, [f32::NAN, 80.0, 80.0, 81.0, 81.0, 81.0])]);
        assert_eq!(scores.n_not_finite, 1);
        assert!(scores.loss > 1e5 && scores.loss.is_finite());
        assert!(scores.sample_loss[0] > 1e5);
    }

    #[test]
    fn a_little_beyond_the_range_is_cut_and_much_is_counted() {
        let metric = Metric { max: Some(80.0), ..Metric::new("load", "x") };
        // 90 is within one divisor (24) of the range, 110 is not; both are served as 80.
        let scores = score(&rising(), &metric, &[(0, 80, [80.0, 90.0, 110.0, 80.0, 80.0, 80.0])]);
        close(scores.out_of_range_rate, 1.0 / 6.0);
        close(scores.targets[0].mae, 0.5);
    }

    #[test]
    fn a_standing_forecast_of_a_moving_truth_is_collapsed() {
        let metric = Metric::new("load", "x");
        let flat = [50.0, 60.0, 70.0, 50.0, 60.0, 70.0];
        let samples: Vec<_> = (72..90).map(|cutoff| (0, cutoff, flat)).collect();
        assert_eq!(score(&rising(), &metric, &samples).collapsed_targets, ["load"]);
        let still = grid_of(3600, 96, 1, |_, step| if step < 72 { step as f32 } else { 71.0 });
        assert!(score(&still, &metric, &samples).collapsed_targets.is_empty());
        let moving: Vec<_> = (72..90).map(|c| (0, c, flat.map(|value| value + c as f32))).collect();
        assert!(score(&rising(), &metric, &moving).collapsed_targets.is_empty());
    }

    #[test]
    fn quantiles_are_weighted_by_their_side() {
        close(pinball(&[0.0], 1.0, &[0.9]), 0.9);
        close(pinball(&[2.0], 1.0, &[0.9]), 0.1);
    }
}
