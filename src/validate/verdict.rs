//! `validation.json`: every check with its number, limit and reason, and what follows from them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ExamInputs;
use super::bootstrap::Interval;
use super::checks::{Check, Group, finite, number};
use super::comparison;
use crate::error::Exit;
use crate::evaluate::scores::Scores;

/// The newest verdict format this program writes, and reads.
pub const VERDICT_FORMAT: u32 = 1;
/// Nights without promotion after which training goes back to the champion's checkpoint.
pub const NIGHTS_BEFORE_RESTART: u32 = 7;

/// What the exam says, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As good as the champion or better, and fit in every way.
    Passed,
    /// Neither shown to be as good nor shown to be worse.
    Inconclusive,
    /// Worse than the champion or than a naive forecast, on the whole, on a slice or step by step.
    Worse,
    /// Does not load, is not finite, out of bounds, or over the ceiling.
    Unfit,
}

impl Outcome {
    /// The exit code of a night or a `validate` that ends so.
    pub fn exit(self) -> Exit {
        if self.may_promote() { Exit::Done } else { Exit::Refused }
    }

    /// Whether the pointer may move to the model.
    pub fn may_promote(self) -> bool {
        self == Outcome::Passed
    }

    /// Where tomorrow's training starts.
    ///
    /// `nights_without_promotion` counts this night too if it promotes nothing.
    pub fn next_start(self, nights_without_promotion: u32) -> NextStart {
        match self {
            Outcome::Passed => NextStart::OwnCheckpoint { holdout_extra_days: 0 },
            Outcome::Inconclusive | Outcome::Worse if nights_without_promotion < NIGHTS_BEFORE_RESTART => {
                NextStart::OwnCheckpoint { holdout_extra_days: nights_without_promotion }
            }
            Outcome::Inconclusive | Outcome::Worse | Outcome::Unfit => NextStart::ChampionCheckpoint,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Passed => "passed",
            Outcome::Inconclusive => "inconclusive",
            Outcome::Worse => "worse",
            Outcome::Unfit => "unfit",
        })
    }
}

/// The checkpoint a training starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextStart {
    /// That of the model just examined, with a holdout so many days longer (more rows decide more surely).
    OwnCheckpoint { holdout_extra_days: u32 },
    /// That of the model in service.
    ChampionCheckpoint,
}

/// What the exam says of one model, bound to the bytes of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub format: u32,
    pub model_id: String,
    /// The bytes that were examined; for any others the verdict does not count.
    pub weights_sha256: String,
    pub outcome: Outcome,
    pub judged_at: DateTime<Utc>,
    pub window_id: String,
    /// The champion it was compared with.
    pub champion_id: Option<String>,
    /// Whether checks 3 to 6 were waived.
    pub waived: bool,
    pub checks: Vec<Check>,
    /// Why the outcome is no better than it is; empty if it passed.
    pub reasons: Vec<String>,
    /// What somebody should look at although it did not count, such as a champion that could not be compared.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub loss: Option<f64>,
    pub champion_loss: Option<f64>,
    /// Summed loss over the champion's, on the same samples.
    pub ratio: Option<f64>,
    /// The bounds of the ratio; how often they hold is said in [`super::bootstrap`].
    pub ratio_low: Option<f64>,
    pub ratio_high: Option<f64>,
    pub persistence_loss: Option<f64>,
    pub seasonal_naive_day_loss: Option<f64>,
    pub seasonal_naive_week_loss: Option<f64>,
    pub n_samples: u64,
    /// Of challenger, champion and naive forecasts, without the losses of single samples; those with numbers
    /// that JSON cannot hold are left out.
    pub scores: Vec<Scores>,
}

