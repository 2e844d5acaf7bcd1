//! Small made-up step tables for the tests of this module.

use crate::buffer::step_table::{NO_STATUS, StepTable};

pub const STEP_MS: i64 = 300_000;

/// A table of `entries` (server, step since the epoch, value of every metric) with ten raw rows each.
pub fn table(n_metrics: usize, entries: &[(&str, i64, f32)]) -> StepTable {
    let mut servers: Vec<String> = entries.iter().map(|entry| entry.0.to_owned()).collect();
    servers.sort();
    servers.dedup();
    let server_idx = |name: &str| servers.iter().position(|server| server == name).unwrap() as u32;
    StepTable {
        step_secs: 300,
        profiles: vec![None; servers.len()],
        statuses: Vec::new(),
        server_idx: entries.iter().map(|entry| server_idx(entry.0)).collect(),
        step_ms: entries.iter().map(|entry| entry.1 * STEP_MS).collect(),
        n_rows: vec![10; entries.len()],
        status_idx: vec![NO_STATUS; entries.len()],
        values: vec![entries.iter().map(|entry| entry.2).collect(); n_metrics],
        servers,
    }
}
