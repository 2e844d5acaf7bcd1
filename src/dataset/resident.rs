//! A window that stays on a GPU, where batches are gathered by index: what crosses to the device per sample is two words.
//!
//! The batches are those of [`super::batch`], to the bit: scaling, filling and masking are the same arithmetic, and what is
//! more than that (logarithms, the calendar) is computed once, here. A window that is larger than half of the memory that
//! the device has left stays on the host.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::batch::{Batch, Stand};
use super::scaler::SCALED_LIMIT;
use super::{Dataset, SampleKey};
use crate::model::TftInput;
use crate::ops::cuda;
use crate::ops::cuda::gather::{Inputs, Window};
use crate::ops::cuda::machine::Memory;

/// What of a dataset goes to the device, in the shapes of [`Inputs`].
pub(super) struct Parts {
    pub window: Window,
    pub statuses: Vec<u32>,
    pub codes: Vec<u32>,
    pub stats: Vec<f32>,
    pub statics: Vec<f32>,
}

/// A dataset's values on a GPU.
pub struct Resident {
    device: Device,
    window: Window,
    n_steps: usize,
    n_servers: usize,
    /// Values, statuses, calendar, codes, statistics and statics.
    tensors: [Tensor; 6],
}

impl Dataset {
    /// Puts the values onto `device`; `None` for the CPU, or where they would not leave it enough memory.
    ///
    /// - Errors: a code that its vocabulary does not have; the device refuses.
    pub fn resident(&self, device: &Device) -> Result<Option<Resident>> {
        let Some(n_free) = cuda::free_bytes(device)? else { return Ok(None) };
        let n_bytes = 4 * (self.grid.values.len() + self.grid.status.len());
        if 2 * n_bytes > n_free {
            return Ok(None);
        }
        let parts = self.parts()?;
        let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), device);
        // Never empty: memory has an address.
        let words = |words: &[u32]| {
            Tensor::from_slice(if words.is_empty() { &[0] } else { words }, words.len().max(1), device)
        };
        let tensors = [
            vector(&self.grid.values)?,
            words(&parts.statuses)?,
            vector(&self.calendar)?,
            words(&parts.codes)?,
            vector(&parts.stats)?,
            vector(&parts.statics)?,
        ];
        let (n_steps, n_servers) = (self.grid.n_steps, self.codes.len());
        Ok(Some(Resident { device: device.clone(), window: parts.window, n_steps, n_servers, tensors }))
    }

    /// Codes are checked here, once for all batches.
    pub(super) fn parts(&self) -> Result<Parts> {
        let (columns, n_metrics) = (&self.columns, self.metrics.len());
        let (mut codes, mut stats, mut statics) = (Vec::new(), Vec::new(), Vec::new());
        for server in 0..self.codes.len() {
            for is_stranger in [false, true] {
                let Stand { server_id, profile_id, stats: own } = self.stand(server, is_stranger);
                codes.extend([server_id, profile_id]);
                stats.extend_from_slice(&own.centre[..n_metrics]);
                stats.extend_from_slice(&own.scale[..n_metrics]);
                let start = statics.len();
                statics.resize(start + columns.n_static, 0.0);
                self.write_statics(own, &mut statics[start..]);
            }
        }
        let statuses: Vec<u32> = match self.preprocessing.has_status {
            true => self.grid.status.iter().map(|&status| self.status_codes[usize::from(status)]).collect(),
            false => Vec::new(),
        };
        self.ensure_known(&codes, &statuses)?;
        let (history, horizon) = self.lengths();
        let window = Window {
            history,
            horizon,
            n_steps: self.grid.n_steps,
            n_columns: self.grid.metrics.len(),
            metrics: self.metrics.clone(),
            targets: self.targets.clone(),
            n_static: columns.n_static,
            calendar: columns.calendar,
            relative_time: columns.relative_time,
            first_metric: columns.metrics,
            missing: columns.missing,
            n_reals: columns.n_reals,
            n_codes: columns.n_categoricals,
            max_gap: self.max_gap_steps,
            scaled_limit: SCALED_LIMIT,
        };
        Ok(Parts { window, statuses, codes, stats, statics })
    }

    fn ensure_known(&self, codes: &[u32], statuses: &[u32]) -> Result<()> {
        let vocabulary = &self.preprocessing.vocabulary;
        let servers = codes.iter().step_by(2).max();
        let profiles = codes.iter().skip(1).step_by(2).max();
        for (what, largest, names) in [
            ("server", servers, &vocabulary.servers),
            ("profile", profiles, &vocabulary.profiles),
            ("status", statuses.iter().max(), &vocabulary.statuses),
        ] {
            let fits = largest.is_none_or(|&code| code as usize <= names.len());
            ensure!(fits, "a {what} code beyond the vocabulary of {} names", names.len());
        }
        Ok(())
    }
}

