//! From the library's JSON to a [`TftConfig`].

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{FORMAT, HyperParameters, QuantileLosses, WITHOUT_EFFECT};
use crate::model::config::{EmbeddingSize, TftConfig};
use crate::model::transform::Transformation;

/// What stands for a `mask_bias` of minus infinity, which JSON cannot hold: far enough below every score for its
/// weight to be exactly 0.
const MASKED: f64 = -1e9;

impl HyperParameters {
    /// Reads the description of a network.
    ///
    /// The constructor's arguments stand in an object `constructor` (other entries beside it are passed over, as in
    /// the recordings of `tests/golden/parity`), or at the top. Arguments that are missing or null have the
    /// library's defaults. The order of `embedding_sizes` is kept; where there is a `parameter_order`, that decides.
    ///
    /// - Errors: no JSON, a newer format, an argument of the wrong type or without an equivalent here, sizes that do
    ///   not fit together; each by name.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut document =
            Arguments(serde_json::from_slice(text).context("read the hyper-parameters as JSON")?);
        let format: u32 = document.take_or("format", FORMAT)?;
        ensure!(
            format <= FORMAT,
            "the hyper-parameters have format {format}, this tftctl reads up to {FORMAT}"
        );
        let transformations: Option<Vec<Option<String>>> = document.take("output_transformations")?;
        let loss = document.take::<Map<String, Value>>("loss")?.map(Arguments);
        let training = document.take("training")?;
        let parameter_order: Vec<String> = document.take_or("parameter_order", Vec::new())?;
        let mut constructor = match document.take("constructor")? {
            Some(nested) => Arguments(nested),
            None => document,
        };
        let mut config = network(&mut constructor)?;
        let order: TableOrder = serde_json::from_slice(text).context("read the order of embedding_sizes")?;
        sort_tables(&mut config.embedding_sizes, &order.names(), &parameter_order);
        let mut assumed = Vec::new();
        config.output_transformations = match transformations {
            Some(names) => names.iter().map(|name| transformation(name.as_deref())).collect::<Result<_>>()?,
            None => {
                assumed
                    .push("output_transformations is missing: every target is taken as untransformed".into());
                vec![Transformation::Identity; config.output_sizes.len()]
            }
        };
        let without_effect = rest(constructor)?;
        config.validate()?;
        let loss = loss.map(|loss| quantile_losses(loss, &config.output_sizes)).transpose()?;
        Ok(Self { config, loss, without_effect, training, assumed })
    }
}

/// Named values that are taken one by one, so that what is left over can be told by name.
struct Arguments(Map<String, Value>);

impl Arguments {
    /// The value of that name; none where it is missing or null.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = self.0.remove(name).unwrap_or(Value::Null);
        serde_json::from_value(value).with_context(|| format!("read `{name}` of the hyper-parameters"))
    }

    fn take_or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        Ok(self.take(name)?.unwrap_or(default))
    }

    fn names(&mut self, name: &str) -> Result<Vec<String>> {
        self.take_or(name, Vec::new())
    }
}

