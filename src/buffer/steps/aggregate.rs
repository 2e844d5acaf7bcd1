//! Aggregates raw rows to steps: the one place that turns what servers sent into what the model sees.
//!
//! A step begins at `floor(t / step) * step`, counted from the epoch. NaN and infinite values are left out. Rows
//! with status `offline` count as rows and give the step its status, but their metrics are missing data, not
//! zeros. Where a day of the zone begins inside a step (a zone a fraction of a step off UTC), both days have a
//! part of that step.

use std::collections::HashMap;

use crate::schema::{Aggregation, Schema};

use super::step_table::{NO_STATUS, StepTable};
use crate::buffer::intake::record::is_offline;
use crate::buffer::rows::{NO_TEXT, Row, Texts};

/// Builds a [`StepTable`] from rows; the rows of each server must come in ascending order of time.
pub(in crate::buffer) struct StepBuilder {
    step_secs: u32,
    aggregations: Vec<Aggregation>,
    ids: HashMap<String, usize>,
    servers: Vec<Server>,
    statuses: Texts,
    /// The server of the row before: mostly the same.
    last_server: usize,
}

struct Server {
    name: String,
    profile: Option<String>,
    last_ms: i64,
    open: OpenStep,
    step_ms: Vec<i64>,
    n_rows: Vec<u32>,
    status: Vec<u32>,
    /// `[entry][metric]`.
    values: Vec<f32>,
}

/// The step that the newest row of a server belongs to.
struct OpenStep {
    step_ms: i64,
    n_rows: u32,
    status: u32,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    value: f64,
    n: u32,
}

impl Cell {
    fn add(&mut self, value: f32, aggregation: Aggregation) {
        let value = f64::from(value);
        self.value = match aggregation {
            _ if self.n == 0 => value,
            Aggregation::Mean | Aggregation::Sum => self.value + value,
            Aggregation::Max => self.value.max(value),
            Aggregation::Min => self.value.min(value),
            Aggregation::Last => value,
        };
        self.n += 1;
    }

    fn result(self, aggregation: Aggregation) -> f32 {
        match aggregation {
            _ if self.n == 0 => f32::NAN,
            Aggregation::Mean => (self.value / f64::from(self.n)) as f32,
            _ => self.value as f32,
        }
    }
}

impl StepBuilder {
    pub fn new(schema: &Schema, step_secs: u32) -> Self {
        Self {
            step_secs,
            aggregations: schema.metrics.iter().map(|metric| metric.aggregation).collect(),
            ids: HashMap::new(),
            servers: Vec::new(),
            statuses: Texts::default(),
            last_server: usize::MAX,
        }
    }

    /// Takes a row; false (and not taken) if it is not newer than the server's row before.
    pub fn push(&mut self, row: Row<'_>) -> bool {
        let server = self.server_of(row.server);
        let status = self.statuses.optional_id(row.status);
        let server = &mut self.servers[server];
        if row.time_ms <= server.last_ms {
            return false;
        }
        server.last_ms = row.time_ms;
        let step = 1000 * i64::from(self.step_secs);
        let step_ms = row.time_ms.div_euclid(step) * step;
        if step_ms != server.open.step_ms {
            server.close_step(&self.aggregations);
            server.open.step_ms = step_ms;
        }
        server.open.n_rows += 1;
        if status != NO_TEXT {
            server.open.status = status;
        }
        if let Some(profile) = row.profile.filter(|profile| server.profile.as_deref() != Some(profile)) {
            server.profile = Some(profile.to_owned());
        }
        if row.status.is_some_and(is_offline) {
            return true;
        }
        for ((cell, value), aggregation) in
            server.open.cells.iter_mut().zip(row.values).zip(&self.aggregations)
        {
            if value.is_finite() {
                cell.add(*value, *aggregation);
            }
        }
        true
    }

    fn server_of(&mut self, name: &str) -> usize {
        if self.servers.get(self.last_server).is_some_and(|server| server.name == name) {
            return self.last_server;
        }
        self.last_server = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                self.servers.push(Server::new(name, self.aggregations.len()));
                self.ids.insert(name.to_owned(), self.servers.len() - 1);
                self.servers.len() - 1
            }
        };
        self.last_server
    }

    /// The statuses that are the last of some step, ascending, and the place of each text id among them.
    fn used_statuses(&self) -> (Vec<String>, HashMap<u32, u32>) {
        let mut used: Vec<u32> = self.servers.iter().flat_map(|server| &server.status).copied().collect();
        used.sort_unstable();
        used.dedup();
        let mut named: Vec<(&str, u32)> =
            used.into_iter().filter_map(|id| Some((self.statuses.get(id)?, id))).collect();
        named.sort_unstable();
        let ranks = named.iter().enumerate().map(|(rank, (_, id))| (*id, rank as u32)).collect();
        (named.into_iter().map(|(text, _)| text.to_owned()).collect(), ranks)
    }

    /// The table, sorted by server and step.
    pub fn finish(mut self) -> StepTable {
        for server in &mut self.servers {
            server.close_step(&self.aggregations);
        }
        self.servers.sort_by(|a, b| a.name.cmp(&b.name));
        let (statuses, status_rank) = self.used_statuses();
        let n_metrics = self.aggregations.len();
        let n_entries = self.servers.iter().map(|server| server.step_ms.len()).sum();
        let mut table = StepTable {
            step_secs: self.step_secs,
            statuses,
            values: vec![Vec::with_capacity(n_entries); n_metrics],
            ..StepTable::default()
        };
        for (idx, server) in self.servers.into_iter().enumerate() {
            table.server_idx.extend(std::iter::repeat_n(idx as u32, server.step_ms.len()));
            table.step_ms.extend(&server.step_ms);
            table.n_rows.extend(&server.n_rows);
            let status = |id: &u32| status_rank.get(id).copied().unwrap_or(NO_STATUS);
            table.status_idx.extend(server.status.iter().map(status));
            for (metric, column) in table.values.iter_mut().enumerate() {
                column.extend(server.values.iter().skip(metric).step_by(n_metrics));
            }
            table.servers.push(server.name);
            table.profiles.push(server.profile);
        }
        table
    }
}

