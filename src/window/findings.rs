//! The rules that turn facts about a window into findings.

use chrono_tz::Tz;

use crate::config::Config;

use super::grid::Grid;
use super::metric_quality::MetricQuality;
use super::quality::{Asked, Finding, QualityReport, ServerQuality, Severity};
use super::split::PlannedSplit;

/// Largest share of values outside a metric's range that passes without a word.
const MAX_OUT_OF_RANGE: f64 = 0.01;

/// Completeness below which a day is worth a word.
const MIN_DAY_COMPLETENESS: f64 = 0.9;

/// Names listed in one message at most.
const MAX_NAMES: usize = 5;

/// Draws the findings of a report: hard ones first, then by window, days, servers and metrics.
pub(super) fn draw(
    report: &QualityReport,
    grid: &Grid,
    asked: Asked,
    plan: Option<&PlannedSplit>,
    config: &Config,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.amount(report, config);
    findings.samples(report, grid, plan, config);
    findings.days(report, asked);
    findings.servers(report, grid, config.timezone);
    findings.metrics(report, grid, &config.model.targets);
    findings.0.sort_by_key(|finding| finding.severity == Severity::Soft);
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        (subject, rule): (&str, &str),
        (measured, limit): (f64, f64),
        message: String,
    ) {
        let (subject, rule) = (subject.to_owned(), rule.to_owned());
        self.0.push(Finding { severity, subject, rule, measured, limit, message });
    }

    fn amount(&mut self, report: &QualityReport, config: &Config) {
        let (n_rows, n_needed) = (report.n_raw_rows, config.min_training_samples);
        if n_rows < n_needed {
            let message = format!("{n_rows} raw rows, min_training_samples asks for {n_needed}");
            let numbers = (n_rows as f64, n_needed as f64);
            self.add(Severity::Hard, ("window", "min_training_samples"), numbers, message);
        }
        let n_days = report.days.iter().filter(|day| day.n_raw_rows > 0).count();
        let n_needed = config.window.min_days as usize;
        if n_days < n_needed {
            let message = format!("{n_days} days with data, window.min_days asks for {n_needed}");
            self.add(Severity::Hard, ("window", "min_days"), (n_days as f64, n_needed as f64), message);
        }
    }

    fn samples(&mut self, report: &QualityReport, grid: &Grid, plan: Option<&PlannedSplit>, config: &Config) {
        let model = &config.model;
        let Some(plan) = plan else {
            let n_needed = model.encoder_length + 3 * model.horizon;
            let n_steps = grid.n_steps;
            let message = format!(
                "{n_steps} steps, training and exam need {n_needed} (model.encoder_length and three times model.horizon)"
            );
            return self.add(
                Severity::Hard,
                ("window", "n_steps"),
                (n_steps as f64, n_needed as f64),
                message,
            );
        };
        if report.n_servers_usable == 0 {
            let why = report.servers.iter().find_map(|s| Some((&s.name, s.excluded.as_ref()?)));
            let example = why.map_or(String::new(), |(name, reason)| format!(" ({name}: {reason})"));
            let message = format!("none of {} servers can be trained on{example}", report.n_servers);
            return self.add(Severity::Hard, ("window", "usable_servers"), (0.0, 1.0), message);
        }
        for (rule, n_samples) in
            [("train_samples", report.n_train_samples), ("holdout_samples", report.n_holdout_samples)]
        {
            if n_samples == 0 {
                let part = if rule == "train_samples" { "to train on" } else { "left for the exam" };
                let message =
                    format!("no whole sample is {part}; the newest step with data is {}", newest(report));
                self.add(Severity::Hard, ("window", rule), (0.0, 1.0), message);
            }
        }
        if plan.n_steps_given_up > 0 {
            let n_asked = (plan.split.holdout_end - plan.split.holdout_start) + plan.n_steps_given_up;
            let n_left = n_asked - plan.n_steps_given_up;
            let message = format!("the window is short: the holdout has {n_left} steps instead of {n_asked}");
            self.add(Severity::Soft, ("window", "holdout_hours"), (n_left as f64, n_asked as f64), message);
        }
    }

    fn days(&mut self, report: &QualityReport, asked: Asked) {
        let n_asked = (asked.end_day - asked.first_day).num_days();
        let n_found = report.days.len() as i64;
        if n_found < n_asked {
            let message = format!("the data begins {n_found} days before the end, {n_asked} were asked for");
            self.add(Severity::Soft, ("window", "days"), (n_found as f64, n_asked as f64), message);
        }
        for day in &report.days {
            if day.completeness < MIN_DAY_COMPLETENESS {
                let share = 100.0 * day.completeness;
                let message = if day.n_raw_rows == 0 {
                    format!("{} has no rows", day.date)
                } else {
                    format!("{} holds {share:.0} % of the steps of its {} servers", day.date, day.n_servers)
                };
                let numbers = (day.completeness, MIN_DAY_COMPLETENESS);
                self.add(Severity::Soft, (&day.date.to_string(), "day_completeness"), numbers, message);
            }
        }
    }

    fn servers(&mut self, report: &QualityReport, grid: &Grid, zone: Tz) {
        for server in &report.servers {
            if let Some(reason) = &server.excluded {
                let message = format!("server {} is left out: {reason}", server.name);
                let numbers = (server.completeness_in_life, 1.0);
                self.add(Severity::Soft, (&server.name, "excluded"), numbers, message);
            }
            let day_secs = 86_400.0;
            let (Some(first), Some(last)) = (server.first_seen, server.last_seen) else { continue };
            let secs_after_start = (first.timestamp_millis() - grid.start_ms) as f64 / 1000.0;
            if secs_after_start > day_secs {
                let message = format!("server {} is new since {}", server.name, local(first, zone));
                self.add(Severity::Soft, (&server.name, "new"), (secs_after_start, day_secs), message);
            }
            let secs_before_end = (grid.time_ms(grid.n_steps) - last.timestamp_millis()) as f64 / 1000.0;
            if secs_before_end > day_secs {
                let message = format!("server {} is silent since {}", server.name, local(last, zone));
                self.add(Severity::Soft, (&server.name, "vanished"), (secs_before_end, day_secs), message);
            }
        }
    }

    /// What looks wrong on any server is told; what is merely idle (no values, never a change) only of a target,
    /// or where it makes a metric useless on all servers.
    fn metrics(&mut self, report: &QualityReport, grid: &Grid, targets: &[String]) {
        let usable: Vec<&ServerQuality> = report.servers.iter().filter(|s| s.excluded.is_none()).collect();
        for name in &grid.metrics {
            let is_target = targets.contains(name);
            for (rule, is_idle, what, applies) in METRIC_RULES {
                let found =
                    |server: &&&ServerQuality| server.metrics.iter().any(|m| m.name == *name && applies(m));
                let names: Vec<&str> =
                    usable.iter().filter(found).map(|server| server.name.as_str()).collect();
                if !names.is_empty() && (!is_idle || is_target || names.len() == usable.len()) {
                    let message = format!("{name} {what} on {}", list(&names, usable.len()));
                    let numbers = (names.len() as f64, usable.len() as f64);
                    self.add(Severity::Soft, (name, rule), numbers, message);
                }
            }
        }
    }
}

/// Name of a rule on metrics, whether it speaks of idleness only, what it says, and when.
type MetricRule = (&'static str, bool, &'static str, fn(&MetricQuality) -> bool);

const METRIC_RULES: [MetricRule; 4] = [
    ("never_observed", true, "has no values", |m| m.missing_share == 1.0),
    ("stuck", true, "never changes", |m| m.is_constant),
    ("out_of_range", false, "leaves its range", |m| m.out_of_range_share > MAX_OUT_OF_RANGE),
    ("unit_jump", false, "seems to have changed its unit", |m| m.unit_jump.is_some()),
];

fn newest(report: &QualityReport) -> String {
    let last = report.servers.iter().filter_map(|server| server.last_seen).max();
    last.map_or_else(|| "none".to_owned(), |last| last.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn local(time: chrono::DateTime<chrono::Utc>, zone: Tz) -> String {
    time.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}

/// `3 of 20 servers (a, b, c)`, with the first few names.
fn list(names: &[&str], n_all: usize) -> String {
    let shown = names[..names.len().min(MAX_NAMES)].join(", ");
    let more = if names.len() > MAX_NAMES { ", ..." } else { "" };
    format!("{} of {n_all} servers ({shown}{more})", names.len())
}
