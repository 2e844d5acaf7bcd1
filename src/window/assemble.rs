//! Step tables of single days, put together on one grid.
//!
//! Each table is read once. Until the last one nobody knows which servers and statuses there are, so values gather
//! in one lane per server, which are laid side by side in the end and let go one by one: memory is the grid, one
//! lane and one day.

use std::collections::{BTreeMap, HashMap};

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
    read: &mut dyn FnMut(NaiveDate) -> Result<StepTable>,
    progress: &dyn Progress,
) -> Result<Assembled> {
    let mut lanes = Lanes::new(span, schema);
    let mut counts = Vec::with_capacity(days.len());
    for (done, day) in days.iter().enumerate() {
        let table = read(*day).with_context(|| format!("read the steps of {day}"))?;
        ensure_fits(&table, span, schema).with_context(|| format!("use the steps of {day}"))?;
        lanes.fill(&table);
        counts.push(DayCount { date: *day, n_raw_rows: table.n_raw_rows() });
        let (done, total) = (done as u64 + 1, days.len() as u64);
        progress.tick(&Tick { stage: "window", done, total, unit: "days", detail: day.to_string() });
    }
    Ok(Assembled { grid: lanes.into_grid(schema), days: counts })
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

/// The values of one server over the whole span.
struct Lane {
    /// The last one its records gave.
    profile: Option<String>,
    /// `[T, M]` row-major, NaN where missing.
    values: Vec<f32>,
    /// `[T]`: 0 where no status is known, else 1 + the status' place in the order of their appearance.
    status: Vec<u32>,
}

/// The lanes of every server seen so far.
struct Lanes<'a> {
    span: &'a Span,
    n_metrics: usize,
    servers: BTreeMap<String, Lane>,
    /// Status texts and their place in the order of their appearance.
    statuses: HashMap<String, u32>,
}

impl<'a> Lanes<'a> {
    fn new(span: &'a Span, schema: &Schema) -> Self {
        Self { span, n_metrics: schema.metrics.len(), servers: BTreeMap::new(), statuses: HashMap::new() }
    }

    fn fill(&mut self, table: &StepTable) {
        let statuses: Vec<u32> = table.statuses.iter().map(|status| self.number_of(status)).collect();
        let (span, n_metrics) = (self.span, self.n_metrics);
        let mut entry = 0;
        while entry < table.len() {
            // Entries of a server lie together; any order would do.
            let server = table.server_idx[entry];
            let lane =
                self.lane_of(&table.servers[server as usize], table.profiles[server as usize].as_ref());
            while entry < table.len() && table.server_idx[entry] == server {
                if let Some(step) = span.step_at(table.step_ms[entry]) {
                    lane.take(step, n_metrics, table, entry, &statuses);
                }
                entry += 1;
            }
        }
    }

    fn number_of(&mut self, status: &str) -> u32 {
        let next = self.statuses.len() as u32 + 1;
        *self.statuses.entry(status.to_owned()).or_insert(next)
    }

    fn lane_of(&mut self, name: &str, profile: Option<&String>) -> &mut Lane {
        let (n_steps, n_metrics) = (self.span.n_steps, self.n_metrics);
        let lane = self.servers.entry(name.to_owned()).or_insert_with(|| Lane {
            profile: None,
            values: vec![f32::NAN; n_steps * n_metrics],
            status: vec![0; n_steps],
        });
        if profile.is_some() {
            lane.profile = profile.cloned();
        }
        lane
    }

    fn into_grid(self, schema: &Schema) -> Grid {
        let (statuses, rank) = ranked(self.statuses);
        let n_cells = self.servers.len() * self.span.n_steps;
        let mut grid = Grid {
            servers: Vec::with_capacity(self.servers.len()),
            metrics: schema.metrics.iter().map(|metric| metric.name.clone()).collect(),
            statuses,
            start_ms: self.span.start_ms,
            step_secs: self.span.step_secs,
            n_steps: self.span.n_steps,
            values: Vec::with_capacity(n_cells * self.n_metrics),
            status: Vec::with_capacity(n_cells),
        };
        for (name, lane) in self.servers {
            let profile = lane.profile.unwrap_or_else(|| schema.profile_of(&name).to_owned());
            grid.servers.push(Server { name, profile });
            grid.values.extend(lane.values);
            grid.status.extend(lane.status.into_iter().map(|number| rank[number as usize]));
        }
        grid
    }
}

impl Lane {
    fn take(&mut self, step: usize, n_metrics: usize, table: &StepTable, entry: usize, statuses: &[u32]) {
        let row = &mut self.values[step * n_metrics..(step + 1) * n_metrics];
        for (value, column) in row.iter_mut().zip(&table.values) {
            if !value.is_finite() {
                *value = column[entry];
            }
        }
        if table.status_idx[entry] != NO_STATUS {
            self.status[step] = statuses[table.status_idx[entry] as usize];
        }
    }
}

/// The status texts, ascending, and for each number given so far 1 + its place among them; 0, unknown, for what a
/// u16 cannot number.
fn ranked(numbers: HashMap<String, u32>) -> (Vec<String>, Vec<u16>) {
    let mut rank = vec![0; numbers.len() + 1];
    let mut named: Vec<(String, u32)> = numbers.into_iter().collect();
    named.sort_unstable();
    for (place, (_, number)) in named.iter().enumerate() {
        rank[*number as usize] = u16::try_from(place + 1).unwrap_or(0);
    }
    (named.into_iter().map(|(text, _)| text).collect(), rank)
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
        let mut read = |day: NaiveDate| Ok(tables[(day - first).num_days() as usize].clone());
        assemble(span, &days, &schema(), &mut read, &Silent)
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
