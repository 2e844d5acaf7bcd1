//! Aggregates raw rows to steps: the one place that turns what servers sent into what the model sees.
//!
//! A step begins at `floor(t / step) * step`, counted from the epoch. NaN and infinite values are left out. Rows
//! with status `offline` count as rows and give the step its status, but their metrics are missing data, not
//! zeros. Where a day of the zone begins inside a step (a zone a fraction of a step off UTC), both days have a
//! part of that step.

use std::collections::HashMap;
use std::ops::Range;

use crate::schema::{Aggregation, Schema};

use super::step_table::{NO_STATUS, StepTable};
use crate::buffer::intake::record::is_offline;
use crate::buffer::rows::{NO_TEXT, Row, Texts};
use crate::buffer::sealed::parquet_rows::Slice;

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

    /// [`Cell::add`] of all values that are finite.
    fn add_all(&mut self, values: &[f32], aggregation: Aggregation) {
        let finite = values.iter().filter(|value| value.is_finite());
        if !matches!(aggregation, Aggregation::Mean | Aggregation::Sum) {
            return finite.for_each(|value| self.add(*value, aggregation));
        }
        // The negative zero is what changes no number it is added to.
        let mut sum = if self.n == 0 { -0.0 } else { self.value };
        for value in finite {
            sum += f64::from(*value);
            self.n += 1;
        }
        if self.n > 0 {
            self.value = sum;
        }
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
        let (server, status) = (self.server_of(row.server), self.statuses.optional_id(row.status));
        let server = &mut self.servers[server];
        if row.time_ms <= server.last_ms {
            return false;
        }
        server.last_ms = row.time_ms;
        server.begin(step_of(row.time_ms, self.step_secs), 1, row.profile, status, &self.aggregations);
        if !row.status.is_some_and(is_offline) {
            let cells = server.open.cells.iter_mut().zip(row.values).zip(&self.aggregations);
            cells.for_each(|((cell, value), how)| cell.add_all(std::slice::from_ref(value), *how));
        }
        true
    }

    /// Takes the rows of `slice` with a key and an event time in `[start, end)`; `None` if one of them is not newer than
    /// its server's row before, else their number.
    pub fn push_slice(&mut self, slice: &Slice, bounds: (i64, i64)) -> Option<u64> {
        let time_of = |idx| slice.key_time_ms(idx).filter(|time_ms| (bounds.0..bounds.1).contains(time_ms));
        let mut n_rows = 0;
        let mut begin = 0;
        while begin < slice.len() {
            let Some(first_ms) = time_of(begin) else {
                begin += 1;
                continue;
            };
            let (kind, step_ms) = (slice.kind(begin), step_of(first_ms, self.step_secs));
            let step_end_ms = step_ms + 1000 * i64::from(self.step_secs);
            let (mut end, mut last_ms) = (begin + 1, first_ms);
            while end < slice.len() && slice.kind(end) == kind {
                match time_of(end) {
                    Some(time_ms) if last_ms < time_ms && time_ms < step_end_ms => last_ms = time_ms,
                    _ => break,
                }
                end += 1;
            }
            self.push_run(slice, begin..end, (first_ms, last_ms))?;
            n_rows += (end - begin) as u64;
            begin = end;
        }
        Some(n_rows)
    }

    /// Takes rows of one kind and step that ascend in time; `None` if they do not come after those before.
    fn push_run(&mut self, slice: &Slice, rows: Range<usize>, (first_ms, last_ms): (i64, i64)) -> Option<()> {
        let kind = slice.kind(rows.start);
        let status_text = slice.text(kind.status);
        let server = self.server_of(slice.text(kind.server).expect("a row with a key has a server"));
        let status = self.statuses.optional_id(status_text);
        let server = &mut self.servers[server];
        if first_ms <= server.last_ms {
            return None;
        }
        server.last_ms = last_ms;
        let (step_ms, n_rows) = (step_of(first_ms, self.step_secs), rows.len() as u32);
        server.begin(step_ms, n_rows, slice.text(kind.profile), status, &self.aggregations);
        if !status_text.is_some_and(is_offline) {
            let cells = server.open.cells.iter_mut().zip(slice.columns()).zip(&self.aggregations);
            for ((cell, column), how) in cells {
                cell.add_all(column.map_or(&[], |column| &column[rows.clone()]), *how);
            }
        }
        Some(())
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

/// The step that a time belongs to.
fn step_of(time_ms: i64, step_secs: u32) -> i64 {
    let step = 1000 * i64::from(step_secs);
    time_ms.div_euclid(step) * step
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

    /// Counts rows of the step that begins at `step_ms`, which ends the one before if it is another.
    fn begin(&mut self, step_ms: i64, n_rows: u32, profile: Option<&str>, status: u32, how: &[Aggregation]) {
        if step_ms != self.open.step_ms {
            self.close_step(how);
            self.open.step_ms = step_ms;
        }
        self.open.n_rows += n_rows;
        if status != NO_TEXT {
            self.open.status = status;
        }
        if let Some(profile) = profile.filter(|profile| self.profile.as_deref() != Some(profile)) {
            self.profile = Some(profile.to_owned());
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
