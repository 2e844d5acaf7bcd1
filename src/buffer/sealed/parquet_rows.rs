//! Reads rows from parquet files, ours or anybody's, slice by slice.
//!
//! `timestamp` is a datetime of any unit (without a zone it counts as UTC, unless `append` was told of another), an
//! epoch number, or RFC 3339 text;
//! `server_name`, `profile` and `status` are text; metrics are numbers of any width. A null or NaN metric is a
//! missing value, and a time before 1970 or after 2199 is no time. This is the only module, with [`super::day_file`] and the step cache, that knows polars.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use polars::prelude::{
    ArrowDataType, DataFrame, DataType, Float32Chunked, Int64Chunked, ParallelStrategy, ParquetReader,
    SerReader, StringChunked, TimeUnit,
};

use crate::calendar::PLAUSIBLE_MS;
use crate::schema::Metric;

use crate::buffer::intake::names::{Field, Fields, Target};
use crate::buffer::intake::record::{Candidate, Reason};
use crate::buffer::intake::times::TimeRule;
use crate::buffer::rows::{NO_TEXT, Row, Rows, Texts};

/// Rows decoded at once.
const SLICE_ROWS: usize = 1 << 17;

/// Calls into the parquet reader, which panics on some damaged files.
fn guarded<T>(read: impl FnOnce() -> polars::prelude::PolarsResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(outcome) => outcome.map_err(|error| anyhow!("{error}")),
        Err(_) => bail!("the parquet reader gave up on damaged content"),
    }
}

/// An open parquet file whose footer was read.
pub(in crate::buffer) struct ParquetFile {
    reader: File,
    meta: polars::prelude::FileMetadataRef,
    schema: std::sync::Arc<polars::prelude::ArrowSchema>,
}

/// Columns that are not metrics, in the files of this program.
const KEYS: [&str; 4] = ["timestamp", "server_name", "profile", "status"];

