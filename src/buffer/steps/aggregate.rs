//! Aggregates raw rows to steps: the one place that turns what servers sent into what the model sees.
//!
//! A step begins at `floor(t / step) * step`, counted from the epoch. NaN and infinite values are left out. Rows
//! with status `offline` count as rows and give the step its status, but their metrics are missing data, not
//! zeros. Where a day of the zone begins inside a step (a zone a fraction of a step off UTC), both days have a
//! part of that step.
//!
//! Rows come one by one, or many at once: then their keys say first which of them go into which entry, and the metrics
//! are added up column by column, on several threads ([`cells`]).

use std::collections::HashMap;
use std::ops::Range;

use anyhow::Result;
use rayon::prelude::*;

use crate::schema::Schema;

use super::cells::{CellColumn, Run};
use super::step_table::{NO_STATUS, StepTable};
use crate::buffer::intake::record::is_offline;
use crate::buffer::rows::{NO_TEXT, Row, Texts};
use crate::buffer::sealed::parquet_rows::Slice;

/// Builds a [`StepTable`] from rows; the rows of each server must come in ascending order of time.
pub(in crate::buffer) struct StepBuilder {
    step_secs: u32,
    ids: HashMap<String, usize>,
    servers: Vec<Server>,
    entries: Entries,
    /// Per metric.
    columns: Vec<CellColumn>,
    statuses: Texts,
    /// The server of the row before: mostly the same.
    last_server: usize,
}

struct Server {
    name: String,
    profile: Option<String>,
    last_ms: i64,
    /// The entry of its newest row.
    open: Option<usize>,
}

/// The entries of the table in the making, in the order in which they began.
#[derive(Default)]
struct Entries {
    /// Position among the servers.
    server: Vec<u32>,
    step_ms: Vec<i64>,
    n_rows: Vec<u32>,
    /// Text ids.
    status: Vec<u32>,
}

/// Passes the values of one metric (its position in the schema), one per row of a slice, to what takes them; where the
/// file has no such column, nothing is passed on.
pub(in crate::buffer) type ReadValues<'a> = &'a (dyn Fn(usize, &mut dyn FnMut(&[f32])) -> Result<()> + Sync);

impl StepBuilder {
    pub fn new(schema: &Schema, step_secs: u32) -> Self {
        Self {
            step_secs,
            ids: HashMap::new(),
            servers: Vec::new(),
            entries: Entries::default(),
            columns: schema.metrics.iter().map(|metric| CellColumn::new(metric.aggregation)).collect(),
            statuses: Texts::default(),
            last_server: usize::MAX,
        }
    }

    /// Takes a row; false (and not taken) if it is not newer than the server's row before.
    pub fn push(&mut self, row: Row<'_>) -> bool {
        let server = self.server_of(row.server);
        let (status, times) = (self.statuses.optional_id(row.status), (row.time_ms, row.time_ms));
        let Some(entry) = self.begin(server, times, 1, row.profile, status) else { return false };
        if !row.status.is_some_and(is_offline) {
            for (column, value) in self.columns.iter_mut().zip(row.values) {
                column.make_room(self.servers.len(), self.entries.step_ms.len());
                column.add(server, entry, std::slice::from_ref(value));
            }
        }
        true
    }

    /// Takes the rows of a slice with a key and an event time in `[start, end)`: `keys` are its rows without metrics, whose
    /// values `read` gives. `None` if one of them is not newer than its server's row before, else their number; then the
    /// builder is of no use any more.
    ///
    /// - Errors: those of `read`.
    pub fn push_slice(
        &mut self,
        keys: &Slice,
        bounds: (i64, i64),
        read: ReadValues<'_>,
    ) -> Result<Option<u64>> {
        let mut runs = Vec::new();
        let Some(n_rows) = self.find_runs(keys, bounds, &mut runs) else { return Ok(None) };
        let (n_servers, n_entries) = (self.servers.len(), self.entries.step_ms.len());
        self.columns.par_iter_mut().enumerate().try_for_each(|(metric, column)| {
            column.make_room(n_servers, n_entries);
            read(metric, &mut |values| column.add_runs(&runs, values))
        })?;
        Ok(Some(n_rows))
    }

    /// Which rows of a slice go into which entry; those of servers that were offline go into none.
    fn find_runs(&mut self, keys: &Slice, bounds: (i64, i64), runs: &mut Vec<Run>) -> Option<u64> {
        let time_of = |idx| keys.key_time_ms(idx).filter(|time_ms| (bounds.0..bounds.1).contains(time_ms));
        let mut n_rows = 0;
        let mut begin = 0;
        while begin < keys.len() {
            let Some(first_ms) = time_of(begin) else {
                begin += 1;
                continue;
            };
            let kind = keys.kind(begin);
            let step_end_ms = step_of(first_ms, self.step_secs) + 1000 * i64::from(self.step_secs);
            let (mut end, mut last_ms) = (begin + 1, first_ms);
            while end < keys.len() && keys.kind(end) == kind {
                match time_of(end) {
                    Some(time_ms) if last_ms < time_ms && time_ms < step_end_ms => last_ms = time_ms,
                    _ => break,
                }
                end += 1;
            }
            self.find_run(keys, begin..end, (first_ms, last_ms), runs)?;
            n_rows += (end - begin) as u64;
            begin = end;
        }
        Some(n_rows)
    }

