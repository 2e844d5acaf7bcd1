//! The Temporal Fusion Transformer: what it is made of, and how tensors become forecasts.
//!
//! The network is that of pytorch-forecasting's `TemporalFusionTransformer`, parameter by parameter and number by
//! number (`tests/promises/parity.rs` holds it to recorded outputs and gradients), after Lim et al.,
//! arXiv:1912.09363. In reading order: [`config`] says which network, [`layout`] which parameters it has,
//! [`params`] holds them, the blocks ([`glu`], [`grn`], [`vsn`], [`attention`], ...) compute, [`tft`] puts them
//! together and [`loss`] measures the result. [`hyper_parameters`] translates the library's own description of a
//! network.
//!
//! A block is built from the parameters it finds under its name and keeps handles to them, not copies: an
//! optimiser step is seen by the next forward. It refuses to know dates, tables, folders and training.

pub mod attention;
pub mod config;
pub mod embedding;
pub mod empty_history;
pub mod glu;
pub mod grn;
pub mod hyper_parameters;
pub mod layout;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod params;
pub mod stacked_lstm;
pub mod static_encoder;
pub mod tft;
pub mod transform;
pub mod vsn;
pub mod work;

#[cfg(test)]
mod tests;

pub use config::{EmbeddingSize, TftConfig};
pub use hyper_parameters::{HyperParameters, QuantileLosses};
pub use loss::{DivideBy, MultiLoss, MultiLossOptions, OverTargets, SampleWeights, multi_quantile_loss};
pub use params::Params;
pub use tft::{AttentionWeights, Mode, Tft, TftInput, TftOutput};
pub use transform::Transformation;
