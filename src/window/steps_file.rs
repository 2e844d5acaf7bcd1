//! `steps.parquet`: the values of a window, one row per server and step that has any.
//!
//! Columns: `server_name` utf8, `timestamp` datetime[ms, UTC], one float32 per metric (null where missing), and
//! `status` utf8 if the window has any; sorted by server and time. It is written and read one row group at a
//! time, so that neither needs more than the grid and a few megabytes.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use polars::prelude::*;

use super::grid::Grid;

/// Rows of a row group, about.
const GROUP_ROWS: usize = 1 << 17;

const SERVER: &str = "server_name";
const TIME: &str = "timestamp";
const STATUS: &str = "status";

/// Writes the rows of `servers` (positions in `grid`, ascending) to a new file.
pub(super) fn write(path: &Path, grid: &Grid, servers: &[usize]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let write = || -> Result<()> {
        let empty = frame(grid, &[])?;
        let mut writer = ParquetWriter::new(file).batched(empty.schema())?;
        let servers_a_group = (GROUP_ROWS / grid.n_steps.max(1)).max(1);
        for group in servers.chunks(servers_a_group) {
            let cells: Vec<(usize, usize)> =
                group.iter().flat_map(|server| cells_of(grid, *server)).collect();
            if !cells.is_empty() {
                writer.write_batch(&frame(grid, &cells)?)?;
            }
        }
        writer.finish()?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// The (server, step) pairs of a server that hold a value or a status.
fn cells_of(grid: &Grid, server: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let has_any = move |step: &usize| {
        grid.status[server * grid.n_steps + step] > 0
            || grid.row(server, *step).iter().any(|value| value.is_finite())
    };
    (0..grid.n_steps).filter(has_any).map(move |step| (server, step))
}

fn frame(grid: &Grid, cells: &[(usize, usize)]) -> Result<DataFrame> {
    let names = cells.iter().map(|(server, _)| Some(grid.servers[*server].name.as_str()));
    let times = cells.iter().map(|(_, step)| Some(grid.time_ms(*step)));
    let times = Int64Chunked::from_iter_options(TIME.into(), times)
        .into_datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
    let mut columns = vec![
        StringChunked::from_iter_options(SERVER.into(), names).into_series().into_column(),
        times.into_series().into_column(),
    ];
    for (metric, name) in grid.metrics.iter().enumerate() {
        let values = cells.iter().map(|(server, step)| {
            let value = grid.row(*server, *step)[metric];
            value.is_finite().then_some(value)
        });
        let values = Float32Chunked::from_iter_options(name.as_str().into(), values);
        columns.push(values.into_series().into_column());
    }
    if !grid.statuses.is_empty() {
        let status = |(server, step): &(usize, usize)| {
            let number = usize::from(grid.status[server * grid.n_steps + step]);
            number.checked_sub(1).map(|position| grid.statuses[position].as_str())
        };
        let statuses = StringChunked::from_iter_options(STATUS.into(), cells.iter().map(status));
        columns.push(statuses.into_series().into_column());
    }
    Ok(DataFrame::new(cells.len(), columns)?)
}

/// Fills `grid`, whose values are all missing so far, from a file that [`write()`] made.
///
/// - Errors: the file cannot be read, lacks a column, or holds a server, status or time the grid does not have.
pub(super) fn read_into(path: &Path, grid: &mut Grid) -> Result<()> {
    let read = |grid: &mut Grid| -> Result<()> {
        let mut reader = ParquetReader::new(File::open(path)?);
        let metadata = reader.get_metadata()?.clone();
        let mut start = 0;
        for group in &metadata.row_groups {
            let rows = start..start + group.num_rows();
            let frame = read_rows(path, rows.clone())?;
            place(grid, &frame)?;
            start = rows.end;
        }
        Ok(())
    };
    read(grid).with_context(|| format!("read {}", path.display()))
}

fn read_rows(path: &Path, rows: Range<usize>) -> Result<DataFrame> {
    let reader = ParquetReader::new(File::open(path)?).with_slice(Some((rows.start, rows.len())));
    Ok(reader.finish()?)
}

fn place(grid: &mut Grid, frame: &DataFrame) -> Result<()> {
    let cells = cells_in(grid, frame)?;
    let n_metrics = grid.metrics.len();
    for metric in 0..n_metrics {
        let column = frame.column(&grid.metrics[metric])?.f32()?;
        for (cell, value) in cells.iter().zip(column.iter()) {
            grid.values[cell * n_metrics + metric] = value.unwrap_or(f32::NAN);
        }
    }
    if grid.statuses.is_empty() {
        return Ok(());
    }
    for (cell, status) in cells.iter().zip(frame.column(STATUS)?.str()?.iter()) {
        let Some(status) = status else { continue };
        let position = grid.statuses.binary_search_by(|known| known.as_str().cmp(status));
        let position = position.ok().with_context(|| format!("status `{status}` is not in the manifest"))?;
        grid.status[*cell] = position as u16 + 1;
    }
    Ok(())
}

/// The cell (server times steps, plus step) of every row.
fn cells_in(grid: &Grid, frame: &DataFrame) -> Result<Vec<usize>> {
    let names = frame.column(SERVER)?.str()?;
    let times = frame.column(TIME)?.datetime()?.physical();
    let step_ms = i64::from(grid.step_secs) * 1000;
    let mut cells = Vec::with_capacity(frame.height());
    let mut server = 0;
    for (name, time) in names.iter().zip(times.iter()) {
        let (name, time) = name.zip(time).context("a row without server or time")?;
        if grid.servers.get(server).is_none_or(|known| known.name != name) {
            let position = grid.servers.binary_search_by(|known| known.name.as_str().cmp(name));
            server = position.ok().with_context(|| format!("server `{name}` is not in the manifest"))?;
        }
        let step = (time - grid.start_ms).div_euclid(step_ms);
        let is_inside = (0..grid.n_steps as i64).contains(&step);
        ensure!(is_inside, "a row of `{name}` at {time} ms is outside of the window");
        cells.push(server * grid.n_steps + step as usize);
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Server;

    fn grid() -> Grid {
        let server = |name: &str| Server { name: name.into(), profile: "generic".into() };
        let mut grid = Grid {
            servers: vec![server("a"), server("b"), server("c")],
            metrics: vec!["cpu".into(), "mem".into()],
            statuses: vec!["idle".into(), "up".into()],
            start_ms: 600_000,
            step_secs: 300,
            n_steps: 4,
            values: (0..24).map(|i| i as f32 / 3.0).collect(),
            status: vec![0, 1, 2, 0, 0, 0, 0, 0, 2, 0, 0, 1],
        };
        grid.values[5] = f32::NAN;
        grid.values[8..12].fill(f32::NAN);
        grid
    }

    fn same(a: &Grid, b: &Grid) -> bool {
        let bits = |grid: &Grid| grid.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        bits(a) == bits(b) && a.status == b.status
    }

    #[test]
    fn a_grid_survives_the_file_and_the_bytes_are_always_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        let grid = grid();
        write(&one, &grid, &[0, 1, 2]).unwrap();
        write(&two, &grid, &[0, 1, 2]).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let mut read = Grid { values: vec![f32::NAN; 24], status: vec![0; 12], ..grid.clone() };
        read_into(&one, &mut read).unwrap();
        assert!(same(&grid, &read));
    }

    #[test]
    fn only_the_servers_asked_for_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.parquet");
        let mut grid = grid();
        write(&path, &grid, &[0, 2]).unwrap();
        grid.servers.remove(1);
        let mut read = Grid { values: vec![f32::NAN; 16], status: vec![0; 8], ..grid.clone() };
        read_into(&path, &mut read).unwrap();
        assert_eq!((read.row(1, 3)[0], read.status[7]), (22.0 / 3.0, 1));
        read.servers.remove(1);
        let error = read_into(&path, &mut read).unwrap_err();
        assert!(format!("{error:#}").contains("`c` is not in the manifest"), "{error:#}");
    }

    #[test]
    fn an_empty_selection_is_a_valid_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.parquet");
        write(&path, &grid(), &[]).unwrap();
        read_into(&path, &mut grid()).unwrap();
    }
}
