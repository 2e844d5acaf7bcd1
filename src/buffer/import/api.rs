//! The one call of the Prometheus HTTP API that an import makes, `/api/v1/query_range`, and what comes back.
//!
//! Works with whatever speaks that API (Thanos, Mimir, VictoriaMetrics). Queries are sent as forms, since they can be
//! longer than an address may be. A sample is a pair of a time and a number as text, which may be `NaN` or infinite.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, Visitor};

use super::range::PageRange;
use crate::config::PrometheusConfig;
use crate::error::Refusal;
use crate::http::{self, FailureKind, HttpError, Request};

/// Longest reply; a page whose reply is longer is asked for in halves.
const MAX_REPLY_BYTES: u64 = 32 << 20;
/// Longer than a server works at one query (two minutes unless told otherwise).
const ATTEMPT: Duration = Duration::from_secs(150);
const DEADLINE: Duration = Duration::from_secs(600);
/// Attempts before the first good answer, when the address itself may be wrong, and after it.
const MAX_FIRST_ATTEMPTS: u32 = 3;
const MAX_ATTEMPTS: u32 = 6;
const MAX_LABELS_CHARS: usize = 300;

/// An answer that is too large, for the server or for us: fewer time steps may do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct TooLarge(pub String);

/// One time series of a reply.
#[derive(Deserialize)]
pub(super) struct Series {
    #[serde(rename = "metric")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, rename = "values")]
    pub samples: Vec<Sample>,
    #[serde(default)]
    histograms: Vec<IgnoredAny>,
}

/// Seconds since the epoch, to the millisecond, and the value.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Sample(f64, #[serde(deserialize_with = "number")] pub f64);

impl Sample {
    pub fn time_ms(&self) -> i64 {
        (self.0 * 1000.0).round() as i64
    }
}

