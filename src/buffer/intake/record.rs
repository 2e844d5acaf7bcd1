//! What makes a record good: the fields it may have, the checks it must pass, and the reasons it fails.
//!
//! The parsers (NDJSON, CSV, parquet) fill a [`Candidate`]; [`Rules::check`] decides. All inputs are held to
//! the same rules:
//!
//! - `timestamp`: RFC 3339 with a zone, or an epoch number, as [`super::times`] reads them. Text without a zone is
//!   refused unless the config names one: guessing one files rows on the wrong day.
//! - `server_name`: 1 to 128 bytes of Unicode letters and digits, `.`, `_`, `-`, `:`, beginning with a letter or
//!   digit. So no path separators, control or invisible characters, options, or shell syntax. Decomposed accents
//!   are refused too: they look like other names.
//! - metrics: finite numbers; `null` (an empty CSV field) is a missing value. Text, even `"12.5"`, is refused.
//! - A record without any metric is refused, unless its status is `offline`. One that gives a metric twice, under
//!   two names that the config maps to it, is refused too.

use std::collections::BTreeMap;
use std::fmt;

use chrono::DateTime;

use crate::schema::{Metric, OutOfRange};

use super::names::Target;
use super::times::TimeRule;
use crate::buffer::rows::Row;

/// Longest server name, in bytes.
pub const MAX_SERVER_NAME_BYTES: usize = 128;
/// Longest profile or status, in bytes.
pub const MAX_LABEL_BYTES: usize = 64;
/// The status whose metrics are missing data, not zeros.
pub const OFFLINE: &str = "offline";
/// Names of unknown fields that are counted one by one; more are counted together.
const MAX_UNKNOWN_NAMES: usize = 200;

/// Why a row is bad; its name is what reports and quarantine files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not JSON at all, or cut.
    MalformedJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A CSV line with another number of fields than the header, or open quotes.
    MalformedCsv,
    /// Longer than the limit of 1 MiB (32 MiB for a batch).
    LineTooLong,
    MissingTimestamp,
    /// Neither RFC 3339 with a zone nor an epoch number.
    BadTimestamp,
    /// Further ahead of the clock than `series.max_future_secs`.
    TimestampInFuture,
    /// Older than the retention, or before the year 2000.
    TimestampTooOld,
    MissingServerName,
    BadServerName,
    /// A profile or status that is not a short text.
    BadLabel,
    /// Text, a boolean or a container where a number belongs.
    NotANumber,
    /// NaN, infinity, or a number too large for 32 bits.
    NotFinite,
    NoMetrics,
    /// The same metric twice, in one record or in two series of the same time.
    GivenTwice,
    /// Outside of a metric's range, where the config says `quarantine`.
    OutOfRange,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::MalformedJson => "malformed_json",
            Reason::NotAnObject => "not_an_object",
            Reason::MalformedCsv => "malformed_csv",
            Reason::LineTooLong => "line_too_long",
            Reason::MissingTimestamp => "missing_timestamp",
            Reason::BadTimestamp => "bad_timestamp",
            Reason::TimestampInFuture => "timestamp_in_future",
            Reason::TimestampTooOld => "timestamp_too_old",
            Reason::MissingServerName => "missing_server_name",
            Reason::BadServerName => "bad_server_name",
            Reason::BadLabel => "bad_label",
            Reason::NotANumber => "not_a_number",
            Reason::NotFinite => "not_finite",
            Reason::NoMetrics => "no_metrics",
            Reason::GivenTwice => "given_twice",
            Reason::OutOfRange => "out_of_range",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refused row: the reason, and what a person wants to know beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct Reject {
    pub reason: Reason,
    pub detail: String,
}

