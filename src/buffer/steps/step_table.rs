//! Step aggregates in memory: what the rest of the program knows of raw rows.

use serde::{Deserialize, Serialize};

/// No status was given for this step.
pub const NO_STATUS: u32 = u32::MAX;

/// Aggregates of raw rows, one entry per (server, step) that has data, sorted by server and step.
///
/// All entry vectors have the same length N; `values[m]` belongs to metric `m` of the schema, NaN where the
/// step holds no usable value of it (absent, or the server was offline).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTable {
    pub step_secs: u32,
    /// Server names, ascending.
    pub servers: Vec<String>,
    /// Profile given in the records of each server, if any; same order as `servers`.
    pub profiles: Vec<Option<String>>,
    /// Distinct status texts, ascending.
    pub statuses: Vec<String>,
    /// Position in `servers`, per entry.
    pub server_idx: Vec<u32>,
    /// Start of the step in epoch milliseconds, a multiple of the step, per entry.
    pub step_ms: Vec<i64>,
    /// Raw rows aggregated, per entry.
    pub n_rows: Vec<u32>,
    /// Position in `statuses` of the step's last status, or [`NO_STATUS`], per entry.
    pub status_idx: Vec<u32>,
    /// `[metric][entry]`.
    pub values: Vec<Vec<f32>>,
}

/// Who and what is in a [`StepTable`], without its steps and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutline {
    /// Server names, ascending.
    pub servers: Vec<String>,
    /// Profile given in the records of each server, if any; same order as `servers`.
    pub profiles: Vec<Option<String>>,
    /// Distinct status texts, ascending.
    pub statuses: Vec<String>,
    /// Raw rows and steps of each server; same order as `servers`.
    pub row_counts: Vec<RowCount>,
}

/// Raw rows, and the steps they fell in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCount {
    pub n_rows: u64,
    pub n_steps: u64,
}

impl RowCount {
    pub fn add(&mut self, more: RowCount) {
        self.n_rows += more.n_rows;
        self.n_steps += more.n_steps;
    }

    /// Counts of `n_servers` from the entries of a table: whose each is, and its rows.
    pub(in crate::buffer) fn of_entries(n_servers: usize, server_idx: &[u32], n_rows: &[u32]) -> Vec<Self> {
        let mut counts = vec![Self::default(); n_servers];
        for (server, n_rows) in server_idx.iter().zip(n_rows) {
            counts[*server as usize].add(Self { n_rows: u64::from(*n_rows), n_steps: 1 });
        }
        counts
    }
}

impl StepOutline {
    /// Raw rows behind all entries.
    pub fn n_raw_rows(&self) -> u64 {
        self.row_counts.iter().map(|count| count.n_rows).sum()
    }
}

impl StepTable {
    /// Bytes that an entry of `n_metrics` takes in memory.
    pub fn entry_bytes(n_metrics: usize) -> u64 {
        (size_of::<i64>() + 3 * size_of::<u32>() + n_metrics * size_of::<f32>()) as u64
    }

    pub fn outline(&self) -> StepOutline {
        StepOutline {
            servers: self.servers.clone(),
            profiles: self.profiles.clone(),
            statuses: self.statuses.clone(),
            row_counts: RowCount::of_entries(self.servers.len(), &self.server_idx, &self.n_rows),
        }
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.step_ms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.step_ms.is_empty()
    }

    /// Raw rows behind all entries.
    pub fn n_raw_rows(&self) -> u64 {
        self.n_rows.iter().map(|n| u64::from(*n)).sum()
    }
}
