//! The champion at work: forecasts of the whole fleet from the newest rows, kept, and scored once the truth is in.
//!
//! Owns `forecasts/YYYY-MM-DD.parquet`. Forecasts are in original units, their quantiles sorted. Nothing after the
//! cutoff is ever read, so a replayed night forecasts what it would have forecast then.

mod alert;
mod holdout;
mod live;
mod make;
mod store;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use holdout::write_holdout;
pub use live::{LiveScores, TargetLive, score_kept};
pub use make::{ForecastRequest, make};
pub use store::{keep, kept_path, plan_retention, quantile_column, to_frame, write_parquet};

/// Quantile forecasts of a fleet, made at one moment by one model.
#[derive(Clone, Debug, Serialize)]
pub struct FleetForecast {
    pub model_id: String,
    pub made_at: DateTime<Utc>,
    /// End of the last observed step; the first forecast step begins here.
    pub cutoff: DateTime<Utc>,
    pub step_secs: u32,
    /// Quantile levels, ascending.
    pub quantiles: Vec<f64>,
    /// By server, then in the order of the targets.
    pub series: Vec<SeriesForecast>,
    /// Servers seen lately that cannot be forecast, and why.
    pub skipped: Vec<Skipped>,
}

impl FleetForecast {
    /// Servers that are forecast.
    pub fn n_servers(&self) -> usize {
        let mut names: Vec<&str> = self.series.iter().map(|series| series.server_name.as_str()).collect();
        names.dedup();
        names.len()
    }
}

/// The forecast of one metric of one server.
#[derive(Clone, Debug, Serialize)]
pub struct SeriesForecast {
    pub server_name: String,
    pub profile: String,
    /// Whether the model has seen this server in training; else its profile serves.
    pub is_known: bool,
    pub metric: String,
    pub unit: String,
    /// Value of the last observed step, in the metric's unit.
    pub last_observed: Option<f32>,
    /// The chance of crossing the metric's `alert_above`, if it has one.
    pub alert: Option<AlertChance>,
    pub steps: Vec<StepForecast>,
}

/// One step of a forecast.
#[derive(Clone, Debug, Serialize)]
pub struct StepForecast {
    /// Start of the step.
    pub time: DateTime<Utc>,
    /// One value per quantile level, ascending, in the metric's unit.
    pub values: Vec<f32>,
}

/// How likely a metric crosses its alert threshold, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlertChance {
    pub threshold: f32,
    /// Largest chance over the steps; the outermost quantiles bound what can be said.
    pub chance: f64,
    /// The step of that chance.
    pub time: DateTime<Utc>,
    /// First step at which crossing is more likely than not.
    pub first_likely: Option<DateTime<Utc>>,
}

/// A server left out of a forecast.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    pub server_name: String,
    pub reason: String,
}

/// What a night remembers of its forecast.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastSummary {
    pub model_id: String,
    pub cutoff: DateTime<Utc>,
    pub n_servers: usize,
    pub n_skipped: usize,
    pub path: String,
}
