//! `steps.parquet`: the values of a window, one row per server and step that has any.
//!
//! Columns: `server_name` utf8, `timestamp` datetime[ms, UTC], one float32 per metric (null where missing), and
//! `status` utf8 if the window has any; sorted by server and time. It is written and read one row group at a
//! time, so that neither needs more than the grid and a few megabytes.

use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use polars::prelude::*;
use polars_parquet::write::{
    CompressedPage, CompressionOptions, StatisticsOptions, Version, WriteOptions, array_to_columns, compress,
    get_dtype_encoding,
};
use rayon::prelude::*;

use crate::fsx::disk;

use super::grid::Grid;

/// Rows of a row group, about.
const GROUP_ROWS: usize = 1 << 17;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 18;

/// How columns are encoded; the bytes of a window depend on it.
const ENCODING: WriteOptions = WriteOptions {
    statistics: StatisticsOptions {
        min_value: true,
        max_value: true,
        distinct_count: false,
        null_count: true,
        binary_statistics_truncate_length: None,
    },
    version: Version::V1,
    compression: CompressionOptions::Zstd(None),
    data_page_size: None,
};

const SERVER: &str = "server_name";
const TIME: &str = "timestamp";
const STATUS: &str = "status";

/// Writes a new file, some servers after the other: its bytes do not depend on how many at once.
pub(super) struct StepsWriter {
    path: PathBuf,
    /// Rows of a row group, about.
    group_rows: usize,
    /// Opened with the first grid, which knows the columns.
    writer: Option<BatchedWriter<BufWriter<disk::File>>>,
    /// Rows that do not fill a row group yet, and of how many servers they are.
    pending: Option<DataFrame>,
    n_pending: usize,
}

impl StepsWriter {
    pub fn new(path: PathBuf) -> Self {
        Self { path, group_rows: GROUP_ROWS, writer: None, pending: None, n_pending: 0 }
    }

    /// The same with row groups of one server each, for windows too small to have several.
    #[cfg(test)]
    pub fn with_small_groups(path: PathBuf) -> Self {
        Self { group_rows: 0, ..Self::new(path) }
    }

    /// Adds the rows of `servers` (positions in `grid`, ascending); all grids of a file have the same steps and columns.
    pub fn add(&mut self, grid: &Grid, servers: &[usize]) -> Result<()> {
        let path = self.path.clone();
        self.try_add(grid, servers).with_context(|| format!("write {}", path.display()))
    }

    fn try_add(&mut self, grid: &Grid, mut servers: &[usize]) -> Result<()> {
        if self.writer.is_none() {
            let schema = frame(grid, &[])?.schema().clone();
            // The parquet writer has thousands of small pieces to write.
            let sink = BufWriter::with_capacity(WRITE_BYTES, disk::File::create_new(&self.path)?);
            let writer = ParquetWriter::new(sink).with_compression(ParquetCompression::Zstd(None));
            self.writer = Some(writer.batched(&schema)?);
        }
        let n_a_group = (self.group_rows / grid.n_steps.max(1)).max(1);
        while !servers.is_empty() {
            let (now, later) = servers.split_at(servers.len().min(n_a_group - self.n_pending));
            let cells: Vec<(usize, usize)> = now.iter().flat_map(|server| cells_of(grid, *server)).collect();
            self.append(frame(grid, &cells)?)?;
            self.n_pending += now.len();
            if self.n_pending == n_a_group {
                self.flush()?;
            }
            servers = later;
        }
        Ok(())
    }

    fn append(&mut self, rows: DataFrame) -> Result<()> {
        match &mut self.pending {
            Some(pending) => {
                pending.vstack_mut(&rows)?;
            }
            None => self.pending = Some(rows),
        }
        Ok(())
    }

    /// Writes the pending rows as one row group.
    fn flush(&mut self) -> Result<()> {
        self.n_pending = 0;
        if let (Some(mut rows), Some(writer)) = (self.pending.take(), &mut self.writer)
            && rows.height() > 0
        {
            rows.rechunk_mut();
            write_group(writer, &rows)?;
        }
        Ok(())
    }

    /// Completes the file; `outline` knows the columns where nothing was added.
    pub fn finish(mut self, outline: &Grid) -> Result<()> {
        self.add(outline, &[])?;
        let path = self.path.clone();
        let mut finish = || -> Result<()> {
            self.flush()?;
            if let Some(writer) = &mut self.writer {
                writer.finish()?;
            }
            Ok(())
        };
        finish().with_context(|| format!("write {}", path.display()))
    }
}

