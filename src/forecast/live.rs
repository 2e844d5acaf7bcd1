//! Kept forecasts against the truth, once it is in.

use std::collections::BTreeMap;

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::store::{KeptForecast, kept_path, read_kept};
use crate::buffer::Buffer;
use crate::calendar;
use crate::fsx;
use crate::site::Site;
use crate::stats::pinball;

/// How far back a kept forecast is looked for.
const MAX_AGE_DAYS: u32 = 7;

/// How the last kept forecast did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveScores {
    /// Logical date of the forecast.
    pub forecast_date: NaiveDate,
    pub model_id: String,
    /// Forecast points whose truth is in.
    pub n_points: u64,
    /// Mean over targets of the model's quantile loss divided by that of the last observed value; below 1 is skill.
    pub loss_vs_persistence: Option<f64>,
    pub targets: Vec<TargetLive>,
}

/// One target of a kept forecast against the truth.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetLive {
    pub metric: String,
    pub n_points: u64,
    /// Mean quantile loss in the metric's unit.
    pub quantile_loss: f64,
    /// The same of the last observed value, taken for every quantile.
    pub persistence_loss: f64,
    /// Share of truths between the quantiles nearest 0.1 and 0.9.
    pub coverage: f64,
}

/// Scores the newest forecast kept before `now`'s logical date; `None` if there is none, or no truth yet.
///
/// Only truth up to `now` counts.
pub fn score_kept(site: &Site, buffer: &Buffer, now: DateTime<Utc>) -> Result<Option<LiveScores>> {
    let today = site.logical_date(now);
    for age in 1..=MAX_AGE_DAYS {
        let date = calendar::days_before(today, age);
        let path = kept_path(site, date);
        if fsx::exists(&path)? {
            let kept = read_kept(&path)?;
            let truth = read_truth(site, buffer, &kept, now)?;
            return Ok(score(date, &kept, &truth));
        }
    }
    Ok(None)
}

/// Observed values by server, step and metric.
type Truth = BTreeMap<(String, i64), Vec<f32>>;

fn read_truth(site: &Site, buffer: &Buffer, kept: &KeptForecast, now: DateTime<Utc>) -> Result<Truth> {
    let mut truth = Truth::new();
    let times = || kept.rows.iter().map(|row| row.time_ms);
    let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(truth) };
    let step_ms = i64::from(site.config.series.step_secs) * 1000;
    let zone = site.zone();
    let (first, last) = (calendar::day_of(first, zone), calendar::day_of(last, zone));
    for day in buffer.days()?.into_iter().filter(|day| (first..=last).contains(&day.date)) {
        let table = buffer.read_steps(day.date)?;
        for entry in 0..table.len() {
            if table.step_ms[entry] + step_ms <= now.timestamp_millis() {
                let server = table.servers[table.server_idx[entry] as usize].clone();
                let values = table.values.iter().map(|metric| metric[entry]).collect();
                truth.insert((server, table.step_ms[entry]), values);
            }
        }
    }
    let metrics = site.schema();
    truth.retain(|_, values| values.len() == metrics.metrics.len());
    Ok(reorder(truth, kept, |metric| metrics.metric_idx(metric)))
}

/// Keeps only the metrics that are forecast, in the order of [`forecast_metrics`].
fn reorder(truth: Truth, kept: &KeptForecast, idx: impl Fn(&str) -> Option<usize>) -> Truth {
    let metrics = forecast_metrics(kept);
    let pick = |values: &Vec<f32>| {
        metrics.iter().map(|metric| idx(metric).map_or(f32::NAN, |at| values[at])).collect()
    };
    truth.into_iter().map(|(key, values)| (key, pick(&values))).collect()
}

fn forecast_metrics(kept: &KeptForecast) -> Vec<String> {
    let mut metrics: Vec<String> = kept.rows.iter().map(|row| row.metric.clone()).collect();
    metrics.sort();
    metrics.dedup();
    metrics
}

fn score(forecast_date: NaiveDate, kept: &KeptForecast, truth: &Truth) -> Option<LiveScores> {
    let metrics = forecast_metrics(kept);
    let targets: Vec<TargetLive> =
        metrics.iter().enumerate().filter_map(|(at, metric)| score_target(kept, truth, at, metric)).collect();
    let n_points = targets.iter().map(|target| target.n_points).sum();
    if n_points == 0 {
        return None;
    }
    let ratios: Vec<f64> = targets
        .iter()
        .filter(|target| target.persistence_loss > 0.0)
        .map(|target| target.quantile_loss / target.persistence_loss)
        .collect();
    let loss_vs_persistence = (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratios.len() as f64);
    Some(LiveScores {
        forecast_date,
        model_id: kept.model_id.clone(),
        n_points,
        loss_vs_persistence,
        targets,
    })
}

fn score_target(kept: &KeptForecast, truth: &Truth, at: usize, metric: &str) -> Option<TargetLive> {
    let nearest = |level: f64| {
        let distance = |q: &f64| (q - level).abs();
        (0..kept.quantiles.len())
            .min_by(|a, b| distance(&kept.quantiles[*a]).total_cmp(&distance(&kept.quantiles[*b])))
    };
    let (low, high) = (nearest(0.1)?, nearest(0.9)?);
    let (mut n_points, mut loss, mut naive_loss, mut n_covered) = (0u64, 0.0, 0.0, 0u64);
    for row in kept.rows.iter().filter(|row| row.metric == metric) {
        let actual = truth.get(&(row.server_name.clone(), row.time_ms)).map_or(f32::NAN, |values| values[at]);
        let (Some(last), true) = (row.last_observed, actual.is_finite()) else { continue };
        n_points += 1;
        loss += pinball(&row.values, actual, &kept.quantiles);
        naive_loss += pinball(&vec![last; kept.quantiles.len()], actual, &kept.quantiles);
        n_covered += u64::from(row.values[low] <= actual && actual <= row.values[high]);
    }
    let n = n_points as f64;
    (n_points > 0).then(|| TargetLive {
        metric: metric.to_owned(),
        n_points,
        quantile_loss: loss / n,
        persistence_loss: naive_loss / n,
        coverage: n_covered as f64 / n,
    })
}

#[cfg(test)]
mod tests {
    use super::super::store::KeptRow;
    use super::*;

    #[test]
    fn a_forecast_is_scored_where_the_truth_is_known() {
        let row = |time_ms, values: [f32; 3]| KeptRow {
            server_name: "a".into(),
            metric: "cpu".into(),
            time_ms,
            last_observed: Some(0.0),
            values: values.to_vec(),
        };
        let kept = KeptForecast {
            model_id: "m".into(),
            quantiles: vec![0.1, 0.5, 0.9],
            rows: vec![row(0, [9.0, 10.0, 11.0]), row(1, [0.0, 1.0, 2.0]), row(2, [0.0, 0.0, 0.0])],
        };
        let truth: Truth = [(("a".to_owned(), 0), vec![10.0]), (("a".to_owned(), 1), vec![5.0])].into();
        let live = score("2024-01-01".parse().unwrap(), &kept, &truth).unwrap();
        assert_eq!(live.n_points, 2);
        let target = &live.targets[0];
        // Step 0: (0.1*1 + 0 + 0.1*1)/3; step 1: (0.1*5 + 0.5*4 + 0.9*3)/3.
        assert!((target.quantile_loss - (0.2 / 3.0 + 5.2 / 3.0) / 2.0).abs() < 1e-6);
        assert_eq!(target.coverage, 0.5);
        assert!(live.loss_vs_persistence.unwrap() < 1.0);
    }
}
