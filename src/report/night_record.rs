//! One night in numbers: an entry of `metrics.json`.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Exit;

/// How a night ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NightOutcome {
    /// The challenger passed and is in service.
    Promoted,
    /// The challenger passed; promotion is left to a person (`enable_auto_deploy = false`).
    Passed,
    /// The exam could not tell; the champion stays.
    Inconclusive,
    /// Worse than the champion, no skill, or a slice collapsed.
    Worse,
    /// Not loadable, not finite, out of bounds or over the ceiling.
    Unfit,
    /// The window does not hold what a training needs; nothing was trained.
    NotEnoughData,
    /// Training broke.
    TrainingFailed,
    /// Another stage broke.
    #[default]
    Failed,
    /// Stopped by a signal after a checkpoint; the same date can be continued.
    Interrupted,
}

impl NightOutcome {
    /// The exit code of such a night.
    pub fn exit(self) -> Exit {
        match self {
            NightOutcome::Promoted | NightOutcome::Passed => Exit::Done,
            NightOutcome::Inconclusive | NightOutcome::Worse | NightOutcome::Unfit => Exit::Refused,
            NightOutcome::NotEnoughData => Exit::NotEnoughData,
            NightOutcome::TrainingFailed | NightOutcome::Failed => Exit::Failed,
            NightOutcome::Interrupted => Exit::Interrupted,
        }
    }

    /// Whether the night brought a fit model.
    pub fn is_success(self) -> bool {
        self.exit() == Exit::Done
    }

    /// The outcome in words, as in `2026-06-01 training failed`.
    pub fn words(self) -> &'static str {
        match self {
            NightOutcome::Promoted => "promoted",
            NightOutcome::Passed => "passed, not promoted",
            NightOutcome::Inconclusive => "inconclusive",
            NightOutcome::Worse => "refused as worse",
            NightOutcome::Unfit => "refused as unfit",
            NightOutcome::NotEnoughData => "not enough data",
            NightOutcome::TrainingFailed => "training failed",
            NightOutcome::Failed => "failed",
            NightOutcome::Interrupted => "interrupted",
        }
    }
}

/// One stage of a night.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageRecord {
    pub name: String,
    pub duration_secs: f64,
}

/// One night. The first seven keys are the design's; whatever a night did not come to is `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NightRecord {
    /// When the night ended.
    pub timestamp: DateTime<Utc>,
    /// Epochs of the lineage, tonight's included.
    pub total_epochs: Option<u64>,
    pub training_duration_mins: Option<f64>,
    /// The challenger's loss on the holdout.
    pub validation_loss: Option<f64>,
    pub training_loss: Option<f64>,
    /// Raw rows in the training window.
    pub data_samples: Option<u64>,
    /// Whether the night brought a fit model.
    pub success: bool,

    /// The date the night is for: the key of this record.
    pub logical_date: NaiveDate,
    pub outcome: NightOutcome,
    pub exit_code: u8,
    /// Why the challenger was refused, or why there was not enough data.
    pub reasons: Vec<String>,
    /// What broke, as one line.
    pub error: Option<String>,
    /// What one can live with.
    pub warnings: Vec<String>,
    /// Days of the buffer that could not be sealed or aggregated, as text; their data is where it was.
    pub days_failed: Vec<String>,

    pub window_id: Option<String>,
    pub model_id: Option<String>,
    /// The model in service when the night ended.
    pub champion_id: Option<String>,
    pub promoted: bool,
    /// Share of an epoch that was trained when time ran out.
    pub partial_epoch: Option<f64>,
    pub optimizer_steps: Option<u64>,
    pub samples_per_s: Option<f64>,

    /// The champion's loss on the same holdout, the same night.
    pub champion_loss: Option<f64>,
    /// Challenger over champion.
    pub loss_ratio: Option<f64>,
    pub persistence_loss: Option<f64>,
    pub seasonal_naive_loss: Option<f64>,
    /// Share of truths between P10 and P90.
    pub coverage: Option<f64>,

    /// Hours from the window's last step to the end of the night.
    pub data_age_hours: Option<f64>,
    /// Hours since the model in service was promoted.
    pub promotion_age_hours: Option<f64>,
    /// Hours of computing that the night took.
    pub compute_hours: Option<f64>,
    pub stages: Vec<StageRecord>,
}

impl NightRecord {
    /// A record with everything that follows from its outcome, to be filled with what the night came to.
    pub fn new(logical_date: NaiveDate, outcome: NightOutcome, timestamp: DateTime<Utc>) -> Self {
        Self {
            timestamp,
            success: outcome.is_success(),
            logical_date,
            outcome,
            exit_code: outcome.exit().code(),
            promoted: outcome == NightOutcome::Promoted,
            ..Self::default()
        }
    }

    /// What there is to say besides the numbers: reasons first, then the error.
    pub fn explanation(&self) -> Vec<&str> {
        self.reasons.iter().map(String::as_str).chain(self.error.as_deref()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_designs_keys_are_there_and_null_where_a_night_has_none() {
        let record = NightRecord::new(
            "2026-06-01".parse().unwrap(),
            NightOutcome::NotEnoughData,
            "2026-06-01T02:10:00Z".parse().unwrap(),
        );
        let value = serde_json::to_value(&record).unwrap();
        for key in
            ["total_epochs", "training_duration_mins", "validation_loss", "training_loss", "data_samples"]
        {
            assert!(value[key].is_null() && value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["timestamp"], "2026-06-01T02:10:00Z");
        assert_eq!((&value["success"], &value["exit_code"]), (&false.into(), &4.into()));
        assert_eq!(
            (&value["logical_date"], &value["outcome"]),
            (&"2026-06-01".into(), &"not_enough_data".into())
        );
        assert_eq!(serde_json::from_value::<NightRecord>(value).unwrap(), record);
    }

    #[test]
    fn a_record_with_the_designs_keys_only_can_be_read() {
        let text =
            r#"{"timestamp": "2024-01-01T02:00:00Z", "total_epochs": 31, "success": true, "unknown": 1}"#;
        let record: NightRecord = serde_json::from_str(text).unwrap();
        assert_eq!((record.total_epochs, record.success, record.training_loss), (Some(31), true, None));
    }
}
