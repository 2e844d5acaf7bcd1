//! From sample keys to tensors: values are scaled, filled and masked on their way into one buffer per tensor.
//!
//! The fill rule: a missing value is replaced by the last observed one of that metric if that is at most
//! `max_gap_steps` steps old, else by the metric's centre (0 in scaled units). Filling only ever looks back. The
//! real input `missing_share` says, per encoder step, which share of the metrics was not observed. Targets are
//! never filled: where nothing was observed their weight is 0.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::model::TftInput;

use super::Dataset;
use super::samples::SampleKey;
use super::scaler::Stats;
use super::vocabulary::UNKNOWN;

/// What a network is given, and what it is held to.
#[derive(Clone, Debug)]
pub struct Batch {
    pub input: TftInput,
    /// Per target `[B, H]`, scaled; 0 where not observed.
    pub targets: Vec<Tensor>,
    /// Per target `[B, H]`: 1 where truly observed, else 0.
    pub weights: Vec<Tensor>,
    /// Per target `[B, 1]`: what one scaled unit is in the target's own unit, for each sample's server.
    pub units: Vec<Tensor>,
}

/// One sample as it is read: key, codes and statistics.
struct Sample<'a> {
    server: usize,
    cutoff: usize,
    server_id: u32,
    profile_id: u32,
    stats: &'a Stats,
}

/// What a server is seen as.
pub(super) struct Stand<'a> {
    pub server_id: u32,
    pub profile_id: u32,
    pub stats: &'a Stats,
}

impl Dataset {
    /// Inputs, targets and weights of `keys`, in their order.
    ///
    /// Every encoder and decoder has its full length; `target_scale` is (0, 1), so that the network speaks in
    /// scaled units ([`Dataset::unscale`] leads back). In the decoder only static and known columns are filled;
    /// observed ones are 0.
    ///
    /// - Errors: `keys` is empty or one of them reaches before the grid, or the device refuses.
    pub fn batch(&self, keys: &[SampleKey], device: &Device) -> Result<Batch> {
        self.batch_with_strangers(keys, |_| false, device)
    }

    /// [`Dataset::batch`] with some samples (by position in `keys`) dressed as if their server were unknown:
    /// server code 0 and the scales of the profile. Training on a few of these teaches the network to serve
    /// servers it never saw.
    pub fn batch_with_strangers(
        &self,
        keys: &[SampleKey],
        is_stranger: impl Fn(usize) -> bool,
        device: &Device,
    ) -> Result<Batch> {
        let (encoder_length, horizon) = self.lengths();
        ensure!(!keys.is_empty(), "a batch needs at least one sample");
        let samples: Vec<Sample<'_>> = keys
            .iter()
            .enumerate()
            .map(|(at, key)| self.sample(*key, is_stranger(at)))
            .collect::<Result<_>>()?;
        let input = TftInput {
            encoder_cont: self.reals(&samples, encoder_length, device, Self::write_encoder)?,
            decoder_cont: self.reals(&samples, horizon, device, Self::write_decoder)?,
            encoder_cat: self.categoricals(&samples, encoder_length, true, device)?,
            decoder_cat: self.categoricals(&samples, horizon, false, device)?,
            encoder_lengths: vec![encoder_length; keys.len()],
            decoder_lengths: vec![horizon; keys.len()],
            target_scale: self.unit_scale(keys.len(), device)?,
        };
        let (targets, weights) = self.truths(&samples, device)?;
        let units = self.units(&samples, device)?;
        Ok(Batch { input, targets, weights, units })
    }