impl Verdict {
    pub(super) fn of(exam: &ExamInputs<'_>, checks: Vec<Check>, interval: Option<Interval>) -> Self {
        let loss_of = |scores: Option<&Scores>| {
            scores.filter(|scores| scores.n_points > 0).and_then(|scores| finite(scores.loss))
        };
        let baseline = |name: &str| loss_of(exam.baselines.iter().find(|one| one.forecaster == name));
        let of_interval = |part: fn(&Interval) -> f64| interval.as_ref().and_then(|one| finite(part(one)));
        Self {
            format: VERDICT_FORMAT,
            model_id: exam.model_id.to_owned(),
            weights_sha256: exam.weights_sha256.to_owned(),
            outcome: outcome_of(&checks),
            judged_at: exam.now,
            window_id: exam.window_id.to_owned(),
            champion_id: exam.champion_id.map(str::to_owned),
            waived: !exam.require_validation,
            reasons: reasons_of(&checks),
            warnings: warnings_of(exam),
            loss: loss_of(exam.challenger),
            champion_loss: loss_of(exam.champion),
            ratio: of_interval(|one| one.ratio),
            ratio_low: of_interval(|one| one.low),
            ratio_high: of_interval(|one| one.high),
            persistence_loss: baseline("persistence"),
            seasonal_naive_day_loss: baseline("seasonal_naive_day"),
            seasonal_naive_week_loss: baseline("seasonal_naive_week"),
            n_samples: exam.challenger.map_or(0, |scores| scores.n_samples),
            scores: exam
                .challenger
                .into_iter()
                .chain(exam.champion)
                .chain(exam.baselines)
                .filter_map(summary)
                .collect(),
            checks,
        }
    }

    /// The failed checks of groups 1 and 2 that make the model unfit: nothing overrules them.
    pub fn never_waived_failures(&self) -> Vec<String> {
        let is_hard = |check: &&Check| !check.group.is_waivable() && check.on_failure == Outcome::Unfit;
        self.checks
            .iter()
            .filter(is_hard)
            .filter(|check| check.is_against())
            .map(|check| check.explain.clone())
            .collect()
    }

    /// Whether the outcome follows from the checks, and those that are never waived were made and not waived.
    pub fn is_consistent(&self) -> bool {
        let has = |group: Group| self.checks.iter().any(|check| check.group == group);
        let is_complete = has(Group::Infrastructure) && has(Group::Sanity);
        let is_waived_rightly = |check: &Check| !check.waived || (self.waived && check.group.is_waivable());
        outcome_of(&self.checks) == self.outcome
            && self.checks.iter().all(is_waived_rightly)
            && (is_complete || !self.outcome.may_promote())
    }

    /// The verdict as one line for logs and the pointer.
    pub fn in_a_line(&self) -> String {
        let mut line = match self.outcome {
            Outcome::Passed => "passed the exam".to_owned(),
            outcome => format!("{outcome} in the exam"),
        };
        if let Some(loss) = self.loss {
            line.push_str(&format!(", loss {}", number(loss)));
        }
        if let (Some(ratio), Some(low), Some(high)) = (self.ratio, self.ratio_low, self.ratio_high) {
            let (ratio, low, high) = (number(ratio), number(low), number(high));
            line.push_str(&format!(", {ratio} times the champion's ({low} to {high})"));
        }
        if self.waived {
            line.push_str(", checks 3 to 6 waived");
        }
        line
    }
}

/// The worst that any check calls for.
fn outcome_of(checks: &[Check]) -> Outcome {
    let against = checks.iter().filter(|check| check.is_against());
    against.map(|check| check.on_failure).max().unwrap_or(Outcome::Passed)
}

/// What the failed checks say, the worst first.
fn reasons_of(checks: &[Check]) -> Vec<String> {
    let mut against: Vec<&Check> = checks.iter().filter(|check| check.is_against()).collect();
    against.sort_by_key(|check| std::cmp::Reverse(check.on_failure));
    against.iter().map(|check| format!("{}: {}", check.group, check.explain)).collect()
}

fn warnings_of(exam: &ExamInputs<'_>) -> Vec<String> {
    let trouble = exam.champion_id.zip(exam.champion_trouble);
    trouble.map(|(id, why)| comparison::not_compared(id, why)).into_iter().collect()
}

/// The scores without their samples; none if a number in them is NaN or infinite, which JSON turns into null.
fn summary(scores: &Scores) -> Option<Scores> {
    let summary = Scores { sample_loss: Vec::new(), ..scores.clone() };
    let value = serde_json::to_value(&summary).ok()?;
    serde_json::from_value(value).ok()
}
