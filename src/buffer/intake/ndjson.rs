//! Reads one line of JSON into candidates, without building a tree.
//!
//! A line is a record, a batch `{"records": [record, ...]}`, or a bare array of records. Metrics stand at the top
//! level or in a `metrics` object. A value of the wrong kind spoils its record only; broken syntax spoils the
//! rest of its line.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::schema::Metric;

use super::members::{Name, Text, Time, Value, skip_map, skip_seq};
use super::names::{Field, Fields};
use super::record::{Candidate, Reason, Reject, UnknownFields};

/// What the reading of one line needs and produces.
pub(in crate::buffer) struct LineReader<'a> {
    pub fields: &'a Fields,
    pub metrics: &'a [Metric],
    pub candidate: &'a mut Candidate,
    pub unknown: &'a mut UnknownFields,
    /// Takes each record of the line, with its position in the batch if it came in one.
    pub emit: &'a mut dyn FnMut(&mut Candidate, Option<usize>),
}

impl LineReader<'_> {
    /// Reads `line`, passing every record on.
    ///
    /// - Errors: the line (or the rest of it, after the records already passed on) is no JSON.
    pub fn read(mut self, line: &[u8]) -> Result<(), Reject> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let found = DeserializeSeed::deserialize(Top(&mut self), &mut json)
            .and_then(|found| json.end().map(|()| found))
            .map_err(|error| syntax_reject(line, &error))?;
        match found {
            Found::Record => (self.emit)(self.candidate, None),
            Found::Batch => {}
            Found::Other => return Err(Reject::new(Reason::NotAnObject, "JSON, but not an object")),
        }
        Ok(())
    }
}

/// Names what broke the syntax: bare NaN and Infinity tokens are not JSON, but many writers emit them.
fn syntax_reject(line: &[u8], error: &serde_json::Error) -> Reject {
    let column = error.column().min(line.len());
    let around = &line[column.saturating_sub(3)..(column + 3).min(line.len())];
    let around = String::from_utf8_lossy(around).to_ascii_lowercase();
    let is_out_of_range = error.to_string().starts_with("number out of range");
    let is_special = around.contains("nan") || around.contains("inf");
    let reason = if is_special || is_out_of_range { Reason::NotFinite } else { Reason::MalformedJson };
    Reject::new(reason, error.to_string())
}

/// What a line turned out to hold.
enum Found {
    Record,
    Batch,
    Other,
}

/// The whole line.
struct Top<'r, 'a>(&'r mut LineReader<'a>);

/// A list of records.
struct Batch<'r, 'a>(&'r mut LineReader<'a>);

/// One element of a batch.
struct Element<'r, 'a>(&'r mut LineReader<'a>);

/// The object under `metrics`.
struct Metrics<'r, 'a>(&'r mut LineReader<'a>);

macro_rules! seed {
    ($seed:ident, $value:ty) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_, '_> {
            type Value = $value;
            fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
                json.deserialize_any(self)
            }
        }
    };
}
seed!(Top, Found);
seed!(Batch, ());
seed!(Element, ());
seed!(Metrics, ());

/// Visitor methods that treat every scalar kind alike.
macro_rules! scalars_are {
    ($self:ident, $result:expr) => {
        fn visit_bool<E>($self, _: bool) -> Result<Self::Value, E> { $result }
        fn visit_i64<E>($self, _: i64) -> Result<Self::Value, E> { $result }
        fn visit_u64<E>($self, _: u64) -> Result<Self::Value, E> { $result }
        fn visit_f64<E>($self, _: f64) -> Result<Self::Value, E> { $result }
        fn visit_str<E>($self, _: &str) -> Result<Self::Value, E> { $result }
        fn visit_unit<E>($self) -> Result<Self::Value, E> { $result }
    };
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record or a batch of records")
    }

    scalars_are!(self, Ok(Found::Other));

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Found, A::Error> {
        Batch(self.0).visit_seq(seq).map(|()| Found::Batch)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Found, A::Error> {
        let is_batch = read_record(self.0, map, true)?;
        Ok(if is_batch { Found::Batch } else { Found::Record })
    }
}

/// Reads the members of a record into the candidate; true if it was the envelope of a batch.
fn read_record<'de, A: MapAccess<'de>>(
    reader: &mut LineReader<'_>,
    mut map: A,
    may_be_batch: bool,
) -> Result<bool, A::Error> {
    reader.candidate.reset();
    let mut is_batch = false;
    while let Some(field) = map.next_key_seed(Name(reader))? {
        match field {
            Some(Field::Timestamp) => map.next_value_seed(Time(reader))?,
            Some(Field::ServerName) => map.next_value_seed(server_name(reader.candidate))?,
            Some(Field::Profile) => {
                let Candidate { profile, defect, .. } = &mut *reader.candidate;
                map.next_value_seed(label("profile", profile, defect))?;
            }
            Some(Field::Status) => {
                let Candidate { status, defect, .. } = &mut *reader.candidate;
                map.next_value_seed(label("status", status, defect))?;
            }
            Some(Field::Metrics) => map.next_value_seed(Metrics(reader))?,
            Some(Field::Metric(target)) => map.next_value_seed(Value { reader, target })?,
            Some(Field::Records) if may_be_batch => {
                is_batch = true;
                map.next_value_seed(Batch(reader))?;
            }
            Some(Field::Records) | None => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    Ok(is_batch)
}

fn server_name(candidate: &mut Candidate) -> Text<'_> {
    let Candidate { server, defect, .. } = candidate;
    Text { target: server, defect, reason: Reason::BadServerName, field: "server_name" }
}

fn label<'r>(field: &'static str, target: &'r mut String, defect: &'r mut Option<Reject>) -> Text<'r> {
    Text { target, defect, reason: Reason::BadLabel, field }
}

