//! Whether a window is worth training on: what is there, what is missing, what looks wrong.
//!
//! Facts first ([`ServerQuality`], [`MetricQuality`], [`DayQuality`], [`FleetGap`]), with a verdict on every server and
//! metric; then [`Finding`]s drawn from them, alike ones together. Hard findings stop the run; soft ones are told. A
//! server that cannot be used is left out with a soft finding and never stops the rest.
//!
//! In reading order: `frame` is the calendar, `examine` looks at servers some at a time, `metric` at one series with
//! the rules in `plateaus`, `units` and `drift`, `fleet` at what befell all servers at once, and `findings` turns facts
//! into sentences. docs/quality-report.md has every rule with its formula and limit.

mod drift;
mod examine;
mod findings;
mod fleet;
mod frame;
mod metric;
mod metric_findings;
mod plateaus;
#[cfg(test)]
mod tests;
mod units;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

pub use drift::Drift;
pub use examine::{Asked, Examination};
pub use fleet::FleetGap;
pub use metric::{MetricQuality, rule};
pub use plateaus::{Resize, Stretch};
pub use units::UnitJump;

/// Whether a finding stops the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Hard,
    Soft,
}

/// What the data of a server, or one of its metrics, are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is trained on, and no rule speaks of it.
    Good,
    /// It is trained on, and there is something to know about it.
    Warn,
    /// It is not trained on.
    Excluded,
}

/// One thing to know about the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub severity: Severity,
    /// What it is about: `window`, a day, a server, a metric, or `servers` and `metrics` where it is several.
    pub subject: String,
    /// The rule that speaks, such as `min_training_samples`.
    pub rule: String,
    pub measured: f64,
    pub limit: f64,
    /// The whole sentence.
    pub message: String,
    /// The servers it befalls, ascending; empty where it is about none in particular.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

/// One day of the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayQuality {
    pub date: NaiveDate,
    /// Steps that the day has: 23, 24 or 25 hours of them.
    pub n_steps: usize,
    pub n_raw_rows: u64,
    /// Rows of its files that repeat a (server, timestamp), or have none. A day that was sealed here has none left.
    pub n_duplicates: u64,
    /// Servers with at least one present step.
    pub n_servers: usize,
    /// Present steps over the steps of this day that lie in the servers' lives.
    pub completeness: f64,
    /// The same without the steps of fleet-wide gaps; none if nothing is left of the day.
    pub completeness_outside_gaps: Option<f64>,
}

/// One server over the whole window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerQuality {
    pub name: String,
    pub profile: String,
    pub verdict: Verdict,
    /// The rules that speak of the server itself, ascending; those on its metrics are with them.
    pub rules: Vec<String>,
    /// Steps with at least one target observed.
    pub n_steps_present: usize,
    /// Share of the window's steps that are present.
    pub completeness: f64,
    /// Share of the steps from first to last seen that are present, not counting gaps of the whole fleet.
    pub completeness_in_life: f64,
    /// Between first and last seen.
    pub longest_gap_secs: u64,
    pub longest_gap_from: Option<DateTime<Utc>>,
    /// The longest one that no gap of the fleet explains.
    pub longest_own_gap_secs: u64,
    pub longest_own_gap_from: Option<DateTime<Utc>>,
    /// How far its clock is ahead of the fleet's, where its share of a gap of the fleet lies elsewhere in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_secs: Option<i64>,
    /// Raw rows per step with rows, over `series.step_secs / series.sample_secs`.
    pub row_rate: f64,
    pub first_seen: Option<DateTime<Utc>>,
    pub last_seen: Option<DateTime<Utc>>,
    pub n_train_samples: usize,
    pub n_holdout_samples: usize,
    /// Why the server is left out, if it is.
    pub excluded: Option<String>,
    /// The metrics there is something to say about; the others are good.
    pub metrics: Vec<MetricQuality>,
}

impl ServerQuality {
    /// How many rules speak of the server and of the metrics that are not good.
    pub fn n_remarks(&self) -> usize {
        let of_metrics = self.metrics.iter().filter(|metric| metric.verdict != Verdict::Good);
        self.rules.len() + of_metrics.map(|metric| metric.rules.len()).sum::<usize>()
    }
}

/// The verdict on a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityReport {
    pub n_raw_rows: u64,
    pub n_servers: usize,
    pub n_servers_usable: usize,
    pub n_train_samples: usize,
    pub n_holdout_samples: usize,
    pub days: Vec<DayQuality>,
    /// Stretches in which nearly nobody reported, longer than `window.max_gap_steps`.
    pub fleet_gaps: Vec<FleetGap>,
    pub servers: Vec<ServerQuality>,
    pub findings: Vec<Finding>,
}

impl QualityReport {
    /// The messages of the findings that stop a run.
    pub fn hard_reasons(&self) -> Vec<String> {
        let hard = self.findings.iter().filter(|finding| finding.severity == Severity::Hard);
        hard.map(|finding| finding.message.clone()).collect()
    }

    /// How many servers have a verdict.
    pub fn n_with(&self, verdict: Verdict) -> usize {
        self.servers.iter().filter(|server| server.verdict == verdict).count()
    }

    /// The servers, the worst first: left out before warned of, then by how much there is to say, then the least
    /// complete.
    pub fn worst_first(&self) -> Vec<&ServerQuality> {
        let mut servers: Vec<&ServerQuality> = self.servers.iter().collect();
        servers.sort_by(|a, b| {
            let by_verdict = b.verdict.cmp(&a.verdict);
            let by_remarks = || b.n_remarks().cmp(&a.n_remarks());
            by_verdict.then_with(by_remarks).then_with(|| a.completeness.total_cmp(&b.completeness))
        });
        servers
    }
}
