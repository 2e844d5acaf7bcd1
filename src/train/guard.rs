//! What happens to a step whose loss or gradient is not a number: it is skipped and counted, and too many stop
//! the run before anything of them reaches a checkpoint.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Skipped steps a run may have whatever its length.
const SKIPS_ALWAYS_ALLOWED: u64 = 10;
/// Share of a run's steps that may be skipped.
const SKIP_SHARE: f64 = 0.05;

/// Counts of a run's good and skipped steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    pub n_applied: u64,
    pub n_skipped: u64,
}

impl Guard {
    /// Whether a step may be taken along this gradient.
    pub fn is_finite(loss: f64, gradient_norm: f64) -> bool {
        loss.is_finite() && gradient_norm.is_finite()
    }

    /// Decides about one step: whether to apply it.
    ///
    /// - Errors: more than ten steps, and more than 5 % of the `n_planned` steps of the run, were skipped.
    pub fn admit(&mut self, loss: f64, gradient_norm: f64, n_planned: u64) -> Result<bool> {
        if Self::is_finite(loss, gradient_norm) {
            self.n_applied += 1;
            return Ok(true);
        }
        self.n_skipped += 1;
        let limit = SKIPS_ALWAYS_ALLOWED.max((n_planned as f64 * SKIP_SHARE) as u64);
        ensure!(
            self.n_skipped <= limit,
            "training diverged: {} of {} steps had a loss or gradient that is not finite; the last checkpoint \
             is from before",
            self.n_skipped,
            self.n_skipped + self.n_applied
        );
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bad_steps_are_skipped_and_counted() {
        let mut guard = Guard::default();
        assert!(guard.admit(0.3, 1.0, 50).unwrap());
        assert!(!guard.admit(f64::NAN, 1.0, 50).unwrap());
        assert!(!guard.admit(0.3, f64::INFINITY, 50).unwrap());
        assert_eq!(guard, Guard { n_applied: 1, n_skipped: 2 });
    }

    #[track_caller]
    fn stops_after(n_planned: u64, expected: u64) {
        let mut guard = Guard::default();
        let n_survived = (0..).take_while(|_| guard.admit(f64::NAN, 0.0, n_planned).is_ok()).count();
        assert_eq!(n_survived as u64, expected, "of {n_planned} planned steps");
    }

    #[test]
    fn too_many_stop_the_run() {
        stops_after(1, 10);
        stops_after(200, 10);
        stops_after(1000, 50);
    }
}
