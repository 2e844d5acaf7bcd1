//! How fast this machine does what a night does, beside what it could do.
//!
//! Each measurement runs the product's own code on data made up here, and puts its rate beside a floor measured in the
//! same call on the same machine: for [`network`] the same matrix products by a plain sgemm ([`sgemm`]), for [`data`]
//! the bare writing and reading of the same bytes. A ratio of the two says more than a rate: machines differ, and
//! neighbours come and go.

pub mod data;
pub mod network;
pub mod sgemm;
mod timing;

pub use data::{AppendBench, DataSizes, WindowBench, append, window};
pub use network::{NetworkBench, NetworkSizes, predict, train};
pub use timing::Effort;
