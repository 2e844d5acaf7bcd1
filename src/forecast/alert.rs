//! From quantile forecasts to the chance of crossing a threshold.

use chrono::{DateTime, Utc};

use super::{AlertChance, StepForecast};

/// The chance of a value above `threshold`, where a forecast gives `values[i]` at level `quantiles[i]`.
///
/// Between two quantiles the distribution is taken as linear; beyond the outermost ones nothing is known, so the
/// answer is the bound they give (at most `1 - last level`, at least `1 - first level`).
pub fn chance_above(threshold: f32, values: &[f32], quantiles: &[f64]) -> f64 {
    let Some(above) = values.iter().position(|value| *value > threshold) else {
        return 1.0 - quantiles.last().copied().unwrap_or(1.0);
    };
    if above == 0 {
        return 1.0 - quantiles[0];
    }
    let (low, high) = (f64::from(values[above - 1]), f64::from(values[above]));
    let share = (f64::from(threshold) - low) / (high - low);
    let level = quantiles[above - 1] + share * (quantiles[above] - quantiles[above - 1]);
    1.0 - level
}

/// The largest chance of crossing `threshold` over a forecast's steps, and when.
///
/// A threshold that even the highest quantile never crosses counts as no chance.
pub fn alert_chance(threshold: f32, steps: &[StepForecast], quantiles: &[f64]) -> Option<AlertChance> {
    let chance = |step: &StepForecast| match step.values.last() {
        Some(highest) if *highest > threshold => chance_above(threshold, &step.values, quantiles),
        _ => 0.0,
    };
    let chances: Vec<(f64, DateTime<Utc>)> = steps.iter().map(|step| (chance(step), step.time)).collect();
    let first_of_largest =
        |best: (f64, DateTime<Utc>), next: (f64, DateTime<Utc>)| if next.0 > best.0 { next } else { best };
    let (chance, time) = chances.iter().copied().reduce(first_of_largest)?;
    let first_likely = chances.iter().find(|(chance, _)| *chance > 0.5).map(|(_, time)| *time);
    Some(AlertChance { threshold, chance, time, first_likely })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [f64; 3] = [0.1, 0.5, 0.9];

    #[track_caller]
    fn case(threshold: f32, expected: f64) {
        let got = chance_above(threshold, &[10.0, 20.0, 40.0], &LEVELS);
        assert!((got - expected).abs() < 1e-9, "P(y > {threshold}) = {got}, expected {expected}");
    }

    #[test]
    fn chances_are_read_off_the_quantiles() {
        case(20.0, 0.5);
        case(10.0, 0.9);
        case(30.0, 0.3);
        case(5.0, 0.9);
        case(50.0, 0.1);
    }

    #[test]
    fn the_alert_names_the_step_and_the_first_likely_one() {
        let at = |secs: i64| DateTime::from_timestamp(secs, 0).unwrap();
        let step = |secs, values: [f32; 3]| StepForecast { time: at(secs), values: values.to_vec() };
        let steps = [step(0, [1.0, 2.0, 3.0]), step(300, [1.0, 9.5, 20.0]), step(600, [12.0, 15.0, 20.0])];
        let alert = alert_chance(9.0, &steps, &LEVELS).unwrap();
        assert_eq!((alert.time, alert.first_likely), (at(600), Some(at(300))));
        assert_eq!(alert_chance(100.0, &steps, &LEVELS).unwrap().chance, 0.0);
    }
}
