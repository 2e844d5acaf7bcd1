//! A model's quantile forecasts in original units, batch by batch.

use anyhow::{Context, Result, ensure};
use candle_core::Device;

use super::score::cut_to_range;
use crate::dataset::{Dataset, SampleKey};
use crate::model::{Mode, Tft, TftOutput};
use crate::schema::Metric;
use crate::train::artifact::TrainedModel;

/// Samples forecast at once: memory grows with this, not with the number of samples.
const BATCH: usize = 64;

/// Forecasts of some samples, as they are served: in original units, sorted along the quantiles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecasts {
    pub n_samples: usize,
    pub n_targets: usize,
    pub horizon: usize,
    /// Levels, ascending. Q of them.
    pub quantiles: Vec<f64>,
    /// `[N, target, H, Q]` row-major.
    pub values: Vec<f32>,
    /// Neighbouring quantile pairs that the network put out in the wrong order.
    pub n_crossing: u64,
    /// Neighbouring quantile pairs in all.
    pub n_pairs: u64,
    /// Values that are NaN or infinite.
    pub n_not_finite: u64,
}

impl Forecasts {
    /// The quantiles of one point, `[Q]`.
    pub fn quantiles_at(&self, sample: usize, target: usize, h: usize) -> &[f32] {
        let n = self.quantiles.len();
        let start = ((sample * self.n_targets + target) * self.horizon + h) * n;
        &self.values[start..start + n]
    }

    /// All of one sample, `[target, H, Q]`.
    pub fn sample(&self, sample: usize) -> &[f32] {
        let n = self.n_targets * self.horizon * self.quantiles.len();
        &self.values[sample * n..(sample + 1) * n]
    }

    /// Cuts every value to the range of its metric; `metrics` has one entry per target.
    pub fn cut_to_range(&mut self, metrics: &[&Metric]) {
        let n_per_target = self.horizon * self.quantiles.len();
        for (i, values) in self.values.chunks_mut(n_per_target.max(1)).enumerate() {
            let metric = metrics[i % self.n_targets];
            values.iter_mut().for_each(|value| *value = cut_to_range(metric, *value));
        }
    }

    fn append(&mut self, other: Forecasts) {
        self.n_samples += other.n_samples;
        self.values.extend(other.values);
        self.n_crossing += other.n_crossing;
        self.n_pairs += other.n_pairs;
        self.n_not_finite += other.n_not_finite;
    }
}

/// Forecasts the samples `keys` of `dataset`, which must look at its grid through the model's preprocessing.
///
/// Nothing is recorded for a backward. Values are not cut to their metrics' ranges, see
/// [`Forecasts::cut_to_range`]; a NaN is counted and left in place, last among its quantiles.
///
/// - Errors: the dataset is another model's, a key does not fit, or the device fails.
pub fn predict(
    model: &TrainedModel,
    dataset: &Dataset,
    keys: &[SampleKey],
    device: &Device,
) -> Result<Forecasts> {
    let preprocessing = &model.preprocessing;
    let mut all = Forecasts {
        n_targets: preprocessing.targets.len(),
        horizon: preprocessing.horizon,
        quantiles: preprocessing.quantiles.clone(),
        ..Forecasts::default()
    };
    for_each_batch(model, dataset, keys, device, &mut |_, forecasts| {
        all.append(forecasts);
        Ok(())
    })?;
    Ok(all)
}

/// [`predict`] that hands out each batch as it is ready, with the keys it belongs to.
///
/// - Errors: those of [`predict`], or what `take` returns.
pub fn for_each_batch(
    model: &TrainedModel,
    dataset: &Dataset,
    keys: &[SampleKey],
    device: &Device,
    take: &mut dyn FnMut(&[SampleKey], Forecasts) -> Result<()>,
) -> Result<()> {
    ensure!(
        dataset.preprocessing() == &model.preprocessing,
        "the dataset was prepared for another model than the one that forecasts"
    );
    let network = Tft::new(&model.config, &model.params.detached()).context("build the network")?;
    for keys in keys.chunks(BATCH) {
        let batch = dataset.batch(keys, device).context("prepare a batch")?;
        let output = network.forward(&batch.input, &Mode::Eval).context("forecast a batch")?;
        take(keys, served(&output, dataset, keys)?)?;
    }
    Ok(())
}

/// From `[B, H, Q]` per target in scaled units to what is served.
fn served(output: &TftOutput, dataset: &Dataset, keys: &[SampleKey]) -> Result<Forecasts> {
    let preprocessing = dataset.preprocessing();
    let (n_targets, horizon) = (preprocessing.targets.len(), preprocessing.horizon);
    let n_quantiles = preprocessing.quantiles.len();
    let mut forecasts = Forecasts {
        n_samples: keys.len(),
        n_targets,
        horizon,
        quantiles: preprocessing.quantiles.clone(),
        values: vec![0.0; keys.len() * n_targets * horizon * n_quantiles],
        ..Forecasts::default()
    };
    let n_per_sample = horizon * n_quantiles;
    for (target, prediction) in output.prediction.iter().enumerate() {
        let scaled: Vec<f32> = prediction.flatten_all()?.to_vec1()?;
        ensure!(scaled.len() == keys.len() * n_per_sample, "a forecast of the wrong size");
        for (sample, scaled) in scaled.chunks(n_per_sample).enumerate() {
            let server = keys[sample].server as usize;
            let start = (sample * n_targets + target) * n_per_sample;
            for (i, row) in scaled.chunks(n_quantiles).enumerate() {
                forecasts.n_pairs += n_quantiles as u64 - 1;
                forecasts.n_crossing += row.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
                let out = &mut forecasts.values[start + i * n_quantiles..][..n_quantiles];
                for (out, scaled) in out.iter_mut().zip(row) {
                    *out = dataset.unscale(server, target, *scaled);
                }
                out.sort_unstable_by(f32::total_cmp);
            }
        }
    }
    forecasts.n_not_finite = forecasts.values.iter().filter(|value| !value.is_finite()).count() as u64;
    Ok(forecasts)
}