    /// Takes the keys of rows of one kind and step that ascend in time; `None` if they do not come after those before.
    fn find_run(
        &mut self,
        keys: &Slice,
        rows: Range<usize>,
        times: (i64, i64),
        runs: &mut Vec<Run>,
    ) -> Option<()> {
        let kind = keys.kind(rows.start);
        let status_text = keys.text(kind.status);
        let server = self.server_of(keys.text(kind.server).expect("a row with a key has a server"));
        let status = self.statuses.optional_id(status_text);
        let entry = self.begin(server, times, rows.len() as u32, keys.text(kind.profile), status)?;
        if !status_text.is_some_and(is_offline) {
            runs.push(Run {
                rows: rows.start as u32..rows.end as u32,
                server: server as u32,
                entry: entry as u32,
            });
        }
        Some(())
    }

    /// Counts rows of a server, all of one step, and returns their entry; `None` if they are not newer than those before.
    fn begin(
        &mut self,
        server: usize,
        (first_ms, last_ms): (i64, i64),
        n_rows: u32,
        profile: Option<&str>,
        status: u32,
    ) -> Option<usize> {
        let known = &mut self.servers[server];
        if first_ms <= known.last_ms {
            return None;
        }
        known.last_ms = last_ms;
        if let Some(profile) = profile.filter(|profile| known.profile.as_deref() != Some(profile)) {
            known.profile = Some(profile.to_owned());
        }
        let step_ms = step_of(first_ms, self.step_secs);
        let entry = known.open.filter(|entry| self.entries.step_ms[*entry] == step_ms);
        let entry = entry.unwrap_or_else(|| self.entries.add(server, step_ms));
        known.open = Some(entry);
        self.entries.n_rows[entry] += n_rows;
        if status != NO_TEXT {
            self.entries.status[entry] = status;
        }
        Some(entry)
    }

    fn server_of(&mut self, name: &str) -> usize {
        if self.servers.get(self.last_server).is_some_and(|server| server.name == name) {
            return self.last_server;
        }
        self.last_server = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                let name = name.to_owned();
                self.ids.insert(name.clone(), self.servers.len());
                self.servers.push(Server { name, profile: None, last_ms: i64::MIN, open: None });
                self.servers.len() - 1
            }
        };
        self.last_server
    }

    /// The statuses that are the last of some step, ascending, and the place of each text id among them.
    fn used_statuses(&self) -> (Vec<String>, HashMap<u32, u32>) {
        let mut used = self.entries.status.clone();
        used.sort_unstable();
        used.dedup();
        let mut named: Vec<(&str, u32)> =
            used.into_iter().filter_map(|id| Some((self.statuses.get(id)?, id))).collect();
        named.sort_unstable();
        let ranks = named.iter().enumerate().map(|(rank, (_, id))| (*id, rank as u32)).collect();
        (named.into_iter().map(|(text, _)| text.to_owned()).collect(), ranks)
    }

    /// The table, sorted by server and step.
    pub fn finish(self) -> StepTable {
        let (statuses, status_rank) = self.used_statuses();
        let Self { step_secs, servers, entries, columns, .. } = self;
        let mut by_name: Vec<usize> = (0..servers.len()).collect();
        by_name.sort_by(|a, b| servers[*a].name.cmp(&servers[*b].name));
        let mut rank = vec![0; servers.len()];
        by_name.iter().zip(0..).for_each(|(server, place)| rank[*server] = place);
        // The entries of a server began in the order of their steps.
        let order = Order::by_key(entries.server.len(), |entry| rank[entries.server[entry] as usize]);
        let status = |id: &u32| status_rank.get(id).copied().unwrap_or(NO_STATUS);
        let n_entries = entries.step_ms.len();
        StepTable {
            step_secs,
            servers: by_name.iter().map(|server| servers[*server].name.clone()).collect(),
            profiles: by_name.iter().map(|server| servers[*server].profile.clone()).collect(),
            statuses,
            server_idx: order.arrange(entries.server.iter().map(|server| rank[*server as usize]).collect()),
            step_ms: order.arrange(entries.step_ms),
            n_rows: order.arrange(entries.n_rows),
            status_idx: order.arrange(entries.status.iter().map(status).collect()),
            values: columns.into_iter().map(|column| order.arrange(column.finish(n_entries))).collect(),
        }
    }
}

impl Entries {
    /// Begins an entry without rows.
    fn add(&mut self, server: usize, step_ms: i64) -> usize {
        self.server.push(server as u32);
        self.step_ms.push(step_ms);
        self.n_rows.push(0);
        self.status.push(NO_TEXT);
        self.step_ms.len() - 1
    }
}

/// An order of entries; none if it is the one in which they lie.
struct Order(Option<Vec<u32>>);

impl Order {
    /// Ascending by key, else as they lie.
    fn by_key<K: Ord>(n_entries: usize, key: impl Fn(usize) -> K) -> Self {
        if (0..n_entries).is_sorted_by_key(&key) {
            return Self(None);
        }
        let mut order: Vec<u32> = (0..n_entries as u32).collect();
        order.sort_by_key(|entry| key(*entry as usize));
        Self(Some(order))
    }

    fn arrange<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        match &self.0 {
            None => values,
            Some(order) => order.iter().map(|entry| values[*entry as usize]).collect(),
        }
    }
}

/// The step that a time belongs to.
fn step_of(time_ms: i64, step_secs: u32) -> i64 {
    let step = 1000 * i64::from(step_secs);
    time_ms.div_euclid(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Aggregation, Metric};

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
