//! Looks at the servers of a window, some at a time, and gathers the facts.

use std::ops::Range;

use chrono::NaiveDate;
use rayon::prelude::*;

use super::findings;
use super::fleet::{FleetGap, OwnGaps, Presence};
use super::frame::Frame;
use super::metric::{self, Life, MetricQuality};
use super::{DayQuality, QualityReport, ServerQuality, Verdict};
use crate::config::Config;
use crate::window::assemble::{Cast, DayCount};
use crate::window::gaps::{Gaps, is_present};
use crate::window::grid::Grid;
use crate::window::split::PlannedSplit;

/// What was asked for, beside what was found.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// First day asked for; the window begins with the first of them that has data.
    pub first_day: NaiveDate,
    pub end_day: NaiveDate,
}

/// Examines a window some servers at a time: the report does not depend on how many at once.
///
/// Memory: the report, and a few numbers per step.
pub struct Examination<'a> {
    config: &'a Config,
    plan: Option<&'a PlannedSplit>,
    asked: Asked,
    cast: &'a Cast,
    frame: Frame,
    presence: Presence,
    servers: Vec<ServerQuality>,
    /// The longest gaps of each server.
    gaps: Vec<Vec<Range<usize>>>,
    /// Servers with at least one present step, per day of the frame.
    n_servers_by_day: Vec<usize>,
}

/// Gaps of a server that are kept until those of the fleet are known.
const MAX_GAPS_KEPT: usize = 32;

/// Servers that are looked at side by side: what is known of each of their steps is in memory.
const SERVERS_AT_ONCE: usize = 128;

/// What looking at one server gives.
struct Seen {
    quality: ServerQuality,
    is_present: Vec<bool>,
    life: Range<usize>,
}

impl<'a> Examination<'a> {
    /// Begins with no server examined. `outline` is a grid of the window, whose values are not looked at.
    pub fn new(
        outline: &Grid,
        cast: &'a Cast,
        asked: Asked,
        plan: Option<&'a PlannedSplit>,
        config: &'a Config,
    ) -> Self {
        let first_day = cast.days.first().map_or(asked.end_day, |day| day.date);
        let frame = Frame::of(outline, first_day, asked.end_day, config.timezone);
        Self {
            presence: Presence::new(frame.n_steps),
            n_servers_by_day: vec![0; frame.days.len()],
            servers: Vec::new(),
            gaps: Vec::new(),
            frame,
            config,
            plan,
            asked,
            cast,
        }
    }

    /// Examines the servers of `grid`, which has all steps of the window; returns the positions in it of those that
    /// can be trained on.
    pub fn add(&mut self, grid: &Grid) -> Vec<usize> {
        let config = self.config;
        let position = |target: &String| grid.metrics.iter().position(|metric| metric == target);
        let targets: Vec<usize> = config.model.targets.iter().filter_map(position).collect();
        let gaps = Gaps::find(grid, &targets, config.window.max_gap_steps);
        let (frame, plan, cast) = (&self.frame, self.plan, self.cast);
        let examiner = Examiner { grid, config, gaps, targets, plan, frame, cast };
        let n_servers = grid.servers.len();
        let mut usable = Vec::new();
        for first in (0..n_servers).step_by(SERVERS_AT_ONCE) {
            let servers = first..n_servers.min(first + SERVERS_AT_ONCE);
            let seen: Vec<Seen> =
                servers.clone().into_par_iter().map(|server| examiner.see(server)).collect();
            for (server, Seen { quality, is_present, life }) in servers.zip(seen) {
                if quality.excluded.is_none() {
                    usable.push(server);
                }
                self.presence.add(&is_present, &life);
                for (day, n_servers) in self.frame.days.iter().zip(&mut self.n_servers_by_day) {
                    *n_servers += usize::from(is_present[day.steps.clone()].contains(&true));
                }
                let max_gap_steps = config.window.max_gap_steps;
                self.gaps.push(longest_gaps(&is_present[life.clone()], life.start, max_gap_steps));
                self.servers.push(quality);
            }
        }
        usable
    }

    /// The report on all servers examined; `outline` as in [`Examination::new`].
    pub fn finish(self, outline: &Grid) -> QualityReport {
        let gaps = self.presence.gaps(self.config.window.max_gap_steps);
        let gap_steps: Vec<Range<usize>> = gaps.iter().map(|(steps, _)| steps.clone()).collect();
        let days = self.days(&gap_steps);
        let mut servers = self.servers;
        for (server, gaps) in servers.iter_mut().zip(&self.gaps) {
            compare_gaps(server, gaps, &gap_steps, &self.frame);
        }
        let usable = || servers.iter().filter(|server| server.excluded.is_none());
        let mut report = QualityReport {
            n_raw_rows: self.cast.days.iter().map(|day| day.n_raw_rows).sum(),
            n_servers: servers.len(),
            n_servers_usable: usable().count(),
            n_train_samples: usable().map(|server| server.n_train_samples).sum(),
            n_holdout_samples: usable().map(|server| server.n_holdout_samples).sum(),
            days,
            fleet_gaps: gaps.iter().map(|gap| FleetGap::of(gap, &self.frame)).collect(),
            findings: Vec::new(),
            servers,
        };
        findings::judge_servers(&mut report, outline, self.config);
        report.findings = findings::draw(&report, outline, self.asked, self.plan, self.config);
        report
    }