impl Reject {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// How often fields that the schema does not know were dropped, by name.
#[derive(Clone, Debug, Default)]
pub(in crate::buffer) struct UnknownFields(pub BTreeMap<String, u64>);

impl UnknownFields {
    pub fn count(&mut self, name: &str) {
        let name = name.char_indices().nth(64).map_or(name, |(end, _)| &name[..end]);
        if let Some(n) = self.0.get_mut(name) {
            *n += 1;
        } else if self.0.len() < MAX_UNKNOWN_NAMES {
            self.0.insert(name.to_owned(), 1);
        } else {
            *self.0.entry("(other names)".to_owned()).or_default() += 1;
        }
    }
}

/// A record as it was read, before anyone judged it. Reused from row to row.
#[derive(Clone, Debug, Default)]
pub(in crate::buffer) struct Candidate {
    pub time_ms: Option<i64>,
    pub server: String,
    pub profile: String,
    pub status: String,
    pub values: Vec<f32>,
    /// The first thing that was wrong while reading.
    pub defect: Option<Reject>,
    /// One of several records of its row: it may have no metric, and what it does not give stays as it is.
    pub is_partial: bool,
    /// How its times are to be read.
    pub times: TimeRule,
}

impl Candidate {
    pub fn new(n_metrics: usize, times: TimeRule) -> Self {
        Self { values: vec![f32::NAN; n_metrics], times, ..Self::default() }
    }

    pub fn reset(&mut self) {
        self.time_ms = None;
        self.server.clear();
        self.profile.clear();
        self.status.clear();
        self.values.fill(f32::NAN);
        self.defect = None;
        self.is_partial = false;
    }

    /// Remembers a defect, unless there was one before.
    pub fn fail(&mut self, reason: Reason, detail: impl FnOnce() -> String) {
        if self.defect.is_none() {
            self.defect = Some(Reject::new(reason, detail()));
        }
    }

    /// Takes a number of the source as a metric's value, holding it to what 32 bits can say.
    pub fn set_value(&mut self, target: Target, number: f64, metrics: &[Metric]) {
        let name = || &metrics[target.metric].name;
        let narrowed = target.convert(number) as f32;
        let value = &mut self.values[target.metric];
        if !narrowed.is_finite() {
            self.fail(Reason::NotFinite, || format!("{} is {number}", name()));
        } else if value.is_nan() {
            *value = narrowed;
        } else {
            self.fail(Reason::GivenTwice, || format!("{} is given twice", name()));
        }
    }

    pub fn set_time_text(&mut self, text: &str) {
        match self.times.read(text) {
            Ok(time_ms) => self.time_ms = Some(time_ms),
            Err(problem) => self.fail(Reason::BadTimestamp, || format!("`{}` {problem}", clip(text))),
        }
    }

    pub fn set_time_number(&mut self, number: f64) {
        match self.times.epoch_ms(number) {
            Some(time_ms) => self.time_ms = Some(time_ms),
            None => self.fail(Reason::BadTimestamp, || format!("{number} is not an epoch time")),
        }
    }

    /// Takes what a clock on the wall showed, as milliseconds since 1970 on that clock.
    pub fn set_time_local(&mut self, local_ms: i64) {
        match self.times.local_ms(local_ms) {
            Ok(time_ms) => self.time_ms = Some(time_ms),
            Err(problem) => self.fail(Reason::BadTimestamp, || format!("{local_ms} ms {problem}")),
        }
    }

    /// The row, once the candidate passed [`Rules::check`].
    pub fn row(&self) -> Row<'_> {
        let optional = |text: &'_ str| if text.is_empty() { None } else { Some(text.len()) };
        Row {
            time_ms: self.time_ms.expect("checked before"),
            server: &self.server,
            profile: optional(&self.profile).map(|end| &self.profile[..end]),
            status: optional(&self.status).map(|end| &self.status[..end]),
            values: &self.values,
        }
    }
}

/// The beginning of a text, short enough for a message.
fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

/// What a record must satisfy at this site, now.
pub(in crate::buffer) struct Rules<'a> {
    pub metrics: &'a [Metric],
    /// Oldest event time taken, epoch milliseconds.
    pub min_ms: i64,
    /// Newest event time taken, epoch milliseconds.
    pub max_ms: i64,
    /// What statuses are called here, by what sources call them.
    pub status_values: &'a BTreeMap<String, String>,
}

