//! `[quality]`: beyond which limits the quality report of a window speaks.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::layers::nearest;
use crate::error::Refusal;

/// The rules on metrics that may stop a run.
const STOPPING: [&str; 5] = ["metric_vanished", "unit_jump", "out_of_range", "stuck", "drift"];

/// Limits of the rules; docs/quality-report.md says how each is measured and why it is what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QualityConfig {
    /// Smallest share of the steps of a day, or of a server's life, that passes without a word.
    pub min_completeness: f64,
    /// Longest gap of one server that passes without a word, in hours.
    pub max_gap_hours: f64,
    /// Largest share of a server's steps without a value of a metric that passes without a word.
    pub max_missing: f64,
    /// Largest share of values outside a metric's range that passes without a word.
    pub max_out_of_range: f64,
    /// Largest share of a day's rows that repeat a (server, timestamp) without a word.
    pub max_duplicates: f64,
    /// How far the rows of a step may be from `step_secs / sample_secs`, as a share of it.
    pub row_rate_tolerance: f64,
    /// Hours for which a metric that moves otherwise may stay on one value.
    pub stuck_hours: f64,
    /// How far a jump may be from 8, 100, 1000, 1024 or 1048576 and still be a change of unit, as a share.
    pub unit_tolerance: f64,
    /// Ratio of two plateaus of a metric from which on a server was resized.
    pub resize_ratio: f64,
    /// Smallest shift of the last week that is drift, in standard deviations of the reference weeks.
    pub drift_effect: f64,
    /// How often a shift must exceed what chance explains, in standard errors.
    pub drift_noise: f64,
    /// How often a shift must exceed the largest one between two reference weeks.
    pub drift_margin: f64,
    /// Rules whose finding stops a run when it befalls a target on at least half of the servers.
    pub stop_on: Vec<String>,
}

impl Default for QualityConfig {
    fn default() -> Self {
        Self {
            min_completeness: 0.9,
            max_gap_hours: 6.0,
            max_missing: 0.5,
            max_out_of_range: 0.01,
            max_duplicates: 0.01,
            row_rate_tolerance: 0.2,
            stuck_hours: 24.0,
            unit_tolerance: 0.2,
            resize_ratio: 1.1,
            drift_effect: 3.0,
            drift_noise: 4.0,
            drift_margin: 2.0,
            stop_on: vec!["metric_vanished".into(), "unit_jump".into()],
        }
    }
}

impl QualityConfig {
    pub(super) fn ensure_valid(&self) -> Result<()> {
        let shares = [
            ("min_completeness", self.min_completeness),
            ("max_missing", self.max_missing),
            ("max_out_of_range", self.max_out_of_range),
            ("max_duplicates", self.max_duplicates),
            ("row_rate_tolerance", self.row_rate_tolerance),
        ];
        for (key, share) in shares {
            ensure_between(key, share, (0.0, 1.0), "is a share from 0 to 1")?;
        }
        let hours = [("max_gap_hours", self.max_gap_hours), ("stuck_hours", self.stuck_hours)];
        for (key, hours) in hours {
            ensure_between(key, hours, (0.1, 8760.0), "must be from 0.1 to 8760 hours, a year")?;
        }
        ensure_between("unit_tolerance", self.unit_tolerance, (0.001, 0.9), "must be from 0.001 to 0.9")?;
        ensure_between("resize_ratio", self.resize_ratio, (1.001, 1000.0), "must be from 1.001 to 1000")?;
        let drift = [
            ("drift_effect", self.drift_effect),
            ("drift_noise", self.drift_noise),
            ("drift_margin", self.drift_margin),
        ];
        for (key, limit) in drift {
            ensure_between(key, limit, (0.01, 1000.0), "must be from 0.01 to 1000")?;
        }
        self.stop_on.iter().try_for_each(|rule| ensure_stopping(rule))
    }
}

fn ensure_between(key: &str, value: f64, (least, most): (f64, f64), must: &str) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Refusal::usage(format!("quality.{key} {must}, not {value}")))
}

fn ensure_stopping(rule: &str) -> Result<()> {
    if STOPPING.contains(&rule) {
        return Ok(());
    }
    let near = nearest(rule, STOPPING.into_iter());
    let hint = near.map_or_else(|| STOPPING.join(", "), |near| format!("did you mean `{near}`?"));
    Err(Refusal::usage(format!(
        "quality.stop_on names `{rule}`, which is no rule that can stop a run; {hint}"
    )))
}
