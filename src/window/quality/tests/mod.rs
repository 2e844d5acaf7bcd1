//! Each rule of the quality report, on data that trips it and on data that nearly does.

mod drift;
mod faults;
mod rules;
mod shared;

use chrono::NaiveDate;

use super::*;
use crate::buffer::step_table::RowCount;
use crate::config::Config;
use crate::schema::{Metric, Schema};
use crate::simulate::{Fleet, FleetSpec};
use crate::window::Server;
use crate::window::assemble::{Cast, DayCount};
use crate::window::grid::Grid;
use crate::window::span::Span;
use crate::window::split::plan_split;

/// Steps of a day of 24 hours.
const DAY: usize = 288;

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// Two percentages, which are the targets, and a rate without an upper end.
fn config() -> Config {
    let percent = |name: &str| Metric { min: Some(0.0), max: Some(100.0), ..Metric::new(name, "%") };
    let mut config = Config {
        metrics: vec![percent("cpu"), percent("mem"), Metric::new("net", "MB/s")],
        min_training_samples: 1000,
        ..Config::default()
    };
    config.model.targets = vec!["cpu".into(), "mem".into()];
    config.model.encoder_length = 12;
    config.model.horizon = 4;
    config.window.holdout_hours = 6;
    config
}

/// Noise of -1..1 that is the same whenever it is asked for.
fn noise(server: usize, metric: usize, step: usize) -> f32 {
    let mut state = (server * 1_000_003 + metric * 7919 + step) as u64;
    for _ in 0..2 {
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state ^= state >> 31;
    }
    (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}

/// What a healthy server reports: a daily rhythm and noise around 40.
fn healthy(server: usize, metric: usize, step: usize) -> f32 {
    let hour = (step % DAY) as f32 / 12.0;
    40.0 + 10.0 * (hour / 24.0 * std::f32::consts::TAU).sin() + 3.0 * noise(server, metric, step)
}

/// A window to examine: values by (server, metric, step), and rows as they should be.
struct Sample {
    config: Config,
    first: NaiveDate,
    n_days: usize,
    n_servers: usize,
    n_rows_a_step: u64,
    n_source_rows: Option<u64>,
}

impl Sample {
    fn new(n_servers: usize, n_days: usize) -> Self {
        let first = date("2024-01-01");
        Self { config: config(), first, n_days, n_servers, n_rows_a_step: 60, n_source_rows: None }
    }

    fn examine(&self, value: impl Fn(usize, usize, usize) -> f32) -> QualityReport {
        let end = self.first + chrono::Days::new(self.n_days as u64);
        let span = Span::of_days(self.first, end, self.config.timezone, 300);
        let width = if self.n_servers > 10 { 3 } else { 1 };
        let name = |server: usize| Server { name: format!("s{server:0width$}"), profile: "generic".into() };
        let metrics: Vec<String> = self.config.metrics.iter().map(|metric| metric.name.clone()).collect();
        let n_metrics = metrics.len();
        let cells = (0..self.n_servers * span.n_steps * n_metrics).map(|cell| {
            let (row, metric) = (cell / n_metrics, cell % n_metrics);
            value(row / span.n_steps, metric, row % span.n_steps)
        });
        let grid = Grid {
            servers: (0..self.n_servers).map(name).collect(),
            metrics,
            statuses: Vec::new(),
            start_ms: span.start_ms,
            step_secs: 300,
            n_steps: span.n_steps,
            values: cells.collect(),
            status: vec![0; self.n_servers * span.n_steps],
        };
        self.examine_grid(&grid, end)
    }

    fn examine_grid(&self, grid: &Grid, end: NaiveDate) -> QualityReport {
        let n_raw_rows = 10_000;
        let n_source_rows = self.n_source_rows.unwrap_or(n_raw_rows);
        let n_steps = grid.n_steps as u64;
        let rows = RowCount { n_rows: n_steps * self.n_rows_a_step, n_steps };
        let days = self.first.iter_days().take_while(|day| *day < end);
        let cast = Cast {
            servers: grid.servers.clone(),
            statuses: Vec::new(),
            days: days.map(|date| DayCount { date, n_entries: 0, n_raw_rows, n_source_rows }).collect(),
            row_counts: vec![rows; grid.servers.len()],
        };
        let model = &self.config.model;
        let plan = plan_split(grid.n_steps, model.encoder_length, model.horizon, 72);
        let asked = Asked { first_day: self.first, end_day: end };
        let mut examination = Examination::new(grid, &cast, asked, plan.as_ref(), &self.config);
        let usable = examination.add(grid);
        let report = examination.finish(grid);
        assert_eq!(usable.len(), report.n_servers_usable);
        report
    }
}

/// A simulated fleet from 2024-01-01 on, one row a step.
fn simulated(spec: FleetSpec, n_days: usize) -> Grid {
    let start: DateTime<Utc> = "2024-01-01T00:00:00Z".parse().unwrap();
    let end = start + chrono::Duration::days(n_days as i64);
    let fleet = Fleet::new(&FleetSpec { start, end, tick_secs: 300, ..spec }).unwrap();
    let schema = Schema::fleet14();
    let (n_steps, n_metrics) = (n_days * DAY, schema.metrics.len());
    let mut servers = std::collections::BTreeMap::<String, Vec<f32>>::new();
    let visit = |row: &crate::simulate::SimulatedRow<'_>| {
        // A clock that is off puts rows before the first step and behind the last.
        let Ok(step) = usize::try_from((row.time_ms - start.timestamp_millis()).div_euclid(300_000)) else {
            return Ok(());
        };
        let values =
            servers.entry(row.server.name.clone()).or_insert_with(|| vec![f32::NAN; n_steps * n_metrics]);
        if let Some(cells) = values.get_mut(step * n_metrics..(step + 1) * n_metrics) {
            cells.iter_mut().zip(row.metrics).for_each(|(cell, value)| *cell = value as f32);
        }
        Ok(())
    };
    fleet.for_each_row(visit).unwrap();
    let server = |name: &String| Server { name: name.clone(), profile: "generic".into() };
    Grid {
        servers: servers.keys().map(server).collect(),
        metrics: schema.metrics.iter().map(|metric| metric.name.clone()).collect(),
        statuses: Vec::new(),
        start_ms: start.timestamp_millis(),
        step_secs: 300,
        n_steps,
        status: vec![0; servers.len() * n_steps],
        values: servers.into_values().flatten().collect(),
    }
}

/// Subject, rule and message of each finding.
fn told(report: &QualityReport) -> Vec<(&str, &str, &str)> {
    report.findings.iter().map(|f| (f.subject.as_str(), f.rule.as_str(), f.message.as_str())).collect()
}

#[track_caller]
fn assert_told(report: &QualityReport, subject: &str, rule: &str, message: &str) {
    let told = told(report);
    assert!(
        told.iter().any(|found| found.0 == subject && found.1 == rule && found.2.contains(message)),
        "{subject} {rule} {message:?} is not in {told:#?}"
    );
}

#[track_caller]
fn assert_silent(report: &QualityReport) {
    assert_eq!(told(report), []);
    assert_eq!(report.n_with(Verdict::Good), report.n_servers);
}
