//! What one training reads: the days of a window on one time grid, with a split and a verdict on the data.

pub mod gaps;
pub mod grid;
pub mod split;

pub use grid::{Grid, Server};
pub use split::Split;
