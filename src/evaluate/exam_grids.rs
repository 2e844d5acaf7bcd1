//! What an exam reads of a window: its targets all the way, everything else only as far back as a sample of the holdout
//! looks. The rest of the window never comes into memory.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::config::Config;
use crate::dataset::{Dataset, Preprocessing, SampleKey};
use crate::window::{Grid, Split, Window};

/// The two grids of an exam. Samples are counted by the steps of the window.
#[derive(Clone, Debug)]
pub struct ExamGrids {
    /// The targets at every step of the window: truths, and what naive forecasts and divisors are fitted on.
    pub targets: Arc<Grid>,
    /// The split of the window.
    pub split: Split,
    end: WindowEnd,
}

/// The end of a window: all that a model reads to forecast the holdout.
#[derive(Clone, Debug)]
pub struct WindowEnd {
    /// Every metric, its step 0 being `first`.
    grid: Arc<Grid>,
    split: Split,
    /// Its first step, in steps of the window.
    first: usize,
}

impl ExamGrids {
    /// Reads both from `window`.
    ///
    /// - Errors: a target of the config is no metric of the window; its file is damaged or cannot be read.
    pub fn read(window: &Window, config: &Config) -> Result<Self> {
        let outline = window.outline();
        let targets = &config.model.targets;
        for target in targets {
            ensure!(
                outline.metrics.contains(target),
                "the window has no metric `{target}`, which is a target"
            );
        }
        let first = first_step(&window.manifest.split, config);
        let wanted = [outline.clone().only_metrics(targets), outline.from_step(first)];
        let [targets, end] =
            window.read_parts(&wanted)?.try_into().ok().context("a grid for each outline")?;
        let split = window.manifest.split;
        let end = WindowEnd { grid: Arc::new(end), split: split.from_step(first), first };
        Ok(Self { targets: Arc::new(targets), split, end })
    }

    /// The same of a window that is in memory.
    #[cfg(test)]
    pub fn of_grid(grid: &Arc<Grid>, split: Split, config: &Config) -> Self {
        let first = first_step(&split, config);
        let mut end = grid.outline().from_step(first);
        for server in 0..grid.servers.len() {
            let cells = server * grid.n_steps + first..(server + 1) * grid.n_steps;
            end.values.extend(&grid.values[cells.start * grid.metrics.len()..cells.end * grid.metrics.len()]);
            end.status.extend(&grid.status[cells]);
        }
        let end = WindowEnd { grid: Arc::new(end), split: split.from_step(first), first };
        Self { targets: grid.clone(), split, end }
    }

    /// The end of the window.
    pub fn end(&self) -> &WindowEnd {
        &self.end
    }
}

impl WindowEnd {
    /// Reads it from `window`.
    ///
    /// - Errors: the window's file is damaged or cannot be read.
    pub fn read(window: &Window, config: &Config) -> Result<Self> {
        let split = window.manifest.split;
        let first = first_step(&split, config);
        let grid = window.read_parts(&[window.outline().from_step(first)])?.remove(0);
        Ok(Self { grid: Arc::new(grid), split: split.from_step(first), first })
    }

    /// It through a lineage's eyes.
    ///
    /// - Errors: the preprocessing does not fit the grid.
    pub fn dataset(&self, preprocessing: Preprocessing, config: &Config) -> Result<Dataset> {
        Dataset::new(self.grid.clone(), preprocessing, config.window.max_gap_steps)
    }

    /// The samples of the exam, in steps of `dataset`, which looks at this end.
    pub fn holdout_keys(&self, dataset: &Dataset, config: &Config) -> Vec<SampleKey> {
        dataset.holdout_keys(&self.split, config.validation.max_samples)
    }

    /// From steps of the end to steps of the window.
    pub fn to_window(&self, key: &SampleKey) -> SampleKey {
        SampleKey { cutoff: key.cutoff + self.first as u32, ..*key }
    }
}

/// Where the end begins: an encoder before the first cutoff of the holdout, and before that as far back as a value is
/// carried on over a gap. What is missing for longer is broken, with or without the steps before.
fn first_step(split: &Split, config: &Config) -> usize {
    let (encoder_length, horizon) = (config.model.encoder_length, config.model.horizon);
    let first_cutoff = split.holdout_cutoffs(encoder_length, horizon).start;
    first_cutoff.saturating_sub(encoder_length + config.window.max_gap_steps + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::grid_of;
    use crate::schema::Metric;
    use crate::window::split::plan_split;
    use candle_core::{Device, Tensor};

    fn config() -> Config {
        let mut config = Config { metrics: vec![Metric::new("load", "x")], ..Config::default() };
        config.series.step_secs = 3600;
        config.model.targets = vec!["load".into()];
        (config.model.encoder_length, config.model.horizon) = (12, 4);
        config.window.max_gap_steps = 3;
        config.validation.max_samples = 0;
        config
    }

    fn numbers(tensor: &Tensor) -> Vec<u32> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    /// A model must not notice how little of the window is there, wherever its holes lie.
    #[test]
    fn the_end_gives_the_samples_the_whole_window_gives() {
        let config = config();
        let n_steps = 24 * 8;
        let split = plan_split(n_steps, 12, 4, 24).unwrap().split;
        let first = first_step(&split, &config);
        assert!(first > 24, "there is something to leave out");
        for gap_start in first - 6..first + 20 {
            let is_gap = |server: usize, step: usize| {
                let length = [2, 3, 4, 30][server % 4];
                (gap_start..gap_start + length).contains(&step)
            };
            let value = |server: usize, step: usize| {
                if is_gap(server, step) { f32::NAN } else { (step * 7 % 31) as f32 + server as f32 }
            };
            let grid = Arc::new(grid_of(3600, n_steps, 4, value));
            let lineage = Preprocessing::fit(&grid, &split, &config, None).unwrap();
            let whole = Dataset::new(grid.clone(), lineage.clone(), config.window.max_gap_steps).unwrap();
            let grids = ExamGrids::of_grid(&grid, split, &config);
            let end = grids.end().dataset(lineage, &config).unwrap();
            let keys = grids.end().holdout_keys(&end, &config);
            let of_window: Vec<SampleKey> = keys.iter().map(|key| grids.end().to_window(key)).collect();
            assert_eq!(of_window, whole.holdout_keys(&split, 0), "gap at {gap_start}");
            assert!(!keys.is_empty());
            let one = whole.batch(&of_window, &Device::Cpu).unwrap();
            let two = end.batch(&keys, &Device::Cpu).unwrap();
            for (one, two) in [
                (&one.input.encoder_cont, &two.input.encoder_cont),
                (&one.input.decoder_cont, &two.input.decoder_cont),
                (&one.targets[0], &two.targets[0]),
                (&one.weights[0], &two.weights[0]),
            ] {
                assert_eq!(numbers(one), numbers(two), "gap at {gap_start}");
            }
        }
    }
}
