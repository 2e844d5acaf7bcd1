//! Check 4: a model that does not beat a naive forecast is not worth serving, whatever the champion does.

use super::checks::{Check, Group, number};
use super::verdict::Outcome;
use crate::evaluate::scores::Scores;

pub(super) fn checks(challenger: &Scores, baselines: &[Scores]) -> Vec<Check> {
    let mut checks: Vec<Check> = baselines.iter().map(|baseline| against(challenger, baseline)).collect();
    if !checks.iter().any(|check| check.applicable) {
        let explain = "no naive forecast could be scored, so skill is unknown";
        checks.push(Check::held(Group::Skill, "skill", false, Outcome::Inconclusive, explain));
    }
    checks
}

fn against(challenger: &Scores, baseline: &Scores) -> Check {
    let name = format!("skill_{}", baseline.forecaster);
    if baseline.n_points == 0 || !baseline.loss.is_finite() {
        let why = format!("{} needs more history than there is", baseline.forecaster);
        return Check::not_applicable(Group::Skill, &name, why);
    }
    let passed = challenger.loss < baseline.loss;
    let relation = if passed { "below" } else { "not below" };
    let explain = format!(
        "the loss of {} is {relation} the {} of {}",
        number(challenger.loss),
        number(baseline.loss),
        baseline.forecaster
    );
    Check::held(Group::Skill, &name, passed, Outcome::Worse, explain).with_numbers(
        challenger.loss,
        baseline.loss,
        "loss",
    )
}
