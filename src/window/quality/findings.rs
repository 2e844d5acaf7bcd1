//! The rules that turn facts about a window into findings: amounts, days, gaps and servers.
//!
//! What befalls several servers or days in the same way is one finding that names the worst, so that a fleet of a
//! thousand reads as quickly as one of ten.

use chrono_tz::Tz;

use super::fleet::FleetGap;
use super::{Asked, Finding, QualityReport, ServerQuality, Severity, Verdict, metric_findings};
use crate::config::Config;
use crate::window::grid::Grid;
use crate::window::split::PlannedSplit;

/// Examples in one message at most.
const MAX_EXAMPLES: usize = 3;
/// Gaps of the fleet, and days, that get a line each; more share one.
const MAX_LINES: usize = 3;

/// Draws the findings of a report: hard ones first, then window, days, gaps, servers and metrics.
pub(super) fn draw(
    report: &QualityReport,
    outline: &Grid,
    asked: Asked,
    plan: Option<&PlannedSplit>,
    config: &Config,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.amount(report, config);
    findings.samples(report, outline, plan, config);
    findings.fleet_gaps(report, config);
    findings.days(report, asked, config);
    findings.servers(report, config);
    metric_findings::draw(&mut findings, report, config);
    findings.0.sort_by_key(|finding| finding.severity == Severity::Soft);
    findings.0
}

#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

/// What some servers or days have in common: one of them, and how bad it is.
pub(super) struct Case<'a> {
    pub name: &'a str,
    pub badness: f64,
    pub detail: String,
}

impl Findings {
    pub fn add(
        &mut self,
        severity: Severity,
        (subject, rule): (&str, &str),
        (measured, limit): (f64, f64),
        message: String,
        servers: Vec<String>,
    ) {
        let (subject, rule) = (subject.to_owned(), rule.to_owned());
        self.0.push(Finding { severity, subject, rule, measured, limit, message, servers });
    }

    fn hard(&mut self, rule: &str, numbers: (f64, f64), message: String) {
        self.add(Severity::Hard, ("window", rule), numbers, message, Vec::new());
    }

    fn soft(&mut self, subject: &str, rule: &str, numbers: (f64, f64), message: String) {
        self.add(Severity::Soft, (subject, rule), numbers, message, Vec::new());
    }

    fn amount(&mut self, report: &QualityReport, config: &Config) {
        let (n_rows, n_needed) = (report.n_raw_rows, config.min_training_samples);
        if n_rows < n_needed {
            let message = format!("{n_rows} raw rows, min_training_samples asks for {n_needed}");
            self.hard("min_training_samples", (n_rows as f64, n_needed as f64), message);
        }
        let n_days = report.days.iter().filter(|day| day.n_raw_rows > 0).count();
        let n_needed = config.window.min_days as usize;
        if n_days < n_needed {
            let message = format!("days with data: {n_days}, window.min_days asks for {n_needed}");
            self.hard("min_days", (n_days as f64, n_needed as f64), message);
        }
    }

    fn samples(
        &mut self,
        report: &QualityReport,
        outline: &Grid,
        plan: Option<&PlannedSplit>,
        config: &Config,
    ) {
        let model = &config.model;
        let Some(plan) = plan else {
            let n_needed = model.encoder_length + 3 * model.horizon;
            let n_steps = outline.n_steps;
            let message = format!(
                "{n_steps} steps, training and exam need {n_needed} (model.encoder_length and three times model.horizon)"
            );
            return self.hard("n_steps", (n_steps as f64, n_needed as f64), message);
        };
        if report.n_servers_usable == 0 {
            let why = report.servers.iter().find_map(|s| Some((&s.name, s.excluded.as_ref()?)));
            let example = why.map_or(String::new(), |(name, reason)| format!(" ({name}: {reason})"));
            let message = format!("none of {} servers can be trained on{example}", report.n_servers);
            return self.hard("usable_servers", (0.0, 1.0), message);
        }
        for (rule, n_samples) in
            [("train_samples", report.n_train_samples), ("holdout_samples", report.n_holdout_samples)]
        {
            if n_samples == 0 {
                let part = if rule == "train_samples" { "to train on" } else { "left for the exam" };
                let message =
                    format!("no whole sample is {part}; the newest step with data is {}", newest(report));
                self.hard(rule, (0.0, 1.0), message);
            }
        }
        if plan.n_steps_given_up > 0 {
            let n_asked = (plan.split.holdout_end - plan.split.holdout_start) + plan.n_steps_given_up;
            let n_left = n_asked - plan.n_steps_given_up;
            let message = format!("the window is short: the holdout has {n_left} steps instead of {n_asked}");
            self.soft("window", "holdout_hours", (n_left as f64, n_asked as f64), message);
        }
    }

