//! The findings on metrics: what looks wrong on any server is told; what is merely idle (no values, never a change)
//! only of a target, or where it makes a metric useless on all servers.

use super::findings::{Case, Findings, local, worst};
use super::metric::{MetricQuality, rule};
use super::{QualityReport, ServerQuality, Severity};
use crate::config::Config;

/// Metrics that get a line each; more share one.
const MAX_LINES: usize = 3;
/// Metrics named in a line that they share.
const MAX_NAMED: usize = 3;

/// What a rule found of one metric.
struct Affected<'a> {
    metric: &'a str,
    found: Vec<(&'a ServerQuality, &'a MetricQuality)>,
}

pub(super) fn draw(findings: &mut Findings, report: &QualityReport, config: &Config) {
    let usable: Vec<&ServerQuality> = report.servers.iter().filter(|s| s.excluded.is_none()).collect();
    for rule in rule::ALL {
        let mut affected: Vec<Affected<'_>> =
            config.metrics.iter().map(|metric| affected(&metric.name, rule, &usable)).collect();
        let is_told = |metric: &Affected<'_>| {
            let is_idle = rule::IDLE.contains(&rule);
            let is_target = config.model.targets.iter().any(|target| target == metric.metric);
            !metric.found.is_empty() && (!is_idle || is_target || metric.found.len() == usable.len())
        };
        affected.retain(is_told);
        let stops = |metric: &Affected<'_>| {
            let is_target = config.model.targets.iter().any(|target| target == metric.metric);
            is_target
                && config.quality.stop_on.iter().any(|stopping| stopping == rule)
                && 2 * metric.found.len() >= usable.len()
        };
        let (hard, soft): (Vec<_>, Vec<_>) = affected.into_iter().partition(stops);
        for metric in &hard {
            about_one(findings, Severity::Hard, rule, metric, usable.len(), config);
        }
        if soft.len() <= MAX_LINES {
            for metric in &soft {
                about_one(findings, Severity::Soft, rule, metric, usable.len(), config);
            }
        } else {
            about_many(findings, rule, soft, usable.len(), config);
        }
    }
}

fn affected<'a>(name: &'a str, rule: &str, usable: &[&'a ServerQuality]) -> Affected<'a> {
    let of_server = |server: &&'a ServerQuality| {
        let found = server.metrics.iter().find(|metric| metric.name == name)?;
        found.rules.iter().any(|known| known == rule).then_some((*server, found))
    };
    Affected { metric: name, found: usable.iter().filter_map(of_server).collect() }
}

impl Affected<'_> {
    fn cases(&self, rule: &str, config: &Config) -> Vec<Case<'_>> {
        let mut cases = Vec::with_capacity(self.found.len());
        for (server, found) in &self.found {
            let (badness, detail) = tell(rule, found, config);
            cases.push(Case { name: &server.name, badness, detail });
        }
        cases
    }

    fn servers(&self) -> impl Iterator<Item = String> + '_ {
        self.found.iter().map(|(server, _)| server.name.clone())
    }
}

fn about_one(
    findings: &mut Findings,
    severity: Severity,
    rule: &str,
    metric: &Affected<'_>,
    n_usable: usize,
    config: &Config,
) {
    let n = metric.found.len();
    let worst = worst(&mut metric.cases(rule, config));
    let message = format!("{} {} on {n} of {n_usable} servers ({worst})", metric.metric, words(rule).0);
    let numbers = (n as f64, n_usable as f64);
    findings.add(severity, (metric.metric, rule), numbers, message, metric.servers().collect());
}

fn about_many(
    findings: &mut Findings,
    rule: &str,
    mut metrics: Vec<Affected<'_>>,
    n_usable: usize,
    config: &Config,
) {
    metrics.sort_by_key(|metric| std::cmp::Reverse(metric.found.len()));
    let mut servers: Vec<String> = metrics.iter().flat_map(Affected::servers).collect();
    servers.sort();
    servers.dedup();
    let named = metrics.iter().take(MAX_NAMED).map(|metric| {
        let mut cases = metric.cases(rule, config);
        cases.sort_by(|a, b| b.badness.total_cmp(&a.badness));
        let example = format!("{} {}", cases[0].name, cases[0].detail);
        format!("{} on {}, as {}", metric.metric, metric.found.len(), example.trim_end())
    });
    let mut named: Vec<String> = named.collect();
    if metrics.len() > MAX_NAMED {
        named.push("...".into());
    }
    let message = format!(
        "{} metrics {} on {} of {n_usable} servers ({})",
        metrics.len(),
        words(rule).1,
        servers.len(),
        named.join("; ")
    );
    let numbers = (servers.len() as f64, n_usable as f64);
    findings.add(Severity::Soft, ("metrics", rule), numbers, message, servers);
}

/// What a rule says of one metric, and of several.
fn words(rule: &str) -> (&'static str, &'static str) {
    match rule {
        rule::VANISHED => ("has stopped", "have stopped"),
        rule::UNIT_JUMP => ("seems to come in another unit", "seem to come in another unit"),
        rule::STUCK => ("is stuck", "are stuck"),
        rule::OUT_OF_RANGE => ("leaves its range", "leave their range"),
        rule::RESIZED => ("changes size", "change size"),
        rule::DRIFT => ("has drifted in the last week", "have drifted in the last week"),
        rule::APPEARED => ("is new", "are new"),
        rule::SPARSE => ("is sparse", "are sparse"),
        rule::NEVER_OBSERVED => ("has no values", "have no values"),
        _ => ("never changes", "never change"),
    }
}

/// How bad a case is, and in words.
fn tell(rule: &str, found: &MetricQuality, config: &Config) -> (f64, String) {
    let zone = config.timezone;
    let since = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map_or(String::new(), |time| format!("since {}", local(time, zone)))
    };
    match rule {
        rule::VANISHED => (0.0, since(found.vanished)),
        rule::APPEARED => (0.0, since(found.appeared)),
        rule::UNIT_JUMP => found.unit_jump.as_ref().map_or_else(Default::default, |jump| {
            let sign = if jump.is_up { "x" } else { "/" };
            (jump.factor, format!("{sign}{} on {} days from {}", jump.factor, jump.n_days, jump.from))
        }),
        rule::STUCK => found.stuck.as_ref().map_or_else(Default::default, |stuck| {
            let hours = (stuck.to - stuck.from).num_seconds() as f64 / 3600.0;
            (hours, format!("at {} for {hours:.0} h from {}", stuck.value, local(stuck.from, zone)))
        }),
        rule::OUT_OF_RANGE => {
            let share = found.out_of_range_share;
            (share, format!("{:.1} % of its values", 100.0 * share))
        }
        rule::RESIZED => found.resizes.last().map_or_else(Default::default, |last| {
            let times = found.resizes.len();
            let more = if times > 1 { format!(", {times} times in all") } else { String::new() };
            let ratio = f64::from(last.from / last.to).ln().abs();
            (ratio, format!("{} -> {} at {}{more}", last.from, last.to, local(last.at, zone)))
        }),
        rule::DRIFT => found.drift.as_ref().map_or_else(Default::default, |drift| {
            (drift.effect(), format!("by {:+.3}, {:.1} standard deviations", drift.shift, drift.effect()))
        }),
        rule::SPARSE | rule::NEVER_OBSERVED if found.missing_share < 1.0 => {
            (found.missing_share, format!("in {:.0} % of its steps", 100.0 * (1.0 - found.missing_share)))
        }
        _ => (0.0, String::new()),
    }
}
