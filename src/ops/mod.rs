//! The numeric operations the network is built from, each with a backward.
//!
//! One file per operation. An operation knows shapes and numbers; it knows no parameter names, no variables and
//! no configuration. Where an operation has a fast path, the plain composition of tensor operations stays beside
//! it as its oracle, and a test holds the two together in value and in every gradient.
//!
//! Randomness is a function, not a state: [`random`] turns (seed, step, site, index) into a number, so results
//! depend neither on the thread count nor on what was drawn before.

pub mod dropout;
pub mod layer_norm;
pub mod layer_norm_fused;
pub mod lstm;
pub mod lstm_fused;
pub mod lstm_plain;
mod lstm_tile;
pub mod quantile_loss;
pub mod quantile_loss_fused;
pub mod random;
pub mod simd;
pub mod softmax;
pub mod split;
pub mod stretch;

mod host;

#[cfg(test)]
pub(crate) mod check;

pub use dropout::Dropout;
pub use layer_norm::layer_norm;
pub use lstm::{LstmOutput, LstmWeights, lstm};
pub use quantile_loss::quantile_loss;
pub use softmax::{masked_softmax, softmax};
pub use stretch::stretch;