    fn fleet_gaps(&mut self, report: &QualityReport, config: &Config) {
        let zone = config.timezone;
        let max_gap_secs = config.window.max_gap_steps as f64 * f64::from(config.series.step_secs);
        let limit = max_gap_secs / 3600.0;
        let mut gaps: Vec<&FleetGap> = report.fleet_gaps.iter().collect();
        gaps.sort_by_key(|gap| std::cmp::Reverse(gap.to - gap.from));
        let hours = |gap: &FleetGap| (gap.to - gap.from).num_seconds() as f64 / 3600.0;
        for gap in gaps.iter().take(MAX_LINES) {
            let message = format!(
                "{} of {} servers have no rows from {} to {} ({:.1} h)",
                gap.n_silent,
                gap.n_servers,
                local(gap.from, zone),
                local(gap.to, zone),
                hours(gap)
            );
            self.soft("window", "fleet_gap", (hours(gap), limit), message);
        }
        if let Some(others) = gaps.get(MAX_LINES..).filter(|others| !others.is_empty()) {
            let n_hours: f64 = others.iter().map(|gap| hours(gap)).sum();
            let message = format!("{} more gaps of the whole fleet, {n_hours:.1} h together", others.len());
            self.soft("window", "fleet_gap", (n_hours, limit), message);
        }
    }

    fn days(&mut self, report: &QualityReport, asked: Asked, config: &Config) {
        let n_asked = (asked.end_day - asked.first_day).num_days();
        let n_found = report.days.len() as i64;
        if n_found < n_asked {
            let message = format!("the data begins {n_found} days before the end, {n_asked} were asked for");
            self.soft("window", "days", (n_found as f64, n_asked as f64), message);
        }
        let names: Vec<String> = report.days.iter().map(|day| day.date.to_string()).collect();
        let limit = config.quality.min_completeness;
        let incomplete = report.days.iter().zip(&names).filter_map(|(day, name)| {
            let share = day.completeness_outside_gaps?;
            let detail = format!("{:.0} % of the steps of its {} servers", 100.0 * share, day.n_servers);
            (share < limit).then_some((share, Case { name, badness: 1.0 - share, detail }))
        });
        let few = format!("hold less than {:.0} % of their steps", 100.0 * limit);
        self.about_days("day_completeness", incomplete.collect(), &few, limit);
        let limit = config.quality.max_duplicates;
        let repeated = report.days.iter().zip(&names).filter_map(|(day, name)| {
            let n_rows = day.n_raw_rows + day.n_duplicates;
            let share = day.n_duplicates as f64 / n_rows.max(1) as f64;
            let detail = format!("{:.1} % rows that repeat a server and time, of {n_rows}", 100.0 * share);
            (share > limit).then_some((share, Case { name, badness: share, detail }))
        });
        let many = format!("have more than {:.0} % of rows twice", 100.0 * limit);
        self.about_days("duplicates", repeated.collect(), &many, limit);
    }