/// Everything that decides what the network computes, but for `output_transformations`.
fn network(arguments: &mut Arguments) -> Result<TftConfig> {
    let default = TftConfig::default();
    let constraints: Map<String, Value> = arguments.take_or("monotone_constraints", Map::new())?;
    ensure!(constraints.is_empty(), "`monotone_constraints` has no equivalent here");
    Ok(TftConfig {
        hidden_size: arguments.take_or("hidden_size", default.hidden_size)?,
        lstm_layers: arguments.take_or("lstm_layers", default.lstm_layers)?,
        dropout: arguments.take_or("dropout", default.dropout)?,
        attention_head_size: arguments.take_or("attention_head_size", default.attention_head_size)?,
        max_encoder_length: arguments.take_or("max_encoder_length", default.max_encoder_length)?,
        hidden_continuous_size: arguments
            .take_or("hidden_continuous_size", default.hidden_continuous_size)?,
        hidden_continuous_sizes: arguments.take_or("hidden_continuous_sizes", BTreeMap::new())?,
        embedding_sizes: tables(arguments)?,
        embedding_paddings: arguments.names("embedding_paddings")?,
        categorical_groups: arguments.take_or("categorical_groups", BTreeMap::new())?,
        share_single_variable_networks: arguments.take_or("share_single_variable_networks", false)?,
        causal_attention: arguments.take_or("causal_attention", true)?,
        mask_bias: mask_bias(arguments)?,
        static_categoricals: arguments.names("static_categoricals")?,
        static_reals: arguments.names("static_reals")?,
        time_varying_categoricals_encoder: arguments.names("time_varying_categoricals_encoder")?,
        time_varying_categoricals_decoder: arguments.names("time_varying_categoricals_decoder")?,
        time_varying_reals_encoder: arguments.names("time_varying_reals_encoder")?,
        time_varying_reals_decoder: arguments.names("time_varying_reals_decoder")?,
        x_reals: arguments.names("x_reals")?,
        x_categoricals: arguments.names("x_categoricals")?,
        output_sizes: match arguments.take("output_size")? {
            Some(OneOrMany::One(size)) => vec![size],
            Some(OneOrMany::Many(sizes)) => sizes,
            None => default.output_sizes,
        },
        output_transformations: Vec::new(),
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// In no order yet: see [`sort_tables`].
fn tables(arguments: &mut Arguments) -> Result<Vec<EmbeddingSize>> {
    let sizes: BTreeMap<String, (usize, usize)> = arguments.take_or("embedding_sizes", BTreeMap::new())?;
    Ok(sizes.into_iter().map(|(name, (classes, dim))| EmbeddingSize { name, classes, dim }).collect())
}

fn sort_tables(tables: &mut [EmbeddingSize], in_text: &[String], parameter_order: &[String]) {
    let place = |table: &EmbeddingSize| {
        let weight = format!("input_embeddings.embeddings.{}.weight", table.name);
        let of = |list: &[String], name: &str| list.iter().position(|listed| listed == name);
        (of(parameter_order, &weight), of(in_text, &table.name))
    };
    tables.sort_by_key(place);
}

fn mask_bias(arguments: &mut Arguments) -> Result<f64> {
    match arguments.take::<Value>("mask_bias")? {
        None => Ok(TftConfig::default().mask_bias),
        Some(Value::String(text)) if ["-inf", "-Infinity"].contains(&text.as_str()) => Ok(MASKED),
        Some(value) => {
            value.as_f64().with_context(|| format!("`mask_bias` is {value}, not a number or \"-inf\""))
        }
    }
}

fn transformation(name: Option<&str>) -> Result<Transformation> {
    let Some(name) = name else { return Ok(Transformation::Identity) };
    serde_json::from_value(Value::from(name)).ok().with_context(|| {
        format!(
            "the output transformation `{name}` has no equivalent here (categorical targets have none either)"
        )
    })
}

fn quantile_losses(mut loss: Arguments, output_sizes: &[usize]) -> Result<QuantileLosses> {
    let class: String = loss.take("class")?.context("the loss has no `class`")?;
    let is_known = class == "QuantileLoss" || class == "MultiLoss";
    ensure!(is_known, "the loss `{class}` has no equivalent here: quantile losses have");
    let reduction: String = loss.take_or("reduction", "mean".into())?;
    ensure!(reduction == "mean", "the loss reduction `{reduction}` has no equivalent here: `mean` has");
    let levels: Vec<OneOrMany<f64>> = loss.take("quantiles")?.context("the loss has no `quantiles`")?;
    let quantiles = levels_per_target(levels, output_sizes.len())?;
    let sizes: Vec<usize> = quantiles.iter().map(Vec::len).collect();
    ensure!(sizes == output_sizes, "the loss has {sizes:?} quantiles, the network {output_sizes:?} outputs");
    let target_weights: Option<Vec<f64>> = loss.take("target_weights")?;
    let n_weights = target_weights.as_ref().map_or(sizes.len(), Vec::len);
    ensure!(n_weights == sizes.len(), "the loss has {n_weights} target_weights for {} targets", sizes.len());
    Ok(QuantileLosses { quantiles, target_weights })
}

/// One list for all targets, or a list of lists, one per target.
fn levels_per_target(levels: Vec<OneOrMany<f64>>, n_targets: usize) -> Result<Vec<Vec<f64>>> {
    let (mut shared, mut each) = (Vec::new(), Vec::new());
    for level in levels {
        match level {
            OneOrMany::One(level) => shared.push(level),
            OneOrMany::Many(levels) => each.push(levels),
        }
    }
    match (shared.is_empty(), each.is_empty()) {
        (false, true) => Ok(vec![shared; n_targets]),
        (true, false) => Ok(each),
        _ => bail!("`quantiles` of the loss is neither a list of levels nor one list per target"),
    }
}

/// What no field has taken: kept, where it changes no forecast.
fn rest(arguments: Arguments) -> Result<Map<String, Value>> {
    let rest: Map<String, Value> = arguments.0.into_iter().filter(|(_, value)| !value.is_null()).collect();
    match rest.keys().find(|name| !WITHOUT_EFFECT.contains(&name.as_str())) {
        Some(name) => bail!("the constructor argument `{name}` has no equivalent here"),
        None => Ok(rest),
    }
}

/// The names in `embedding_sizes` as they stand in the text: a parsed object forgets their order.
#[derive(Deserialize)]
struct TableOrder {
    constructor: Option<Box<TableOrder>>,
    embedding_sizes: Option<Keys>,
}

impl TableOrder {
    fn names(self) -> Vec<String> {
        let own = self.embedding_sizes.map(|keys| keys.0);
        own.or_else(|| Some(self.constructor?.names())).unwrap_or_default()
    }
}

struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
