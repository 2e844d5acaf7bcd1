//! Check 3: the band between P10 and P90 holds about the share of truths it claims.

use super::checks::{Check, Group, number};
use super::verdict::Outcome;
use crate::config::ValidationConfig;
use crate::evaluate::scores::Scores;

pub(super) fn checks(challenger: &Scores, config: &ValidationConfig) -> Vec<Check> {
    let Some(coverage) = challenger.coverage else {
        let why = "P10 and P90 are not both among the quantiles, or no truth arrived";
        return vec![Check::not_applicable(Group::Quality, "coverage", why)];
    };
    let (low, high) = (config.coverage_min, config.coverage_max);
    let passed = (low..=high).contains(&coverage);
    let explain = format!(
        "{} of the truths lie between P10 and P90; {} to {} are fine, 0.8 is perfect",
        number(coverage),
        number(low),
        number(high)
    );
    let limit = if coverage > high { high } else { low };
    let check = Check::held(Group::Quality, "coverage", passed, Outcome::Worse, explain);
    vec![check.with_numbers(coverage, limit, "")]
}
