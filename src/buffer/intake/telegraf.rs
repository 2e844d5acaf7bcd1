//! Reads Telegraf's JSON into candidates: `{"name": ..., "tags": {...}, "fields": {...}, "timestamp": ...}`, alone or
//! in a batch `{"metrics": [...]}`.
//!
//! The server is a tag (`host`, unless the config names another), profile and status are tags or fields of the names
//! in the config, and a metric is the field `measurement.field`, mapped by `[[column]]`. Fields that are mapped to
//! nothing are counted by name; a record with none but such is dropped, as agents send much that nobody asked for.
//!
//! Each record is a part of the row of its server and time ([`super::join`]). If the same metric comes from two
//! series at one time (`cpu0` and `cpu-total`, say), the second is refused: `tags` in `[[column]]` chooses one.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::schema::Metric;

use super::names::{Field, Fields, Target};
use super::record::{Candidate, Reason, Reject, UnknownFields};

/// Servers whose series are remembered; one more, and all are forgotten.
const MAX_WATCHED: usize = 50_000;

/// A record, or a batch of them.
#[derive(Deserialize)]
struct Point<'a> {
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(borrow, default)]
    fields: BTreeMap<String, &'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metrics: Option<Vec<&'a RawValue>>,
}

/// Which series gave a metric of a server last, and for which time.
#[derive(Default)]
pub(super) struct Series(HashMap<String, Vec<Option<(i64, u64)>>>);

impl Series {
    /// Notes that a series gives a metric; false if another one gave it for the same time.
    fn note(&mut self, candidate: &Candidate, metric: usize, series: u64) -> bool {
        let Some(time_ms) = candidate.time_ms else { return true };
        if self.0.len() >= MAX_WATCHED && !self.0.contains_key(&candidate.server) {
            self.0.clear();
        }
        let n_metrics = candidate.values.len();
        let seen = self.0.entry(candidate.server.clone()).or_insert_with(|| vec![None; n_metrics]);
        let before = seen[metric].replace((time_ms, series));
        before.is_none_or(|(time, other)| time != time_ms || other == series)
    }
}

/// What the reading of one text needs and produces.
pub(super) struct TelegrafReader<'a> {
    pub fields: &'a Fields,
    pub metrics: &'a [Metric],
    pub candidate: &'a mut Candidate,
    pub unknown: &'a mut UnknownFields,
    pub series: &'a mut Series,
    /// Records none of whose fields is mapped.
    pub n_unmapped: &'a mut u64,
    /// Takes each record, with its position in the batch if it came in one.
    pub emit: &'a mut dyn FnMut(&mut Candidate, Option<usize>),
}

