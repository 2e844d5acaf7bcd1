//! One question of the exam with its number, its limit and its answer in words.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::verdict::Outcome;

/// The part of the exam a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Infrastructure,
    Sanity,
    Quality,
    Skill,
    Comparison,
    Ratchet,
}

impl Group {
    /// Whether `require_validation = false` waives it.
    pub fn is_waivable(self) -> bool {
        !matches!(self, Group::Infrastructure | Group::Sanity)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Infrastructure => "infrastructure",
            Group::Sanity => "sanity",
            Group::Quality => "quality",
            Group::Skill => "skill",
            Group::Comparison => "comparison",
            Group::Ratchet => "ratchet",
        })
    }
}

/// One check of a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub group: Group,
    /// True as well where the check does not apply.
    pub passed: bool,
    /// False where there was nothing to check, such as a comparison without a champion.
    pub applicable: bool,
    /// Measured, but not counted (`require_validation = false`).
    pub waived: bool,
    /// None where it is no (finite) number.
    pub measured: Option<f64>,
    pub threshold: Option<f64>,
    /// Unit of both numbers; empty where there is none.
    pub unit: String,
    /// What was found, as a sentence part that names the numbers.
    pub explain: String,
    /// What the outcome is at best if this fails.
    pub on_failure: Outcome,
}

impl Check {
    /// A check that simply holds or does not.
    pub(super) fn held(
        group: Group,
        name: &str,
        passed: bool,
        on_failure: Outcome,
        explain: impl Into<String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            group,
            passed,
            applicable: true,
            waived: false,
            measured: None,
            threshold: None,
            unit: String::new(),
            explain: explain.into(),
            on_failure,
        }
    }

    /// A check of a number that must not exceed `limit`; a NaN exceeds everything.
    pub(super) fn at_most(
        group: Group,
        name: &str,
        measured: f64,
        limit: f64,
        on_failure: Outcome,
        what: &str,
    ) -> Self {
        let passed = measured <= limit;
        let relation = if passed { "within" } else { "above" };
        let explain = format!("{what} is {}, {relation} the limit of {}", number(measured), number(limit));
        Self::held(group, name, passed, on_failure, explain).with_numbers(measured, limit, "")
    }

    /// A check for which there is nothing to look at, and why.
    pub(super) fn not_applicable(group: Group, name: &str, why: impl Into<String>) -> Self {
        Self { applicable: false, ..Self::held(group, name, true, Outcome::Passed, why) }
    }

    /// Adds the numbers behind the answer.
    pub(super) fn with_numbers(mut self, measured: f64, threshold: f64, unit: &str) -> Self {
        self.measured = finite(measured);
        self.threshold = finite(threshold);
        self.unit = unit.to_owned();
        self
    }

    /// Whether this check speaks against the model.
    pub fn is_against(&self) -> bool {
        self.applicable && !self.passed && !self.waived
    }
}

/// `value`, if JSON can hold it.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A number for people: four significant digits.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[track_caller]
    fn case(value: f64, expected: &str) {
        assert_eq!(number(value), expected);
    }

    #[test]
    fn numbers_are_short() {
        case(0.0, "0");
        case(1.0, "1");
        case(0.030_04, "0.03004");
        case(1.234_567, "1.235");
        case(123_456.7, "123457");
        case(f64::NAN, "NaN");
    }

    #[test]
    fn a_nan_is_above_every_limit() {
        let check = Check::at_most(Group::Sanity, "x", f64::NAN, 1.0, Outcome::Unfit, "it");
        assert!(!check.passed && check.measured.is_none());
    }
}