impl Series {
    /// The labels as PromQL writes them, short enough for a message.
    pub fn describe(&self) -> String {
        let labels: Vec<String> =
            self.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let text = labels.join(", ");
        match text.char_indices().nth(MAX_LABELS_CHARS) {
            Some((end, _)) => format!("{{{}...}}", &text[..end]),
            None => format!("{{{text}}}"),
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    data: Data,
    #[serde(default)]
    warnings: Vec<String>,
    /// A cluster that could not ask all of its parts says so.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Vec<Series>,
}

/// What a server says when it refuses.
#[derive(Deserialize)]
struct Refused {
    #[serde(default, rename = "errorType")]
    kind: String,
    error: String,
}

/// The answer to one query.
pub(super) struct Reply {
    pub series: Vec<Series>,
    /// What the server wants to be known, each sentence once per import.
    pub new_warnings: Vec<String>,
}

/// A server that is asked range queries.
pub(super) struct Api {
    url: String,
    headers: Vec<(String, String)>,
    has_answered: bool,
    warnings: BTreeSet<String>,
}

impl Api {
    pub fn new(source: &PrometheusConfig, headers: &[(String, String)]) -> Self {
        Self {
            url: format!("{}/api/v1/query_range", source.url.trim_end_matches('/')),
            headers: headers.to_vec(),
            has_answered: false,
            warnings: BTreeSet::new(),
        }
    }

    /// The values of `promql` at the times of `page`.
    ///
    /// - Errors: [`TooLarge`]; the server refuses the query ([`Refusal::Usage`], with its words) or cannot be reached;
    ///   what answers is no Prometheus, or says that its answer is partial.
    pub fn query_range(&mut self, promql: &str, page: &PageRange) -> Result<Reply> {
        let form = encode_form(&[
            ("query", promql),
            ("start", &seconds(page.first_ms)),
            ("end", &seconds(page.last_ms())),
            ("step", &seconds(page.step_ms)),
            // Thanos: an error where parts of the answer are missing.
            ("partial_response", "false"),
        ]);
        let mut request = Request::post(&self.url, "application/x-www-form-urlencoded", form.into_bytes())
            .max_reply_bytes(MAX_REPLY_BYTES)
            .attempt_timeout(ATTEMPT)
            .max_attempts(if self.has_answered { MAX_ATTEMPTS } else { MAX_FIRST_ATTEMPTS });
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let reply = http::send(&request, Instant::now() + DEADLINE).map_err(explain)?;
        self.has_answered = true;
        self.read(&reply.body)
    }

    fn read(&mut self, body: &[u8]) -> Result<Reply> {
        let envelope: Envelope =
            serde_json::from_slice(body).context("the reply is not that of a Prometheus API")?;
        let kind = &envelope.data.kind;
        ensure!(kind == "matrix", "the reply is a {kind:?}, not a matrix");
        ensure!(!envelope.is_partial, "the server says that its answer is partial");
        if let Some(series) = envelope.data.result.iter().find(|series| !series.histograms.is_empty()) {
            let labels = series.describe();
            return Err(Refusal::usage(format!(
                "it gives histograms for {labels}: take a number of them, such as a quantile"
            )));
        }
        let mut new_warnings = envelope.warnings;
        new_warnings.retain(|warning| self.warnings.insert(warning.clone()));
        Ok(Reply { series: envelope.data.result, new_warnings })
    }
}

/// A failure in the server's own words, where it has any.
fn explain(error: HttpError) -> anyhow::Error {
    let refused: Option<Refused> = serde_json::from_str(&error.reply).ok();
    let what = match &refused {
        Some(refused) => format!("{} refuses: {}", error.target, refused.error),
        None => error.to_string(),
    };
    let is_too_much = refused.as_ref().is_some_and(|refused| {
        let words = refused.error.to_lowercase();
        refused.kind == "timeout" || words.contains("too many") || words.contains("exceed")
    });
    match error.kind {
        FailureKind::TooLong => TooLarge(what).into(),
        FailureKind::Status(_) if is_too_much => TooLarge(what).into(),
        FailureKind::Status(400 | 422) if refused.is_some() => Refusal::usage(what),
        _ => anyhow!(what),
    }
}

/// Epoch milliseconds, or a span, as seconds.
fn seconds(time_ms: i64) -> String {
    let sign = if time_ms < 0 { "-" } else { "" };
    let millis = time_ms.unsigned_abs();
    format!("{sign}{}.{:03}", millis / 1000, millis % 1000)
}

/// `application/x-www-form-urlencoded`: all but unreserved characters as percent and two digits.
fn encode_form(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        let byte = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect()
    };
    pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// A number that is written as text; `NaN`, `+Inf` and `-Inf` are numbers too.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = f64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number as text")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<f64, E> {
            text.parse().map_err(|_| E::custom(format!("{text:?} is no number")))
        }
    }
    deserializer.deserialize_str(Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_carry_any_query() {
        let form = encode_form(&[("query", "a{x=\"ü&\"} + 1"), ("step", &seconds(15_250))]);
        assert_eq!(form, "query=a%7Bx%3D%22%C3%BC%26%22%7D%20%2B%201&step=15.250");
        assert_eq!(seconds(-1500), "-1.500");
    }

    #[test]
    fn samples_are_numbers_as_text() {
        let samples: Vec<Sample> =
            serde_json::from_str(r#"[[1700000000.123,"1.5"],[1700000060,"NaN"],[1700000120,"-Inf"]]"#)
                .unwrap();
        assert_eq!((samples[0].time_ms(), samples[0].1), (1_700_000_000_123, 1.5));
        assert!(samples[1].1.is_nan() && samples[2].1 == f64::NEG_INFINITY);
        assert!(serde_json::from_str::<Sample>("[1, \"much\"]").is_err());
        assert!(serde_json::from_str::<Sample>("[1, 2]").is_err());
    }

    #[test]
    fn labels_are_told_within_limits() {
        let text = format!(r#"{{"metric": {{"b": "\n", "a": "{}"}}}}"#, "x".repeat(500));
        let series: Series = serde_json::from_str(&text).unwrap();
        assert!(series.describe().starts_with("{a=\"xxx") && series.describe().ends_with("...}"));
        assert!(series.describe().len() < 320);
    }
}