impl TelegrafReader<'_> {
    /// Reads `text`, passing every record on.
    ///
    /// - Errors: the text is no JSON, or no record and no batch.
    pub fn read(mut self, text: &[u8]) -> Result<(), Reject> {
        let batch = if text.trim_ascii_start().starts_with(b"[") {
            serde_json::from_slice::<Vec<&RawValue>>(text).map_err(|error| malformed(&error))?
        } else {
            let point = serde_json::from_slice::<Point>(text).map_err(|error| malformed(&error))?;
            match point.metrics {
                Some(batch) => batch,
                None => {
                    self.take(&point, None);
                    return Ok(());
                }
            }
        };
        for (idx, raw) in batch.iter().enumerate() {
            match serde_json::from_str::<Point>(raw.get()) {
                Ok(point) => self.take(&point, Some(idx + 1)),
                Err(error) => {
                    self.candidate.reset();
                    self.candidate.defect = Some(malformed(&error));
                    (self.emit)(self.candidate, Some(idx + 1));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, point: &Point<'_>, position: Option<usize>) {
        self.candidate.reset();
        self.candidate.is_partial = true;
        let mapped = self.mapped_fields(point);
        if mapped.is_empty() {
            *self.n_unmapped += 1;
            return;
        }
        self.set_keys(point);
        for (name, field, raw) in mapped {
            match field {
                Field::Metric(target) => self.set_metric(point, &name, target, raw),
                Field::Profile => {
                    set_label(raw, &name, &mut self.candidate.profile, &mut self.candidate.defect)
                }
                Field::Status => {
                    set_label(raw, &name, &mut self.candidate.status, &mut self.candidate.defect)
                }
                _ => {}
            }
        }
        (self.emit)(self.candidate, position);
    }

    /// The fields that mean something here, with their full names.
    fn mapped_fields<'p>(&mut self, point: &Point<'p>) -> Vec<(String, Field, &'p RawValue)> {
        let mut mapped = Vec::new();
        for (field, raw) in &point.fields {
            let name = format!("{}.{field}", point.name);
            let tag = |tag: &str| point.tags.get(tag).map(String::as_str);
            match self.fields.of_series(&name, tag) {
                Some(meaning @ (Field::Metric(_) | Field::Profile | Field::Status)) => {
                    mapped.push((name, meaning, *raw));
                }
                _ => self.unknown.count(&name),
            }
        }
        mapped
    }

    fn set_keys(&mut self, point: &Point<'_>) {
        let input = &self.fields.input;
        let tag = |name: &String| point.tags.get(name).map(String::as_str).unwrap_or_default();
        self.candidate.server.push_str(tag(&input.server_tag));
        self.candidate.profile.push_str(tag(&input.profile));
        self.candidate.status.push_str(tag(&input.status));
        let Some(raw) = point.timestamp else { return };
        match (raw.get().parse::<f64>(), serde_json::from_str::<String>(raw.get())) {
            (Ok(number), _) => self.candidate.set_time_number(number),
            (_, Ok(text)) => self.candidate.set_time_text(&text),
            _ => self
                .candidate
                .fail(Reason::BadTimestamp, || "`timestamp` is neither text nor a number".into()),
        }
    }

    fn set_metric(&mut self, point: &Point<'_>, name: &str, target: Target, raw: &RawValue) {
        if raw.get() == "null" {
            return;
        }
        let Ok(number) = raw.get().parse::<f64>() else {
            return self.candidate.fail(Reason::NotANumber, || format!("{name} is no number"));
        };
        self.candidate.set_value(target, number, self.metrics);
        if self.candidate.defect.is_none()
            && !self.series.note(self.candidate, target.metric, series_of(point, name, self.fields))
        {
            let metric = &self.metrics[target.metric].name;
            self.candidate.fail(Reason::GivenTwice, || {
                format!("{metric} came from another series of {name} for the same time: choose one by `tags`")
            });
        }
    }
}

/// A number that stands for where a value comes from: its field and the tags that are not keys.
fn series_of(point: &Point<'_>, name: &str, fields: &Fields) -> u64 {
    let input = &fields.input;
    let keys = [&input.server_tag, &input.profile, &input.status];
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    point.tags.iter().filter(|(tag, _)| !keys.contains(tag)).for_each(|tag| tag.hash(&mut hasher));
    hasher.finish()
}

fn set_label(raw: &RawValue, name: &str, label: &mut String, defect: &mut Option<Reject>) {
    match serde_json::from_str::<Option<String>>(raw.get()) {
        Ok(text) => *label = text.unwrap_or_default(),
        Err(_) => *defect = Some(Reject::new(Reason::BadLabel, format!("`{name}` is not text"))),
    }
}

fn malformed(error: &serde_json::Error) -> Reject {
    Reject::new(Reason::MalformedJson, error.to_string())
}

/// Whether a text is a Telegraf record or a batch of them; `None` if it is neither that nor any other record.
pub(super) fn is_telegraf(text: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Shape {
        name: Option<IgnoredAny>,
        fields: Option<IgnoredAny>,
        tags: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        metrics: Vec<&'a RawValue>,
    }
    let is_point = |text: &[u8]| {
        let shape = serde_json::from_slice::<Shape>(text).ok()?;
        Some(shape.fields.is_some() && (shape.name.is_some() || shape.tags.is_some()))
    };
    let first = |batch: &[&RawValue]| is_point(batch.first()?.get().as_bytes());
    if text.trim_ascii_start().starts_with(b"[") {
        return first(&serde_json::from_slice::<Vec<&RawValue>>(text).ok()?);
    }
    match serde_json::from_slice::<Batch>(text) {
        Ok(batch) => first(&batch.metrics),
        Err(_) => is_point(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_tells() {
        let point = r#"{"fields":{"x":1},"name":"cpu","tags":{"host":"a"},"timestamp":1}"#;
        for text in [point.to_owned(), format!("[{point}]"), format!("{{\"metrics\":[{point}]}}")] {
            assert_eq!(is_telegraf(text.as_bytes()), Some(true), "{text}");
        }
        for text in [
            r#"{"timestamp":1,"server_name":"a","metrics":{"cpu":1}}"#,
            r#"{"timestamp":1,"server_name":"a","tags":{"dc":"x"},"name":"a"}"#,
            r#"[{"timestamp":1,"server_name":"a"}]"#,
        ] {
            assert_eq!(is_telegraf(text.as_bytes()), Some(false), "{text}");
        }
        for text in ["nonsense", "{\"fields\":", "[]", "7"] {
            assert_eq!(is_telegraf(text.as_bytes()), None, "{text}");
        }
    }
}
