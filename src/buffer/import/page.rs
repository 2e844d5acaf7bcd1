//! One page of an import: the answers of several queries joined to rows by server and time.
//!
//! NaN and infinite samples are missing values. A query gives a server at most one value at a time: which of two would
//! be right, nobody here can know.

use std::collections::BTreeMap;

use anyhow::Result;

use super::api::{Series, TooLarge};
use super::range::PageRange;
use crate::calendar;
use crate::config::PrometheusConfig;
use crate::error::{HintExt, Refusal};
use crate::schema::Metric;

use crate::buffer::intake::names::Target;
use crate::buffer::intake::record::Candidate;

/// Values in memory at once, 64 MiB; a page of more is asked for in halves.
const MAX_CELLS: usize = 16 << 20;

/// The joined answers.
pub(super) struct Page {
    pub range: PageRange,
    n_metrics: usize,
    server_label: String,
    strip_port: bool,
    profile_label: String,
    servers: BTreeMap<String, Server>,
    pub n_samples: u64,
    pub n_not_finite: u64,
}

/// The values of one server, time by time, metric by metric; NaN where there is none.
struct Server {
    values: Vec<f32>,
    /// The profile, and the metric whose query said so.
    profile: Option<(String, String)>,
}

/// One row of a page.
pub(super) struct PageRow<'a> {
    pub time_ms: i64,
    pub server: &'a str,
    profile: &'a str,
    values: &'a [f32],
}

impl PageRow<'_> {
    /// Writes the row into an empty candidate.
    pub fn fill(&self, candidate: &mut Candidate, metrics: &[Metric]) {
        candidate.time_ms = Some(self.time_ms);
        candidate.server.push_str(self.server);
        candidate.profile.push_str(self.profile);
        for (idx, value) in self.values.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
            candidate.set_value(Target::plain(idx), f64::from(*value), metrics);
        }
    }
}

impl Page {
    pub fn new(range: PageRange, n_metrics: usize, source: &PrometheusConfig) -> Self {
        Self {
            range,
            n_metrics,
            server_label: source.server_label.clone(),
            strip_port: source.strip_port,
            profile_label: source.profile_label.clone(),
            servers: BTreeMap::new(),
            n_samples: 0,
            n_not_finite: 0,
        }
    }

    /// Joins the answer to the query of `metric`, whose position in the schema is `metric_idx`.
    ///
    /// - Errors ([`Refusal::Usage`] unless said otherwise): a series does not name its server; two series have a value
    ///   for the same server at the same time; two queries disagree about a server's profile; more values than fit
    ///   ([`TooLarge`]); a time that was not asked for.
    pub fn add(&mut self, metric: &str, metric_idx: usize, answer: &[Series]) -> Result<()> {
        let mut earlier: BTreeMap<String, Vec<&Series>> = BTreeMap::new();
        for series in answer {
            let server = self.server_of(metric, series)?;
            self.ensure_room(&server)?;
            self.take_profile(metric, series, &server)?;
            let before = earlier.entry(server.clone()).or_default();
            self.take_samples(metric, metric_idx, series, &server, before)?;
            before.push(series);
        }
        Ok(())
    }

    fn server_of(&self, metric: &str, series: &Series) -> Result<String> {
        let label = &self.server_label;
        match series.labels.get(label).map(String::as_str) {
            Some(name) if !name.is_empty() => Ok(match self.strip_port {
                true => without_port(name).to_owned(),
                false => name.to_owned(),
            }),
            _ => Err(Refusal::usage(format!(
                "query `{metric}` gives the series {}, which has no label `{label}`",
                series.describe()
            )))
            .hint(|| format!("keep it with `by ({label})`, or name another with --server-label")),
        }
    }

    fn ensure_room(&mut self, server: &str) -> Result<()> {
        if self.servers.contains_key(server) {
            return Ok(());
        }
        let per_server = self.range.n_points as usize * self.n_metrics;
        let n_servers = self.servers.len() + 1;
        if n_servers * per_server > MAX_CELLS {
            return Err(TooLarge(format!("{n_servers} servers and more do not fit into one page")).into());
        }
        let server_row = Server { values: vec![f32::NAN; per_server], profile: None };
        self.servers.insert(server.to_owned(), server_row);
        Ok(())
    }

