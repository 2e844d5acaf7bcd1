//! What a model would have forecast for an exam's samples, beside what came: for those who want to look closer than a
//! verdict does, or score with a measure of their own.
//!
//! One row per server, target, cutoff and step ahead: `server_name, metric, cutoff, step_ahead, timestamp, truth` and one
//! column per quantile. `cutoff` is the first step that is forecast, `step_ahead` counts from 1. Values are those the
//! exam scores: in the metric's unit, sorted along the quantiles, cut to the metric's range.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use polars::prelude::{Column, DataFrame, ParquetWriter};

use super::make::target_metrics;
use super::store::{datetime_column, quantile_column};
use crate::config::Config;
use crate::dataset::{Dataset, SampleKey};
use crate::evaluate::forecast::for_each_batch;
use crate::evaluate::{Forecasts, WindowEnd};
use crate::fsx;
use crate::schema::Metric;
use crate::train::TrainedModel;
use crate::window::Window;

/// Forecasts the samples on which `window` examines a model under `config` and writes them to a parquet file, a batch
/// at a time. Returns the number of samples.
///
/// - Errors: the window has no such samples, the model does not fit it, the device fails, or the file cannot be written.
pub fn write_holdout(
    path: &Path,
    model: &TrainedModel,
    window: &Window,
    config: &Config,
    device: &Device,
) -> Result<usize> {
    let end = WindowEnd::read(window, config)?;
    let dataset = end.dataset(model.preprocessing.clone(), config)?;
    let keys = end.holdout_keys(&dataset, config);
    let metrics = target_metrics(config, model)?;
    fsx::write_durable_with(path, |file| {
        let empty = Forecasts { quantiles: model.preprocessing.quantiles.clone(), ..Forecasts::default() };
        let schema = table(&dataset, &metrics, &[], &empty)?.schema().clone();
        let mut writer = ParquetWriter::new(file).batched(&schema)?;
        for_each_batch(model, &dataset, &keys, device, &mut |keys, mut forecasts| {
            forecasts.cut_to_range(&metrics);
            Ok(writer.write_batch(&table(&dataset, &metrics, keys, &forecasts)?)?)
        })?;
        writer.finish().context("finish the parquet")?;
        Ok(())
    })?;
    Ok(keys.len())
}

/// The rows of some samples, by sample, target and step.
fn table(
    dataset: &Dataset,
    metrics: &[&Metric],
    keys: &[SampleKey],
    forecasts: &Forecasts,
) -> Result<DataFrame> {
    let grid = dataset.grid();
    let points = || {
        let samples = keys.iter().enumerate();
        samples.flat_map(|(sample, key)| {
            (0..metrics.len())
                .flat_map(move |target| (0..forecasts.horizon).map(move |h| (sample, *key, target, h)))
        })
    };
    let server = |key: SampleKey| grid.servers[key.server as usize].name.as_str();
    let time = |step: usize| grid.time_ms(step);
    let servers: Vec<&str> = points().map(|(_, key, _, _)| server(key)).collect();
    let targets: Vec<&str> = points().map(|(_, _, target, _)| metrics[target].name.as_str()).collect();
    let cutoffs: Vec<i64> = points().map(|(_, key, _, _)| time(key.cutoff as usize)).collect();
    let ahead: Vec<u32> = points().map(|(_, _, _, h)| h as u32 + 1).collect();
    let times: Vec<i64> = points().map(|(_, key, _, h)| time(key.cutoff as usize + h)).collect();
    let truths: Vec<Option<f32>> =
        points().map(|(_, key, target, h)| dataset.target_value(key, target, h)).collect();
    let mut columns = vec![
        Column::new("server_name".into(), servers),
        Column::new("metric".into(), targets),
        datetime_column("cutoff", &cutoffs)?,
        Column::new("step_ahead".into(), ahead),
        datetime_column("timestamp", &times)?,
        Column::new("truth".into(), truths),
    ];
    for (at, level) in forecasts.quantiles.iter().enumerate() {
        let value = |(sample, _, target, h)| forecasts.quantiles_at(sample, target, h)[at];
        let values: Vec<f32> = points().map(value).collect();
        columns.push(Column::new(quantile_column(*level).into(), values));
    }
    DataFrame::new(columns[0].len(), columns).context("lay out the forecasts as a table")
}
