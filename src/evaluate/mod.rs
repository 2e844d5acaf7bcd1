//! (in the making)

pub mod scores;
