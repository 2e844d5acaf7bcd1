//! (in the making)

pub mod step_table;