/// Which columns of a file to read, and as what.
pub(in crate::buffer) struct Columns<'a> {
    /// Names of the columns with the times, servers, profiles and statuses.
    keys: [&'a str; 4],
    values: Vec<(&'a str, Target)>,
    n_metrics: usize,
}

impl<'a> Columns<'a> {
    /// The columns `metrics` under the names that this program gives them.
    pub fn plain(metrics: &'a [String]) -> Self {
        let values = metrics.iter().enumerate().map(|(idx, name)| (name.as_str(), Target::plain(idx)));
        Self { keys: KEYS, values: values.collect(), n_metrics: metrics.len() }
    }

    /// The columns of `names` that `fields` knows.
    ///
    /// - Errors: two of them are the same metric.
    pub fn mapped(names: &'a [String], fields: &'a Fields, n_metrics: usize) -> Result<Self> {
        let mut values: Vec<(&str, Target)> = Vec::new();
        for name in names {
            let Some(Field::Metric(target)) = fields.get(name) else { continue };
            if let Some((other, _)) = values.iter().find(|(_, other)| other.metric == target.metric) {
                bail!("its columns `{other}` and `{name}` are the same metric");
            }
            values.push((name, target));
        }
        let input = &fields.input;
        let keys = [&input.timestamp, &input.server_name, &input.profile, &input.status];
        Ok(Self { keys: keys.map(String::as_str), values, n_metrics })
    }
}

impl ParquetFile {
    /// Opens `path`.
    ///
    /// - Errors: it cannot be read, or its footer is damaged; the file is named.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
        Self::of(file).with_context(|| format!("read {}", path.display()))
    }

    /// [`ParquetFile::open`] of a file that is open already; errors do not name it.
    pub fn of(file: File) -> Result<Self> {
        ensure!(file.metadata()?.len() >= 12, "it is too short for a parquet file");
        let (meta, schema) = guarded(|| {
            let mut reader = ParquetReader::new(file.try_clone()?);
            let meta = reader.get_metadata()?.clone();
            Ok((meta, reader.schema()?))
        })?;
        Ok(Self { reader: file, meta, schema })
    }

    pub fn n_rows(&self) -> usize {
        self.meta.num_rows
    }

    /// A value of the file's own key-value metadata.
    pub fn value_of(&self, key: &str) -> Option<&str> {
        let pairs = self.meta.key_value_metadata.as_ref()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    pub fn has_column(&self, name: &str) -> bool {
        self.schema.contains(name)
    }

    /// Names of all columns, in the file's order.
    pub fn columns(&self) -> Vec<String> {
        self.schema.iter().map(|(name, _)| name.to_string()).collect()
    }

    /// Names of the columns that can be metrics, in the file's order.
    pub fn numeric_columns(&self) -> Vec<String> {
        let fields = self.schema.iter();
        let numeric =
            fields.filter(|(name, field)| !KEYS.contains(&name.as_str()) && is_numeric(field.dtype()));
        numeric.map(|(name, _)| name.to_string()).collect()
    }

    /// Names of the columns that are neither keys nor numbers.
    pub fn other_columns(&self) -> Vec<String> {
        let fields = self.schema.iter();
        let others =
            fields.filter(|(name, field)| !KEYS.contains(&name.as_str()) && !is_numeric(field.dtype()));
        others.map(|(name, _)| name.to_string()).collect()
    }

    /// The smallest and largest timestamp by the footer's statistics, in epoch milliseconds.
    ///
    /// `None` where the footer does not say.
    pub fn time_range_ms(&self) -> Option<(i64, i64)> {
        let ranges = (0..self.meta.row_groups.len()).map(|group| self.group_time_range_ms(group));
        ranges.reduce(|a, b| Some((a?.0.min(b?.0), a?.1.max(b?.1)))).flatten()
    }

    fn group_time_range_ms(&self, group: usize) -> Option<(i64, i64)> {
        let unit = match self.schema.get("timestamp")?.dtype() {
            ArrowDataType::Timestamp(unit, _) => unit.into(),
            _ => return None,
        };
        let mut columns = self.meta.row_groups[group].columns_under_root_iter("timestamp")?;
        let statistics = columns.next()?.statistics(&self.meta.footer_buf)?.ok()?;
        let statistics = statistics.as_int64()?;
        Some((to_ms(statistics.min_value?, unit), to_ms(statistics.max_value?, unit)))
    }

    /// Parts of the file that are read at once, within row groups.
    pub fn slices(&self) -> Vec<Range<usize>> {
        self.slices_overlapping(None)
    }

    /// [`ParquetFile::slices`] without the row groups that lie outside of `[start, end)` by their statistics.
    fn slices_overlapping(&self, bounds: Option<(i64, i64)>) -> Vec<Range<usize>> {
        let mut slices = Vec::new();
        let mut start = 0;
        for (group, meta) in self.meta.row_groups.iter().enumerate() {
            let end = start + meta.num_rows();
            let is_outside = match (bounds, self.group_time_range_ms(group)) {
                (Some((from, to)), Some((min, max))) => max < from || min >= to,
                _ => false,
            };
            if !is_outside {
                let starts = (start..end).step_by(SLICE_ROWS);
                slices.extend(starts.map(|first| first..end.min(first + SLICE_ROWS)));
            }
            start = end;
        }
        slices
    }

    /// Reads the rows of `slice` with the given columns; those the file lacks are missing values.
    ///
    /// - Errors: the content is damaged, a key column is missing, or a column has the wrong type (it is named).
    pub fn read_slice(&mut self, slice: &Range<usize>, columns: &Columns<'_>) -> Result<Slice> {
        for key in &columns.keys[..2] {
            ensure!(self.has_column(key), "it has no column `{key}`");
        }
        for (name, _) in &columns.values {
            if let Some(field) = self.schema.get(name) {
                ensure!(is_numeric(field.dtype()), "its column `{name}` is not numeric");
            }
        }
        let wanted = columns.keys.iter().copied().chain(columns.values.iter().map(|(name, _)| *name));
        let wanted: Vec<String> = wanted.filter(|name| self.has_column(name)).map(str::to_owned).collect();
        let frame = guarded(|| {
            let mut reader = ParquetReader::new(self.reader.try_clone()?)
                .read_parallel(ParallelStrategy::RowGroups)
                .with_slice(Some((slice.start, slice.len())))
                .with_columns(Some(wanted))
                .set_rechunk(true);
            reader.set_metadata(self.meta.clone());
            reader.finish()
        })?;
        ensure!(frame.height() == slice.len(), "it ends before the rows its footer promises");
        Slice::of(&frame, columns)
    }

    /// Passes all rows with event times in `bounds` (all, if there are none) to `each`, in batches, in the
    /// file's order. Rows without a key, or with one that cannot be, are left out; their number is returned.
    pub fn read_rows(
        &mut self,
        metrics: &[String],
        bounds: Option<(i64, i64)>,
        each: &mut dyn FnMut(&Rows) -> Result<()>,
    ) -> Result<u64> {
        let mut rows = Rows::new(metrics.len());
        let mut n_without_key = 0;
        self.read_slices(metrics, bounds, &mut |slice| {
            rows.clear();
            n_without_key += slice.push_into(&mut rows, bounds);
            each(&rows)
        })?;
        Ok(n_without_key)
    }

    /// Passes the slices that may have rows with event times in `bounds` (all, if there are none) to `each`.
    pub fn read_slices(
        &mut self,
        metrics: &[String],
        bounds: Option<(i64, i64)>,
        each: &mut dyn FnMut(&Slice) -> Result<()>,
    ) -> Result<()> {
        for slice in self.slices_overlapping(bounds) {
            each(&self.read_slice(&slice, &Columns::plain(metrics))?)?;
        }
        Ok(())
    }
}

fn is_numeric(dtype: &ArrowDataType) -> bool {
    use ArrowDataType as D;
    matches!(dtype, D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64)
        || matches!(dtype, D::Float16 | D::Float32 | D::Float64)
}

fn to_ms(time: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Nanoseconds => time.div_euclid(1_000_000),
        TimeUnit::Microseconds => time.div_euclid(1_000),
        TimeUnit::Milliseconds => time,
    }
}

