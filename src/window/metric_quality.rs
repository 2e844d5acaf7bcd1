//! One metric of one server: missing, stuck, out of range, or suddenly in another unit.

use serde::{Deserialize, Serialize};

use crate::schema::Metric;

/// What there is to say about a metric of a server, within the server's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricQuality {
    pub name: String,
    /// Share of steps without a value.
    pub missing_share: f64,
    /// Share of values outside the metric's range.
    pub out_of_range_share: f64,
    /// All values are equal.
    pub is_constant: bool,
    /// Values jumped by this factor (100, 1000, 1024, ...) at some day's end and stayed there: another unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_jump: Option<f64>,
}

/// Ratios by which a change of unit multiplies values: percent, kilo, kibi, bits, mebi.
const UNIT_FACTORS: [f64; 5] = [8.0, 100.0, 1000.0, 1024.0, 1_048_576.0];

/// Smallest share of missing values worth a word.
const NOTABLE_MISSING: f64 = 0.01;

/// Examines a series of steps (NaN where missing); none if there is nothing to say.
pub fn examine_metric(
    metric: &Metric,
    series: impl Iterator<Item = f32>,
    step_secs: u32,
) -> Option<MetricQuality> {
    let series: Vec<f32> = series.collect();
    let observed: Vec<f32> = series.iter().copied().filter(|value| value.is_finite()).collect();
    let n_outside = observed.iter().filter(|value| !metric.is_in_range(**value)).count();
    let found = MetricQuality {
        name: metric.name.clone(),
        missing_share: 1.0 - share(observed.len(), series.len()),
        out_of_range_share: share(n_outside, observed.len()),
        is_constant: observed.len() > 1 && observed.iter().all(|value| *value == observed[0]),
        unit_jump: unit_jump(&series, step_secs),
    };
    let is_notable = found.missing_share > NOTABLE_MISSING
        || n_outside > 0
        || found.is_constant
        || found.unit_jump.is_some();
    (is_notable && !series.is_empty()).then_some(found)
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The unit factor between all days before some moment and all days after it, if there is such a moment.
///
/// Days are compared by their medians; the two sides must not overlap, not even by a factor of 4.
fn unit_jump(series: &[f32], step_secs: u32) -> Option<f64> {
    let steps_a_day = (86_400 / step_secs) as usize;
    let medians: Vec<f64> = series.chunks(steps_a_day).filter_map(median_magnitude).collect();
    (1..medians.len()).find_map(|cut| {
        let (low, high) = ordered(&medians[..cut], &medians[cut..])?;
        let ratio = middle(high) / middle(low);
        UNIT_FACTORS.into_iter().find(|factor| (ratio / factor - 1.0).abs() < 0.05)
    })
}

/// The two parts of a series, smaller values first, if they are far apart.
fn ordered<'a>(before: &'a [f64], after: &'a [f64]) -> Option<(&'a [f64], &'a [f64])> {
    let lowest = |part: &[f64]| part.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    if lowest(after) > 4.0 * highest(before) {
        Some((before, after))
    } else if lowest(before) > 4.0 * highest(after) {
        Some((after, before))
    } else {
        None
    }
}

fn middle(values: &[f64]) -> f64 {
    crate::stats::median(values).expect("both parts of a cut hold a day")
}

/// The median of the magnitudes of a day's values; none for a day without values or around zero.
fn median_magnitude(day: &[f32]) -> Option<f64> {
    let mut values: Vec<f32> =
        day.iter().filter(|value| value.is_finite()).map(|value| value.abs()).collect();
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    let median = f64::from(*values.select_nth_unstable_by(middle, f32::total_cmp).1);
    (median > 0.0).then_some(median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examine(values: Vec<f32>) -> Option<MetricQuality> {
        let metric = Metric { min: Some(0.0), max: Some(100.0), ..Metric::new("cpu", "%") };
        examine_metric(&metric, values.into_iter(), 3600)
    }

    fn wave(n_steps: usize) -> Vec<f32> {
        (0..n_steps).map(|i| 40.0 + 10.0 * (i as f32).sin()).collect()
    }

    #[test]
    fn a_healthy_metric_is_not_worth_a_word() {
        assert_eq!(examine(wave(24 * 7)), None);
        assert_eq!(examine(Vec::new()), None);
    }

    #[test]
    fn missing_stuck_and_out_of_range_are_seen() {
        let mut values = wave(100);
        values[3..13].fill(f32::NAN);
        values[20] = 101.0;
        let found = examine(values).unwrap();
        assert!((found.missing_share - 0.1).abs() < 1e-9 && !found.is_constant);
        assert!((found.out_of_range_share - 1.0 / 90.0).abs() < 1e-9);
        assert!(examine(vec![3.0; 50]).unwrap().is_constant);
        let found = examine(vec![f32::NAN; 50]).unwrap();
        assert_eq!((found.missing_share, found.is_constant), (1.0, false));
    }

    #[test]
    fn a_change_of_unit_is_told_from_a_busy_day() {
        let mut fraction: Vec<f32> = wave(24 * 6).iter().map(|value| value / 100.0).collect();
        fraction.extend(wave(24 * 2));
        assert_eq!(examine(fraction).unwrap().unit_jump, Some(100.0));
        let mut busy = wave(24 * 6);
        busy[24..48].iter_mut().for_each(|value| *value *= 2.0);
        assert_eq!(examine(busy), None);
    }
}