    fn take_profile(&mut self, metric: &str, series: &Series, server: &str) -> Result<()> {
        let Some(profile) = series.labels.get(&self.profile_label) else { return Ok(()) };
        let Some(known) = self.servers.get_mut(server).map(|server| &mut server.profile) else {
            return Ok(());
        };
        match known {
            Some((other, by)) if other != profile => Err(Refusal::usage(format!(
                "server `{server}` has the profile {other:?} by query `{by}` and {profile:?} by query `{metric}`"
            )))
            .hint(|| "let one of the queries drop the label, with `by (...)` or `without (...)`".into()),
            Some(_) => Ok(()),
            None => {
                *known = Some((profile.clone(), metric.to_owned()));
                Ok(())
            }
        }
    }

    fn take_samples(
        &mut self,
        metric: &str,
        metric_idx: usize,
        series: &Series,
        server: &str,
        before: &[&Series],
    ) -> Result<()> {
        let Some(row) = self.servers.get_mut(server) else { return Ok(()) };
        for sample in &series.samples {
            let time_ms = sample.time_ms();
            let Some(idx) = self.range.idx_of(time_ms) else {
                let time = calendar::to_utc(time_ms);
                anyhow::bail!("query `{metric}` gives a value at {time}, which was not asked for");
            };
            self.n_samples += 1;
            if !sample.1.is_finite() {
                self.n_not_finite += 1;
                continue;
            }
            let cell = &mut row.values[idx * self.n_metrics + metric_idx];
            if !cell.is_nan() {
                return Err(two_series(metric, server, time_ms, series, before))
                    .hint(|| format!("aggregate them, such as `sum by ({}) (...)`, or choose one with a label matcher like `{{job=\"node\"}}`", self.server_label));
            }
            // A number too large for 32 bits becomes infinite here, and is refused by the judge.
            *cell = sample.1 as f32;
        }
        Ok(())
    }

    /// The servers of the page, by name.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str)
    }

    /// The rows with at least one value, by server and time.
    pub fn rows(&self) -> impl Iterator<Item = PageRow<'_>> {
        self.servers.iter().flat_map(move |(name, server)| {
            let rows = server.values.chunks(self.n_metrics).enumerate();
            let profile = server.profile.as_ref().map_or("", |(profile, _)| profile);
            rows.filter(|(_, values)| values.iter().any(|value| !value.is_nan())).map(move |(idx, values)| {
                PageRow { time_ms: self.range.time_ms(idx), server: name, profile, values }
            })
        })
    }
}

/// Names both series that have a value for `server` at `time_ms`.
fn two_series(
    metric: &str,
    server: &str,
    time_ms: i64,
    series: &Series,
    before: &[&Series],
) -> anyhow::Error {
    let has_value =
        |other: &&&Series| other.samples.iter().any(|s| s.time_ms() == time_ms && s.1.is_finite());
    let other = before.iter().find(has_value).map_or_else(|| "itself".to_owned(), |other| other.describe());
    let time = calendar::to_utc(time_ms).format("%Y-%m-%dT%H:%M:%SZ");
    Refusal::usage(format!(
        "query `{metric}` gives two series for server `{server}` at {time}: {other} and {}",
        series.describe()
    ))
}

/// `host` of `host:9100` and `::1` of `[::1]:9100`; a name without a port stays as it is.
fn without_port(name: &str) -> &str {
    let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = if is_port && (host.ends_with(']') || !host.contains(':')) { host } else { name };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_stripped_from_addresses_only() {
        for (name, expected) in [
            ("db1:9100", "db1"),
            ("10.0.0.1:9100", "10.0.0.1"),
            ("[fe80::1]:9100", "fe80::1"),
            ("fe80::1", "fe80::1"),
            ("db1", "db1"),
            ("db1:", "db1:"),
            ("db1:http", "db1:http"),
        ] {
            assert_eq!(without_port(name), expected, "{name}");
        }
    }
}
