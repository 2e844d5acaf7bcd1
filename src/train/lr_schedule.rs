//! The learning rate inside one night: a short warm-up, then a cosine down to almost nothing.
//!
//! A pure function of the position in the night, so a resumed run needs to remember one number. Every night
//! begins anew: yesterday's moments meet today's window, and the warm-up lets them settle before the steps are
//! large. Nothing here looks at a loss, because losses of different windows do not compare.

use std::f64::consts::PI;

/// Share of a night's steps that warm up.
const WARM_UP_SHARE: f64 = 0.05;
/// Steps that warm up at most.
const WARM_UP_STEPS_MAX: f64 = 500.0;
/// Learning rate at the end of a night, as a share of the peak.
const FINAL_SHARE: f64 = 0.01;

/// The learning rate of batch `step` (from 0) of a night of `total` batches.
///
/// Rises linearly over the first 5 % of the night (at least one batch, at most 500), then follows half a cosine
/// from `peak` to 1 % of it. Past the end of the night it stays there.
pub fn learning_rate(peak: f64, step: u64, total: u64) -> f64 {
    let (step, total) = (step as f64, total.max(1) as f64);
    let warm_up = (total * WARM_UP_SHARE).clamp(1.0, WARM_UP_STEPS_MAX).floor();
    if step < warm_up {
        return peak * (step + 1.0) / warm_up;
    }
    let share_done = ((step - warm_up) / (total - 1.0 - warm_up).max(1.0)).min(1.0);
    let cosine = 0.5 * (1.0 + (PI * share_done).cos());
    peak * (FINAL_SHARE + (1.0 - FINAL_SHARE) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(step: u64, total: u64, expected: f64) {
        let got = learning_rate(1.0, step, total);
        assert!((got - expected).abs() < 1e-9, "step {step} of {total}: {got}, expected {expected}");
    }

    #[test]
    fn rows_by_hand() {
        // 100 steps: five of warm-up, then a cosine over steps 5..=99.
        case(0, 100, 0.2);
        case(4, 100, 1.0);
        case(5, 100, 1.0);
        case(52, 100, 0.505);
        case(99, 100, 0.01);
        case(500, 100, 0.01);
        // Very short nights still move, and a long one warms up for 500 steps only.
        case(0, 1, 1.0);
        case(0, 2, 1.0);
        case(1, 2, 1.0);
        case(249, 1_000_000, 0.5);
        case(500, 1_000_000, 1.0);
    }

    #[test]
    fn it_is_positive_and_falls_after_the_warm_up() {
        let rates: Vec<f64> = (0..300).map(|step| learning_rate(2e-3, step, 300)).collect();
        assert!(rates.iter().all(|rate| *rate > 0.0 && *rate <= 2e-3));
        assert!(rates[15..].windows(2).all(|pair| pair[1] < pair[0]));
    }
}
