//! From a [`TftConfig`](crate::model::TftConfig) to the library's JSON.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{FORMAT, HyperParameters, QuantileLosses};
use crate::model::config::{EmbeddingSize, TftConfig};
use crate::model::transform::Transformation;

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    constructor: Constructor<'a>,
    /// Null: none.
    output_transformations: Vec<Option<Transformation>>,
    loss: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<&'a Value>,
}

/// The arguments under the library's names.
#[derive(Serialize)]
struct Constructor<'a> {
    hidden_size: usize,
    lstm_layers: usize,
    dropout: f64,
    output_size: Value,
    attention_head_size: usize,
    max_encoder_length: usize,
    static_categoricals: &'a [String],
    static_reals: &'a [String],
    time_varying_categoricals_encoder: &'a [String],
    time_varying_categoricals_decoder: &'a [String],
    categorical_groups: &'a BTreeMap<String, Vec<String>>,
    time_varying_reals_encoder: &'a [String],
    time_varying_reals_decoder: &'a [String],
    x_reals: &'a [String],
    x_categoricals: &'a [String],
    hidden_continuous_size: usize,
    hidden_continuous_sizes: &'a BTreeMap<String, usize>,
    #[serde(serialize_with = "in_order")]
    embedding_sizes: &'a [EmbeddingSize],
    embedding_paddings: &'a [String],
    share_single_variable_networks: bool,
    causal_attention: bool,
    mask_bias: f64,
    #[serde(flatten)]
    without_effect: &'a Map<String, Value>,
}

impl Serialize for HyperParameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let transformations = self.config.output_transformations.iter();
        let named = |t: &Transformation| (*t != Transformation::Identity).then_some(*t);
        let document = Document {
            format: FORMAT,
            constructor: constructor(&self.config, &self.without_effect),
            output_transformations: transformations.map(named).collect(),
            loss: self.loss.as_ref().map(loss),
            training: self.training.as_ref(),
        };
        document.serialize(serializer)
    }
}

fn constructor<'a>(config: &'a TftConfig, without_effect: &'a Map<String, Value>) -> Constructor<'a> {
    Constructor {
        hidden_size: config.hidden_size,
        lstm_layers: config.lstm_layers,
        dropout: config.dropout,
        // The library takes a list for several targets only.
        output_size: match config.output_sizes.as_slice() {
            [one] => json!(one),
            several => json!(several),
        },
        attention_head_size: config.attention_head_size,
        max_encoder_length: config.max_encoder_length,
        static_categoricals: &config.static_categoricals,
        static_reals: &config.static_reals,
        time_varying_categoricals_encoder: &config.time_varying_categoricals_encoder,
        time_varying_categoricals_decoder: &config.time_varying_categoricals_decoder,
        categorical_groups: &config.categorical_groups,
        time_varying_reals_encoder: &config.time_varying_reals_encoder,
        time_varying_reals_decoder: &config.time_varying_reals_decoder,
        x_reals: &config.x_reals,
        x_categoricals: &config.x_categoricals,
        hidden_continuous_size: config.hidden_continuous_size,
        hidden_continuous_sizes: &config.hidden_continuous_sizes,
        embedding_sizes: &config.embedding_sizes,
        embedding_paddings: &config.embedding_paddings,
        share_single_variable_networks: config.share_single_variable_networks,
        causal_attention: config.causal_attention,
        mask_bias: config.mask_bias,
        without_effect,
    }
}

/// Tables as an object whose entries stand in the order of the parameters.
fn in_order<S: Serializer>(tables: &[EmbeddingSize], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tables.iter().map(|table| (&table.name, (table.classes, table.dim))))
}

fn loss(losses: &QuantileLosses) -> Value {
    let is_multi = losses.quantiles.len() > 1;
    let is_shared = losses.quantiles.windows(2).all(|pair| pair[0] == pair[1]);
    json!({
        "class": if is_multi { "MultiLoss" } else { "QuantileLoss" },
        "quantiles": if is_shared { json!(losses.quantiles.first()) } else { json!(losses.quantiles) },
        "target_weights": losses.target_weights,
        "reduction": "mean",
    })
}
