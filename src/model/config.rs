//! The hyper-parameters of a network: everything its constructor needs, and nothing about data or training.
//!
//! Field names are pytorch-forecasting's, so that a configuration can be compared with one of theirs. Validated
//! once, stored with the weights.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::transform::Transformation;

/// Sizes beyond it are slips of the keyboard: such a network would not fit into any machine.
const MAX_SIZE: usize = 16_384;

/// One embedding table: a categorical, or a group of categoricals that share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingSize {
    pub name: String,
    /// Number of codes, that is rows of the table.
    pub classes: usize,
    /// Wanted width; the table is never wider than `hidden_size`.
    pub dim: usize,
}

/// Which network: sizes, variables and their places in the input tensors, outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TftConfig {
    pub hidden_size: usize,
    pub lstm_layers: usize,
    /// In `[0, 1)`.
    pub dropout: f64,
    /// Number of attention heads; each is `hidden_size / attention_head_size` wide, rounded down.
    pub attention_head_size: usize,
    /// Longest history. Not used by the forward pass.
    pub max_encoder_length: usize,
    /// Width a real variable is projected to, unless `hidden_continuous_sizes` names it.
    pub hidden_continuous_size: usize,
    pub hidden_continuous_sizes: BTreeMap<String, usize>,
    /// In the order of their parameters.
    pub embedding_sizes: Vec<EmbeddingSize>,
    /// Tables whose row 0 starts at zero and is never trained.
    pub embedding_paddings: Vec<String>,
    /// Group name to the categorical columns whose embeddings are summed.
    pub categorical_groups: BTreeMap<String, Vec<String>>,
    pub share_single_variable_networks: bool,
    /// Whether a forecast step attends to earlier forecast steps only.
    pub causal_attention: bool,
    /// What masked attention scores are replaced by: finite, very negative.
    pub mask_bias: f64,
    pub static_categoricals: Vec<String>,
    pub static_reals: Vec<String>,
    pub time_varying_categoricals_encoder: Vec<String>,
    pub time_varying_categoricals_decoder: Vec<String>,
    pub time_varying_reals_encoder: Vec<String>,
    pub time_varying_reals_decoder: Vec<String>,
    /// Columns of the real input tensors.
    pub x_reals: Vec<String>,
    /// Columns of the categorical input tensors.
    pub x_categoricals: Vec<String>,
    /// Number of quantiles, per target.
    pub output_sizes: Vec<usize>,
    /// From the network's scale back to the target's, per target.
    pub output_transformations: Vec<Transformation>,
}

impl Default for TftConfig {
    /// The sizes of pytorch-forecasting's constructor, one target, no variables yet.
    fn default() -> Self {
        TftConfig {
            hidden_size: 16,
            lstm_layers: 1,
            dropout: 0.1,
            attention_head_size: 4,
            max_encoder_length: 10,
            hidden_continuous_size: 8,
            hidden_continuous_sizes: BTreeMap::new(),
            embedding_sizes: Vec::new(),
            embedding_paddings: Vec::new(),
            categorical_groups: BTreeMap::new(),
            share_single_variable_networks: false,
            causal_attention: true,
            mask_bias: -1e9,
            static_categoricals: Vec::new(),
            static_reals: Vec::new(),
            time_varying_categoricals_encoder: Vec::new(),
            time_varying_categoricals_decoder: Vec::new(),
            time_varying_reals_encoder: Vec::new(),
            time_varying_reals_decoder: Vec::new(),
            x_reals: Vec::new(),
            x_categoricals: Vec::new(),
            output_sizes: vec![7],
            output_transformations: vec![Transformation::Identity],
        }
    }
}

impl TftConfig {
    /// Checks that the sizes are usable and that every variable has a place in the input tensors.
    ///
    /// - Errors: the first thing that is wrong, by name.
    pub fn validate(&self) -> Result<()> {
        self.validate_sizes()?;
        self.validate_variables()?;
        self.embedding_sizes.iter().try_for_each(|table| self.validate_embedding(table))
    }

    fn validate_sizes(&self) -> Result<()> {
        ensure!(self.hidden_size > 0, "hidden_size is 0");
        ensure!(self.lstm_layers > 0, "lstm_layers is 0");
        let largest = self.hidden_size.max(self.hidden_continuous_size).max(self.lstm_layers);
        ensure!(largest <= MAX_SIZE, "a size of {largest} is more than {MAX_SIZE}");
        let heads = self.attention_head_size;
        ensure!(heads > 0, "attention_head_size is 0");
        ensure!(heads <= self.hidden_size, "{heads} heads do not fit into hidden_size {}", self.hidden_size);
        ensure!((0.0..1.0).contains(&self.dropout), "dropout {} is not in [0, 1)", self.dropout);
        ensure!(self.mask_bias.is_finite(), "mask_bias {} is not finite", self.mask_bias);
        ensure!(!self.output_sizes.is_empty(), "no target");
        ensure!(!self.output_sizes.contains(&0), "a target without quantiles");
        let (sizes, transformations) = (self.output_sizes.len(), self.output_transformations.len());
        ensure!(sizes == transformations, "{sizes} output sizes, {transformations} output transformations");
        ensure!(self.hidden_continuous_size > 0, "hidden_continuous_size is 0");
        for (name, &size) in &self.hidden_continuous_sizes {
            ensure!(size > 0, "hidden_continuous_sizes of {name} is 0");
        }
        Ok(())
    }

