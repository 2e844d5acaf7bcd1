//! The numeric operations the network is built from, each with a backward.
//!
//! One file per operation. An operation knows shapes and numbers; it knows no parameter names, no variables and
//! no configuration. Where an operation has a fast path, the plain composition of tensor operations stays beside
//! it as its oracle, and a test holds the two together in value and in every gradient.
//!
//! Randomness is a function, not a state: [`random`] turns (seed, step, site, index) into a number, so results
//! depend neither on the thread count nor on what was drawn before.

pub mod adamw;
pub mod attention;
pub mod attention_fused;
pub mod attention_mask;
pub mod cuda;
pub mod dropout;
pub mod gate;
pub mod gate_fused;
pub mod grn;
pub mod grn_fused;
pub mod grn_tile;
pub mod layer_norm;
pub mod layer_norm_fused;
pub mod linear;
pub mod linear_fused;
pub mod lstm;
pub mod lstm_fused;
pub mod lstm_plain;
mod lstm_tile;
pub mod passage;
pub mod quantile_loss;
pub mod quantile_loss_fused;
pub mod random;
pub mod resample;
pub mod rows;
pub mod simd;
pub mod softmax;
pub mod split;
pub mod stretch;
pub mod vsn;

mod attention_backward;
mod attention_forward;
mod host;
mod pack;

#[cfg(test)]
pub(crate) mod check;

pub use adamw::AdamWStep;
pub use attention::{AttentionMask, Decoder, attention, attention_weights};
pub use dropout::Dropout;
pub use gate::{GateSizes, GateWeights, gate_add_norm};
pub use grn::{GrnSizes, GrnWeights, grn};
pub(crate) use host::has_fused_form;
pub use layer_norm::layer_norm;
pub use linear::{LinearWeights, linear};
pub use lstm::{LstmOutput, LstmWeights, lstm};
pub use quantile_loss::quantile_loss;
pub use resample::{ResampleWeights, resample_norm};
pub use softmax::{masked_softmax, softmax};
pub use stretch::stretch;
