//! Reads lines of CSV with a header into candidates.
//!
//! The delimiter (comma, semicolon or tab) is read off the header. Fields may be quoted, with `""` for a quote;
//! a quoted field cannot contain a line break, so that a stray quote costs one line and not the rest of the file.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, anyhow, bail, ensure};

use crate::error::HintExt;
use crate::schema::Metric;

use super::names::{Field, Fields};
use super::record::{Candidate, Reason, Reject, UnknownFields};

/// The columns of a file, in its order.
pub(in crate::buffer) struct Header {
    delimiter: u8,
    /// What each column stands for; `None` if the schema does not know it.
    fields: Vec<Option<Field>>,
    unknown: Vec<String>,
    /// Buffer for the fields of one line, unquoted, one after the other, with the end of each.
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Whether each field stood in quotes, so that the blanks around it are its own.
    is_quoted: Vec<bool>,
}

impl Header {
    /// Reads the header line.
    ///
    /// - Errors: it is not text, names a column or a metric twice, or lacks the time or the server.
    pub fn parse(line: &[u8], fields: &Fields) -> Result<Self> {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let delimiter = delimiter_of(line);
        let mut header = Self {
            delimiter,
            fields: vec![],
            unknown: vec![],
            text: vec![],
            ends: vec![],
            is_quoted: vec![],
        };
        ensure!(header.split(line), "the CSV header has an open quote");
        let names = (0..header.ends.len())
            .map(|idx| Ok(std::str::from_utf8(header.field(idx))?.trim().to_owned()))
            .collect::<Result<Vec<String>>>()?;
        for required in [&fields.input.timestamp, &fields.input.server_name] {
            if !names.contains(required) {
                return Err(anyhow!("the CSV header has no column `{required}`"))
                    .hint(|| "where the columns have other names, [input] in the config maps them".into());
            }
        }
        let mut seen = HashSet::new();
        for name in &names {
            ensure!(seen.insert(name), "the CSV header has the column `{name}` twice");
        }
        let is_value = |field: &Field| !matches!(field, Field::Metrics | Field::Records);
        header.fields = names.iter().map(|name| fields.get(name).filter(is_value)).collect();
        header.ensure_metrics_once(&names)?;
        let unknown = |(name, field): (&String, &Option<Field>)| field.is_none().then(|| name.clone());
        header.unknown = names.iter().zip(&header.fields).filter_map(unknown).collect();
        Ok(header)
    }

    fn ensure_metrics_once(&self, names: &[String]) -> Result<()> {
        let mut by_metric = HashMap::new();
        for (name, field) in names.iter().zip(&self.fields) {
            let Some(Field::Metric(target)) = field else { continue };
            if let Some(other) = by_metric.insert(target.metric, name) {
                bail!("the CSV columns `{other}` and `{name}` are the same metric");
            }
        }
        Ok(())
    }

    /// Reads one line into `candidate`.
    ///
    /// - Errors: the line has open quotes or another number of fields than the header.
    pub fn read(
        &mut self,
        line: &[u8],
        metrics: &[Metric],
        candidate: &mut Candidate,
        unknown: &mut UnknownFields,
    ) -> Result<(), Reject> {
        candidate.reset();
        if !self.split(line) {
            return Err(Reject::new(Reason::MalformedCsv, "a quote is not closed"));
        }
        if self.ends.len() != self.fields.len() {
            let detail = format!("{} fields, the header has {}", self.ends.len(), self.fields.len());
            return Err(Reject::new(Reason::MalformedCsv, detail));
        }
        for idx in 0..self.fields.len() {
            if let Some(field) = self.fields[idx] {
                set_field(field, self.field(idx), self.is_quoted[idx], metrics, candidate)?;
            }
        }
        self.unknown.iter().for_each(|name| unknown.count(name));
        Ok(())
    }

    fn field(&self, idx: usize) -> &[u8] {
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] };
        &self.text[start..self.ends[idx]]
    }

    /// Splits and unquotes a line; false if a quote stays open.
    fn split(&mut self, line: &[u8]) -> bool {
        self.text.clear();
        self.ends.clear();
        self.is_quoted.clear();
        let (mut is_open, mut had_quotes) = (false, false);
        let mut bytes = line.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' if is_open && bytes.peek() == Some(&b'"') => {
                    bytes.next();
                    self.text.push(b'"');
                }
                b'"' => (is_open, had_quotes) = (!is_open, true),
                _ if byte == self.delimiter && !is_open => {
                    self.ends.push(self.text.len());
                    self.is_quoted.push(std::mem::take(&mut had_quotes));
                }
                _ => self.text.push(byte),
            }
        }
        self.ends.push(self.text.len());
        self.is_quoted.push(had_quotes);
        !is_open
    }
}