    fn validate_variables(&self) -> Result<()> {
        ensure_unique("x_reals", &self.x_reals)?;
        ensure_unique("x_categoricals", &self.x_categoricals)?;
        for list in [&self.static_reals, &self.time_varying_reals_encoder, &self.time_varying_reals_decoder] {
            ensure_unique("a list of reals", list)?;
            for name in list {
                ensure!(self.x_reals.contains(name), "real variable {name} is not among x_reals");
            }
        }
        let categoricals = [
            &self.static_categoricals,
            &self.time_varying_categoricals_encoder,
            &self.time_varying_categoricals_decoder,
        ];
        for list in categoricals {
            ensure_unique("a list of categoricals", list)?;
            for name in list {
                let known = self.embedding_sizes.iter().any(|table| table.name == *name);
                ensure!(known, "categorical variable {name} has no entry in embedding_sizes");
            }
        }
        Ok(())
    }

    fn validate_embedding(&self, table: &EmbeddingSize) -> Result<()> {
        let name = &table.name;
        ensure!(table.classes > 0 && table.dim > 0, "embedding of {name} has a size of 0");
        let same_name = self.embedding_sizes.iter().filter(|other| other.name == *name).count();
        ensure!(same_name == 1, "embedding of {name} is listed {same_name} times");
        for column in self.columns_of(name) {
            ensure!(
                self.x_categoricals.contains(&column),
                "categorical {column} is not among x_categoricals"
            );
        }
        Ok(())
    }

    /// Width at which a real variable enters the network.
    pub fn real_size(&self, name: &str) -> usize {
        self.hidden_continuous_sizes.get(name).copied().unwrap_or(self.hidden_continuous_size)
    }

    /// Width of an embedding table.
    pub fn embedding_size(&self, table: &EmbeddingSize) -> usize {
        table.dim.min(self.hidden_size)
    }

    /// The categorical columns that a table embeds: those of the group of that name, or the one of that name.
    pub fn columns_of(&self, table: &str) -> Vec<String> {
        self.categorical_groups.get(table).cloned().unwrap_or_else(|| vec![table.to_owned()])
    }

    /// Every real that enters the network, once: static ones, then the encoder's, then the decoder's.
    pub fn used_reals(&self) -> Vec<&str> {
        let all = [&self.static_reals, &self.time_varying_reals_encoder, &self.time_varying_reals_decoder];
        unique(all.into_iter().flatten())
    }

    /// Categoricals, then reals, of the static selection.
    pub fn static_variables(&self) -> Vec<&str> {
        unique(self.static_categoricals.iter().chain(&self.static_reals))
    }

    /// Categoricals, then reals, of the encoder's selection.
    pub fn encoder_variables(&self) -> Vec<&str> {
        unique(self.time_varying_categoricals_encoder.iter().chain(&self.time_varying_reals_encoder))
    }

    /// Categoricals, then reals, of the decoder's selection.
    pub fn decoder_variables(&self) -> Vec<&str> {
        unique(self.time_varying_categoricals_decoder.iter().chain(&self.time_varying_reals_decoder))
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.map(String::as_str).filter(|name| seen.insert(*name)).collect()
}

fn ensure_unique(what: &str, names: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        ensure!(seen.insert(name), "{what} has {name} twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::small_config;

    #[test]
    fn a_config_survives_json_and_unknown_fields_are_refused() {
        let config = small_config();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TftConfig>(&json).unwrap(), config);
        assert!(serde_json::from_str::<TftConfig>(r#"{"hiden_size": 3}"#).is_err());
    }

    #[track_caller]
    fn refused(change: impl Fn(&mut TftConfig), expected: &str) {
        let mut config = small_config();
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        small_config().validate().unwrap();
        refused(|c| c.attention_head_size = 17, "17 heads");
        refused(|c| c.dropout = 1.0, "dropout 1");
        refused(|c| c.mask_bias = f64::NEG_INFINITY, "mask_bias");
        refused(|c| c.output_sizes.push(3), "output transformations");
        refused(|c| c.static_reals.push("rack".into()), "rack is not among x_reals");
        refused(|c| c.static_categoricals.push("zone".into()), "zone has no entry");
        refused(|c| c.x_categoricals.clear(), "is not among x_categoricals");
        refused(|c| c.x_reals.push("cpu".into()), "cpu twice");
    }
}
