//! One metric of one server: missing, new or gone, stuck, out of range, in another unit, of another size, drifted.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::drift::{self, Drift};
use super::frame::Frame;
use super::plateaus::{self, Resize, Stretch};
use super::units::{self, UnitJump};
use crate::config::QualityConfig;
use crate::schema::Metric;

/// What there is to say about a metric of a server, within the server's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricQuality {
    pub name: String,
    /// `warn` where a rule speaks of more than idleness, or of the idleness of a target.
    pub verdict: Verdict,
    /// The rules that speak.
    pub rules: Vec<String>,
    /// Share of the server's present steps without a value.
    pub missing_share: f64,
    /// Share of values outside the metric's range.
    pub out_of_range_share: f64,
    /// All values are equal.
    pub is_constant: bool,
    /// First step with a value, where the server was there for a day without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appeared: Option<DateTime<Utc>>,
    /// End of the last step with a value, where the server went on for a day without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanished: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stretch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_jump: Option<UnitJump>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resizes: Vec<Resize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
}

impl MetricQuality {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::Good,
            rules: Vec::new(),
            missing_share: 0.0,
            out_of_range_share: 0.0,
            is_constant: false,
            appeared: None,
            vanished: None,
            stuck: None,
            unit_jump: None,
            resizes: Vec::new(),
            drift: None,
        }
    }
}

/// Rules on metrics, in the order in which a reader wants them.
pub mod rule {
    pub const VANISHED: &str = "metric_vanished";
    pub const UNIT_JUMP: &str = "unit_jump";
    pub const STUCK: &str = "stuck";
    pub const OUT_OF_RANGE: &str = "out_of_range";
    pub const RESIZED: &str = "resized";
    pub const DRIFT: &str = "drift";
    pub const APPEARED: &str = "metric_appeared";
    pub const SPARSE: &str = "sparse";
    pub const NEVER_OBSERVED: &str = "never_observed";
    pub const CONSTANT: &str = "constant";

    /// Those that tell of nothing happening rather than of something wrong.
    pub const IDLE: [&str; 2] = [NEVER_OBSERVED, CONSTANT];
    pub const ALL: [&str; 10] = [
        VANISHED,
        UNIT_JUMP,
        STUCK,
        OUT_OF_RANGE,
        RESIZED,
        DRIFT,
        APPEARED,
        SPARSE,
        NEVER_OBSERVED,
        CONSTANT,
    ];
}

/// Smallest share of missing values for which a metric that no rule speaks of is listed.
const NOTABLE_MISSING: f64 = 0.01;

/// A server as the rules on metrics see it.
pub(super) struct Life<'a> {
    /// Steps from the first to the last present one.
    pub steps: Range<usize>,
    /// Whether the server is present, per step of the window.
    pub is_present: &'a [bool],
    pub n_present: usize,
}

/// Examines a metric's `values`, one per step of the window (NaN where missing); none if there is nothing to say.
pub(super) fn examine(
    (metric, is_target): (&Metric, bool),
    values: &[f32],
    life: &Life<'_>,
    frame: &Frame,
    limits: &QualityConfig,
) -> Option<MetricQuality> {
    if life.steps.is_empty() {
        return None;
    }
    let mut found = MetricQuality::named(&metric.name);
    measure_values(&mut found, metric, values, life);
    if found.missing_share < 1.0 {
        (found.appeared, found.vanished) = comings_and_goings(values, life, frame);
        // What comes later supposes that there is something to compare.
        if !found.is_constant {
            found.stuck = plateaus::stuck(values, frame, limits.stuck_hours);
            found.unit_jump = units::examine(values, frame, limits.unit_tolerance);
            found.resizes = plateaus::resizes(values, frame, limits.resize_ratio);
            found.drift = drift_of(metric, values, frame, limits, &found);
        }
    }
    found.rules = rules(&found, limits);
    if found.rules.iter().any(|rule| is_target || !rule::IDLE.contains(&rule.as_str())) {
        found.verdict = Verdict::Warn;
    }
    let is_notable =
        !found.rules.is_empty() || found.missing_share > NOTABLE_MISSING || found.out_of_range_share > 0.0;
    is_notable.then_some(found)
}

fn measure_values(found: &mut MetricQuality, metric: &Metric, values: &[f32], life: &Life<'_>) {
    let (mut n_observed, mut n_outside, mut n_where_present) = (0usize, 0usize, 0usize);
    let (mut lowest, mut highest) = (f32::INFINITY, f32::NEG_INFINITY);
    for step in life.steps.clone() {
        let value = values[step];
        if value.is_finite() {
            n_observed += 1;
            n_outside += usize::from(!metric.is_in_range(value));
            n_where_present += usize::from(life.is_present[step]);
            lowest = lowest.min(value);
            highest = highest.max(value);
        }
    }
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    found.missing_share = 1.0 - share(n_where_present, life.n_present);
    found.out_of_range_share = share(n_outside, n_observed);
    found.is_constant = n_observed > 1 && lowest == highest;
}

/// When values began after a day without any, and ended before one.
fn comings_and_goings(
    values: &[f32],
    life: &Life<'_>,
    frame: &Frame,
) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    let has_value = |step: &usize| values[*step].is_finite();
    let (Some(first), Some(last)) =
        (life.steps.clone().find(has_value), life.steps.clone().rev().find(has_value))
    else {
        return (None, None);
    };
    let is_a_day = |steps: Range<usize>| {
        life.is_present[steps].iter().filter(|is_present| **is_present).count() >= frame.steps_a_day()
    };
    let appeared = is_a_day(life.steps.start..first) && is_a_day(first..life.steps.end);
    let vanished = is_a_day(last + 1..life.steps.end) && is_a_day(life.steps.start..last + 1);
    (appeared.then(|| frame.time(first)), vanished.then(|| frame.time(last + 1)))
}

/// A notable drift, unless another rule has already said why the last week differs.
fn drift_of(
    metric: &Metric,
    values: &[f32],
    frame: &Frame,
    limits: &QualityConfig,
    found: &MetricQuality,
) -> Option<Drift> {
    if found.unit_jump.is_some() || !found.resizes.is_empty() {
        return None;
    }
    let range = metric.max.zip(metric.min).map(|(max, min)| f64::from(max) - f64::from(min));
    drift::measure(&drift::hourly(values, frame), range).filter(|drift| drift.is_notable(limits))
}

fn rules(found: &MetricQuality, limits: &QualityConfig) -> Vec<String> {
    let is_never_observed = found.missing_share >= 1.0;
    let comes_or_goes = found.appeared.is_some() || found.vanished.is_some();
    let is_sparse = found.missing_share > limits.max_missing && !is_never_observed && !comes_or_goes;
    let speaks = |rule: &str| match rule {
        rule::VANISHED => found.vanished.is_some(),
        rule::UNIT_JUMP => found.unit_jump.is_some(),
        rule::STUCK => found.stuck.is_some(),
        rule::OUT_OF_RANGE => found.out_of_range_share > limits.max_out_of_range,
        rule::RESIZED => !found.resizes.is_empty(),
        rule::DRIFT => found.drift.is_some(),
        rule::APPEARED => found.appeared.is_some(),
        rule::SPARSE => is_sparse,
        rule::NEVER_OBSERVED => is_never_observed,
        _ => found.is_constant,
    };
    rule::ALL.into_iter().filter(|rule| speaks(rule)).map(str::to_owned).collect()
}
