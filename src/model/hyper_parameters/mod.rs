//! The constructor arguments of pytorch-forecasting's `TemporalFusionTransformer`, and what they mean here.
//!
//! [`HyperParameters::parse`] reads the JSON that describes a network of theirs, and serialising writes it: the
//! arguments under their own names in `constructor`, beside them what their checkpoint keeps in pickled objects
//! (`output_transformations`, `loss`). The mapping is total both ways: an argument that decides what the network
//! computes becomes a field of [`TftConfig`], one that decides only how it is trained or drawn is kept as it came,
//! and anything else is refused by its name. Files, weights and the meaning of `training` are left to others.

mod read;
mod write;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::config::TftConfig;

/// The newest `format` of the JSON written here, and read.
pub const FORMAT: u32 = 1;

/// Constructor arguments that change no forecast of given weights.
const WITHOUT_EFFECT: [&str; 12] = [
    "embedding_labels",
    "learning_rate",
    "log_interval",
    "log_val_interval",
    "log_gradient_flow",
    "reduce_on_plateau_patience",
    "reduce_on_plateau_reduction",
    "reduce_on_plateau_min_lr",
    "weight_decay",
    "optimizer",
    "optimizer_params",
    "logging_metrics",
];

/// A network of the library, described.
#[derive(Clone, Debug, PartialEq)]
pub struct HyperParameters {
    pub config: TftConfig,
    /// None where the JSON does not say.
    pub loss: Option<QuantileLosses>,
    /// Arguments of the constructor that decide nothing about a forecast, such as `learning_rate`, for the way back.
    pub without_effect: Map<String, Value>,
    /// The `training` entry: what its writer says of the network's past.
    pub training: Option<Value>,
    /// What the JSON left out and was taken for granted, as sentences.
    pub assumed: Vec<String>,
}

/// The quantile losses a network was trained with, one per target.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantileLosses {
    /// Levels per target, in the order of the outputs.
    pub quantiles: Vec<Vec<f64>>,
    /// Factors of the targets' losses in their sum; all 1 where there are none.
    pub target_weights: Option<Vec<f64>>,
}

impl HyperParameters {
    /// The description of a network of ours.
    pub fn of(config: TftConfig, loss: Option<QuantileLosses>) -> Self {
        Self { config, loss, without_effect: Map::new(), training: None, assumed: Vec::new() }
    }
}