    fn days(&self, gaps: &[Range<usize>]) -> Vec<DayQuality> {
        let quality = |(day, n_servers): (&super::frame::Day, &usize)| {
            let count = self.cast.days.iter().find(|count| count.date == day.date);
            DayQuality {
                date: day.date,
                n_steps: day.steps.len(),
                n_raw_rows: count.map_or(0, |count| count.n_raw_rows),
                n_duplicates: count.map_or(0, DayCount::n_duplicates),
                n_servers: *n_servers,
                completeness: self.presence.completeness(&day.steps, &[]).unwrap_or(0.0),
                completeness_outside_gaps: self.presence.completeness(&day.steps, gaps),
            }
        };
        self.frame.days.iter().zip(&self.n_servers_by_day).map(quality).collect()
    }
}

struct Examiner<'a> {
    grid: &'a Grid,
    config: &'a Config,
    gaps: Gaps,
    targets: Vec<usize>,
    plan: Option<&'a PlannedSplit>,
    frame: &'a Frame,
    cast: &'a Cast,
}

impl Examiner<'_> {
    fn see(&self, server: usize) -> Seen {
        let grid = self.grid;
        let is_present: Vec<bool> =
            (0..grid.n_steps).map(|step| is_present(grid.row(server, step), &self.targets)).collect();
        let first = is_present.iter().position(|there| *there);
        let last = is_present.iter().rposition(|there| *there);
        let life = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
        let quality = self.quality(server, &is_present, &life);
        Seen { quality, is_present, life }
    }

    fn quality(&self, server: usize, is_present: &[bool], life: &Range<usize>) -> ServerQuality {
        let (grid, frame) = (self.grid, self.frame);
        let n_present = is_present.iter().filter(|there| **there).count();
        let share = |n_steps: usize| n_present as f64 / n_steps.max(1) as f64;
        let longest_gaps = longest_gaps(&is_present[life.clone()], life.start, 0);
        let longest_gap = longest_gaps.first().cloned().unwrap_or(0..0);
        let excluded = self.reason_to_exclude(server, life, share(life.len()));
        let seen = !life.is_empty();
        ServerQuality {
            name: grid.servers[server].name.clone(),
            profile: grid.servers[server].profile.clone(),
            verdict: if excluded.is_some() { Verdict::Excluded } else { Verdict::Good },
            rules: Vec::new(),
            n_steps_present: n_present,
            completeness: share(grid.n_steps),
            completeness_in_life: share(life.len()),
            longest_gap_secs: longest_gap.len() as u64 * u64::from(grid.step_secs),
            longest_gap_from: (!longest_gap.is_empty()).then(|| frame.time(longest_gap.start)),
            longest_own_gap_secs: 0,
            longest_own_gap_from: None,
            clock_offset_secs: None,
            row_rate: self.row_rate(server),
            first_seen: seen.then(|| frame.time(life.start)),
            last_seen: seen.then(|| frame.time(life.end - 1)),
            n_train_samples: self.n_samples(server, |plan, encoder_length, horizon| {
                plan.split.train_cutoffs(encoder_length, horizon)
            }),
            n_holdout_samples: self.n_samples(server, |plan, encoder_length, horizon| {
                plan.split.holdout_cutoffs(encoder_length, horizon)
            }),
            excluded,
            metrics: self.metrics(server, Life { steps: life.clone(), is_present, n_present }),
        }
    }

    fn row_rate(&self, server: usize) -> f64 {
        let name = &self.grid.servers[server].name;
        let Ok(known) = self.cast.servers.binary_search_by(|known| known.name.cmp(name)) else { return 0.0 };
        let count = self.cast.row_counts[known];
        let series = &self.config.series;
        let expected = f64::from(series.step_secs) / f64::from(series.sample_secs);
        count.n_rows as f64 / (count.n_steps.max(1) as f64 * expected)
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

    fn metrics(&self, server: usize, life: Life<'_>) -> Vec<MetricQuality> {
        let grid = self.grid;
        let n_metrics = grid.metrics.len();
        let cells = &grid.values[server * grid.n_steps * n_metrics..][..grid.n_steps * n_metrics];
        let mut values = vec![f32::NAN; grid.n_steps];
        let examined = self.config.metrics.iter().enumerate().filter_map(|(position, metric)| {
            let column = cells.iter().skip(position).step_by(n_metrics);
            values.iter_mut().zip(column).for_each(|(value, cell)| *value = *cell);
            let is_target = self.targets.contains(&position);
            metric::examine((metric, is_target), &values, &life, self.frame, &self.config.quality)
        });
        examined.collect()
    }
}

/// The longest gaps (more than `min` steps) of a life that begins at `start`, the longest first, then by time.
fn longest_gaps(is_present: &[bool], start: usize, min: usize) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut step = start;
    for run in is_present.chunk_by(|a, b| a == b) {
        if !run[0] && run.len() > min {
            gaps.push(step..step + run.len());
        }
        step += run.len();
    }
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.len()));
    gaps.truncate(MAX_GAPS_KEPT);
    gaps
}

/// Writes down what a server's gaps say beside those of the fleet.
fn compare_gaps(server: &mut ServerQuality, gaps: &[Range<usize>], fleet: &[Range<usize>], frame: &Frame) {
    let step_secs = u64::from(frame.step_secs);
    let own = OwnGaps::of(gaps, fleet, frame.steps_a_day());
    server.longest_own_gap_secs = own.longest.len() as u64 * step_secs;
    server.longest_own_gap_from = (!own.longest.is_empty()).then(|| frame.time(own.longest.start));
    server.clock_offset_secs = own.clock_offset.map(|steps| steps * i64::from(frame.step_secs));
}
