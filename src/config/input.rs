//! `[input]` and `[[column]]`: what a site's sources call things, in which units they tell them, and in which zone
//! their clocks run. Nothing is guessed: what is not said here is taken literally, or refused.

use std::collections::BTreeMap;

use anyhow::Result;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::layers::did_you_mean;
use super::tables::require;
use super::zone::parse_zone;
use crate::error::Refusal;
use crate::schema::Schema;

/// What a number that stands for a time counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimestampUnit {
    /// Seconds since 1970 below 10^11, milliseconds from there on.
    #[default]
    Auto,
    S,
    Ms,
    Us,
    Ns,
}

/// `[input]`: the names, times and labels of the records that come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// Columns or members that hold a record's time, server, kind and state.
    pub timestamp: String,
    pub server_name: String,
    pub profile: String,
    pub status: String,
    /// The tag of Telegraf records that names the server.
    pub server_tag: String,
    /// What numeric times count.
    pub timestamp_unit: TimestampUnit,
    /// Zone of times that name none, such as `2024-01-01T10:00:00`; empty: such times are refused.
    pub timestamp_zone: String,
    /// What a source's statuses are called here; others stay as they are.
    pub status_values: BTreeMap<String, String>,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            timestamp: "timestamp".into(),
            server_name: "server_name".into(),
            profile: "profile".into(),
            status: "status".into(),
            server_tag: "host".into(),
            timestamp_unit: TimestampUnit::Auto,
            timestamp_zone: String::new(),
            status_values: BTreeMap::new(),
        }
    }
}

/// `[[column]]`: a source column that is a metric under another name, or in another unit.
///
/// The metric is `source * scale + offset`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnRule {
    /// Column or member; of Telegraf records `measurement.field`.
    pub source: String,
    /// One of the site's metrics.
    pub metric: String,
    #[serde(default = "one")]
    pub scale: f64,
    #[serde(default)]
    pub offset: f64,
    /// Only Telegraf records with these tags, such as `{ cpu = "cpu-total" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

fn one() -> f64 {
    1.0
}

impl InputConfig {
    /// The zone of times that name none.
    pub fn zone(&self) -> Option<Tz> {
        self.timestamp_zone.parse().ok()
    }

