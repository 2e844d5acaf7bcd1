//! Whether a window is worth training on: what is there, what is missing, what looks wrong.
//!
//! Facts first ([`ServerQuality`], [`DayQuality`]), then [`Finding`]s drawn from them. Hard findings stop the
//! run; soft ones are told. A sparse server is left out with a soft finding and never stops the rest.

use std::ops::Range;

use chrono::{DateTime, NaiveDate, Utc};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::calendar;
use crate::config::Config;

use super::assemble::DayCount;
use super::findings;
use super::gaps::{Gaps, is_present};
use super::grid::Grid;
use super::metric_quality::{MetricQuality, examine_metric};
use super::span::Span;
use super::split::PlannedSplit;

/// Whether a finding stops the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Hard,
    Soft,
}

/// One thing to know about the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub severity: Severity,
    /// What it is about: `window`, a day, a server or a metric.
    pub subject: String,
    /// The rule that speaks, such as `min_training_samples`.
    pub rule: String,
    pub measured: f64,
    pub limit: f64,
    /// The whole sentence.
    pub message: String,
}

/// One day of the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayQuality {
    pub date: NaiveDate,
    pub n_raw_rows: u64,
    /// Servers with at least one present step.
    pub n_servers: usize,
    /// Present steps over the steps this day has, averaged over the servers that lived then.
    pub completeness: f64,
}

/// One server over the whole window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerQuality {
    pub name: String,
    pub profile: String,
    /// Steps with at least one target observed.
    pub n_steps_present: usize,
    /// Share of the window's steps that are present.
    pub completeness: f64,
    /// Share of the steps from first to last seen that are present.
    pub completeness_in_life: f64,
    /// Between first and last seen.
    pub longest_gap_secs: u64,
    pub first_seen: Option<DateTime<Utc>>,
    pub last_seen: Option<DateTime<Utc>>,
    pub n_train_samples: usize,
    pub n_holdout_samples: usize,
    /// Why the server is left out, if it is.
    pub excluded: Option<String>,
    /// The metrics there is something to say about.
    pub metrics: Vec<MetricQuality>,
}

/// The verdict on a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityReport {
    pub n_raw_rows: u64,
    pub n_servers: usize,
    pub n_servers_usable: usize,
    pub n_train_samples: usize,
    pub n_holdout_samples: usize,
    pub days: Vec<DayQuality>,
    pub servers: Vec<ServerQuality>,
    pub findings: Vec<Finding>,
}

impl QualityReport {
    /// The messages of the findings that stop a run.
    pub fn hard_reasons(&self) -> Vec<String> {
        let hard = self.findings.iter().filter(|finding| finding.severity == Severity::Hard);
        hard.map(|finding| finding.message.clone()).collect()
    }
}

/// What was asked for, beside what was found.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// First day asked for; the window begins with the first of them that has data.
    pub first_day: NaiveDate,
    pub end_day: NaiveDate,
}

/// Examines a window some servers at a time: the report does not depend on how many at once.
pub struct Examination<'a> {
    config: &'a Config,
    plan: Option<&'a PlannedSplit>,
    asked: Asked,
    days: &'a [DayCount],
    servers: Vec<ServerQuality>,
    tallies: Vec<DayTally>,
}

/// What some servers have of one day.
#[derive(Clone, Debug)]
struct DayTally {
    date: NaiveDate,
    n_steps: usize,
    /// Servers with at least one present step.
    n_servers: usize,
    n_present: usize,
}

impl<'a> Examination<'a> {
    /// Begins with no server examined.
    pub fn new(
        days: &'a [DayCount],
        asked: Asked,
        plan: Option<&'a PlannedSplit>,
        config: &'a Config,
    ) -> Self {
        Self { config, plan, asked, days, servers: Vec::new(), tallies: Vec::new() }
    }

    /// Examines the servers of `grid`, which has all steps of the window; returns the positions in it of those that
    /// can be trained on.
    pub fn add(&mut self, grid: &Grid) -> Vec<usize> {
        let config = self.config;
        let position = |target: &String| grid.metrics.iter().position(|metric| metric == target);
        let targets: Vec<usize> = config.model.targets.iter().filter_map(position).collect();
        let gaps = Gaps::find(grid, &targets, config.window.max_gap_steps);
        let examiner = Examiner { grid, config, gaps, targets, plan: self.plan };
        let servers: Vec<ServerQuality> =
            (0..grid.servers.len()).into_par_iter().map(|server| examiner.server(server)).collect();
        let usable = (0..servers.len()).filter(|server| servers[*server].excluded.is_none()).collect();
        self.servers.extend(servers);
        let tallies = examiner.days(self.days, self.asked.end_day);
        if self.tallies.is_empty() {
            self.tallies = tallies;
        } else {
            self.tallies.iter_mut().zip(tallies).for_each(|(known, more)| known.add(&more));
        }
        usable
    }

    /// The report on all servers examined; `outline` is a grid of the window, whose values are not looked at.
    pub fn finish(self, outline: &Grid) -> QualityReport {
        let servers = self.servers;
        let usable = || servers.iter().filter(|server| server.excluded.is_none());
        let mut report = QualityReport {
            n_raw_rows: self.days.iter().map(|day| day.n_raw_rows).sum(),
            n_servers: servers.len(),
            n_servers_usable: usable().count(),
            n_train_samples: usable().map(|server| server.n_train_samples).sum(),
            n_holdout_samples: usable().map(|server| server.n_holdout_samples).sum(),
            days: self.tallies.iter().map(|tally| tally.quality(self.days)).collect(),
            findings: Vec::new(),
            servers,
        };
        report.findings = findings::draw(&report, outline, self.asked, self.plan, self.config);
        report
    }
}