impl Server {
    fn new(name: &str, n_metrics: usize) -> Self {
        let open = OpenStep {
            step_ms: i64::MIN,
            n_rows: 0,
            status: NO_TEXT,
            cells: vec![Cell::default(); n_metrics],
        };
        Self {
            name: name.to_owned(),
            profile: None,
            last_ms: i64::MIN,
            open,
            step_ms: Vec::new(),
            n_rows: Vec::new(),
            status: Vec::new(),
            values: Vec::new(),
        }
    }

    fn close_step(&mut self, aggregations: &[Aggregation]) {
        let open = &mut self.open;
        if open.n_rows == 0 {
            return;
        }
        self.step_ms.push(open.step_ms);
        self.n_rows.push(open.n_rows);
        self.status.push(open.status);
        let results = open.cells.iter().zip(aggregations).map(|(cell, how)| cell.result(*how));
        self.values.extend(results);
        open.n_rows = 0;
        open.status = NO_TEXT;
        open.cells.fill(Cell::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Metric;

    fn schema() -> Schema {
        let how =
            [Aggregation::Mean, Aggregation::Max, Aggregation::Min, Aggregation::Sum, Aggregation::Last];
        let metrics =
            how.map(|aggregation| Metric { aggregation, ..Metric::new(&format!("{aggregation:?}"), "") });
        Schema { metrics: metrics.to_vec(), profiles: vec![] }
    }

    fn push(builder: &mut StepBuilder, server: &str, secs: i64, value: f32, status: Option<&str>) -> bool {
        let values = [value; 5];
        builder.push(Row { time_ms: 1000 * secs, server, profile: None, status, values: &values })
    }

    #[test]
    fn each_metric_is_aggregated_in_its_way() {
        let mut builder = StepBuilder::new(&schema(), 300);
        for (secs, value) in
            [(600, 1.0), (605, f32::NAN), (610, 5.0), (615, f32::INFINITY), (899, 3.0), (900, 7.0)]
        {
            assert!(push(&mut builder, "b", secs, value, None));
        }
        assert!(push(&mut builder, "a", 10, 2.0, Some("idle")));
        let table = builder.finish();
        assert_eq!(table.servers, ["a", "b"]);
        assert_eq!(table.step_ms, [0, 600_000, 900_000]);
        assert_eq!(table.server_idx, [0, 1, 1]);
        assert_eq!(table.n_rows, [1, 5, 1]);
        assert_eq!(table.status_idx, [0, NO_STATUS, NO_STATUS]);
        let column = |metric: usize| table.values[metric].clone();
        assert_eq!(column(0), [2.0, 3.0, 7.0]);
        assert_eq!(column(1), [2.0, 5.0, 7.0]);
        assert_eq!(column(2), [2.0, 1.0, 7.0]);
        assert_eq!(column(3), [2.0, 9.0, 7.0]);
        assert_eq!(column(4), [2.0, 3.0, 7.0]);
    }

    #[test]
    fn an_offline_server_is_missing_data_not_zeros() {
        let mut builder = StepBuilder::new(&schema(), 300);
        push(&mut builder, "a", 0, 10.0, Some("healthy"));
        push(&mut builder, "a", 5, 0.0, Some("offline"));
        push(&mut builder, "a", 300, 0.0, Some("Offline"));
        let table = builder.finish();
        assert_eq!(table.values[0][0], 10.0);
        assert!(table.values.iter().all(|column| column[1].is_nan()));
        assert_eq!(table.n_rows, [2, 1]);
        assert_eq!(table.statuses, ["Offline", "offline"]);
        assert_eq!(table.status_idx, [1, 0]);
    }

    #[test]
    fn rows_out_of_order_or_repeated_are_not_taken() {
        let mut builder = StepBuilder::new(&schema(), 300);
        assert!(push(&mut builder, "a", 10, 1.0, None));
        assert!(push(&mut builder, "b", 5, 1.0, None));
        assert!(!push(&mut builder, "a", 10, 1.0, None));
        assert!(!push(&mut builder, "a", 9, 1.0, None));
    }
}
