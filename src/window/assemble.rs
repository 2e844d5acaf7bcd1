//! Step tables of single days, put together on one grid.
//!
//! Two looks at every day: [`survey`] learns which servers and statuses there are, so that [`fill`] can lay the grid out
//! once and write each value to its place. Memory is the grid, and one day, or a few where they are small. A window larger
//! than memory is filled a few servers at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;
use rayon::prelude::*;

use crate::buffer::step_table::{NO_STATUS, RowCount, StepOutline, StepTable};
use crate::progress::{Progress, Tick};
use crate::schema::Schema;

use super::grid::{Grid, Server};
use super::manifest::Source;
use super::span::Span;

/// Bytes of step tables that are in memory at once, if they are of more than one day.
const READ_AHEAD_BYTES: u64 = 8 << 20;

/// Raw rows of one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayCount {
    pub date: NaiveDate,
    /// Steps of all servers that have rows.
    pub n_entries: u64,
    /// Rows that became steps, each key once.
    pub n_raw_rows: u64,
    /// Rows of the day in its files.
    pub n_source_rows: u64,
}

impl DayCount {
    /// Rows of its files that did not become part of a step: they repeat a key.
    pub fn n_duplicates(&self) -> u64 {
        self.n_source_rows.saturating_sub(self.n_raw_rows)
    }
}

/// Who and what is in some days.
#[derive(Clone, Debug)]
pub struct Cast {
    /// Ascending by name.
    pub servers: Vec<Server>,
    /// Ascending.
    pub statuses: Vec<String>,
    pub days: Vec<DayCount>,
    /// Raw rows of each server and the steps they fell in, in the order of `servers`.
    pub row_counts: Vec<RowCount>,
}

/// Learns who is in `days`.
///
/// A server's profile is the last one its records gave, else that of the rules. `sources` are the files behind the days.
///
/// - Errors: a day cannot be read; it is named.
pub fn survey(
    days: &[NaiveDate],
    schema: &Schema,
    sources: &[Source],
    outline: &mut dyn FnMut(NaiveDate) -> Result<StepOutline>,
) -> Result<Cast> {
    let mut known: BTreeMap<String, (Option<String>, RowCount)> = BTreeMap::new();
    let mut statuses = BTreeSet::new();
    let mut counts = Vec::with_capacity(days.len());
    for day in days {
        let outline = outline(*day).with_context(|| format!("read the steps of {day}"))?;
        let n_raw_rows = outline.n_raw_rows();
        let n_entries = outline.row_counts.iter().map(|count| count.n_steps).sum();
        let n_source_rows = sources.iter().filter(|source| source.date == *day).map(|source| source.n_rows);
        counts.push(DayCount { date: *day, n_entries, n_raw_rows, n_source_rows: n_source_rows.sum() });
        let of_day = outline.profiles.into_iter().zip(outline.row_counts);
        for (name, (profile, count)) in outline.servers.into_iter().zip(of_day) {
            let (last_profile, total) = known.entry(name).or_default();
            *last_profile = profile.or(last_profile.take());
            total.add(count);
        }
        statuses.extend(outline.statuses);
    }
    let server = |(name, (profile, count)): (String, (Option<String>, RowCount))| {
        let profile = profile.unwrap_or_else(|| schema.profile_of(&name).to_owned());
        (Server { name, profile }, count)
    };
    let (servers, row_counts) = known.into_iter().map(server).unzip();
    Ok(Cast { servers, statuses: statuses.into_iter().collect(), days: counts, row_counts })
}

