//! Which steps are learned from and which are examined: one cut in time, the same for every server.

use serde::{Deserialize, Serialize};

/// Train part, embargo and holdout of a window, as step indices of its grid.
///
/// Training targets lie in `[0, train_end)`. The next horizon of steps is the embargo: nobody's target, so that
/// no training target is closer than one horizon to an exam. Targets of the exam lie in
/// `[holdout_start, holdout_end)`; its encoders may read what lies before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    pub train_end: usize,
    pub holdout_start: usize,
    pub holdout_end: usize,
}

impl Split {
    /// The cutoffs (first decoder steps) whose whole sample lies in the train part.
    pub fn train_cutoffs(&self, encoder_length: usize, horizon: usize) -> std::ops::Range<usize> {
        encoder_length..(self.train_end + 1).saturating_sub(horizon).max(encoder_length)
    }

    /// The cutoffs whose targets all lie in the holdout and whose encoder fits before them.
    pub fn holdout_cutoffs(&self, encoder_length: usize, horizon: usize) -> std::ops::Range<usize> {
        let first = self.holdout_start.max(encoder_length);
        first..(self.holdout_end + 1).saturating_sub(horizon).max(first)
    }

    /// The same cut of a grid that begins at step `first` of this one's; what lies before it is gone.
    pub fn from_step(&self, first: usize) -> Self {
        let shifted = |step: usize| step.saturating_sub(first);
        Self {
            train_end: shifted(self.train_end),
            holdout_start: shifted(self.holdout_start),
            holdout_end: shifted(self.holdout_end),
        }
    }
}

/// What [`plan_split`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedSplit {
    pub split: Split,
    /// Holdout steps besides the horizon that were given up because the window is short.
    pub n_steps_given_up: usize,
}

/// Cuts a window of `n_steps` into train | embargo of one horizon | holdout of `holdout_steps` and a horizon.
///
/// The holdout holds `holdout_steps + 1` cutoffs. A window too short for that gives up holdout steps, down to
/// a single cutoff, until training has at least as many cutoffs as the exam; `None` when not even one of each
/// fits, which takes `encoder_length + 3 * horizon` steps.
pub fn plan_split(
    n_steps: usize,
    encoder_length: usize,
    horizon: usize,
    holdout_steps: usize,
) -> Option<PlannedSplit> {
    let spare = n_steps.checked_sub(encoder_length + 3 * horizon)?;
    let kept = holdout_steps.min(spare / 2);
    let holdout_start = n_steps - kept - horizon;
    let split = Split { train_end: holdout_start - horizon, holdout_start, holdout_end: n_steps };
    Some(PlannedSplit { split, n_steps_given_up: holdout_steps - kept })
}

/// Steps of a holdout of `hours` and `extra_days`, rounded up.
pub fn holdout_steps(hours: u32, extra_days: u32, step_secs: u32) -> usize {
    let secs = u64::from(hours) * 3_600 + u64::from(extra_days) * 86_400;
    secs.div_ceil(u64::from(step_secs)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(n_steps: usize, holdout: usize, expected: Option<(usize, usize, usize)>) {
        let got = plan_split(n_steps, 288, 96, holdout)
            .map(|plan| (plan.split.train_end, plan.split.holdout_start, plan.n_steps_given_up));
        assert_eq!(got, expected, "{n_steps} steps, holdout {holdout}");
    }

    #[test]
    fn the_holdout_is_a_day_and_a_horizon_after_an_embargo_of_one() {
        case(30 * 288, 288, Some((8640 - 288 - 192, 8640 - 288 - 96, 0)));
        case(30 * 288, 8 * 288, Some((8640 - 2304 - 192, 8640 - 2304 - 96, 0)));
    }

    #[test]
    fn a_short_window_gives_up_holdout_before_training() {
        case(576, 288, Some((384, 480, 288))); // one cutoff each
        case(578, 288, Some((385, 481, 287)));
        case(3 * 288, 288, Some((864 - 144 - 192, 864 - 144 - 96, 144)));
        case(575, 288, None);
        case(0, 288, None);
    }

    #[test]
    fn no_target_is_shared_and_the_embargo_lies_between() {
        for n_steps in [576, 600, 1000, 8640] {
            let split = plan_split(n_steps, 288, 96, 288).unwrap().split;
            let train = split.train_cutoffs(288, 96);
            let holdout = split.holdout_cutoffs(288, 96);
            assert!(!train.is_empty() && train.len() >= holdout.len() && !holdout.is_empty());
            let last_train_target = train.end - 1 + 96 - 1;
            assert_eq!(last_train_target + 1, split.train_end);
            assert_eq!(holdout.start, last_train_target + 1 + 96);
            assert_eq!(holdout.end - 1 + 96, n_steps);
        }
    }

    #[test]
    fn holdout_hours_become_steps() {
        assert_eq!(holdout_steps(24, 0, 300), 288);
        assert_eq!(holdout_steps(24, 2, 300), 864);
        assert_eq!(holdout_steps(1, 0, 86_400), 1);
    }
}
