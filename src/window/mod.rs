//! (in the making)

pub mod grid;