impl<'de> Visitor<'de> for Batch<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    scalars_are!(self, Ok(()));

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut position = 0;
        while seq.next_element_seed(Element(&mut *self.0))?.is_some() {
            position += 1;
            (self.0.emit)(self.0.candidate, Some(position));
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        skip_map(map)
    }
}

impl Element<'_, '_> {
    fn not_an_object(self) {
        self.0.candidate.reset();
        self.0.candidate.fail(Reason::NotAnObject, || "JSON, but not an object".into());
    }
}

impl<'de> Visitor<'de> for Element<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    scalars_are!(self, {
        self.not_an_object();
        Ok(())
    });

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.not_an_object();
        skip_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        read_record(self.0, map, false).map(|_| ())
    }
}

impl<'de> Visitor<'de> for Metrics<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of numbers")
    }

    scalars_are!(self, {
        self.0.candidate.fail(Reason::NotANumber, || "`metrics` is not an object".into());
        Ok(())
    });

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.0.candidate.fail(Reason::NotANumber, || "`metrics` is not an object".into());
        skip_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        while let Some(field) = map.next_key_seed(Name(reader))? {
            match field {
                Some(Field::Metric(target)) => map.next_value_seed(Value { reader, target })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::intake::times::TimeRule;
    use crate::schema::Schema;

    /// Reads a line for the metrics `cpu` and `mem`; each record as its values or its defect.
    fn read(line: &str) -> (Vec<String>, Result<(), Reason>, UnknownFields) {
        let schema =
            Schema { metrics: vec![Metric::new("cpu", "%"), Metric::new("mem", "%")], profiles: vec![] };
        let fields = Fields::plain(&schema);
        let mut candidate = Candidate::new(2, TimeRule::default());
        let mut unknown = UnknownFields::default();
        let mut records = Vec::new();
        let outcome = LineReader {
            fields: &fields,
            metrics: &schema.metrics,
            candidate: &mut candidate,
            unknown: &mut unknown,
            emit: &mut |candidate, position| {
                records.push(match &candidate.defect {
                    Some(defect) => defect.reason.to_string(),
                    None => format!("{} {:?} {:?}", candidate.server, candidate.values, position),
                });
            },
        }
        .read(line.as_bytes())
        .map_err(|reject| reject.reason);
        (records, outcome, unknown)
    }

    #[track_caller]
    fn case(line: &str, records: &[&str], outcome: Result<(), Reason>) {
        let (found, ended, _) = read(line);
        assert_eq!((found, ended), (records.iter().map(|r| r.to_string()).collect(), outcome), "{line}");
    }

    #[test]
    fn metrics_stand_at_the_top_or_in_an_object() {
        case(r#"{"server_name":"a","cpu":1.5}"#, &["a [1.5, NaN] None"], Ok(()));
        case(r#"{"metrics":{"mem":2,"cpu":null},"server_name":"a"}"#, &["a [NaN, 2.0] None"], Ok(()));
        case(r#"{"server_name":"\u0061\n","cpu":-1}"#, &["a\n [-1.0, NaN] None"], Ok(()));
    }

    #[test]
    fn a_wrong_kind_spoils_its_record_only() {
        case(
            r#"{"records":[{"server_name":"a","cpu":"x"},7,{"server_name":"b","mem":3}]}"#,
            &["not_a_number", "not_an_object", "b [NaN, 3.0] Some(3)"],
            Ok(()),
        );
        case(
            r#"[{"server_name":"a","cpu":[1]},{"server_name":"b","cpu":1}]"#,
            &["not_a_number", "b [1.0, NaN] Some(2)"],
            Ok(()),
        );
        case(r#"{"server_name":{"x":1},"cpu":1}"#, &["bad_server_name"], Ok(()));
        case(r#"{"server_name":"a","metrics":[1]}"#, &["not_a_number"], Ok(()));
        case(r#"{"server_name":"a","cpu":1e39}"#, &["not_finite"], Ok(()));
    }

    #[test]
    fn broken_syntax_spoils_the_rest_of_its_line() {
        case(r#"{"server_name":"a","cpu":1"#, &[], Err(Reason::MalformedJson));
        case(r#"{"server_name":"a","cpu":1}}"#, &[], Err(Reason::MalformedJson));
        case(
            r#"{"records":[{"server_name":"a","cpu":1},{"#,
            &["a [1.0, NaN] Some(1)"],
            Err(Reason::MalformedJson),
        );
        case("null", &[], Err(Reason::NotAnObject));
        for token in ["NaN", "Infinity", "-Infinity", "nan", "inf", "-nan", "1e999"] {
            case(&format!(r#"{{"server_name":"a","cpu":{token},"mem":1}}"#), &[], Err(Reason::NotFinite));
        }
    }

    #[test]
    fn unknown_members_are_counted() {
        let (_, _, unknown) = read(r#"{"server_name":"a","notes":{"x":[1,2]},"metrics":{"gpu":1,"cpu":1}}"#);
        assert_eq!(unknown.0.into_iter().collect::<Vec<_>>(), [("gpu".into(), 1), ("notes".into(), 1)]);
    }
}
