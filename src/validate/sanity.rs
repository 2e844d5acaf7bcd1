//! Check 2: the forecasts are numbers, in order, in range, and not the same everywhere.

use super::checks::{Check, Group, number};
use super::verdict::Outcome;
use crate::config::ValidationConfig;
use crate::evaluate::scores::Scores;

pub(super) fn checks(challenger: &Scores, config: &ValidationConfig) -> Vec<Check> {
    let at_most = |name, measured, limit, what| {
        Check::at_most(Group::Sanity, name, measured, limit, Outcome::Unfit, what)
    };
    vec![
        holdout(challenger),
        at_most("finite", challenger.n_not_finite as f64, 0.0, "the count of NaN or infinite forecasts"),
        loss(challenger),
        at_most("crossing", challenger.crossing_rate, config.max_crossing, "the share of crossing quantiles"),
        at_most(
            "range",
            challenger.out_of_range_rate,
            config.max_out_of_range,
            "the share of forecasts out of range",
        ),
        collapse(challenger),
    ]
}

/// An exam without rows says nothing about the model, good or bad.
fn holdout(challenger: &Scores) -> Check {
    let n_points = challenger.n_points;
    let explain = format!("{} samples with {n_points} true values were forecast", challenger.n_samples);
    Check::held(Group::Sanity, "holdout", n_points > 0, Outcome::Inconclusive, explain)
}

fn loss(challenger: &Scores) -> Check {
    if challenger.n_points == 0 {
        return Check::not_applicable(Group::Sanity, "loss", "nothing was forecast");
    }
    let is_number = challenger.loss.is_finite() && challenger.loss >= 0.0;
    let explain = format!("the loss is {}", number(challenger.loss));
    let mut check = Check::held(Group::Sanity, "loss", is_number, Outcome::Unfit, explain);
    check.measured = super::checks::finite(challenger.loss);
    check
}

fn collapse(challenger: &Scores) -> Check {
    let targets = &challenger.collapsed_targets;
    let explain = match targets.len() {
        0 => "no target is forecast the same everywhere".to_owned(),
        _ => format!("the same value is forecast everywhere for {}", targets.join(", ")),
    };
    Check::held(Group::Sanity, "collapse", targets.is_empty(), Outcome::Unfit, explain).with_numbers(
        targets.len() as f64,
        0.0,
        "targets",
    )
}
