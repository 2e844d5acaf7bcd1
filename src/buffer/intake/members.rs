//! The members of one JSON record: their names, and values of any kind, which spoil no more than their record.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::names::{Field, Target};
use super::ndjson::LineReader;
use super::record::{Reason, Reject};

/// A member's name; `None` for one that is not known (and was counted).
pub(super) struct Name<'r, 'a>(pub &'r mut LineReader<'a>);

/// The value of one metric.
pub(super) struct Value<'r, 'a> {
    pub reader: &'r mut LineReader<'a>,
    pub target: Target,
}

/// The value of `timestamp`.
pub(super) struct Time<'r, 'a>(pub &'r mut LineReader<'a>);

/// The value of a text member.
pub(super) struct Text<'r> {
    pub target: &'r mut String,
    pub defect: &'r mut Option<Reject>,
    pub reason: Reason,
    pub field: &'static str,
}

pub(super) fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

pub(super) fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Time<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = Option<Field>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Field>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = Option<Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<Field>, E> {
        let field = self.0.fields.get(name);
        if field.is_none() {
            self.0.unknown.count(name);
        }
        Ok(field)
    }
}

impl Value<'_, '_> {
    fn set(self, value: f64) {
        self.reader.candidate.set_value(self.target, value, self.reader.metrics);
    }

    fn fail(self, what: &str) {
        let name = &self.reader.metrics[self.target.metric].name;
        self.reader.candidate.fail(Reason::NotANumber, || format!("{name} is {what}"));
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or null")
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.set(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.set(value as f64);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.set(value as f64);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.fail(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_str<E>(self, _text: &str) -> Result<(), E> {
        self.fail("text");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.fail("a list");
        skip_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.fail("an object");
        skip_map(map)
    }
}

impl Time<'_, '_> {
    fn fail(self) {
        self.0.candidate.fail(Reason::BadTimestamp, || "`timestamp` is neither text nor a number".into());
    }
}

impl<'de> Visitor<'de> for Time<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.candidate.set_time_text(text);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.candidate.set_time_number(value as f64);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.candidate.set_time_number(value as f64);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.candidate.set_time_number(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.fail();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.fail();
        skip_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.fail();
        skip_map(map)
    }
}

impl Text<'_> {
    fn fail(self) {
        if self.defect.is_none() {
            *self.defect = Some(Reject::new(self.reason, format!("`{}` is not text", self.field)));
        }
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.target.clear();
        self.target.push_str(text);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.fail();
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.fail();
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.fail();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.fail();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.fail();
        skip_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.fail();
        skip_map(map)
    }
}