enum Times {
    Ms(Vec<Option<i64>>),
    /// What a clock without a zone showed.
    Local(Vec<Option<i64>>),
    Epoch(Vec<Option<f64>>),
    Text(StringChunked),
}

/// The time of one row of a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::buffer) enum SliceTime<'a> {
    At(i64),
    Local(i64),
    Epoch(f64),
    Text(&'a str),
    Missing,
}

/// Some rows of a file, by column.
pub(in crate::buffer) struct Slice {
    times: Times,
    texts: Texts,
    /// Text ids per row, [`NO_TEXT`] for none.
    server: Vec<u32>,
    profile: Vec<u32>,
    status: Vec<u32>,
    /// `[metric][row]`, NaN for missing; `None` for a column the file lacks.
    values: Vec<Option<Vec<f32>>>,
}

/// Whose rows some neighbours of a slice are, and in which state: text ids, all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::buffer) struct RowKind {
    pub server: u32,
    pub profile: u32,
    pub status: u32,
}

impl Slice {
    fn of(frame: &DataFrame, columns: &Columns<'_>) -> Result<Self> {
        let mut texts = Texts::default();
        let mut ids = |name: &str| -> Result<Vec<u32>> {
            let Ok(column) = frame.column(name) else { return Ok(vec![NO_TEXT; frame.height()]) };
            let column = column.str().map_err(|_| anyhow!("its column `{name}` is not text"))?;
            let mut before: (Option<&str>, u32) = (None, NO_TEXT);
            let ids = column.iter().map(|text| {
                // Rows of a server lie together.
                if text != before.0 {
                    before = (text, texts.optional_id(text));
                }
                before.1
            });
            Ok(ids.collect())
        };
        let [timestamp, server, profile, status] = columns.keys;
        let (server, profile, status) = (ids(server)?, ids(profile)?, ids(status)?);
        let mut values = vec![None; columns.n_metrics];
        for (name, target) in &columns.values {
            values[target.metric] = numbers(frame, name, *target)?;
        }
        Ok(Self { times: times_of(frame, timestamp)?, texts, server, profile, status, values })
    }

    pub fn len(&self) -> usize {
        self.server.len()
    }

