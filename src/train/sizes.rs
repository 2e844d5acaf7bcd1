//! How large the epochs of a run are, counted before it begins: what the learning rate and the progress are planned by.

use anyhow::{Result, ensure};

use super::checkpoint::State;
use super::epoch::{Epoch, Size};
use crate::config::TrainingConfig;
use crate::dataset::Survey;
use crate::error::Refusal;
use crate::window::Feed;

/// What a run has behind it at the beginning of each of its epochs, and at its end.
pub fn sizes(state: &State, feed: &Feed, survey: &Survey, settings: &TrainingConfig) -> Vec<Size> {
    let first = state.total_epochs - u64::from(state.run.epochs_done);
    let mut sizes = vec![Size::default()];
    for epoch in first..first + u64::from(state.run.epochs_planned) {
        let size = Epoch::plan(feed, survey, settings, state.seed, epoch).size(settings.batch_size);
        sizes.push(sizes[sizes.len() - 1].plus(size));
    }
    sizes
}

/// Notes the size of the epoch that comes next, or checks that a continued one has it.
pub fn fix_size(state: &mut State, sizes: &[Size]) -> Result<()> {
    let done = state.run.epochs_done as usize;
    let (Some(before), Some(after)) = (sizes.get(done), sizes.get(done + 1)) else { return Ok(()) };
    let (n_samples, n_batches) = (after.n_samples - before.n_samples, after.n_batches - before.n_batches);
    let run = &mut state.run;
    let (is_new, found) = (run.epoch.batches_done == 0, (run.n_samples, run.n_batches));
    ensure!(
        is_new || found == (n_samples, n_batches),
        "the epoch in the checkpoint has {} samples, the window gives {n_samples}",
        run.n_samples
    );
    (run.n_samples, run.n_batches) = (n_samples, n_batches);
    Ok(())
}

/// - Errors: a usage error: all epochs together take nothing.
pub fn ensure_takes_any(sizes: &[Size], settings: &TrainingConfig) -> Result<()> {
    let takes_any = sizes.len() < 2 || sizes.iter().any(|size| size.n_batches > 0);
    if takes_any {
        return Ok(());
    }
    let stride = settings.sample_stride;
    Err(Refusal::usage(format!(
        "with training.sample_stride = {stride} an epoch takes no sample of this window"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn epochs_that_take_nothing_are_a_usage_error_that_names_the_stride() {
        let settings = TrainingConfig { sample_stride: 900, ..TrainingConfig::default() };
        let some = Size { n_samples: 3, n_batches: 1 };
        for sizes in
            [vec![Size::default()], vec![Size::default(), some], vec![Size::default(), Size::default(), some]]
        {
            ensure_takes_any(&sizes, &settings).unwrap();
        }
        let error = ensure_takes_any(&[Size::default(); 3], &settings).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("sample_stride = 900"), "{error}");
    }
}