impl DayTally {
    fn add(&mut self, more: &DayTally) {
        self.n_servers += more.n_servers;
        self.n_present += more.n_present;
    }

    fn quality(&self, counts: &[DayCount]) -> DayQuality {
        let n_cells = self.n_servers * self.n_steps;
        DayQuality {
            date: self.date,
            n_raw_rows: counts.iter().filter(|day| day.date == self.date).map(|day| day.n_raw_rows).sum(),
            n_servers: self.n_servers,
            completeness: self.n_present as f64 / n_cells.max(1) as f64,
        }
    }
}

struct Examiner<'a> {
    grid: &'a Grid,
    config: &'a Config,
    gaps: Gaps,
    targets: Vec<usize>,
    plan: Option<&'a PlannedSplit>,
}

impl Examiner<'_> {
    fn is_present(&self, server: usize, step: usize) -> bool {
        is_present(self.grid.row(server, step), &self.targets)
    }

    fn server(&self, server: usize) -> ServerQuality {
        let grid = self.grid;
        let present: Vec<usize> = (0..grid.n_steps).filter(|step| self.is_present(server, *step)).collect();
        let life = present.first().map_or(0..0, |first| *first..present[present.len() - 1] + 1);
        let longest_gap = present.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
        let share = |n_steps: usize| present.len() as f64 / n_steps.max(1) as f64;
        let seen = |step: Option<&usize>| step.map(|step| calendar::to_utc(grid.time_ms(*step)));
        let completeness_in_life = share(life.len());
        ServerQuality {
            name: grid.servers[server].name.clone(),
            profile: grid.servers[server].profile.clone(),
            n_steps_present: present.len(),
            completeness: share(grid.n_steps),
            completeness_in_life,
            longest_gap_secs: longest_gap as u64 * u64::from(grid.step_secs),
            first_seen: seen(present.first()),
            last_seen: seen(present.last()),
            n_train_samples: self.n_samples(server, |plan, encoder_length, horizon| {
                plan.split.train_cutoffs(encoder_length, horizon)
            }),
            n_holdout_samples: self.n_samples(server, |plan, encoder_length, horizon| {
                plan.split.holdout_cutoffs(encoder_length, horizon)
            }),
            excluded: self.reason_to_exclude(server, &life, completeness_in_life),
            metrics: self.metrics(server, life),
        }
    }

    fn n_samples(
        &self,
        server: usize,
        cutoffs: impl Fn(&PlannedSplit, usize, usize) -> Range<usize>,
    ) -> usize {
        let (encoder_length, horizon) = (self.config.model.encoder_length, self.config.model.horizon);
        let Some(plan) = self.plan else { return 0 };
        let candidates = cutoffs(plan, encoder_length, horizon);
        self.gaps.cutoff_runs(server, encoder_length, horizon, candidates).iter().map(Range::len).sum()
    }

    fn reason_to_exclude(&self, server: usize, life: &Range<usize>, completeness: f64) -> Option<String> {
        let (model, window) = (&self.config.model, &self.config.window);
        let (encoder_length, horizon) = (model.encoder_length, model.horizon);
        if life.is_empty() {
            return Some("no target was ever observed".into());
        }
        if completeness < window.min_completeness {
            return Some(format!(
                "{:.0} % of its steps are there, {:.0} % are needed",
                100.0 * completeness,
                100.0 * window.min_completeness
            ));
        }
        let candidates = encoder_length..(self.grid.n_steps + 1).saturating_sub(horizon).max(encoder_length);
        let has_sample = self.gaps.cutoffs(server, encoder_length, horizon, candidates).next().is_some();
        (!has_sample).then(|| {
            let needed = encoder_length + horizon;
            format!("it has no {needed} steps in a row without a gap longer than {}", window.max_gap_steps)
        })
    }

    fn metrics(&self, server: usize, life: Range<usize>) -> Vec<MetricQuality> {
        let examined = self.config.metrics.iter().enumerate().filter_map(|(position, metric)| {
            let series = life.clone().map(|step| self.grid.row(server, step)[position]);
            examine_metric(metric, series, self.grid.step_secs)
        });
        examined.collect()
    }

    fn days(&self, counts: &[DayCount], end_day: NaiveDate) -> Vec<DayTally> {
        let zone = self.config.timezone;
        let grid = self.grid;
        let first_day = counts.first().map_or(end_day, |day| day.date);
        calendar::days_between(first_day, end_day)
            .map(|date| {
                let span = Span::of_days(date, calendar::days_after(date, 1), zone, grid.step_secs);
                let first =
                    ((span.start_ms - grid.start_ms) / (i64::from(grid.step_secs) * 1000)).max(0) as usize;
                let steps = first..(first + span.n_steps).min(grid.n_steps);
                let n_present: Vec<usize> = (0..grid.servers.len())
                    .into_par_iter()
                    .map(|server| steps.clone().filter(|step| self.is_present(server, *step)).count())
                    .filter(|n_present| *n_present > 0)
                    .collect();
                let n_steps = steps.len();
                DayTally { date, n_steps, n_servers: n_present.len(), n_present: n_present.iter().sum() }
            })
            .collect()
    }
}
