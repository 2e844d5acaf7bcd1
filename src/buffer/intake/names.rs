//! What the names in a source stand for: the site's own, as the config's `[input]` and `[[column]]` map them.

use std::collections::{BTreeMap, HashMap};

use crate::config::{ColumnRule, InputConfig};
use crate::schema::Schema;

use super::times::TimeRule;

/// A metric, and how to get its value from what the source says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::buffer) struct Target {
    /// Position in the schema.
    pub metric: usize,
    scale: f64,
    offset: f64,
}

impl Target {
    /// The metric as it is.
    pub fn plain(metric: usize) -> Self {
        Self { metric, scale: 1.0, offset: 0.0 }
    }

    /// Whether the source's numbers are the metric's.
    pub fn is_plain(&self) -> bool {
        self.scale == 1.0 && self.offset == 0.0
    }

    /// The metric's value; a plain one is not touched, not even the sign of a zero.
    pub fn convert(&self, number: f64) -> f64 {
        if self.is_plain() { number } else { number * self.scale + self.offset }
    }
}

/// What a member or column name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::buffer) enum Field {
    Timestamp,
    ServerName,
    Profile,
    Status,
    /// The object that holds the metrics.
    Metrics,
    /// The list of a batch.
    Records,
    Metric(Target),
}

/// Columns of one Telegraf field, each for the series that have certain tags.
type TaggedColumns = Vec<(BTreeMap<String, String>, Target)>;

/// Every name a record may use.
pub(in crate::buffer) struct Fields {
    fields: HashMap<String, Field>,
    /// Columns for some series of a Telegraf field only, by source.
    tagged: HashMap<String, TaggedColumns>,
    pub input: InputConfig,
}

impl Fields {
    /// The names as `input` and `columns` map them. Every other metric goes by its own name.
    pub fn of(schema: &Schema, input: &InputConfig, columns: &[ColumnRule]) -> Self {
        let mut fields = HashMap::new();
        for (idx, metric) in schema.metrics.iter().enumerate() {
            fields.insert(metric.name.clone(), Field::Metric(Target::plain(idx)));
        }
        let mut tagged: HashMap<String, TaggedColumns> = HashMap::new();
        for column in columns {
            let Some(metric) = schema.metric_idx(&column.metric) else { continue };
            let target = Target { metric, scale: column.scale, offset: column.offset };
            if column.tags.is_empty() {
                fields.insert(column.source.clone(), Field::Metric(target));
            } else {
                tagged.entry(column.source.clone()).or_default().push((column.tags.clone(), target));
            }
        }
        let keys = [
            (input.timestamp.as_str(), Field::Timestamp),
            (&input.server_name, Field::ServerName),
            (&input.profile, Field::Profile),
            (&input.status, Field::Status),
            ("metrics", Field::Metrics),
            ("records", Field::Records),
        ];
        for (name, field) in keys {
            fields.insert(name.to_owned(), field);
        }
        Self { fields, tagged, input: input.clone() }
    }

    /// The site's own names and units, without any mapping: what `buffer export` writes.
    pub fn plain(schema: &Schema) -> Self {
        Self::of(schema, &InputConfig::default(), &[])
    }

    pub fn get(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// [`Fields::get`] of a Telegraf field of the series with `tags`.
    pub fn of_series<'a>(&self, name: &str, tag: impl Fn(&str) -> Option<&'a str>) -> Option<Field> {
        let rules = self.tagged.get(name).map(Vec::as_slice).unwrap_or_default();
        let is_series = |wanted: &BTreeMap<String, String>| {
            wanted.iter().all(|(name, value)| tag(name) == Some(value.as_str()))
        };
        let chosen = rules.iter().find(|(wanted, _)| is_series(wanted));
        chosen.map(|(_, target)| Field::Metric(*target)).or_else(|| self.get(name))
    }

    /// How times are to be read.
    pub fn times(&self) -> TimeRule {
        TimeRule::of(&self.input)
    }
}
