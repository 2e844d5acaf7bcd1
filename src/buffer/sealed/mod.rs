//! The sealed days: one parquet file each, how it is written and read, and how long it is kept.

pub(in crate::buffer) mod archive;
pub(in crate::buffer) mod day_file;
mod dictionary;
mod encoding;
pub(in crate::buffer) mod pages;
pub(in crate::buffer) mod parquet_rows;
pub(in crate::buffer) mod proof;
pub(in crate::buffer) mod retention;
pub(in crate::buffer) mod row_groups;
pub(in crate::buffer) mod stamp;

pub use retention::{RetentionAction, RetentionDecision, RetentionPolicy, RetentionReason, plan_retention};

#[cfg(test)]
mod tests;