/// Puts the step tables of the cast's days on the grid of `span`, one column per metric of `schema`, for `servers`
/// (positions in the cast). `read` gives the tables of some days, in their order.
///
/// Steps outside the span are left out. Where a step reaches across midnight, both days have a part of it: the
/// earlier day's values stand.
///
/// - Errors: a table cannot be read, or has another step or other metrics; the day is named.
pub fn fill(
    span: &Span,
    schema: &Schema,
    cast: &Cast,
    servers: Range<usize>,
    read: &mut dyn FnMut(&[NaiveDate]) -> Result<Vec<StepTable>>,
    progress: &dyn Progress,
) -> Result<Grid> {
    let mut grid = outline(span, schema, cast).with_room_for(servers);
    let mut done = 0;
    for days in read_together(&cast.days, schema.metrics.len()) {
        let tables = read(&days)?;
        for (table, day) in tables.iter().zip(&days) {
            ensure_fits(table, span, schema).with_context(|| format!("use the steps of {day}"))?;
        }
        take(&mut grid, &tables, span);
        for day in days {
            done += 1;
            let total = cast.days.len() as u64;
            progress.tick(&Tick { stage: "window", done, total, unit: "days", detail: day.to_string() });
        }
    }
    Ok(grid)
}

/// The days in groups that are read at once: as many as are small together, one at least.
fn read_together(days: &[DayCount], n_metrics: usize) -> Vec<Vec<NaiveDate>> {
    let mut groups: Vec<Vec<NaiveDate>> = Vec::new();
    let mut n_bytes = 0;
    for day in days {
        let of_day = day.n_entries * StepTable::entry_bytes(n_metrics);
        n_bytes += of_day;
        match groups.last_mut() {
            Some(group) if n_bytes <= READ_AHEAD_BYTES => group.push(day.date),
            _ => {
                groups.push(vec![day.date]);
                n_bytes = of_day;
            }
        }
    }
    groups
}

