//! What each target did in an epoch: its mean loss in scaled units and in its own unit.
//!
//! A tally is part of a checkpoint. It holds finite double sums, added up batch by batch in the order of the epoch;
//! JSON gives doubles back to the bit, so a run that was killed ends with the same tallies as one that was not.

use serde::{Deserialize, Serialize};

/// A target's sums over the points of an epoch so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetTally {
    pub name: String,
    /// Its weight in the loss; the mean over targets is 1.
    pub weight: f64,
    /// Observed points of the batches that made a step.
    pub n_points: u64,
    /// Sum of the points' losses, in scaled units.
    pub scaled_sum: f64,
    /// The same in the target's own unit.
    pub own_sum: f64,
}

/// A target's means over the points of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchMeans {
    pub n_points: u64,
    pub scaled: f64,
    pub own: f64,
}

/// A target's part in a training, as `training.json` tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetLoss {
    pub name: String,
    pub unit: String,
    /// Its weight in the loss; the mean over targets is 1.
    pub weight: f64,
    /// Observed points behind the losses.
    pub n_points: u64,
    /// Mean quantile loss in scaled units: the error in scales of the point's server.
    pub loss_scaled: f64,
    /// Mean quantile loss in the target's own unit.
    pub loss_own_unit: f64,
}

impl TargetTally {
    pub fn new(name: &str, weight: f64) -> Self {
        Self { name: name.to_owned(), weight, n_points: 0, scaled_sum: 0.0, own_sum: 0.0 }
    }

    /// Adds a batch. A mean too large for its unit to be written as a float counts as the largest float.
    pub fn add(&mut self, batch: BatchMeans) {
        let largest = f64::from(f32::MAX);
        let sum = |mean: f64| if mean.is_finite() { mean.min(largest) } else { largest };
        self.n_points += batch.n_points;
        self.scaled_sum += sum(batch.scaled) * batch.n_points as f64;
        self.own_sum += sum(batch.own) * batch.n_points as f64;
    }

    /// The means so far (0 before the first point), with the target's `unit` beside them.
    pub fn losses(&self, unit: String) -> TargetLoss {
        let n_points = self.n_points.max(1) as f64;
        TargetLoss {
            name: self.name.clone(),
            unit,
            weight: self.weight,
            n_points: self.n_points,
            loss_scaled: self.scaled_sum / n_points,
            loss_own_unit: self.own_sum / n_points,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn means_are_over_points_and_not_over_batches() {
        let mut tally = TargetTally::new("net", 1.0);
        assert_eq!(tally.losses(String::new()).loss_scaled, 0.0);
        tally.add(BatchMeans { n_points: 3, scaled: 0.5, own: 50.0 });
        tally.add(BatchMeans { n_points: 1, scaled: 0.1, own: 30.0 });
        tally.add(BatchMeans::default());
        let losses = tally.losses("MB/s".into());
        assert_eq!((losses.n_points, losses.unit.as_str()), (4, "MB/s"));
        assert!((losses.loss_scaled - 0.4).abs() < 1e-12 && (losses.loss_own_unit - 45.0).abs() < 1e-12);
    }

    #[test]
    fn no_number_that_json_cannot_hold_gets_in() {
        let mut tally = TargetTally::new("net", 1.0);
        for own in [f64::INFINITY, f64::NAN, f64::MAX] {
            tally.add(BatchMeans { n_points: u64::from(u32::MAX), scaled: 0.5, own });
        }
        assert!(tally.own_sum.is_finite(), "{tally:?}");
    }

    proptest! {
        #[test]
        fn json_gives_the_sums_back_to_the_bit(
            scaled in proptest::collection::vec(0.0f32..100.0, 1..20),
            size in -30i32..30,
        ) {
            let mut tally = TargetTally::new("net", 1.0 / 3.0);
            for scaled in scaled {
                let own = f64::from(scaled) * 10f64.powi(size);
                tally.add(BatchMeans { n_points: 7, scaled: f64::from(scaled), own });
            }
            let json = serde_json::to_string(&tally).unwrap();
            let read: TargetTally = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.own_sum.to_bits(), tally.own_sum.to_bits());
            prop_assert_eq!(read, tally);
        }
    }
}
