//! One exam for all: the same rows, the same divisors, the same code, whoever is examined.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;

use super::baselines::{Baseline, Ground, Naive};
use super::divisor::Divisors;
use super::exam_grids::ExamGrids;
use super::forecast::for_each_batch;
use super::score::Scorer;
use super::scores::Scores;
use crate::config::Config;
use crate::dataset::{Preprocessing, SampleKey};
use crate::progress::{Progress, Tick};
use crate::schema::Metric;
use crate::train::artifact::TrainedModel;

/// The rows and the yardstick of one evaluation.
pub struct Exam<'a> {
    grids: ExamGrids,
    /// In steps of the window's end, as models count.
    keys_of_end: Vec<SampleKey>,
    /// The same in steps of the window.
    keys: Vec<SampleKey>,
    config: &'a Config,
    /// Metric positions of the targets in their grid.
    targets: Vec<usize>,
    divisors: Divisors,
}

impl<'a> Exam<'a> {
    /// Sets an exam: forecasts of the holdout samples of `lineage` against the window's own values, in units measured on
    /// the training part.
    ///
    /// - Errors: the lineage does not fit the window, a target of the config is no metric of it, or there are no samples.
    pub fn new(grids: ExamGrids, lineage: &Preprocessing, config: &'a Config) -> Result<Self> {
        let end = grids.end();
        let keys_of_end = end.holdout_keys(&end.dataset(lineage.clone(), config)?, config);
        ensure!(!keys_of_end.is_empty(), "the holdout has no samples to be examined on");
        let keys = keys_of_end.iter().map(|key| end.to_window(key)).collect();
        let grid = &grids.targets;
        let position = |name: &String| {
            let position = grid.metrics.iter().position(|metric| metric == name);
            position.with_context(|| format!("find target {name} in the window"))
        };
        let targets: Vec<usize> = config.model.targets.iter().map(position).collect::<Result<_>>()?;
        let divisors = Divisors::fit(grid, &targets, grids.split.train_end);
        Ok(Self { grids, keys_of_end, keys, config, targets, divisors })
    }

    /// The samples, in steps of the window and in the order of [`Scores::sample_loss`].
    pub fn keys(&self) -> &[SampleKey] {
        &self.keys
    }

    fn ground(&self) -> Ground<'_> {
        Ground {
            grid: &self.grids.targets,
            targets: &self.targets,
            train_end: self.grids.split.train_end,
            horizon: self.config.model.horizon,
            quantiles: self.config.quantiles(),
        }
    }

    fn scorer(&self) -> Result<Scorer<'_>> {
        let metric = |name: &String| -> Result<&Metric> {
            let metric = self.config.metrics.iter().find(|metric| metric.name == *name);
            metric.with_context(|| format!("find target {name} in the config"))
        };
        let metrics = self.config.model.targets.iter().map(metric).collect::<Result<_>>()?;
        Ok(Scorer::new(self.ground(), &self.divisors, metrics))
    }
}

/// Scores a model under the name `forecaster` (`challenger`, `champion`).
///
/// - Errors: the model forecasts other targets, quantiles or lengths than the exam asks for; the device fails.
pub fn score_model(
    model: &TrainedModel,
    exam: &Exam<'_>,
    device: &Device,
    forecaster: &str,
    progress: &dyn Progress,
) -> Result<Scores> {
    ensure_examinable(&model.preprocessing, exam.config).with_context(|| format!("examine {forecaster}"))?;
    let end = exam.grids.end();
    let dataset = end.dataset(model.preprocessing.clone(), exam.config)?;
    let mut scorer = exam.scorer()?;
    let mut n_done = 0;
    for_each_batch(model, &dataset, &exam.keys_of_end, device, &mut |keys, forecasts| {
        for (i, key) in keys.iter().enumerate() {
            scorer.add(&end.to_window(key), forecasts.sample(i));
        }
        scorer.add_crossings(forecasts.n_crossing, forecasts.n_pairs);
        n_done += keys.len() as u64;
        progress.tick(&Tick {
            stage: "evaluate",
            done: n_done,
            total: exam.keys.len() as u64,
            unit: "samples",
            detail: forecaster.to_owned(),
        });
        Ok(())
    })
    .with_context(|| format!("examine {forecaster}"))?;
    Ok(scorer.finish(forecaster))
}

/// Scores every baseline the training part is long enough for; persistence comes first.
///
/// - Errors: a target has no metric in the config.
pub fn score_baselines(exam: &Exam<'_>) -> Result<Vec<Scores>> {
    let mut scores = Vec::new();
    for naive in Naive::ALL {
        let Some(baseline) = Baseline::fit(naive, exam.ground(), &exam.divisors) else { continue };
        let mut scorer = exam.scorer()?;
        let mut forecast = Vec::new();
        for key in &exam.keys {
            forecast.clear();
            baseline.forecast(key, &mut forecast);
            scorer.add(key, &forecast);
        }
        scores.push(scorer.finish(baseline.name()));
    }
    Ok(scores)
}

/// Checks that a model can sit an exam set by `config` at all.
///
/// - Errors: it forecasts other targets, quantiles, lengths or steps, or needs a metric that is no more.
pub fn ensure_examinable(model: &Preprocessing, config: &Config) -> Result<()> {
    let (found, asked) = (model, &config.model);
    let is_known = |name: &&String| config.metrics.iter().any(|metric| metric.name == **name);
    if let Some(gone) = found.metrics.iter().find(|name| !is_known(name)) {
        bail!("it needs the metric {gone}, which the config no longer lists");
    }
    ensure!(
        found.step_secs == config.series.step_secs,
        "its steps have {} s, asked are {}",
        found.step_secs,
        config.series.step_secs
    );
    ensure!(
        found.targets == asked.targets,
        "it forecasts {:?}, asked are {:?}",
        found.targets,
        asked.targets
    );
    ensure!(
        found.quantiles == asked.quantiles,
        "it has the quantiles {:?}, asked are {:?}",
        found.quantiles,
        asked.quantiles
    );
    let lengths = (found.encoder_length, found.horizon);
    let asked = (asked.encoder_length, asked.horizon);
    ensure!(lengths == asked, "its encoder and horizon have {lengths:?} steps, asked are {asked:?}");
    Ok(())
}
