//! The exam: challenger and champion on the same rows, judged by the same rules, the same night.
//!
//! [`examine`] is pure: scores and thresholds in, a [`Verdict`] out. [`sit()`] is the whole exam around it: load,
//! score, judge, keep the verdict. Six groups of checks run in this order:
//!
//! | group | asks | a failure means |
//! |---|---|---|
//! | 1 infrastructure | does a fresh process load these very bytes, in time? | unfit |
//! | | did training never see the holdout? | inconclusive |
//! | 2 sanity | finite, ordered, in range, not constant? | unfit |
//! | 3 quality | is the band honest? | worse |
//! | 4 skill | better than every naive forecast? | worse |
//! | 5 comparison | not worse than the champion, on no slice much worse? | worse, inconclusive, or unfit over the ceiling |
//! | 6 ratchet | have many small steps back added up? | worse |
//!
//! `require_validation = false` waives groups 3 to 6: they are still measured and recorded. Groups 1 and 2 are
//! never waived. Without a champion, groups 5 and 6 do not apply; nor do they where the champion cannot be compared
//! (unreadable, or made for other targets, quantiles or lengths), or a changed config would refuse every model for
//! ever: skill alone decides then, and the verdict warns of it.

pub mod bootstrap;
mod checks;
mod comparison;
mod infrastructure;
mod quality;
mod ratchet;
mod sanity;
mod sit;
mod skill;
mod verdict;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};

use crate::config::ValidationConfig;
use crate::evaluate::scores::Scores;

pub use bootstrap::{Interval, SamplePlace};
pub use checks::{Check, Group};
pub use infrastructure::{MAX_LOAD_MS, ProbeReport};
pub use ratchet::{PROMOTIONS_REMEMBERED, PromotedLoss};
pub use sit::{Probe, Sitting, sit};
pub use verdict::{NIGHTS_BEFORE_RESTART, NextStart, Outcome, VERDICT_FORMAT, Verdict};

/// Everything the exam looks at.
#[derive(Clone, Debug)]
pub struct ExamInputs<'a> {
    pub model_id: &'a str,
    /// sha256 of the challenger's weights: what the verdict is bound to.
    pub weights_sha256: &'a str,
    /// The window whose holdout was scored; it also seeds the resampling.
    pub window_id: &'a str,
    /// Start of the holdout's first step.
    pub holdout_start: DateTime<Utc>,
    /// End of the newest training target the challenger's lineage has seen.
    pub trained_until: DateTime<Utc>,
    pub now: DateTime<Utc>,
    /// What a fresh process said when it loaded the challenger.
    pub probe: &'a ProbeReport,
    /// None where it could not be loaded or scored.
    pub challenger: Option<&'a Scores>,
    /// The model in service, if there is one.
    pub champion_id: Option<&'a str>,
    /// Its scores on the same rows; none where there is no champion, or it cannot be compared.
    pub champion: Option<&'a Scores>,
    /// Why it cannot be compared, such as other targets.
    pub champion_trouble: Option<&'a str>,
    /// Persistence and the seasonal-naive forecasts.
    pub baselines: &'a [Scores],
    /// Server and time of each entry of `sample_loss`.
    pub places: &'a [SamplePlace],
    /// Steps within which samples depend on each other: at least one horizon.
    pub block_steps: u32,
    /// The promotions that led to the champion, oldest first.
    pub history: &'a [PromotedLoss],
    pub config: &'a ValidationConfig,
    /// Hard ceiling on the loss ratio (`validation_loss_threshold`).
    pub ceiling: f64,
    pub require_validation: bool,
}

/// Judges the challenger. Deterministic: the same inputs give the same verdict, to the last bit.
pub fn examine(exam: &ExamInputs<'_>) -> Verdict {
    let mut checks = infrastructure::checks(exam);
    let mut interval = None;
    if let Some(challenger) = exam.challenger {
        checks.extend(sanity::checks(challenger, exam.config));
        checks.extend(quality::checks(challenger, exam.config));
        checks.extend(skill::checks(challenger, exam.baselines));
        interval = comparison::interval(challenger, exam);
        checks.extend(comparison::checks(challenger, interval.as_ref(), exam));
        checks.extend(ratchet::checks(interval.as_ref(), exam));
    }
    for check in &mut checks {
        check.waived = !exam.require_validation && check.group.is_waivable();
    }
    Verdict::of(exam, checks, interval)
}
