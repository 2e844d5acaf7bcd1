//! Check 6: many small steps back must not add up, because 20 % worse each night is 237 times worse in a month.
//!
//! Every promotion leaves its loss ratio to the champion of its day, on the holdout of its day. Their logs are
//! chained: the position of a model is the sum of the log ratios up to it. The challenger is held against the
//! best position among the last promoted models, and against a budget for the whole stretch. Single-night noise
//! goes into the chain too, in both directions: the budget is what a run of bad luck may cost.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ExamInputs;
use super::bootstrap::Interval;
use super::checks::{Check, Group};
use super::verdict::Outcome;

/// Promotions the guard looks back over.
pub const PROMOTIONS_REMEMBERED: usize = 30;

/// What a promotion leaves for later ratchets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromotedLoss {
    pub model_id: String,
    pub at: DateTime<Utc>,
    pub loss: Option<f64>,
    /// Loss over that of the champion it replaced, on the same rows. None begins a new chain: the first model,
    /// a forced promotion, a return to a model of unknown standing.
    pub ratio: Option<f64>,
}

impl PromotedLoss {
    /// The beginning of a chain.
    pub fn base(model_id: String, at: DateTime<Utc>) -> Self {
        Self { model_id, at, loss: None, ratio: None }
    }
}

pub(super) fn checks(interval: Option<&Interval>, exam: &ExamInputs<'_>) -> Vec<Check> {
    let ratio = interval.map(|interval| interval.ratio).filter(|ratio| ratio.is_finite());
    let (Some(ratio), Some(_)) = (ratio, exam.champion_id) else {
        return vec![Check::not_applicable(Group::Ratchet, "ratchet", "there is no ratio to a champion")];
    };
    let steps = log_steps(exam.history);
    let step = log_of(ratio);
    let budget = exam.config.cumulative_budget;
    let spent = steps.iter().rev().take(PROMOTIONS_REMEMBERED - 1).sum::<f64>() + step;
    let behind = (step - best_position(&steps)).exp();
    vec![
        Check::at_most(
            Group::Ratchet,
            "best_promoted",
            behind,
            budget.exp(),
            Outcome::Worse,
            &format!(
                "the loss over that of the best of the last {PROMOTIONS_REMEMBERED} promoted models, by chained ratios,"
            ),
        ),
        Check::at_most(
            Group::Ratchet,
            "cumulative_budget",
            spent,
            budget,
            Outcome::Worse,
            &format!("the sum of log loss ratios over the last {PROMOTIONS_REMEMBERED} promotions"),
        ),
    ]
}

/// Log ratios since the chain began, oldest first.
fn log_steps(history: &[PromotedLoss]) -> Vec<f64> {
    let begin = history.iter().rposition(|one| one.ratio.is_none()).map_or(0, |at| at + 1);
    history[begin..].iter().filter_map(|one| one.ratio).map(log_of).collect()
}

/// A ratio's log; one that has none (zero, infinite) does not move the chain.
fn log_of(ratio: f64) -> f64 {
    let log = ratio.ln();
    if log.is_finite() { log } else { 0.0 }
}

/// The lowest position among the last promoted models, the champion being at 0.
fn best_position(steps: &[f64]) -> f64 {
    let mut position = 0.0;
    let mut best: f64 = 0.0;
    for step in steps.iter().rev().take(PROMOTIONS_REMEMBERED - 1) {
        position -= step;
        best = best.min(position);
    }
    best
}