impl Resident {
    /// [`Dataset::batch_with_strangers`], gathered on the device.
    ///
    /// - Errors: `keys` is empty or one of them reaches beyond the grid; the device refuses.
    pub fn batch(&self, keys: &[SampleKey], is_stranger: impl Fn(usize) -> bool) -> Result<Batch> {
        let samples = self.samples(keys, is_stranger)?;
        let words = Tensor::from_slice(&samples, samples.len(), &self.device)?;
        self.gather(cuda::address(&words)?, keys.len())
    }

    /// The batch of `n` samples whose [`samples`](Self::samples) lie at an address on the device: launches that are the same
    /// every time.
    pub fn gather(&self, samples_at: u64, n: usize) -> Result<Batch> {
        let &Window { history, horizon, n_reals, n_codes, .. } = &self.window;
        let [past, future, past_codes, future_codes, truths, weights, units] =
            cuda::over(self.tensors.each_ref(), |machine, memory| {
                let [values, statuses, calendar, codes, stats, statics] = memory;
                let inputs = Inputs { values, statuses, calendar, codes, stats, statics };
                let samples = Memory { address: samples_at, len: 2 * n };
                let made = self.window.gather(machine, inputs, (samples, n))?;
                let ([past, future], [past_codes, future_codes]) = (made.reals, made.codes);
                Ok([past, future, past_codes, future_codes, made.truths, made.weights, made.units])
            })?;
        let n_targets = self.window.targets.len();
        let each =
            |all: Tensor| (0..n_targets).map(|target| all.get(target)).collect::<candle_core::Result<_>>();
        let column = |value: Tensor| value.reshape((n, 1));
        let (centre, scale) =
            (Tensor::zeros(n, DType::F32, &self.device)?, Tensor::ones(n, DType::F32, &self.device)?);
        let unit = Tensor::cat(&[column(centre)?, column(scale)?], 1)?;
        Ok(Batch {
            input: TftInput {
                encoder_cont: cuda::tensor(past, (n, history, n_reals)),
                decoder_cont: cuda::tensor(future, (n, horizon, n_reals)),
                encoder_cat: cuda::words(past_codes, (n, history, n_codes))?,
                decoder_cat: cuda::words(future_codes, (n, horizon, n_codes))?,
                encoder_lengths: vec![history; n],
                decoder_lengths: vec![horizon; n],
                target_scale: vec![unit; n_targets],
            },
            targets: each(cuda::tensor(truths, (n_targets, n, horizon)))?,
            weights: each(cuda::tensor(weights, (n_targets, n, horizon)))?,
            units: each(cuda::tensor(units, (n_targets, n, 1)))?,
        })
    }

    /// Row and cutoff of each sample.
    ///
    /// - Errors: `keys` is empty or one of them reaches beyond the grid.
    pub fn samples(&self, keys: &[SampleKey], is_stranger: impl Fn(usize) -> bool) -> Result<Vec<u32>> {
        ensure!(!keys.is_empty(), "a batch needs at least one sample");
        let mut words = Vec::with_capacity(2 * keys.len());
        for (at, key) in keys.iter().enumerate() {
            let (server, cutoff) = (key.server as usize, key.cutoff as usize);
            (server < self.n_servers).then_some(()).context("sample of a server beyond the grid")?;
            ensure!(
                (self.window.history..=self.n_steps).contains(&cutoff),
                "a sample of server {server} at step {cutoff} reaches beyond the grid"
            );
            words.extend([2 * key.server + u32::from(is_stranger(at)), key.cutoff]);
        }
        Ok(words)
    }
}
