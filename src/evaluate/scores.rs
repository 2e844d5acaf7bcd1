//! What an evaluation found: plain numbers, comparable between models because every divisor comes from the
//! window, never from a model.

use serde::{Deserialize, Serialize};

/// Loss and calibration over one group of forecast points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Name of the group: a target, `h001-024`, a server or a profile.
    pub name: String,
    pub n_points: u64,
    /// Mean quantile loss divided by the series' in-sample mean absolute day-to-day change; dimensionless.
    pub loss: f64,
    /// Share of truths between P10 and P90, where both are forecast.
    pub coverage: Option<f64>,
}

/// One target's scores in original units beside the scaled loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetScores {
    pub slice: Slice,
    pub unit: String,
    /// Mean quantile loss in the target's own unit.
    pub quantile_loss: f64,
    /// Mean absolute error of the median, in the target's own unit.
    pub mae: f64,
    /// Twice the summed P50 loss over the summed absolute truth (Lim et al.); none where the truth is all zero.
    pub q_risk_p50: Option<f64>,
    /// Mean absolute error over that of the in-sample seasonal-naive (day).
    pub mase: Option<f64>,
    /// Share of truths at or below each quantile forecast, in the order of the config's quantiles.
    pub calibration: Vec<f64>,
}

/// How one forecaster did on the holdout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// `challenger`, `champion`, `persistence`, `seasonal_naive_day` or `seasonal_naive_week`.
    pub forecaster: String,
    /// Mean of the targets' scaled losses: the one number of the exam.
    pub loss: f64,
    pub coverage: Option<f64>,
    pub n_samples: u64,
    pub n_points: u64,
    pub targets: Vec<TargetScores>,
    pub horizons: Vec<Slice>,
    pub servers: Vec<Slice>,
    pub profiles: Vec<Slice>,
    /// Raw quantile pairs out of order, as a share (what is served is sorted).
    pub crossing_rate: f64,
    /// Share of the values that lie outside the metric's range by more than one day-to-day change of the
    /// series, before they are cut to the range to be served.
    pub out_of_range_rate: f64,
    /// Forecast values that are NaN or infinite.
    pub n_not_finite: u64,
    /// Targets whose median forecast stands still while the truth moves.
    pub collapsed_targets: Vec<String>,
    /// Scaled loss of each sample (mean over its points and targets), in sample order: what a paired
    /// test needs. 0 where none of its points was observed, for every forecaster alike.
    pub sample_loss: Vec<f64>,
}