impl Rules<'_> {
    /// Judges a candidate; `Ok` holds the number of values outside their range that are kept nevertheless.
    pub fn check(&self, candidate: &mut Candidate) -> Result<usize, Reject> {
        if let Some(defect) = candidate.defect.take() {
            return Err(defect);
        }
        self.check_time(candidate.time_ms)?;
        check_server_name(&candidate.server)?;
        check_label("profile", &candidate.profile)?;
        check_label("status", &candidate.status)?;
        if let Some(status) = self.status_values.get(&candidate.status) {
            candidate.status.clone_from(status);
        }
        let may_be_empty = candidate.is_partial || is_offline(&candidate.status);
        if !may_be_empty && candidate.values.iter().all(|value| value.is_nan()) {
            return Err(Reject::new(Reason::NoMetrics, "none of the site's metrics is given"));
        }
        self.check_ranges(&candidate.values)
    }

    fn check_time(&self, time_ms: Option<i64>) -> Result<(), Reject> {
        let Some(time_ms) = time_ms else {
            return Err(Reject::new(Reason::MissingTimestamp, "there is no `timestamp`"));
        };
        let say = || match DateTime::from_timestamp_millis(time_ms) {
            Some(time) => time.to_rfc3339(),
            None => format!("{time_ms} ms"),
        };
        if time_ms > self.max_ms {
            return Err(Reject::new(Reason::TimestampInFuture, say()));
        }
        if time_ms < self.min_ms {
            return Err(Reject::new(Reason::TimestampTooOld, say()));
        }
        Ok(())
    }

    fn check_ranges(&self, values: &[f32]) -> Result<usize, Reject> {
        let mut n_kept = 0;
        for (metric, value) in self.metrics.iter().zip(values) {
            if value.is_nan() || metric.is_in_range(*value) {
                continue;
            }
            match metric.out_of_range {
                OutOfRange::Keep => n_kept += 1,
                OutOfRange::Quarantine => {
                    return Err(Reject::new(Reason::OutOfRange, format!("{} is {value}", metric.name)));
                }
            }
        }
        Ok(n_kept)
    }
}

/// Whether a status says that the server was off.
pub(in crate::buffer) fn is_offline(status: &str) -> bool {
    status.eq_ignore_ascii_case(OFFLINE)
}

fn check_server_name(name: &str) -> Result<(), Reject> {
    let bad = |detail: &str| Err(Reject::new(Reason::BadServerName, detail));
    if name.is_empty() {
        return Err(Reject::new(Reason::MissingServerName, "there is no `server_name`"));
    }
    if name.len() > MAX_SERVER_NAME_BYTES {
        return bad(&format!("{} bytes, at most {MAX_SERVER_NAME_BYTES} are allowed", name.len()));
    }
    if !name.starts_with(char::is_alphanumeric) {
        return bad("it must begin with a letter or digit");
    }
    match name.chars().find(|c| !c.is_alphanumeric() && !matches!(c, '.' | '_' | '-' | ':')) {
        Some(c) => bad(&format!("{} is not allowed in it", c.escape_debug())),
        None => Ok(()),
    }
}

fn check_label(field: &str, text: &str) -> Result<(), Reject> {
    if text.len() > MAX_LABEL_BYTES || text.chars().any(char::is_control) {
        let detail = format!("{field} must be at most {MAX_LABEL_BYTES} bytes without control characters");
        return Err(Reject::new(Reason::BadLabel, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn name(name: &str, expected: Result<(), Reason>) {
        assert_eq!(check_server_name(name).map_err(|reject| reject.reason), expected, "{name:?}");
    }

    #[test]
    fn server_names_cannot_be_paths_options_or_lookalikes() {
        for good in ["ppml0001", "db-1.example.com", "10.0.0.1:9100", "x", "сервер-01", "服务器-7", "CON"]
        {
            name(good, Ok(()));
        }
        name("", Err(Reason::MissingServerName));
        for bad in ["../x", "/x", "a/b", "a\\b", ".", "..", "-rf", "~", "$(id)", "x;id", "*", "a b", "%2e"] {
            name(bad, Err(Reason::BadServerName));
        }
        for bad in ["host\u{202e}gpj", "host\u{200d}01", "cafe\u{301}", "a\nb", "a\0b", "\u{1f525}-host"] {
            name(bad, Err(Reason::BadServerName));
        }
        name(&"a".repeat(128), Ok(()));
        name(&"a".repeat(129), Err(Reason::BadServerName));
    }

    #[test]
    fn unknown_names_are_counted_but_not_without_limit() {
        let mut unknown = UnknownFields::default();
        for idx in 0..1000 {
            unknown.count(&format!("field{idx}"));
        }
        assert_eq!(unknown.0.len(), MAX_UNKNOWN_NAMES + 1);
        assert_eq!(unknown.0["(other names)"], 1000 - MAX_UNKNOWN_NAMES as u64);
    }
}