    fn sample(&self, key: SampleKey, is_stranger: bool) -> Result<Sample<'_>> {
        let (server, cutoff) = (key.server as usize, key.cutoff as usize);
        let (encoder_length, _) = self.lengths();
        ensure!(server < self.codes.len(), "sample of a server beyond the grid");
        ensure!(
            (encoder_length..=self.grid.n_steps).contains(&cutoff),
            "a sample of server {server} at step {cutoff} reaches beyond the grid"
        );
        let Stand { server_id, profile_id, stats } = self.stand(server, is_stranger);
        Ok(Sample { server, cutoff, server_id, profile_id, stats })
    }

    /// A server of the grid as the lineage knows it, or as a stranger.
    pub(super) fn stand(&self, server: usize, is_stranger: bool) -> Stand<'_> {
        let (server_id, profile_id) = self.codes[server];
        let server_id = if is_stranger { UNKNOWN } else { server_id };
        Stand { server_id, profile_id, stats: self.preprocessing.scaler.stats(server_id, profile_id) }
    }

    /// `[B, length, R]`, written sample by sample.
    fn reals(
        &self,
        samples: &[Sample<'_>],
        length: usize,
        device: &Device,
        write: impl Fn(&Self, &Sample<'_>, &mut [f32]) + Sync,
    ) -> Result<Tensor> {
        let n_reals = self.columns.n_reals;
        let mut values = vec![0f32; samples.len() * length * n_reals];
        values
            .par_chunks_exact_mut(length * n_reals)
            .zip(samples)
            .for_each(|(part, sample)| write(self, sample, part));
        Ok(Tensor::from_vec(values, (samples.len(), length, n_reals), device)?)
    }

    fn write_encoder(&self, sample: &Sample<'_>, part: &mut [f32]) {
        let first = sample.cutoff - self.lengths().0;
        self.write_known(sample, first, part);
        for metric in 0..self.metrics.len() {
            self.write_observed(sample, metric, first, part);
        }
    }

    fn write_decoder(&self, sample: &Sample<'_>, part: &mut [f32]) {
        self.write_known(sample, sample.cutoff, part);
    }

    /// Static, calendar and relative-time columns of the steps from `first` on.
    fn write_known(&self, sample: &Sample<'_>, first: usize, part: &mut [f32]) {
        let columns = &self.columns;
        let (encoder_length, _) = self.lengths();
        let n_calendar = columns.relative_time - columns.calendar;
        let (head, rest) = part.split_at_mut(columns.n_reals);
        self.write_statics(sample.stats, &mut head[..columns.n_static]);
        for row in rest.chunks_exact_mut(columns.n_reals) {
            row[..columns.n_static].copy_from_slice(&head[..columns.n_static]);
        }
        for (i, row) in part.chunks_exact_mut(columns.n_reals).enumerate() {
            let step = first + i;
            let calendar = &self.calendar[step * n_calendar..(step + 1) * n_calendar];
            row[columns.calendar..columns.relative_time].copy_from_slice(calendar);
            row[columns.relative_time] = (step as f32 - sample.cutoff as f32) / encoder_length as f32;
        }
    }

    /// Where each target's own centre and scale lie within the fleet's: shift in fleet scales, log ratio.
    pub(super) fn write_statics(&self, stats: &Stats, statics: &mut [f32]) {
        let fleet = &self.preprocessing.scaler.fleet;
        for (pair, metric) in statics.chunks_exact_mut(2).zip(&self.targets) {
            let shift = (stats.centre[*metric] - fleet.centre[*metric]) / fleet.scale[*metric];
            let log_ratio = (stats.scale[*metric] / fleet.scale[*metric]).ln();
            pair[0] = shift.clamp(-5.0, 5.0);
            pair[1] = log_ratio.clamp(-5.0, 5.0);
        }
    }

    /// One metric's column from step `first` up to the cutoff, and its part of the missing share.
    fn write_observed(&self, sample: &Sample<'_>, metric: usize, first: usize, part: &mut [f32]) {
        let columns = &self.columns;
        let part_of_missing = 1.0 / self.metrics.len() as f32;
        let mut last = 0f32;
        let mut age = self.max_gap_steps + 1;
        for step in first.saturating_sub(self.max_gap_steps)..sample.cutoff {
            let value = self.grid.row(sample.server, step)[self.metrics[metric]];
            if value.is_finite() {
                last = sample.stats.scale(metric, value);
                age = 0;
            } else {
                age += 1;
            }
            if step >= first {
                let row = &mut part[(step - first) * columns.n_reals..][..columns.n_reals];
                row[columns.metrics + metric] = if age <= self.max_gap_steps { last } else { 0.0 };
                row[columns.missing] += if age == 0 { 0.0 } else { part_of_missing };
            }
        }
    }

    /// `[B, length, C]`: server and profile at every step, the status where it is known and past.
    fn categoricals(
        &self,
        samples: &[Sample<'_>],
        length: usize,
        is_encoder: bool,
        device: &Device,
    ) -> Result<Tensor> {
        let n_categoricals = self.columns.n_categoricals;
        let mut codes = Vec::with_capacity(samples.len() * length * n_categoricals);
        for sample in samples {
            for i in 0..length {
                codes.extend([sample.server_id, sample.profile_id]);
                if self.preprocessing.has_status {
                    let status = || self.status_code(sample.server, sample.cutoff - length + i);
                    codes.push(if is_encoder { status() } else { UNKNOWN });
                }
            }
        }
        Ok(Tensor::from_vec(codes, (samples.len(), length, n_categoricals), device)?)
    }

    fn status_code(&self, server: usize, step: usize) -> u32 {
        self.status_codes[usize::from(self.grid.status[server * self.grid.n_steps + step])]
    }

    /// Per target `[B, H]`: scaled truths and their weights.
    fn truths(&self, samples: &[Sample<'_>], device: &Device) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let (_, horizon) = self.lengths();
        let shape = (samples.len(), horizon);
        let mut tensors = (Vec::new(), Vec::new());
        for metric in &self.targets {
            let mut values = vec![0f32; samples.len() * horizon];
            let mut weights = vec![0f32; samples.len() * horizon];
            for (b, sample) in samples.iter().enumerate() {
                for (h, step) in (sample.cutoff..self.grid.n_steps).take(horizon).enumerate() {
                    let value = self.grid.row(sample.server, step)[self.metrics[*metric]];
                    if value.is_finite() {
                        values[b * horizon + h] = sample.stats.scale(*metric, value);
                        weights[b * horizon + h] = 1.0;
                    }
                }
            }
            tensors.0.push(Tensor::from_vec(values, shape, device)?);
            tensors.1.push(Tensor::from_vec(weights, shape, device)?);
        }
        Ok(tensors)
    }

    /// Per target `[B, 1]`: the scale each sample is seen through.
    fn units(&self, samples: &[Sample<'_>], device: &Device) -> Result<Vec<Tensor>> {
        let of_target = |metric: &usize| {
            let scales: Vec<f32> = samples.iter().map(|sample| sample.stats.scale[*metric]).collect();
            Ok(Tensor::from_vec(scales, (samples.len(), 1), device)?)
        };
        self.targets.iter().map(of_target).collect()
    }

    fn unit_scale(&self, n_samples: usize, device: &Device) -> Result<Vec<Tensor>> {
        let unit = Tensor::from_vec([0f32, 1.0].repeat(n_samples), (n_samples, 2), device)?;
        Ok(vec![unit; self.targets.len()])
    }
}