    pub fn time(&self, idx: usize) -> SliceTime<'_> {
        let time = match &self.times {
            Times::Ms(times) => times[idx].map(SliceTime::At),
            Times::Local(times) => times[idx].map(SliceTime::Local),
            Times::Epoch(times) => times[idx].map(SliceTime::Epoch),
            Times::Text(times) => times.get(idx).map(SliceTime::Text),
        };
        time.unwrap_or(SliceTime::Missing)
    }

    /// The text with number `id`; `None` for [`NO_TEXT`].
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id)
    }

    pub fn kind(&self, idx: usize) -> RowKind {
        RowKind { server: self.server[idx], profile: self.profile[idx], status: self.status[idx] }
    }

    /// The values of each metric, NaN for missing; `None` for one that the file lacks.
    pub fn columns(&self) -> impl Iterator<Item = Option<&[f32]>> {
        self.values.iter().map(|column| column.as_deref())
    }

    fn values(&self, idx: usize, values: &mut [f32]) {
        for (value, column) in values.iter_mut().zip(&self.values) {
            *value = column.as_ref().map_or(f32::NAN, |column| column[idx]);
        }
    }

    /// Event time of row `idx`, if it has one that can be, and a server.
    pub fn key_time_ms(&self, idx: usize) -> Option<i64> {
        self.time_ms(idx).filter(|_| self.server[idx] != NO_TEXT)
    }

    fn time_ms(&self, idx: usize) -> Option<i64> {
        let time_ms = match self.time(idx) {
            SliceTime::At(time_ms) | SliceTime::Local(time_ms) => Some(time_ms),
            SliceTime::Epoch(number) => TimeRule::default().epoch_ms(number),
            SliceTime::Text(text) => TimeRule::default().read(text).ok(),
            SliceTime::Missing => None,
        };
        time_ms.filter(|time_ms| PLAUSIBLE_MS.contains(time_ms))
    }

    /// Adds the rows with event times in `bounds` to `rows`; returns how many have no readable key.
    pub fn push_into(&self, rows: &mut Rows, bounds: Option<(i64, i64)>) -> u64 {
        let mut n_without_key = 0;
        let mut values = vec![f32::NAN; rows.n_metrics];
        for idx in 0..self.len() {
            let (Some(time_ms), Some(server)) = (self.time_ms(idx), self.text(self.server[idx])) else {
                n_without_key += 1;
                continue;
            };
            if bounds.is_none_or(|(start, end)| (start..end).contains(&time_ms)) {
                self.values(idx, &mut values);
                let (profile, status) = (self.text(self.profile[idx]), self.text(self.status[idx]));
                rows.push(Row { time_ms, server, profile, status, values: &values });
            }
        }
        n_without_key
    }

    /// Fills `candidate` with row `idx`. NaN counts as missing, as writers without nulls mean it; infinity fails.
    pub fn fill(&self, idx: usize, candidate: &mut Candidate, metrics: &[Metric]) {
        candidate.reset();
        match self.time(idx) {
            SliceTime::At(time_ms) => candidate.time_ms = Some(time_ms),
            SliceTime::Local(local_ms) => candidate.set_time_local(local_ms),
            SliceTime::Epoch(number) => candidate.set_time_number(number),
            SliceTime::Text(text) => candidate.set_time_text(text),
            SliceTime::Missing => {}
        }
        candidate.server.push_str(self.text(self.server[idx]).unwrap_or_default());
        candidate.profile.push_str(self.text(self.profile[idx]).unwrap_or_default());
        candidate.status.push_str(self.text(self.status[idx]).unwrap_or_default());
        self.values(idx, &mut candidate.values);
        if let Some(metric) = candidate.values.iter().position(|value| value.is_infinite()) {
            candidate.fail(Reason::NotFinite, || format!("{} is infinite", metrics[metric].name));
        }
    }
}

/// A column as values of a metric; `None` if there is no such column.
fn numbers(frame: &DataFrame, name: &str, target: Target) -> Result<Option<Vec<f32>>> {
    let Ok(column) = frame.column(name) else { return Ok(None) };
    if target.is_plain() {
        let floats = column.cast(&DataType::Float32).map_err(|error| anyhow!("{error}"))?;
        let floats: &Float32Chunked = floats.f32().map_err(|error| anyhow!("{error}"))?;
        return Ok(Some(match floats.cont_slice() {
            Ok(values) => values.to_vec(),
            Err(_) => floats.iter().map(|value| value.unwrap_or(f32::NAN)).collect(),
        }));
    }
    // Converted before it is narrowed: a counter of bytes has more digits than 32 bits hold.
    let doubles = column.cast(&DataType::Float64).map_err(|error| anyhow!("{error}"))?;
    let doubles = doubles.f64().map_err(|error| anyhow!("{error}"))?;
    Ok(Some(doubles.iter().map(|value| target.convert(value.unwrap_or(f64::NAN)) as f32).collect()))
}

fn times_of(frame: &DataFrame, name: &str) -> Result<Times> {
    let column = frame.column(name).map_err(|_| anyhow!("it has no column `{name}`"))?;
    let series = column.as_materialized_series();
    let integers = |chunked: &Int64Chunked| chunked.iter().collect::<Vec<Option<i64>>>();
    match series.dtype() {
        DataType::Datetime(unit, zone) => {
            let physical = series.to_physical_repr();
            let times = integers(physical.i64().map_err(|error| anyhow!("{error}"))?);
            let times = times.into_iter().map(|time| Some(to_ms(time?, *unit))).collect();
            Ok(if zone.is_some() { Times::Ms(times) } else { Times::Local(times) })
        }
        DataType::String => Ok(Times::Text(series.str().map_err(|error| anyhow!("{error}"))?.clone())),
        dtype if dtype.is_primitive_numeric() => {
            let numbers = series.cast(&DataType::Float64).map_err(|error| anyhow!("{error}"))?;
            Ok(Times::Epoch(numbers.f64().map_err(|error| anyhow!("{error}"))?.iter().collect()))
        }
        dtype => bail!("its column `{name}` is {dtype}, not a time"),
    }
}
