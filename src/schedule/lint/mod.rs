//! What will bite: rules that schedulers enforce silently, in the middle of the night.
//!
//! All pure: text (or a plan) in, findings out. The linters work on any file, not only on those we render, so
//! that an edited or installed copy can be checked too.

mod crontab;
mod plan;
mod task;
mod unit;
mod xml;

use std::fmt;

use serde::Serialize;

pub use crontab::lint_cron;
pub(super) use plan::lint_plan;
pub use task::lint_windows_task;
pub use unit::lint_systemd_unit;

/// Whether a finding stops the jobs or only surprises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingSeverity {
    /// Works, but not as one might think.
    Warning,
    /// Will not run, or not run what is meant.
    Error,
}

/// One thing that will bite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: FindingSeverity,
    /// Stable name of the rule, such as `final-newline`.
    pub rule: &'static str,
    pub message: String,
}

impl Finding {
    pub(super) fn error(rule: &'static str, message: impl Into<String>) -> Self {
        Self { severity: FindingSeverity::Error, rule, message: message.into() }
    }

    pub(super) fn warning(rule: &'static str, message: impl Into<String>) -> Self {
        Self { severity: FindingSeverity::Warning, rule, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.severity == FindingSeverity::Error { "error" } else { "warning" };
        write!(f, "{word}: {} ({})", self.message, self.rule)
    }
}
