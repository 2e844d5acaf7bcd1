//! Step aggregates of a day: derived from its rows, kept on disk, rebuilt when anything they depend on changed.

pub(in crate::buffer) mod aggregate;
pub(in crate::buffer) mod cache;
mod cells;
pub mod step_table;

pub use cache::SourceDigest;
