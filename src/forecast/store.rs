//! Kept forecasts: ordinary parquet, one row per server, metric and step, one file per logical date.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::NaiveDate;
use polars::prelude::{
    Column, DataFrame, DataType, Float32Chunked, ParquetReader, ParquetWriter, SerReader, TimeUnit,
};

use super::FleetForecast;
use crate::calendar;
use crate::fsx::{self, File};
use crate::site::Site;

/// Where the forecast of a logical date is kept.
pub fn kept_path(site: &Site, logical_date: NaiveDate) -> PathBuf {
    site.forecasts_dir().join(format!("{logical_date}.parquet"))
}

/// Keeps a forecast under its logical date, replacing an earlier one of the same date, and returns the path.
pub fn keep(site: &Site, logical_date: NaiveDate, forecast: &FleetForecast) -> Result<PathBuf> {
    let path = kept_path(site, logical_date);
    let mut frame = to_frame(forecast)?;
    fsx::write_durable_with(&path, |file| write_parquet(file, &mut frame))?;
    Ok(path)
}

/// Writes a frame as zstd parquet.
pub fn write_parquet(file: &mut File, frame: &mut DataFrame) -> Result<()> {
    ParquetWriter::new(file).finish(frame).context("write parquet")?;
    Ok(())
}

/// The column of a quantile level: `p02`, `p10`, `p97.5`.
pub fn quantile_column(level: f64) -> String {
    let percent = level * 100.0;
    let text = format!("{:.4}", percent);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if percent < 10.0 { format!("p0{text}") } else { format!("p{text}") }
}

/// A forecast as a table: `server_name, profile, metric, timestamp, last_observed`, one column per quantile,
/// `made_at`, `model_id`.
pub fn to_frame(forecast: &FleetForecast) -> Result<DataFrame> {
    let per_series: Vec<usize> = forecast.series.iter().map(|series| series.steps.len()).collect();
    let n_rows = per_series.iter().sum();
    let spread = |text: fn(&super::SeriesForecast) -> &str| -> Vec<&str> {
        forecast
            .series
            .iter()
            .zip(&per_series)
            .flat_map(|(series, n)| std::iter::repeat_n(text(series), *n))
            .collect()
    };
    let times: Vec<i64> = forecast
        .series
        .iter()
        .flat_map(|series| series.steps.iter().map(|step| step.time.timestamp_millis()))
        .collect();
    let last: Vec<Option<f32>> = forecast
        .series
        .iter()
        .zip(&per_series)
        .flat_map(|(series, n)| std::iter::repeat_n(series.last_observed, *n))
        .collect();
    let mut columns = vec![
        Column::new("server_name".into(), spread(|series| &series.server_name)),
        Column::new("profile".into(), spread(|series| &series.profile)),
        Column::new("metric".into(), spread(|series| &series.metric)),
        datetime_column("timestamp", &times)?,
        Column::new("last_observed".into(), last),
    ];
    for (at, level) in forecast.quantiles.iter().enumerate() {
        let values: Vec<f32> = forecast
            .series
            .iter()
            .flat_map(|series| series.steps.iter().map(move |step| step.values[at]))
            .collect();
        columns.push(Column::new(quantile_column(*level).into(), values));
    }
    columns.push(datetime_column("made_at", &vec![forecast.made_at.timestamp_millis(); n_rows])?);
    columns.push(Column::new("model_id".into(), vec![forecast.model_id.as_str(); n_rows]));
    DataFrame::new(n_rows, columns).context("lay out the forecast as a table")
}

/// Moments in milliseconds, in UTC without saying so.
pub(super) fn datetime_column(name: &str, times_ms: &[i64]) -> Result<Column> {
    let plain = Column::new(name.into(), times_ms);
    plain
        .cast(&DataType::Datetime(TimeUnit::Milliseconds, None))
        .with_context(|| format!("lay out column {name}"))
}

/// A kept forecast read back: what scoring needs of it.
pub(super) struct KeptForecast {
    pub model_id: String,
    pub quantiles: Vec<f64>,
    pub rows: Vec<KeptRow>,
}

pub(super) struct KeptRow {
    pub server_name: String,
    pub metric: String,
    pub time_ms: i64,
    pub last_observed: Option<f32>,
    pub values: Vec<f32>,
}

