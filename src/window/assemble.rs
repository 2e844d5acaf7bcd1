//! Step tables of single days, put together on one grid.
//!
//! Tables are read twice, one at a time: first for the names, which decide the grid's shape, then for the
//! values, which go straight to their place. Memory is the grid and one day.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;

use crate::buffer::step_table::{NO_STATUS, StepTable};
use crate::progress::{Progress, Tick};
use crate::schema::Schema;

use super::grid::{Grid, Server};
use super::span::Span;

/// Raw rows of one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayCount {
    pub date: NaiveDate,
    pub n_raw_rows: u64,
}

/// A grid and what went into it.
#[derive(Debug)]
pub struct Assembled {
    pub grid: Grid,
    pub days: Vec<DayCount>,
}

/// Puts the step tables of `days` on the grid of `span`, one column per metric of `schema`.
///
/// Steps outside the span are left out. Where a step reaches across midnight, both days have a part of it: the
/// earlier day's values stand. A server's profile is the last one its records gave, else that of the rules.
///
/// - Errors: a table cannot be read, or has another step or other metrics; the day is named.
pub fn assemble(
    span: &Span,
    days: &[NaiveDate],
    schema: &Schema,
    read: &dyn Fn(NaiveDate) -> Result<StepTable>,
    progress: &dyn Progress,
) -> Result<Assembled> {
    let read = |day: NaiveDate| {
        let table = read(day).with_context(|| format!("read the steps of {day}"))?;
        ensure_fits(&table, span, schema).with_context(|| format!("use the steps of {day}"))?;
        Ok::<_, anyhow::Error>(table)
    };
    let n_reads = 2 * days.len() as u64;
    let tick = |done: usize, day: NaiveDate| {
        let detail = day.to_string();
        progress.tick(&Tick { stage: "window", done: done as u64, total: n_reads, unit: "days", detail });
    };
    let mut names = Names::default();
    let mut counts = Vec::with_capacity(days.len());
    for (done, day) in days.iter().enumerate() {
        let table = read(*day)?;
        names.note(&table);
        counts.push(DayCount { date: *day, n_raw_rows: table.n_raw_rows() });
        tick(done + 1, *day);
    }
    let mut grid = names.into_grid(span, schema);
    for (done, day) in days.iter().enumerate() {
        fill(&mut grid, span, &read(*day)?);
        tick(days.len() + done + 1, *day);
    }
    Ok(Assembled { grid, days: counts })
}

fn ensure_fits(table: &StepTable, span: &Span, schema: &Schema) -> Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    let (of_table, of_span) = (table.step_secs, span.step_secs);
    ensure!(of_table == of_span, "they are {of_table} s long, the config says {of_span} s");
    let (n_found, n_wanted) = (table.values.len(), schema.metrics.len());
    ensure!(n_found == n_wanted, "they have {n_found} metrics, the config lists {n_wanted}");
    Ok(())
}

/// The names in all tables.
#[derive(Default)]
struct Names {
    /// Server name to the profile its records gave.
    servers: BTreeMap<String, Option<String>>,
    statuses: BTreeSet<String>,
}

impl Names {
    fn note(&mut self, table: &StepTable) {
        for (server, profile) in table.servers.iter().zip(&table.profiles) {
            let known = self.servers.entry(server.clone()).or_default();
            if profile.is_some() {
                known.clone_from(profile);
            }
        }
        self.statuses.extend(table.statuses.iter().cloned());
    }

    fn into_grid(self, span: &Span, schema: &Schema) -> Grid {
        let name_server = |(name, given): (String, Option<String>)| {
            let profile = given.unwrap_or_else(|| schema.profile_of(&name).to_owned());
            Server { name, profile }
        };
        let servers: Vec<Server> = self.servers.into_iter().map(name_server).collect();
        let n_cells = servers.len() * span.n_steps;
        Grid {
            metrics: schema.metrics.iter().map(|metric| metric.name.clone()).collect(),
            statuses: self.statuses.into_iter().collect(),
            start_ms: span.start_ms,
            step_secs: span.step_secs,
            n_steps: span.n_steps,
            values: vec![f32::NAN; n_cells * schema.metrics.len()],
            status: vec![0; n_cells],
            servers,
        }
    }
}

