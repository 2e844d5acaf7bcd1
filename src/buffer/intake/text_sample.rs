//! A sample that is text: which of its fields are metrics, and its good rows.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::schema::Schema;

use super::csv_rows::Header;
use super::lines::Line;
use super::names::Fields;
use super::ndjson::LineReader;
use super::record::{Candidate, Rules, UnknownFields};
use super::source::Format;
use super::times::TimeRule;
use crate::buffer::rows::Rows;

/// Bytes of a text file in which its metrics are looked for.
pub(super) const HEAD_BYTES: u64 = 4 << 20;

/// Collects the good rows of a text file.
pub(super) struct TextSample<'a> {
    schema: &'a Schema,
    fields: Fields,
    is_csv: bool,
    header: Option<Header>,
    candidate: Candidate,
    pub unknown: UnknownFields,
    pub rows: Rows,
    pub n_bad: u64,
}

impl<'a> TextSample<'a> {
    pub fn new(schema: &'a Schema, format: Format) -> Self {
        Self {
            schema,
            fields: Fields::plain(schema),
            is_csv: format == Format::Csv,
            header: None,
            candidate: Candidate::new(schema.metrics.len(), TimeRule::default()),
            unknown: UnknownFields::default(),
            rows: Rows::new(schema.metrics.len()),
            n_bad: 0,
        }
    }

    pub fn take(&mut self, line: Line<'_>) -> Result<()> {
        let Line::Whole(text) = line else {
            self.n_bad += 1;
            return Ok(());
        };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let metrics = &self.schema.metrics;
        // Any time that chrono can say: a sample may be old.
        let status_values = &BTreeMap::new();
        let rules =
            Rules { metrics, min_ms: -62_135_596_800_000, max_ms: 253_402_300_799_000, status_values };
        let (rows, n_bad) = (&mut self.rows, &mut self.n_bad);
        let mut keep = |candidate: &mut Candidate| match rules.check(candidate) {
            Ok(_) => rows.push(candidate.row()),
            Err(_) => *n_bad += 1,
        };
        let outcome = match (&mut self.header, self.is_csv) {
            (None, true) => {
                self.header = Some(Header::parse(text, &self.fields)?);
                return Ok(());
            }
            (Some(header), true) => header
                .read(text, metrics, &mut self.candidate, &mut self.unknown)
                .map(|()| keep(&mut self.candidate)),
            (_, false) => LineReader {
                fields: &self.fields,
                metrics,
                candidate: &mut self.candidate,
                unknown: &mut self.unknown,
                emit: &mut |candidate, _| keep(candidate),
            }
            .read(text),
        };
        self.n_bad += u64::from(outcome.is_err());
        Ok(())
    }
}

/// Columns of a CSV file in which every value of its beginning is a number or empty.
pub(super) fn csv_metrics(head: &[u8]) -> Vec<String> {
    let mut lines = whole_lines(head);
    let Some(header) = lines.next() else { return Vec::new() };
    let header = header.strip_prefix(b"\xef\xbb\xbf").unwrap_or(header);
    let header = String::from_utf8_lossy(header).into_owned();
    let names: Vec<String> =
        header.split([',', ';', '\t']).map(|name| name.trim().trim_matches('"').to_owned()).collect();
    let mut n_numbers = vec![0u64; names.len()];
    let mut is_text = vec![false; names.len()];
    for line in lines {
        let line = String::from_utf8_lossy(line);
        let fields: Vec<&str> =
            line.split([',', ';', '\t']).map(|field| field.trim().trim_matches('"')).collect();
        if fields.len() != names.len() {
            continue;
        }
        for (idx, field) in fields.iter().enumerate().filter(|(_, field)| !field.is_empty()) {
            match field.parse::<f64>() {
                Ok(_) => n_numbers[idx] += 1,
                Err(_) => is_text[idx] = true,
            }
        }
    }
    let is_metric = |idx: &usize| n_numbers[*idx] > 0 && !is_text[*idx] && !is_key(&names[*idx]);
    (0..names.len()).filter(is_metric).map(|idx| names[idx].clone()).collect()
}

/// Members of the records in the beginning of an NDJSON file that hold numbers, in order of appearance.
pub(super) fn json_metrics(head: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |members: &serde_json::Map<String, serde_json::Value>| {
        for (name, _) in members.iter().filter(|(name, value)| value.is_number() && !is_key(name)) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    };
    for line in whole_lines(head) {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let records = match &value {
            serde_json::Value::Array(records) => records.as_slice(),
            serde_json::Value::Object(members) if members.contains_key("records") => {
                value["records"].as_array().map(Vec::as_slice).unwrap_or_default()
            }
            _ => std::slice::from_ref(&value),
        };
        for members in records.iter().filter_map(serde_json::Value::as_object) {
            add(members);
            if let Some(metrics) = members.get("metrics").and_then(serde_json::Value::as_object) {
                add(metrics);
            }
        }
    }
    names.retain(|name| !name.trim().is_empty());
    names
}

fn is_key(name: &str) -> bool {
    ["timestamp", "server_name", "profile", "status", "metrics", "records"].contains(&name)
}

/// The lines of `head`; the last one may be cut and is left out, unless it is the only one.
fn whole_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = match head.iter().rposition(|byte| *byte == b'\n') {
        Some(end) if head.len() as u64 == HEAD_BYTES => end,
        _ => head.len(),
    };
    head[..end].split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace))
}
