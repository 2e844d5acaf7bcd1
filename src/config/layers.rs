//! Lays defaults, file and environment over one another, key by key, and remembers where each value is from.

use anyhow::Result;
use toml::{Table, Value};

use super::{Config, Loaded};
use crate::error::Refusal;

const ENV_PREFIX: &str = "TFTCTL_";
/// Variables with our prefix that are not settings.
const ENV_RESERVED: [&str; 3] = ["TFTCTL_NOW", "TFTCTL_CONFIG", "TFTCTL_PARITY_DIR"];
/// Lists of tables: their entries are checked by their own types.
const LISTS: [&str; 3] = ["column", "metric", "profile"];
const ZONE_ALIAS: (&str, &str) = ("training_timezone", "timezone");

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    File,
    Environment(String),
}

/// One dotted key with its value and origin.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Setting {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

pub(super) fn merge(text: &str, env: &[(String, String)]) -> Result<Loaded> {
    let mut settings = defaults();
    let known: Vec<String> = settings.iter().map(|setting| setting.key.clone()).collect();
    let mut merged: Table = text
        .parse()
        .map_err(|error: toml::de::Error| Refusal::usage(error.to_string().trim().replace('\n', " ")))?;
    if let Some(zone) = merged.remove(ZONE_ALIAS.0) {
        merged.entry(ZONE_ALIAS.1).or_insert(zone);
    }
    for (key, value) in flatten(&merged) {
        let setting = find(&mut settings, &key).ok_or_else(|| unknown(&key, &known))?;
        (setting.value, setting.origin) = (value, Origin::File);
    }
    for (name, text) in env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        if ENV_RESERVED.contains(&name.as_str()) {
            continue;
        }
        let key = key_of_variable(name);
        let setting = find(&mut settings, &key).ok_or_else(|| unknown_variable(name, &known))?;
        (setting.value, setting.origin) =
            (value_of_variable(text, &setting.value), Origin::Environment(name.clone()));
        insert(&mut merged, &key, setting.value.clone());
    }
    let config = Value::Table(merged)
        .try_into::<Config>()
        .map_err(|error| Refusal::usage(error.to_string().trim().replace('\n', " ")))?;
    Ok(Loaded { config, settings })
}

/// Every key with its default value.
fn defaults() -> Vec<Setting> {
    let table = Table::try_from(Config::default()).expect("the defaults always encode");
    let setting = |(key, value)| Setting { key, value, origin: Origin::Default };
    flatten(&table).into_iter().map(setting).collect()
}

fn find<'a>(settings: &'a mut [Setting], key: &str) -> Option<&'a mut Setting> {
    settings.iter_mut().find(|setting| setting.key == key)
}

/// `a.b` keys with their values; lists of tables stay whole.
fn flatten(table: &Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if !LISTS.contains(&key.as_str()) => {
                flat.extend(inner.iter().map(|(name, value)| (format!("{key}.{name}"), value.clone())));
            }
            _ => flat.push((key.clone(), value.clone())),
        }
    }
    flat
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((outer, inner)) => {
            let entry = table.entry(outer).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(entry) = entry {
                entry.insert(inner.to_owned(), value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

fn key_of_variable(name: &str) -> String {
    let key = name[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
    if key == ZONE_ALIAS.0 { ZONE_ALIAS.1.to_owned() } else { key }
}

fn variable_of_key(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// A variable's text as a TOML value; text where the default is text.
fn value_of_variable(text: &str, default: &Value) -> Value {
    if default.is_str() {
        return Value::String(text.to_owned());
    }
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn unknown(key: &str, known: &[String]) -> anyhow::Error {
    let near = did_you_mean(key, known.iter().map(String::as_str));
    Refusal::usage(format!("unknown key `{key}`{near}"))
}

fn unknown_variable(name: &str, known: &[String]) -> anyhow::Error {
    let variables: Vec<String> = known.iter().map(|key| variable_of_key(key)).collect();
    let near = did_you_mean(name, variables.iter().map(String::as_str));
    Refusal::usage(format!("unknown environment variable `{name}`{near}"))
}

/// Names the candidate most like `name`, as the end of a sentence; empty where none is like it.
pub fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    nearest(name, candidates).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

/// The candidate most like `name`.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