    pub(super) fn keys(&self) -> [(&'static str, &str); 4] {
        [
            ("timestamp", &self.timestamp),
            ("server_name", &self.server_name),
            ("profile", &self.profile),
            ("status", &self.status),
        ]
    }

    pub(super) fn ensure_valid(&self, schema: &Schema, columns: &[ColumnRule]) -> Result<()> {
        self.ensure_valid_names(schema)?;
        if !self.timestamp_zone.is_empty() {
            parse_zone(&self.timestamp_zone)
                .map_err(|problem| Refusal::usage(format!("input.timestamp_zone: {problem}")))?;
        }
        for (from, to) in &self.status_values {
            // Else a status would mean something else each time it is read and written again.
            let again = self.status_values.get(to).filter(|again| *again != to);
            require(!to.is_empty() && again.is_none(), || {
                format!("input.status_values turns `{from}` into `{to}`, which it turns into something else")
            })?;
        }
        for (idx, column) in columns.iter().enumerate() {
            column.ensure_valid(self, schema)?;
            let is_same = |other: &ColumnRule| (&other.source, &other.tags) == (&column.source, &column.tags);
            require(!columns[..idx].iter().any(is_same), || {
                format!("two [[column]] have the source `{}`", column.source)
            })?;
        }
        Ok(())
    }

    fn ensure_valid_names(&self, schema: &Schema) -> Result<()> {
        require(!self.server_tag.is_empty(), || "input.server_tag is empty".into())?;
        let keys = self.keys();
        for (idx, (key, name)) in keys.iter().enumerate() {
            require(!name.is_empty(), || format!("input.{key} is empty"))?;
            require(!["metrics", "records"].contains(name), || {
                format!("input.{key} cannot be `{name}`, which holds records or their metrics")
            })?;
            require(schema.metric_idx(name).is_none(), || format!("input.{key} is `{name}`, a [[metric]]"))?;
            if let Some((other, _)) = keys[..idx].iter().find(|(_, other)| other == name) {
                return Err(Refusal::usage(format!("input.{other} and input.{key} are both `{name}`")));
            }
        }
        Ok(())
    }
}

impl ColumnRule {
    fn ensure_valid(&self, input: &InputConfig, schema: &Schema) -> Result<()> {
        let Self { source, metric, scale, offset, .. } = self;
        require(!source.is_empty(), || {
            format!("the [[column]] of the metric `{metric}` has an empty source")
        })?;
        require(schema.metric_idx(metric).is_some(), || {
            let hint = did_you_mean(metric, schema.metrics.iter().map(|metric| metric.name.as_str()));
            format!("[[column]] `{source}` names the metric `{metric}`, which is no [[metric]]{hint}")
        })?;
        require(scale.is_finite() && *scale != 0.0 && offset.is_finite(), || {
            format!("[[column]] `{source}` needs a finite scale other than 0 and a finite offset")
        })?;
        if let Some((key, _)) = input.keys().iter().find(|(_, name)| name == source) {
            return Err(Refusal::usage(format!("[[column]] `{source}` is input.{key} already")));
        }
        require(!["metrics", "records"].contains(&source.as_str()), || {
            format!("`{source}` cannot be a [[column]]: it holds records or their metrics")
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = Config::parse(text, &[]).err().expect("the config should be refused");
        let message = format!("{error:#}");
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        assert_eq!(crate::error::Exit::of(&error), crate::error::Exit::Usage);
    }

    #[test]
    fn a_mapping_that_cannot_be_is_refused_with_the_nearest_name() {
        refused("[input]\ntimestmp = \"t\"", "did you mean `input.timestamp`");
        refused("[input]\ntimestamp_zone = \"Europe/Berln\"", "did you mean `Europe/Berlin`?");
        refused("[input]\ntimestamp_unit = \"hours\"", "hours");
        refused("[input]\nstatus = \"state\"\nprofile = \"state\"", "are both `state`");
        refused("[input]\nserver_name = \"load_average\"", "a [[metric]]");
        refused("[input]\nserver_name = \"records\"", "cannot be `records`");
        refused("[input]\nserver_tag = \"\"", "input.server_tag is empty");
        refused("[input]\nstatus_values = { a = \"b\", b = \"c\" }", "turns `a` into `b`");
        let column = |text: &str| format!("[[column]]\n{text}");
        refused(&column("source = \"x\"\nmetric = \"cpu_usr_pct\""), "did you mean `cpu_user_pct`?");
        refused(&column("source = \"x\"\nmetric = \"load_average\"\nscale = 0"), "other than 0");
        refused(&column("source = \"x\"\nmetric = \"load_average\"\noffset = inf"), "finite offset");
        refused(&column("source = \"status\"\nmetric = \"load_average\""), "input.status already");
        refused(&column("source = \"x\"\nmetric = \"load_average\"\nscal = 2"), "unknown field `scal`");
        let twice = column("source = \"x\"\nmetric = \"load_average\"\n").repeat(2);
        refused(&twice, "two [[column]] have the source `x`");
    }

    #[test]
    fn a_mapping_is_read_as_written() {
        let text = "[input]\nstatus = \"state\"\ntimestamp_zone = \"America/New_York\"\n\
                    status_values = { up = \"healthy\" }\n\
                    [[column]]\nsource = \"net.bytes\"\nmetric = \"net_in_mb_s\"\nscale = 1e-6\n\
                    tags = { interface = \"eth0\" }";
        let config = Config::parse(text, &[]).unwrap().config;
        assert_eq!(config.input.zone(), Some(chrono_tz::America::New_York));
        assert_eq!((config.columns[0].scale, config.columns[0].offset), (1e-6, 0.0));
        let rendered = crate::config::template::render(&config);
        assert_eq!(Config::parse(&rendered, &[]).unwrap().config, config, "{rendered}");
    }
}