fn fill(grid: &mut Grid, span: &Span, table: &StepTable) {
    let server_at: HashMap<&str, usize> =
        grid.servers.iter().enumerate().map(|(at, server)| (server.name.as_str(), at)).collect();
    let servers: Vec<usize> = table.servers.iter().map(|name| server_at[name.as_str()]).collect();
    let statuses: Vec<u16> = table.statuses.iter().map(|status| status_number(grid, status)).collect();
    let n_metrics = grid.metrics.len();
    for entry in 0..table.len() {
        let Some(step) = span.step_at(table.step_ms[entry]) else { continue };
        let cell = servers[table.server_idx[entry] as usize] * grid.n_steps + step;
        let row = &mut grid.values[cell * n_metrics..(cell + 1) * n_metrics];
        for (value, column) in row.iter_mut().zip(&table.values) {
            if !value.is_finite() {
                *value = column[entry];
            }
        }
        if table.status_idx[entry] != NO_STATUS {
            grid.status[cell] = statuses[table.status_idx[entry] as usize];
        }
    }
}

/// 1 + position of a status; 0, unknown, for what a u16 cannot number.
fn status_number(grid: &Grid, status: &str) -> u16 {
    let position = grid.statuses.binary_search_by(|known| known.as_str().cmp(status));
    position.ok().and_then(|position| u16::try_from(position + 1).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::schema::Metric;
    use crate::window::testing::{STEP_MS, table};

    fn schema() -> Schema {
        Schema { metrics: vec![Metric::new("cpu", "%"), Metric::new("mem", "%")], profiles: Vec::new() }
    }

    fn assemble_all(span: &Span, tables: &[StepTable]) -> Result<Assembled> {
        let first: NaiveDate = "2024-01-01".parse().unwrap();
        let days: Vec<NaiveDate> = first.iter_days().take(tables.len()).collect();
        let read = |day: NaiveDate| Ok(tables[(day - first).num_days() as usize].clone());
        assemble(span, &days, &schema(), &read, &Silent)
    }

    #[test]
    fn values_go_to_their_server_and_step_and_the_rest_is_missing() {
        let span = Span::between(0, 4 * STEP_MS, 300);
        let first = table(2, &[("b", 1, 10.0), ("b", 2, f32::NAN)]);
        let mut second = table(2, &[("a", 3, 30.0), ("b", 3, 31.0), ("b", 99, 1.0)]);
        second.profiles[0] = Some("database".into());
        second.statuses = vec!["idle".into(), "up".into()];
        second.status_idx[1] = 1;
        let assembled = assemble_all(&span, &[first, second]).unwrap();
        let grid = assembled.grid;
        let servers: Vec<_> = grid.servers.iter().map(|s| (s.name.as_str(), s.profile.as_str())).collect();
        assert_eq!(servers, [("a", "database"), ("b", "generic")]);
        assert_eq!((grid.row(0, 3)[0], grid.row(1, 1)[0], grid.row(1, 3)[1]), (30.0, 10.0, 31.0));
        assert_eq!(grid.values.iter().filter(|value| value.is_finite()).count(), 6);
        assert_eq!((grid.status[4 + 3], grid.status[3]), (2, 0));
        assert_eq!(assembled.days.iter().map(|day| day.n_raw_rows).collect::<Vec<_>>(), [20, 30]);
    }

    #[test]
    fn the_earlier_part_of_a_step_across_midnight_stands() {
        let span = Span::between(0, 2 * STEP_MS, 300);
        let mut early = table(2, &[("a", 1, 1.0)]);
        early.values[1][0] = f32::NAN;
        let grid = assemble_all(&span, &[early, table(2, &[("a", 1, 2.0)])]).unwrap().grid;
        assert_eq!(grid.row(0, 1), [1.0, 2.0]);
    }

    #[test]
    fn a_table_of_another_shape_is_an_error_that_names_its_day() {
        let span = Span::between(0, 2 * STEP_MS, 300);
        let error = assemble_all(&span, &[table(3, &[("a", 1, 1.0)])]).unwrap_err();
        assert!(format!("{error:#}").contains("2024-01-01: they have 3 metrics"), "{error:#}");
        let mut other_step = table(2, &[("a", 1, 1.0)]);
        other_step.step_secs = 60;
        assert!(assemble_all(&span, &[other_step]).is_err());
    }
}