/// Writes rows as one row group, as the writer does it itself; but it compresses one column after the other.
fn write_group(writer: &mut BatchedWriter<BufWriter<disk::File>>, rows: &DataFrame) -> Result<()> {
    let fields = writer.parquet_schema().fields().to_vec();
    for batch in rows.iter_chunks(CompatLevel::newest(), false) {
        let columns = batch.columns().par_iter().zip(&fields);
        let columns = columns.map(|(values, field)| {
            let encoding = get_dtype_encoding(values.dtype());
            let pages = array_to_columns(values, field.clone(), ENCODING, &encoding)?.into_iter().flatten();
            pages.map(|page| Ok(compress(page?, Vec::new(), ENCODING.compression)?)).collect()
        });
        let columns: Vec<Vec<CompressedPage>> = columns.collect::<Result<_>>()?;
        writer.write_row_group(batch.len() as u64, &columns)?;
    }
    Ok(())
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
    let column = |(metric, name): (usize, &String)| {
        let values = cells.iter().map(|(server, step)| {
            let value = grid.row(*server, *step)[metric];
            value.is_finite().then_some(value)
        });
        Float32Chunked::from_iter_options(name.as_str().into(), values).into_series().into_column()
    };
    columns.par_extend(grid.metrics.par_iter().enumerate().map(column));
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

/// Fills `grid`, whose values are all missing so far, from a file that [`StepsWriter`] made. Only the grid's own metrics
/// are read, and its statuses if it has any; rows before its first step are left out.
///
/// - Errors: the file cannot be read, lacks a column, or holds a server, a status or a later time the grid does not have.
pub(super) fn read_into(path: &Path, grid: &mut Grid) -> Result<()> {
    for rows in row_groups(path)? {
        read_rows_into(path, rows, grid).with_context(|| format!("read {}", path.display()))?;
    }
    Ok(())
}

/// The rows of each row group.
pub(super) fn row_groups(path: &Path) -> Result<Vec<Range<usize>>> {
    let read = || -> Result<Vec<Range<usize>>> {
        let mut reader = ParquetReader::new(File::open(path)?);
        let mut start = 0;
        let rows = reader.get_metadata()?.row_groups.iter().map(|group| {
            start += group.num_rows();
            start - group.num_rows()..start
        });
        Ok(rows.collect())
    };
    read().with_context(|| format!("read {}", path.display()))
}

/// The servers (positions in `outline`) of each row group; those without rows are with their neighbours before.
///
/// - Errors: the file cannot be read, its servers are not in order, or one is in two row groups.
pub(super) fn servers_of(path: &Path, groups: &[Range<usize>], outline: &Grid) -> Result<Vec<Range<usize>>> {
    let read = || -> Result<Vec<Range<usize>>> {
        let mut blocks: Vec<Range<usize>> = Vec::with_capacity(groups.len());
        for rows in groups {
            let first = server_at(path, rows.start, outline)?;
            let start = blocks.last().map_or(0, |block| block.end);
            ensure!(first >= start, "the rows are not sorted by server");
            if let Some(before) = blocks.last_mut() {
                before.end = first;
            }
            blocks.push(first..server_at(path, rows.end - 1, outline)? + 1);
        }
        if let Some(first) = blocks.first_mut() {
            first.start = 0;
        }
        if let Some(last) = blocks.last_mut() {
            last.end = outline.servers.len();
        }
        Ok(blocks)
    };
    read().with_context(|| format!("read {}", path.display()))
}

fn server_at(path: &Path, row: usize, outline: &Grid) -> Result<usize> {
    let reader = ParquetReader::new(File::open(path)?).with_columns(Some(vec![SERVER.into()]));
    let frame = reader.with_slice(Some((row, 1))).finish()?;
    position(outline, frame.column(SERVER)?.str()?.get(0).context("a row without server")?)
}

fn position(grid: &Grid, server: &str) -> Result<usize> {
    let position = grid.servers.binary_search_by(|known| known.name.as_str().cmp(server));
    position.ok().with_context(|| format!("server `{server}` is not in the manifest"))
}

/// [`read_into`] of some rows.
pub(super) fn read_rows_into(path: &Path, rows: Range<usize>, grid: &mut Grid) -> Result<()> {
    let mut columns = vec![SERVER.to_owned(), TIME.to_owned()];
    columns.extend_from_slice(&grid.metrics);
    if !grid.statuses.is_empty() {
        columns.push(STATUS.to_owned());
    }
    let reader = ParquetReader::new(File::open(path)?).with_columns(Some(columns));
    place(grid, &reader.with_slice(Some((rows.start, rows.len()))).finish()?)
}

fn place(grid: &mut Grid, frame: &DataFrame) -> Result<()> {
    let cells = cells_in(grid, frame)?;
    let n_metrics = grid.metrics.len();
    for metric in 0..n_metrics {
        let column = frame.column(&grid.metrics[metric])?.f32()?;
        for (cell, value) in cells.iter().zip(column.iter()) {
            let Some(cell) = cell else { continue };
            grid.values[cell * n_metrics + metric] = value.unwrap_or(f32::NAN);
        }
    }
    if grid.statuses.is_empty() {
        return Ok(());
    }
    for (cell, status) in cells.iter().zip(frame.column(STATUS)?.str()?.iter()) {
        let Some((cell, status)) = cell.zip(status) else { continue };
        let position = grid.statuses.binary_search_by(|known| known.as_str().cmp(status));
        let position = position.ok().with_context(|| format!("status `{status}` is not in the manifest"))?;
        grid.status[cell] = position as u16 + 1;
    }
    Ok(())
}

/// The cell (server times steps, plus step) of every row; none for rows before the grid.
fn cells_in(grid: &Grid, frame: &DataFrame) -> Result<Vec<Option<usize>>> {
    let names = frame.column(SERVER)?.str()?;
    let times = frame.column(TIME)?.datetime()?.physical();
    let step_ms = i64::from(grid.step_secs) * 1000;
    let mut cells = Vec::with_capacity(frame.height());
    let mut server = 0;
    for (name, time) in names.iter().zip(times.iter()) {
        let (name, time) = name.zip(time).context("a row without server or time")?;
        if grid.servers.get(server).is_none_or(|known| known.name != name) {
            server = position(grid, name)?;
        }
        let step = (time - grid.start_ms).div_euclid(step_ms);
        ensure!(step < grid.n_steps as i64, "a row of `{name}` at {time} ms is after the window");
        cells.push(usize::try_from(step).ok().map(|step| server * grid.n_steps + step));
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

    fn write(path: &Path, grid: &Grid, groups: &[&[usize]]) {
        let mut writer = StepsWriter::new(path.to_owned());
        for servers in groups {
            writer.add(grid, servers).unwrap();
        }
        writer.finish(grid).unwrap();
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
        write(&one, &grid, &[&[0, 1, 2]]);
        write(&two, &grid, &[&[0], &[1, 2], &[]]);
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
        write(&path, &grid, &[&[0, 2]]);
        grid.servers.remove(1);
        let mut read = Grid { values: vec![f32::NAN; 16], status: vec![0; 8], ..grid.clone() };
        read_into(&path, &mut read).unwrap();
        assert_eq!((read.row(1, 3)[0], read.status[7]), (22.0 / 3.0, 1));
        read.servers.remove(1);
        let error = read_into(&path, &mut read).unwrap_err();
        assert!(format!("{error:#}").contains("`c` is not in the manifest"), "{error:#}");
    }

    #[test]
    fn some_metrics_and_the_last_steps_are_read_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.parquet");
        let whole = grid();
        write(&path, &whole, &[&[0, 1, 2]]);
        let mut memory = whole.outline().only_metrics(&["mem".into()]).with_room_for(0..3);
        read_into(&path, &mut memory).unwrap();
        assert_eq!((memory.row(0, 3), memory.row(2, 1)), (&whole.row(0, 3)[1..], &whole.row(2, 1)[1..]));
        assert!(memory.row(0, 2)[0].is_nan() && memory.row(1, 0)[0].is_nan());
        let mut end = whole.outline().from_step(3).with_room_for(0..3);
        read_into(&path, &mut end).unwrap();
        assert_eq!((end.n_steps, end.time_ms(0)), (1, whole.time_ms(3)));
        assert_eq!((end.row(2, 0), &end.status), (whole.row(2, 3), &vec![0, 0, 1]));
    }

    #[test]
    fn an_empty_selection_is_a_valid_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.parquet");
        write(&path, &grid(), &[]);
        read_into(&path, &mut grid()).unwrap();
    }
}
