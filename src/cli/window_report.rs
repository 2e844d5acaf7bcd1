//! What a window says of itself, for people: its frame, what was found, and its servers, the worst first.

use chrono::{DateTime, Duration, Utc};

use super::text;
use crate::window::quality::ServerQuality;
use crate::window::{Manifest, Severity, Verdict};

/// Servers listed where not all are asked for.
const MAX_SERVERS: usize = 20;

/// Which servers follow the findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    None,
    /// Those that are not good, the worst first, as many as fit a screen.
    Worst,
    All,
}

/// The frame, the findings and the servers asked for.
pub fn render(manifest: &Manifest, servers: Servers) -> String {
    let mut lines = frame(manifest);
    for finding in &manifest.quality.findings {
        let severity = if finding.severity == Severity::Hard { "hard" } else { "soft" };
        lines.push(format!("{severity}      {}", finding.message));
    }
    if servers != Servers::None {
        lines.push(format!("\n{}", table(manifest, servers)));
    }
    lines.join("\n").trim_end().to_owned()
}

fn frame(manifest: &Manifest) -> Vec<String> {
    let (quality, split) = (&manifest.quality, &manifest.split);
    let instant =
        |step: usize| utc(manifest.start + Duration::seconds(step as i64 * i64::from(manifest.step_secs)));
    let n_with = |verdict: Verdict| text::count(quality.n_with(verdict) as u64);
    vec![
        format!("window    {}", manifest.id),
        format!("days      {} up to {} ({})", manifest.first_day, manifest.end_day, manifest.zone),
        format!("time      {} up to {}", utc(manifest.start), utc(manifest.end)),
        format!("steps     {} of {} s", manifest.n_steps, manifest.step_secs),
        format!(
            "servers   {} trained on, {} seen: {} good, {} with remarks, {} left out",
            manifest.servers.len(),
            quality.n_servers,
            n_with(Verdict::Good),
            n_with(Verdict::Warn),
            n_with(Verdict::Excluded)
        ),
        format!("rows      {}", text::count(manifest.n_raw_rows)),
        format!(
            "split     train up to {} ({} samples), holdout {} up to {} ({} samples)",
            instant(split.train_end),
            text::count(quality.n_train_samples as u64),
            instant(split.holdout_start),
            instant(split.holdout_end),
            text::count(quality.n_holdout_samples as u64)
        ),
        format!(
            "sources   {} files of the buffer, schema {}, settings {}",
            manifest.sources.len(),
            manifest.schema_digest,
            manifest.config_digest
        ),
    ]
}

fn utc(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%MZ").to_string()
}

fn table(manifest: &Manifest, servers: Servers) -> String {
    let worst_first = manifest.quality.worst_first();
    let is_wanted = |server: &&&ServerQuality| servers == Servers::All || server.verdict != Verdict::Good;
    let wanted: Vec<&ServerQuality> = worst_first.iter().filter(is_wanted).copied().collect();
    let n_shown = if servers == Servers::All { wanted.len() } else { wanted.len().min(MAX_SERVERS) };
    if n_shown == 0 {
        return "every server is good; --all lists them".to_owned();
    }
    let rows = wanted[..n_shown].iter().map(|server| {
        let verdict = match server.verdict {
            Verdict::Good => "good",
            Verdict::Warn => "warn",
            Verdict::Excluded => "left out",
        };
        let complete = format!("{:.1} %", 100.0 * server.completeness_in_life);
        let gap = format!("{:.1} h", server.longest_gap_secs as f64 / 3600.0);
        vec![server.name.clone(), server.profile.clone(), verdict.into(), complete, gap, remarks(server)]
    });
    let mut table = text::table(&["server", "profile", "verdict", "complete", "longest gap", "why"], rows);
    let n_more = manifest.quality.servers.len() - n_shown;
    if n_more > 0 {
        table.push_str(&format!("and {} more; --all lists every server", text::count(n_more as u64)));
    }
    table
}

/// The rules that speak of a server, and those on its metrics with the metrics they befall.
fn remarks(server: &ServerQuality) -> String {
    if let Some(reason) = &server.excluded {
        return reason.clone();
    }
    let mut remarks = server.rules.clone();
    for rule in crate::window::quality::rule::ALL {
        let befalls = |metric: &&crate::window::quality::MetricQuality| {
            metric.verdict != Verdict::Good && metric.rules.iter().any(|known| known == rule)
        };
        let names: Vec<&str> =
            server.metrics.iter().filter(befalls).map(|metric| metric.name.as_str()).collect();
        match names.as_slice() {
            [] => {}
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                remarks.push(format!("{rule} ({first}, {second}, {third} and {} more)", rest.len()));
            }
            few => remarks.push(format!("{rule} ({})", few.join(", "))),
        }
    }
    remarks.join(", ")
}
