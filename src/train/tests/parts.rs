//! Stories of trainings on a window larger than memory: part by part, to the bits of a run that is never stopped.

use super::*;
use crate::dataset::Preprocessing;
use crate::dataset::drift::StaleScales;
use crate::train::epoch::Epoch;
use crate::window::testing::feed_in_parts;

const NAMES: [&str; 5] = ["db1", "db2", "db3", "ml1", "zz1"];

/// The toy with five servers, of which two are in memory.
struct Parts {
    toy: Toy,
    feed: Feed,
}

fn parts() -> Parts {
    let mut toy = Toy::new();
    toy.grid = Arc::new(grid(&NAMES, 10));
    toy.site.config.training.samples_per_epoch = 200;
    toy.site.config.training.checkpoint_secs = 0;
    let feed = feed_in_parts(toy.site.root.as_path(), &toy.grid, 2);
    Parts { toy, feed }
}

impl Parts {
    fn train_with(&self, stop: &AtomicBool, progress: &dyn Progress) -> Result<TrainOutcome> {
        let material = self.toy.material(&self.feed);
        train_on(&self.toy.site, &material, &epochs(2), stop, now(), progress)
    }

    fn train(&self) -> Result<TrainOutcome> {
        self.train_with(&AtomicBool::new(false), &Silent)
    }
}

#[test]
fn what_is_fitted_part_by_part_is_what_is_fitted_in_memory() {
    let Parts { toy, feed } = parts();
    let (split, config) = (&toy.split, &toy.site.config);
    let in_parts = Survey::of(&feed, split, config, true).unwrap();
    let in_memory = toy.survey();
    assert_eq!(in_parts.outline, in_memory.outline);
    for (a, b) in in_parts.servers.iter().zip(&in_memory.servers) {
        assert_eq!((&a.cutoffs, &a.moments), (&b.cutoffs, &b.moments));
    }
    let fitted = Preprocessing::fit_to(&in_parts, config, None).unwrap();
    assert_eq!(fitted, Preprocessing::fit(&toy.grid, split, config, None).unwrap());
    let stale = |survey: &Survey| StaleScales::find(&fitted, survey).unwrap();
    assert_eq!(stale(&in_parts), stale(&in_memory));
}

#[test]
fn a_run_stopped_at_any_batch_ends_in_the_same_bits() {
    let unbroken = parts().train().unwrap();
    // 200 samples of three parts are 13 to 15 batches of at most 16.
    let n_batches = unbroken.record.total_batches;
    assert!((26..=30).contains(&n_batches), "{n_batches}");
    for at in [1, 5, 13, 14, n_batches - 1] {
        let broken = parts();
        let stop = AtomicBool::new(false);
        let listener = AtBatch::new(at, || stop.store(true, Ordering::SeqCst));
        assert!(broken.train_with(&stop, &listener).is_err(), "stopped at batch {at}");
        let resumed = broken.train().unwrap();
        assert_eq!(resumed.weights_sha256, unbroken.weights_sha256, "stopped at batch {at}");
        assert_eq!(resumed.record.losses, unbroken.record.losses);
    }
}

#[test]
fn epochs_of_different_sizes_are_counted_as_they_are() {
    let mut toy = Toy::new();
    toy.site.config.training.samples_per_epoch = 0;
    toy.site.config.training.sample_stride = 7;
    let outcome = toy.train(&epochs(5)).unwrap();
    let epoch =
        |number| Epoch::plan(&toy.feed(), &toy.survey(), &toy.site.config.training, 42, number).size(16);
    let sizes: Vec<_> = (0..5).map(epoch).collect();
    assert!(sizes.iter().any(|size| size.n_samples != sizes[0].n_samples), "{sizes:?}");
    assert_eq!(outcome.record.total_batches, sizes.iter().map(|size| size.n_batches).sum::<u64>());
    assert_eq!(outcome.record.n_samples, sizes[4].n_samples);
}
