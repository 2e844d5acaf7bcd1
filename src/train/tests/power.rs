//! Checkpoints on a disk whose power goes, and which fails, at any change: there is always a whole one to go on from.

use anyhow::ensure;

use super::super::checkpoint::{self, Parts};
use super::*;
use crate::fsx::simulated::{Trial, nothing};

#[test]
fn a_save_leaves_the_checkpoint_before_it_or_its_own() {
    let toy = Toy::new();
    toy.train(&epochs(1)).unwrap();
    let trained = toy.last();
    let save = |root: &Path, total_steps: u64| {
        let mut state = trained.state.clone();
        state.total_steps = total_steps;
        checkpoint::write(&root.join("checkpoints"), &Parts { state: &state, ..trained.parts() })
    };
    let prepare = |root: &Path| [1, 2].into_iter().for_each(|steps| save(root, steps).unwrap());
    let run = |root: &Path, promise: &dyn Fn()| {
        save(root, 3)?;
        promise();
        Ok(())
    };
    let check = |root: &Path, n_promised: usize| {
        let found = Checkpoint::open_latest(&root.join("checkpoints"), &Silent)?;
        let steps = found.map(|checkpoint| checkpoint.state.total_steps);
        ensure!(steps == Some(3) || (n_promised == 0 && steps == Some(2)), "found the one of step {steps:?}");
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}
