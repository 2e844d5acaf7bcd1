//! From what a night did to what is written down about it.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::state::Night;
use crate::error::{Exit, Refusal, message_and_hint};
use crate::registry::Registry;
use crate::report::{NightOutcome, NightRecord, StageRecord};
use crate::site::Site;
use crate::validate::Outcome;

/// The record of a night that ended with `ending` at `now`; `duration` is that of its last start. An interrupted start
/// ends no night and has no record: the next start goes on from its checkpoint.
pub(super) fn of_night(
    site: &Site,
    night: &Night,
    ending: &Result<Exit>,
    now: DateTime<Utc>,
    duration: Duration,
) -> NightRecord {
    let done = &night.done;
    let mut record = NightRecord::new(night.logical_date, outcome(night, ending), now);
    record.warnings = night.warnings.clone();
    record.days_failed = days_failed(night).cloned().collect();
    record.compute_hours = Some(duration.as_secs_f64() / 3600.0);
    let stage = |time: &super::state::StageTime| StageRecord {
        name: time.stage.clone(),
        duration_secs: time.duration_secs,
    };
    record.stages = night.stages.iter().map(stage).collect();
    if let Err(error) = ending {
        record.error = Some(message_and_hint(error).0);
    }
    if let Some(window) = &done.window {
        record.window_id = Some(window.window_id.clone());
        record.data_samples = Some(window.n_raw_rows);
        record.data_age_hours = Some(window.data_age_hours);
    }
    if let Some(train) = &done.train {
        record.model_id = Some(train.model_id.clone());
        record.total_epochs = Some(train.total_epochs);
        record.training_loss = Some(train.loss_train);
        record.training_duration_mins = Some(train.duration_secs / 60.0);
        record.optimizer_steps = Some(train.optimizer_steps);
        record.samples_per_s = Some(train.samples_per_s);
        record.partial_epoch = train.partial_epoch;
    }
    if let Some(exam) = &done.exam {
        record.reasons = exam.reasons.clone();
        record.validation_loss = exam.loss;
        record.champion_loss = exam.champion_loss;
        record.loss_ratio = exam.loss_ratio;
        record.persistence_loss = exam.persistence_loss;
        record.seasonal_naive_loss = exam.seasonal_naive_day_loss;
        record.coverage = exam.coverage;
    }
    // A pointer that cannot be read has been told by the stage that needed it.
    if let Ok(Some(champion)) = Registry::open(site).pointer() {
        record.promotion_age_hours = Some((now - champion.promoted_at).num_seconds() as f64 / 3600.0);
        record.champion_id = Some(champion.model_id.to_string());
    }
    record
}

/// The days that the last rotation of the night could not seal, each with its error.
fn days_failed(night: &Night) -> impl Iterator<Item = &String> {
    night.done.rotate.iter().flat_map(|rotate| &rotate.days_failed)
}

fn outcome(night: &Night, ending: &Result<Exit>) -> NightOutcome {
    if let Err(error) = ending {
        return match error.downcast_ref::<Refusal>() {
            Some(Refusal::NotEnoughData { .. }) => NightOutcome::NotEnoughData,
            _ if night.done.window.is_some() && night.done.train.is_none() => NightOutcome::TrainingFailed,
            _ => NightOutcome::Failed,
        };
    }
    match night.done.exam.as_ref().map(|exam| exam.outcome) {
        Some(Outcome::Passed) if night.has_promoted() => NightOutcome::Promoted,
        Some(Outcome::Passed) => NightOutcome::Passed,
        Some(Outcome::Inconclusive) => NightOutcome::Inconclusive,
        Some(Outcome::Worse) => NightOutcome::Worse,
        Some(Outcome::Unfit) => NightOutcome::Unfit,
        None => NightOutcome::Failed,
    }
}
