//! Small made-up step tables, and windows in parts, for tests.

use std::path::Path;

use super::feed::Feed;
use super::grid::Grid;
use super::steps_file::StepsWriter;
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

/// `grid` in a file below `dir`, one server a block, of which `n_at_once` may be in memory.
pub fn feed_in_parts(dir: &Path, grid: &Grid, n_at_once: usize) -> Feed {
    let path = dir.join("steps.parquet");
    let mut writer = StepsWriter::with_small_groups(path.clone());
    writer.add(grid, &(0..grid.servers.len()).collect::<Vec<_>>()).unwrap();
    writer.finish(grid).unwrap();
    Feed::of_file(path, grid.outline(), n_at_once as u64 * grid.bytes_a_server()).unwrap()
}