/// Reads a kept forecast.
///
/// - Errors: the file is unreadable or lacks a column; it is named.
pub(super) fn read_kept(path: &Path) -> Result<KeptForecast> {
    let read = || -> Result<KeptForecast> {
        let frame = ParquetReader::new(fs::File::open(path)?).finish()?;
        let names: Vec<String> = frame.get_column_names().iter().map(|name| name.to_string()).collect();
        let levels: Vec<(f64, &String)> = names
            .iter()
            .filter_map(|name| Some((name.strip_prefix('p')?.parse::<f64>().ok()? / 100.0, name)))
            .collect();
        let values: Vec<Float32Chunked> =
            levels.iter().map(|(_, name)| Ok(frame.column(name)?.f32()?.clone())).collect::<Result<_>>()?;
        let servers = frame.column("server_name")?.str()?.clone();
        let metrics = frame.column("metric")?.str()?.clone();
        let times = frame.column("timestamp")?.cast(&DataType::Int64)?.i64()?.clone();
        let last = frame.column("last_observed")?.f32()?.clone();
        let model_id = frame.column("model_id")?.str()?.get(0).unwrap_or_default().to_owned();
        let row = |at: usize| -> Option<KeptRow> {
            Some(KeptRow {
                server_name: servers.get(at)?.to_owned(),
                metric: metrics.get(at)?.to_owned(),
                time_ms: times.get(at)?,
                last_observed: last.get(at),
                values: values.iter().map(|column| column.get(at)).collect::<Option<_>>()?,
            })
        };
        let rows = (0..frame.height()).filter_map(row).collect();
        Ok(KeptForecast { model_id, quantiles: levels.iter().map(|(level, _)| *level).collect(), rows })
    };
    read().with_context(|| format!("read kept forecast {}", path.display()))
}

/// The kept forecasts that are older than `keep_days` before `today`.
pub fn plan_retention(site: &Site, today: NaiveDate, keep_days: u32) -> Result<Vec<PathBuf>> {
    let oldest = calendar::days_before(today, keep_days);
    let entries = fsx::list_dir(&site.forecasts_dir())?;
    let is_expired = |path: &PathBuf| date_of(path).is_some_and(|date| date < oldest);
    Ok(entries.into_iter().map(|entry| entry.path()).filter(is_expired).collect())
}

/// The logical date of a kept forecast.
fn date_of(path: &Path) -> Option<NaiveDate> {
    path.file_name()?.to_str()?.strip_suffix(".parquet")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{SeriesForecast, StepForecast};
    use super::*;
    use chrono::{DateTime, Utc};

    #[test]
    fn a_kept_forecast_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::of(dir.path(), crate::config::Config::default());
        let at = |secs: i64| DateTime::<Utc>::from_timestamp(secs, 0).unwrap();
        let series = SeriesForecast {
            server_name: "web1".into(),
            profile: "web".into(),
            is_known: true,
            metric: "cpu".into(),
            unit: "%".into(),
            last_observed: Some(7.0),
            alert: None,
            steps: vec![
                StepForecast { time: at(300), values: vec![1.0, 2.0, 3.0] },
                StepForecast { time: at(600), values: vec![2.0, 3.0, 4.5] },
            ],
        };
        let forecast = FleetForecast {
            model_id: "tft_model_x".into(),
            made_at: at(0),
            cutoff: at(300),
            step_secs: 300,
            quantiles: vec![0.02, 0.5, 0.975],
            series: vec![series],
            skipped: vec![],
        };
        let path = keep(&site, "2024-01-02".parse().unwrap(), &forecast).unwrap();
        let kept = read_kept(&path).unwrap();
        assert_eq!(kept.model_id, "tft_model_x");
        assert_eq!(kept.quantiles, [0.02, 0.5, 0.975]);
        assert_eq!(kept.rows[1].values, [2.0, 3.0, 4.5]);
        assert_eq!(kept.rows[1].time_ms, 600_000);
        assert_eq!(plan_retention(&site, "2024-03-02".parse().unwrap(), 60).unwrap().len(), 0);
        assert_eq!(plan_retention(&site, "2024-03-03".parse().unwrap(), 60).unwrap(), [path]);
        assert_eq!(plan_retention(&site, "2024-03-03".parse().unwrap(), u32::MAX).unwrap().len(), 0);
    }

    #[test]
    fn forecasts_that_cannot_be_listed_are_no_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::of(dir.path(), crate::config::Config::default());
        let today = "2024-03-03".parse().unwrap();
        assert_eq!(plan_retention(&site, today, 60).unwrap().len(), 0);
        std::fs::write(site.forecasts_dir(), "not a folder").unwrap();
        assert!(plan_retention(&site, today, 60).is_err());
    }
}
