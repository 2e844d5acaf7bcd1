//! Whether the last week differs from the weeks before it, hour of the week by hour of the week.
//!
//! A shift is drift when three things hold. It is large: so many standard deviations of what one reference week
//! differs from the next. It is no chance: so many standard errors, with as many independent hours as the
//! autocorrelation leaves. And it is new: larger than what the reference weeks do among themselves, which is what keeps
//! metrics that wander silent. Those that climb (uptimes, disks that fill) have no level, and are not judged.

use serde::{Deserialize, Serialize};

use super::frame::Frame;
use crate::config::QualityConfig;
use crate::stats;

/// A shift of the last week, in the metric's unit, and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Median difference from the same hours of the reference weeks.
    pub shift: f64,
    /// Standard deviation of an hour from the same hour of another reference week, not below the smallest change
    /// that matters.
    pub scale: f64,
    /// Standard error of `shift`.
    pub error: f64,
    /// Largest shift between two of the reference weeks.
    pub largest_before: f64,
    /// Independent hours in a week, after autocorrelation.
    pub n_effective: f64,
    pub n_reference_weeks: usize,
}

const WEEK_HOURS: usize = 168;
/// Reference weeks needed, and used at most.
const MIN_REFERENCES: usize = 2;
const MAX_REFERENCES: usize = 8;
/// Hours that two weeks have to have in common.
const MIN_COMMON_HOURS: usize = 48;
/// Autocorrelation is summed up to this lag.
const MAX_LAG_HOURS: usize = 48;
/// Smallest change that matters: this share of the level, or of the metric's range.
const LEAST_OF_LEVEL: f64 = 0.05;
const LEAST_OF_RANGE: f64 = 0.02;
/// Hours in which a metric that climbs goes its way, at least (a day counter does so once a day).
const MIN_CLIMBS: usize = 5;
/// Standard error of a median over that of a mean, for normal values.
const MEDIAN_ERROR: f64 = 1.2533;

impl Drift {
    /// The shift in standard deviations.
    pub fn effect(&self) -> f64 {
        self.shift.abs() / self.scale
    }

    /// Whether the shift is large, no chance and new.
    pub fn is_notable(&self, limits: &QualityConfig) -> bool {
        let shift = self.shift.abs();
        self.effect() >= limits.drift_effect
            && shift >= limits.drift_noise * self.error
            && shift >= limits.drift_margin * self.largest_before
    }
}

/// Hourly means of a series by the clocks on the wall; NaN where less than half of an hour's steps have a value.
pub(super) fn hourly(values: &[f32], frame: &Frame) -> Vec<f32> {
    let n_hours = frame.hours.last().map_or(0, |last| *last as usize + 1);
    let mut sums = vec![(0.0f64, 0u32, 0u32); n_hours];
    for (value, hour) in values.iter().zip(&frame.hours) {
        let (sum, n, n_steps) = &mut sums[*hour as usize];
        *n_steps += 1;
        if value.is_finite() {
            *sum += f64::from(*value);
            *n += 1;
        }
    }
    let mean = |(sum, n, n_steps): (f64, u32, u32)| {
        if n > 0 && 2 * n >= n_steps { (sum / f64::from(n)) as f32 } else { f32::NAN }
    };
    sums.into_iter().map(mean).collect()
}

/// Compares the last week of `hours` with those before; none if there are not two of them, or too little to compare.
///
/// `range` is the width of the metric's valid range, if it has one.
pub(super) fn measure(hours: &[f32], range: Option<f64>) -> Option<Drift> {
    let weeks: Vec<&[f32]> = hours.rchunks_exact(WEEK_HOURS).take(1 + MAX_REFERENCES).collect();
    let (current, references) = weeks.split_first()?;
    if references.len() < MIN_REFERENCES {
        return None;
    }
    if references.iter().any(|week| climbs(week)) {
        return None;
    }
    let between: Vec<Vec<f64>> = references.windows(2).map(|pair| difference(pair[0], pair[1])).collect();
    let n_common = between.iter().map(|week| finite(week).count()).max()?;
    let noise: Vec<f64> = between.iter().flat_map(|week| finite(week)).collect();
    let from_reference = difference_from_middle(current, references);
    let found: Vec<f64> = finite(&from_reference).collect();
    if found.len() < MIN_COMMON_HOURS.max(n_common / 2) || n_common < MIN_COMMON_HOURS {
        return None;
    }
    let shift = stats::median(&found)?;
    // The difference of two weeks has twice the variance of one.
    let spread = spread(&noise) / 2f64.sqrt();
    let correlation = between.iter().map(|week| stats::correlation_time(week, MAX_LAG_HOURS));
    let correlation = correlation.fold(1.0, f64::max);
    let n_effective = (found.len() as f64 / correlation).max(1.0);
    let per_reference = 1.0 + 1.0 / references.len() as f64;
    let least = (LEAST_OF_LEVEL * level(references)).max(LEAST_OF_RANGE * range.unwrap_or(0.0));
    let scale = spread.max(least);
    (scale > 0.0).then(|| Drift {
        shift,
        scale,
        error: MEDIAN_ERROR * spread * (per_reference / n_effective).sqrt(),
        largest_before: largest_shift(references),
        n_effective,
        n_reference_weeks: references.len(),
    })
}

/// Whether a metric only ever goes one way, but for a rare fall back: an uptime, a disk that fills. Where it stands is
/// no level that could shift.
fn climbs(week: &[f32]) -> bool {
    let observed: Vec<f32> = week.iter().copied().filter(|value| value.is_finite()).collect();
    let n_up = observed.windows(2).filter(|pair| pair[1] > pair[0]).count();
    let n_down = observed.windows(2).filter(|pair| pair[1] < pair[0]).count();
    n_up.max(n_down) >= MIN_CLIMBS && n_up.min(n_down) * 10 <= n_up.max(n_down)
}

fn finite(values: &[f64]) -> impl Iterator<Item = f64> + '_ {
    values.iter().copied().filter(|value| value.is_finite())
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
}

/// What each hour differs from the middle of the same hours of the reference weeks.
fn difference_from_middle(current: &[f32], references: &[&[f32]]) -> Vec<f64> {
    let middle = |hour: usize| {
        let same: Vec<f64> = references.iter().map(|week| f64::from(week[hour])).collect();
        stats::median(&finite(&same).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    };
    current.iter().enumerate().map(|(hour, value)| f64::from(*value) - middle(hour)).collect()
}

/// A robust standard deviation; the plain one where half of the values are equal.
fn spread(values: &[f64]) -> f64 {
    let robust = stats::robust_spread(values);
    if robust > 0.0 {
        return robust;
    }
    stats::moments(&values.iter().map(|value| *value as f32).collect::<Vec<_>>()).std
}

fn level(references: &[&[f32]]) -> f64 {
    let values = references.iter().flat_map(|week| week.iter()).map(|value| f64::from(value.abs()));
    stats::median(&values.filter(|value| value.is_finite()).collect::<Vec<_>>()).unwrap_or(0.0)
}

fn largest_shift(references: &[&[f32]]) -> f64 {
    let mut largest = 0.0f64;
    for (at, week) in references.iter().enumerate() {
        for other in &references[at + 1..] {
            let found: Vec<f64> = finite(&difference(week, other)).collect();
            largest = largest.max(stats::median(&found).unwrap_or(0.0).abs());
        }
    }
    largest
}