/// The delimiter that the header uses most.
fn delimiter_of(line: &[u8]) -> u8 {
    let count = |delimiter: u8| line.iter().filter(|byte| **byte == delimiter).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|delimiter| count(*delimiter)).expect("three candidates")
}

fn set_field(
    field: Field,
    text: &[u8],
    is_quoted: bool,
    metrics: &[Metric],
    candidate: &mut Candidate,
) -> Result<(), Reject> {
    let Ok(whole) = std::str::from_utf8(text) else {
        return Err(Reject::new(Reason::MalformedCsv, "not UTF-8"));
    };
    let text = whole.trim();
    let label = if is_quoted { whole } else { text };
    if label.is_empty() {
        return Ok(());
    }
    match field {
        Field::Timestamp => candidate.set_time_text(text),
        Field::ServerName => candidate.server.push_str(label),
        Field::Profile => candidate.profile.push_str(label),
        Field::Status => candidate.status.push_str(label),
        Field::Metric(_) if text.is_empty() => {}
        Field::Metric(target) => match text.parse::<f64>() {
            Ok(value) => candidate.set_value(target, value, metrics),
            Err(_) => {
                candidate.fail(Reason::NotANumber, || format!("{} is text", metrics[target.metric].name))
            }
        },
        Field::Metrics | Field::Records => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::intake::times::TimeRule;
    use crate::schema::Schema;

    fn schema() -> Schema {
        Schema { metrics: vec![Metric::new("cpu", "%"), Metric::new("mem", "%")], profiles: vec![] }
    }

    #[track_caller]
    fn case(header: &str, line: &str, expected: Result<&str, Reason>) {
        let schema = schema();
        let mut header = Header::parse(header.as_bytes(), &Fields::plain(&schema)).unwrap();
        let mut candidate = Candidate::new(2, TimeRule::default());
        let mut unknown = UnknownFields::default();
        let found = header
            .read(line.as_bytes(), &schema.metrics, &mut candidate, &mut unknown)
            .map_err(|reject| reject.reason)
            .and_then(|()| match &candidate.defect {
                Some(defect) => Err(defect.reason),
                None => Ok(format!("{} {:?} {}", candidate.server, candidate.values, unknown.0.len())),
            });
        assert_eq!(found.as_deref(), expected.as_deref(), "{line}");
    }

    #[test]
    fn lines_become_candidates() {
        let header = "\u{feff}timestamp,server_name,cpu,rack,mem";
        case(header, "2024-01-01T00:00:00Z,a,1.5,r1,", Ok("a [1.5, NaN] 1"));
        case(header, r#""2024-01-01T00:00:00Z","a","1e1","x,""y",-2"#, Ok("a [10.0, -2.0] 1"));
        case(header, "2024-01-01T00:00:00Z,a,n/a,,1", Err(Reason::NotANumber));
        case(header, "2024-01-01T00:00:00Z,a,NaN,,1", Err(Reason::NotFinite));
        case(header, "2024-01-01 00:00:00,a,1,,1", Err(Reason::BadTimestamp));
        case(header, "2024-01-01T00:00:00Z,a,1", Err(Reason::MalformedCsv));
        case(header, "2024-01-01T00:00:00Z,\"a,1,,1", Err(Reason::MalformedCsv));
        case("timestamp;server_name;cpu", "1700000000;a;2", Ok("a [2.0, NaN] 0"));
        case("timestamp\tserver_name\tcpu", "1700000000\ta\t2", Ok("a [2.0, NaN] 0"));
    }

    #[test]
    fn a_header_must_name_the_keys_once() {
        let fields = Fields::plain(&schema());
        for (header, expected) in [
            ("timestamp,cpu", "no column `server_name`"),
            ("server_name,cpu", "no column `timestamp`"),
            ("timestamp,server_name,cpu,cpu", "twice"),
        ] {
            let error = format!("{:#}", Header::parse(header.as_bytes(), &fields).err().unwrap());
            assert!(error.contains(expected), "{error}");
        }
    }
}