    /// A line for each day with what was measured of it, or one for all where they are many.
    fn about_days(&mut self, rule: &str, mut cases: Vec<(f64, Case<'_>)>, what: &str, limit: f64) {
        if cases.len() <= MAX_LINES {
            for (measured, Case { name, detail, .. }) in cases {
                self.soft(name, rule, (measured, limit), format!("{name} holds {detail}"));
            }
            return;
        }
        cases.sort_by(|a, b| b.1.badness.total_cmp(&a.1.badness));
        let (n_days, measured) = (cases.len(), cases[0].0);
        let mut cases: Vec<Case<'_>> = cases.into_iter().map(|(_, case)| case).collect();
        let worst = worst(&mut cases);
        self.soft("days", rule, (measured, limit), format!("{n_days} days {what} ({worst})"));
    }

    fn servers(&mut self, report: &QualityReport, config: &Config) {
        for rule in SERVER_RULES {
            let of_rule = |server: &&ServerQuality| server.rules.iter().any(|found| found == rule.name);
            let cases = report.servers.iter().filter(of_rule).map(|server| {
                let (badness, detail) = (rule.tell)(server, config);
                Case { name: &server.name, badness, detail }
            });
            self.about_servers(rule, cases.collect(), report.n_servers);
        }
    }

    fn about_servers(&mut self, rule: &ServerRule, mut cases: Vec<Case<'_>>, n_all: usize) {
        let names = cases.iter().map(|case| case.name.to_owned()).collect();
        let (subject, message) = match cases.as_slice() {
            [] => return,
            [Case { name, detail, .. }] => {
                (*name, format!("server {name} {}{}{detail}", rule.one, rule.link))
            }
            _ => {
                let n = cases.len();
                let worst = worst(&mut cases);
                ("servers", format!("{n} of {n_all} servers {} ({worst})", rule.many))
            }
        };
        let numbers = (cases.len() as f64, n_all as f64);
        self.add(Severity::Soft, (subject, rule.name), numbers, message, names);
    }
}

/// The first few cases, the worst first.
pub(super) fn worst(cases: &mut [Case<'_>]) -> String {
    cases.sort_by(|a, b| b.badness.total_cmp(&a.badness));
    let told = cases.iter().take(MAX_EXAMPLES).map(|case| format!("{} {}", case.name, case.detail));
    let mut told: Vec<String> = told.map(|text| text.trim_end().to_owned()).collect();
    if cases.len() > MAX_EXAMPLES {
        told.push("...".into());
    }
    told.join("; ")
}

/// A rule on servers: how it is said of one and of many, and what each has to add.
struct ServerRule {
    name: &'static str,
    one: &'static str,
    /// Between the sentence and the detail of one.
    link: &'static str,
    many: &'static str,
    /// How bad it is, and in words.
    tell: fn(&ServerQuality, &Config) -> (f64, String),
}

const EXCLUDED: &str = "excluded";
const NEW: &str = "new";
const VANISHED: &str = "vanished";
const INCOMPLETE: &str = "incomplete";
const LONG_GAP: &str = "long_gap";
const CLOCK_SKEW: &str = "clock_skew";
const ROW_RATE: &str = "row_rate";

const SERVER_RULES: &[ServerRule] = &[
    ServerRule {
        name: EXCLUDED,
        one: "is left out",
        link: ": ",
        many: "are left out",
        tell: |server, _| (1.0 - server.completeness, server.excluded.clone().unwrap_or_default()),
    },
    ServerRule {
        name: VANISHED,
        one: "is silent since",
        link: " ",
        many: "are silent since some time",
        tell: |server, config| moment(server.last_seen, config.timezone, true),
    },
    ServerRule {
        name: CLOCK_SKEW,
        one: "has another clock than the fleet:",
        link: " ",
        many: "have another clock than the fleet",
        tell: |server, _| {
            let minutes = server.clock_offset_secs.unwrap_or(0) as f64 / 60.0;
            let side = if minutes > 0.0 { "ahead" } else { "behind" };
            (minutes.abs(), format!("{:.0} min {side}", minutes.abs()))
        },
    },
    ServerRule {
        name: LONG_GAP,
        one: "has a gap of",
        link: " ",
        many: "have long gaps of their own",
        tell: |server, config| {
            let hours = server.longest_own_gap_secs as f64 / 3600.0;
            let from = server.longest_own_gap_from.map_or(String::new(), |from| local(from, config.timezone));
            (hours, format!("{hours:.1} h from {from}"))
        },
    },
    ServerRule {
        name: INCOMPLETE,
        one: "has gaps: it holds",
        link: " ",
        many: "have gaps",
        tell: |server, _| {
            let share = server.completeness_in_life;
            (1.0 - share, format!("{:.0} % of its steps", 100.0 * share))
        },
    },
    ServerRule {
        name: ROW_RATE,
        one: "sends at another rate than series.sample_secs says:",
        link: " ",
        many: "send at another rate than series.sample_secs says",
        tell: |server, config| {
            let n_rows =
                server.row_rate * f64::from(config.series.step_secs) / f64::from(config.series.sample_secs);
            (server.row_rate.ln().abs(), format!("{n_rows:.1} rows a step"))
        },
    },
    ServerRule {
        name: NEW,
        one: "is new since",
        link: " ",
        many: "are new",
        tell: |server, config| moment(server.first_seen, config.timezone, false),
    },
];

/// A moment, and how bad it is: the older, the worse, or the newer.
fn moment(time: Option<chrono::DateTime<chrono::Utc>>, zone: Tz, is_older_worse: bool) -> (f64, String) {
    let Some(time) = time else { return (0.0, "ever".to_owned()) };
    let secs = time.timestamp() as f64;
    (if is_older_worse { -secs } else { secs }, local(time, zone))
}

/// Finds the rules that speak of each server, and gives it its verdict.
pub(super) fn judge_servers(report: &mut QualityReport, outline: &Grid, config: &Config) {
    let limits = &config.quality;
    let (start_ms, end_ms) = (outline.start_ms, outline.time_ms(outline.n_steps));
    let gaps = &report.fleet_gaps;
    for server in &mut report.servers {
        let (Some(first), Some(last)) = (server.first_seen, server.last_seen) else {
            server.rules = vec![EXCLUDED.into()];
            continue;
        };
        let in_gaps: i64 =
            gaps.iter().map(|gap| (gap.to.min(last) - gap.from.max(first)).num_seconds().max(0)).sum();
        let step_secs = i64::from(outline.step_secs);
        let n_expected = ((last - first).num_seconds() - in_gaps) / step_secs + 1;
        let share = server.n_steps_present as f64 / n_expected.max(1) as f64;
        server.completeness_in_life = share;
        let is_excluded = server.excluded.is_some();
        let day_ms = 86_400_000;
        let tells = [
            (EXCLUDED, is_excluded),
            (VANISHED, end_ms - last.timestamp_millis() > day_ms),
            (CLOCK_SKEW, server.clock_offset_secs.is_some()),
            (LONG_GAP, server.longest_own_gap_secs as f64 > limits.max_gap_hours * 3600.0 && !is_excluded),
            (INCOMPLETE, share < limits.min_completeness && !is_excluded),
            (ROW_RATE, (server.row_rate - 1.0).abs() > limits.row_rate_tolerance),
            (NEW, first.timestamp_millis() - start_ms > day_ms),
        ];
        server.rules =
            tells.into_iter().filter(|(_, speaks)| *speaks).map(|(rule, _)| rule.to_owned()).collect();
        if server.verdict == Verdict::Good && server.n_remarks() > 0 {
            server.verdict = Verdict::Warn;
        }
    }
}

fn newest(report: &QualityReport) -> String {
    let last = report.servers.iter().filter_map(|server| server.last_seen).max();
    last.map_or_else(|| "none".to_owned(), |last| last.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

pub(super) fn local(time: chrono::DateTime<chrono::Utc>, zone: Tz) -> String {
    time.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}
