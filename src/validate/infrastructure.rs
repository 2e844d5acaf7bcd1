//! Check 1: a fresh process loads these very bytes with the reader production uses, within its limits; and the exam's
//! rows are new to the model.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ExamInputs;
use super::checks::{Check, Group};
use super::verdict::Outcome;

/// Milliseconds loading may take: a forecast that waits longer for its model is of no use.
pub const MAX_LOAD_MS: f64 = 60_000.0;

/// What a fresh process said when it loaded the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub loaded: bool,
    /// Why it did not load.
    pub error: Option<String>,
    pub load_ms: f64,
    /// sha256 of the weights that process read; empty where it read none.
    pub weights_sha256: String,
}

pub(super) fn checks(exam: &ExamInputs<'_>) -> Vec<Check> {
    let check = |name, passed, explain: String| {
        Check::held(Group::Infrastructure, name, passed, Outcome::Unfit, explain)
    };
    let probe = exam.probe;
    let loads = match (&probe.error, probe.loaded) {
        (_, true) => "a fresh process loads the model".to_owned(),
        (Some(error), false) => format!("the model does not load: {error}"),
        (None, false) => "the model does not load".to_owned(),
    };
    let mut checks = vec![check("loads", probe.loaded, loads)];
    if !probe.loaded {
        return checks;
    }
    let is_same = probe.weights_sha256 == exam.weights_sha256;
    let digest = if is_same {
        "the weights are those of the manifest"
    } else {
        "the weights that load are not those of the manifest"
    };
    checks.push(check("digest", is_same, digest.into()));
    let what = "the time to load, in ms,";
    checks.push(Check::at_most(
        Group::Infrastructure,
        "load_time",
        probe.load_ms,
        MAX_LOAD_MS,
        Outcome::Unfit,
        what,
    ));
    let scored = if exam.challenger.is_some() {
        "the model forecasts the holdout"
    } else {
        "the model could not be scored on the holdout"
    };
    checks.push(check("scored", exam.challenger.is_some(), scored.into()));
    checks.push(unseen_holdout(exam));
    checks
}

/// A model that was taught the answers proves nothing by knowing them.
fn unseen_holdout(exam: &ExamInputs<'_>) -> Check {
    let passed = exam.holdout_start >= exam.trained_until;
    let (start, until) = (minute(exam.holdout_start), minute(exam.trained_until));
    let explain = match passed {
        true => format!("the holdout begins at {start}, training saw nothing after {until}"),
        false => format!(
            "the holdout begins at {start}, but the model's lineage was trained on rows up to {until}: it may know \
             the answers, so this exam proves nothing; a window that ends later will"
        ),
    };
    Check::held(Group::Infrastructure, "unseen_holdout", passed, Outcome::Inconclusive, explain)
}

fn minute(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%MZ").to_string()
}
