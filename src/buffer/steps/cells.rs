//! Adds the values of one metric up to the entries of a step table.

use std::ops::Range;

use crate::schema::Aggregation;

/// Rows of a slice, one after the other, that go into one entry of one server.
pub(super) struct Run {
    pub rows: Range<u32>,
    pub server: u32,
    pub entry: u32,
}

/// One metric of all entries. The entries of a server come one after the other; those of several may alternate.
pub(super) struct CellColumn {
    aggregation: Aggregation,
    /// What the newest entry of each server has so far.
    cells: Vec<Cell>,
    /// Per entry; NaN while it is open, and where it has no value.
    values: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Cell {
    value: f64,
    n: u32,
    entry: u32,
}

impl Cell {
    fn of(entry: u32) -> Self {
        Self { value: 0.0, n: 0, entry }
    }

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

impl CellColumn {
    pub fn new(aggregation: Aggregation) -> Self {
        Self { aggregation, cells: Vec::new(), values: Vec::new() }
    }

    /// Makes room for so many servers and entries, without values.
    pub fn make_room(&mut self, n_servers: usize, n_entries: usize) {
        self.values.resize(n_entries, f32::NAN);
        // An open entry without values does not differ from none.
        self.cells.resize(n_servers, Cell::of(0));
    }

    /// Adds the values of rows of `server` that belong to `entry`, its newest.
    pub fn add(&mut self, server: usize, entry: usize, values: &[f32]) {
        let cell = &mut self.cells[server];
        if cell.entry as usize != entry {
            close(*cell, self.aggregation, &mut self.values);
            *cell = Cell::of(entry as u32);
        }
        cell.add_all(values, self.aggregation);
    }

    /// [`CellColumn::add`] of the runs of a slice whose values are `values`.
    pub fn add_runs(&mut self, runs: &[Run], values: &[f32]) {
        for Run { rows, server, entry } in runs {
            self.add(*server as usize, *entry as usize, &values[rows.start as usize..rows.end as usize]);
        }
    }

    /// The value of each of `n_entries` entries, NaN for none.
    pub fn finish(mut self, n_entries: usize) -> Vec<f32> {
        self.values.resize(n_entries, f32::NAN);
        self.cells.iter().for_each(|cell| close(*cell, self.aggregation, &mut self.values));
        self.values
    }
}

/// Writes down what a cell came to, if anything.
fn close(cell: Cell, aggregation: Aggregation, values: &mut [f32]) {
    if cell.n > 0 {
        values[cell.entry as usize] = cell.result(aggregation);
    }
}