/// The grid of all servers of the cast without its values.
pub fn outline(span: &Span, schema: &Schema, cast: &Cast) -> Grid {
    Grid {
        servers: cast.servers.clone(),
        metrics: schema.metrics.iter().map(|metric| metric.name.clone()).collect(),
        statuses: cast.statuses.clone(),
        start_ms: span.start_ms,
        step_secs: span.step_secs,
        n_steps: span.n_steps,
        values: Vec::new(),
        status: Vec::new(),
    }
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

/// Takes over what `tables` have of the grid's servers. One that the grid does not know came in since it was laid out:
/// the caller sees that the sources changed.
fn take(grid: &mut Grid, tables: &[StepTable], span: &Span) {
    let numbers_of = |table: &StepTable| -> Vec<u16> {
        table.statuses.iter().map(|status| number_of(&grid.statuses, status)).collect()
    };
    let tables: Vec<(&StepTable, Vec<u16>)> = tables.iter().map(|table| (table, numbers_of(table))).collect();
    let (n_steps, n_metrics) = (grid.n_steps.max(1), grid.metrics.len().max(1));
    let cells = grid.values.par_chunks_mut(n_steps * n_metrics).zip(grid.status.par_chunks_mut(n_steps));
    grid.servers.par_iter().zip(cells).for_each(|(server, (values, status))| {
        for (table, numbers) in &tables {
            take_server(&server.name, (values, status), (table, numbers), span);
        }
    });
}

/// Takes over what `table` has of one server; `values` and `status` are the server's part of the grid, `numbers` those of
/// the table's statuses in the grid.
fn take_server(
    name: &String,
    (values, status): (&mut [f32], &mut [u16]),
    (table, numbers): (&StepTable, &[u16]),
    span: &Span,
) {
    let Ok(of_table) = table.servers.binary_search(name) else { return };
    let first = table.server_idx.partition_point(|server| (*server as usize) < of_table);
    let end = table.server_idx.partition_point(|server| (*server as usize) <= of_table);
    let n_metrics = table.values.len();
    for entry in first..end {
        let Some(step) = span.step_at(table.step_ms[entry]) else { continue };
        let row = &mut values[step * n_metrics..(step + 1) * n_metrics];
        for (value, column) in row.iter_mut().zip(&table.values) {
            if !value.is_finite() {
                *value = column[entry];
            }
        }
        if table.status_idx[entry] != NO_STATUS {
            status[step] = numbers[table.status_idx[entry] as usize];
        }
    }
}

/// 1 + the place of a status among those of the grid; 0, unknown, for what a u16 cannot number.
fn number_of(statuses: &[String], status: &String) -> u16 {
    let place = statuses.binary_search(status).ok();
    place.and_then(|place| u16::try_from(place + 1).ok()).unwrap_or(0)
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

    fn assemble_all(span: &Span, tables: &[StepTable]) -> Result<(Grid, Cast)> {
        let first: NaiveDate = "2024-01-01".parse().unwrap();
        let days: Vec<NaiveDate> = first.iter_days().take(tables.len()).collect();
        let table = |day: NaiveDate| &tables[(day - first).num_days() as usize];
        let cast = survey(&days, &schema(), &[], &mut |day| Ok(table(day).outline()))?;
        let all = 0..cast.servers.len();
        let mut read = |days: &[NaiveDate]| Ok(days.iter().map(|day| table(*day).clone()).collect());
        let grid = fill(span, &schema(), &cast, all, &mut read, &Silent)?;
        for server in 0..cast.servers.len() {
            let alone = server..server + 1;
            let part = fill(span, &schema(), &cast, alone, &mut read, &Silent)?;
            let cells = server * grid.n_steps..(server + 1) * grid.n_steps;
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&part.values), bits(&grid.values[2 * cells.start..2 * cells.end]));
            assert_eq!((&part.status[..], &part.servers[0]), (&grid.status[cells], &grid.servers[server]));
        }
        Ok((grid, cast))
    }

    #[test]
    fn values_go_to_their_server_and_step_and_the_rest_is_missing() {
        let span = Span::between(0, 4 * STEP_MS, 300);
        let first = table(2, &[("b", 1, 10.0), ("b", 2, f32::NAN)]);
        let mut second = table(2, &[("a", 3, 30.0), ("b", 3, 31.0), ("b", 99, 1.0)]);
        second.profiles[0] = Some("database".into());
        second.statuses = vec!["idle".into(), "up".into()];
        second.status_idx[1] = 1;
        let (grid, cast) = assemble_all(&span, &[first, second]).unwrap();
        let servers: Vec<_> = grid.servers.iter().map(|s| (s.name.as_str(), s.profile.as_str())).collect();
        assert_eq!(servers, [("a", "database"), ("b", "generic")]);
        assert_eq!((grid.row(0, 3)[0], grid.row(1, 1)[0], grid.row(1, 3)[1]), (30.0, 10.0, 31.0));
        assert_eq!(grid.values.iter().filter(|value| value.is_finite()).count(), 6);
        assert_eq!((grid.status[4 + 3], grid.status[3]), (2, 0));
        assert_eq!(cast.days.iter().map(|day| day.n_raw_rows).collect::<Vec<_>>(), [20, 30]);
    }

    #[test]
    fn small_days_are_read_together_and_large_ones_alone() {
        let n_entries = [10, 50_000, 50_000, 500_000, 10, 20];
        let first: NaiveDate = "2024-01-01".parse().unwrap();
        let days = first.iter_days().zip(n_entries);
        let days: Vec<DayCount> = days
            .map(|(date, n_entries)| DayCount { date, n_entries, n_raw_rows: 0, n_source_rows: 0 })
            .collect();
        let groups = read_together(&days, 14);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(groups.concat(), days.iter().map(|day| day.date).collect::<Vec<_>>());
    }

    #[test]
    fn the_earlier_part_of_a_step_across_midnight_stands() {
        let span = Span::between(0, 2 * STEP_MS, 300);
        let mut early = table(2, &[("a", 1, 1.0)]);
        early.values[1][0] = f32::NAN;
        let grid = assemble_all(&span, &[early, table(2, &[("a", 1, 2.0)])]).unwrap().0;
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
