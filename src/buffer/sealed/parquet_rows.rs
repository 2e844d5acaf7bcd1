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
    ArrowDataType, Column, DataType, Float32Chunked, ParallelStrategy, ParquetReader, SerReader,
    StringChunked, TimeUnit,
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
/// Those of them that a row may lack.
pub(in crate::buffer) const LABELS: [&str; 2] = ["profile", "status"];

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

    /// The same without those labels that are not in `labels`.
    pub fn with_labels(mut self, labels: &[&str]) -> Self {
        for key in self.keys.iter_mut().filter(|key| LABELS.contains(key) && !labels.contains(key)) {
            // No column has this name.
            *key = "";
        }
        self
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
        self.slices_overlapping(None, SLICE_ROWS)
    }

    /// Parts of at most `max_rows` within row groups, without the row groups that lie outside of `[start, end)` by their
    /// statistics.
    pub fn slices_overlapping(&self, bounds: Option<(i64, i64)>, max_rows: usize) -> Vec<Range<usize>> {
        let mut slices = Vec::new();
        let mut start = 0;
        for (group, meta) in self.meta.row_groups.iter().enumerate() {
            let end = start + meta.num_rows();
            let is_outside = match (bounds, self.group_time_range_ms(group)) {
                (Some((from, to)), Some((min, max))) => max < from || min >= to,
                _ => false,
            };
            if !is_outside {
                let starts = (start..end).step_by(max_rows);
                slices.extend(starts.map(|first| first..end.min(first + max_rows)));
            }
            start = end;
        }
        slices
    }

    /// The part of the file with the rows `slice`, which lie within one row group; nothing is read yet.
    pub fn part(&self, slice: &Range<usize>) -> Part<'_> {
        // Alone, the row group is decoded by whoever asks, and no other one is looked at.
        let mut meta = (*self.meta).clone();
        let (mut first, mut end) = (0, 0);
        meta.row_groups.retain(|group| {
            let start = end;
            end += group.num_rows();
            let is_it = (start..end).contains(&slice.start);
            if is_it {
                first = start;
            }
            is_it
        });
        meta.num_rows = meta.row_groups.iter().map(|group| group.num_rows()).sum();
        Part { file: self, meta: meta.into(), rows: slice.start - first..slice.end - first }
    }

    /// Reads the rows of `slice` with the given columns; those the file lacks are missing values.
    ///
    /// - Errors: the content is damaged, a key column is missing, or a column has the wrong type (it is named).
    pub fn read_slice(&self, slice: &Range<usize>, columns: &Columns<'_>) -> Result<Slice> {
        self.part(slice).read(columns)
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
        self.read_slices(&Columns::plain(metrics), bounds, &mut |slice| {
            rows.clear();
            n_without_key += slice.push_into(&mut rows, bounds);
            each(&rows)
        })?;
        Ok(n_without_key)
    }

    /// Passes the slices that may have rows with event times in `bounds` (all, if there are none) to `each`.
    pub fn read_slices(
        &mut self,
        columns: &Columns<'_>,
        bounds: Option<(i64, i64)>,
        each: &mut dyn FnMut(&Slice) -> Result<()>,
    ) -> Result<()> {
        for slice in self.slices_overlapping(bounds, SLICE_ROWS) {
            each(&self.read_slice(&slice, columns)?)?;
        }
        Ok(())
    }
}

/// Some rows of a file, of which columns can be read one by one, and by several threads.
pub(in crate::buffer) struct Part<'a> {
    file: &'a ParquetFile,
    /// The file's own, with one row group.
    meta: polars::prelude::FileMetadataRef,
    /// Within the row group.
    rows: Range<usize>,
}

impl Part<'_> {
    /// [`ParquetFile::read_slice`] of this part.
    pub fn read(&self, columns: &Columns<'_>) -> Result<Slice> {
        Slice::of(self, columns)
    }

    /// A column; `None` if the file has none of that name.
    fn column(&self, name: &str) -> Result<Option<Column>> {
        if !self.file.has_column(name) {
            return Ok(None);
        }
        let frame = guarded(|| {
            let mut reader = ParquetReader::new(self.file.reader.try_clone()?)
                .read_parallel(ParallelStrategy::None)
                .with_slice(Some((self.rows.start, self.rows.len())))
                .with_columns(Some(vec![name.to_owned()]))
                .set_rechunk(true);
            reader.set_metadata(self.meta.clone());
            reader.finish()
        })?;
        ensure!(frame.height() == self.rows.len(), "it ends before the rows its footer promises");
        Ok(frame.columns().first().cloned())
    }

    /// A column that has to be there.
    pub fn key_column(&self, name: &str) -> Result<Column> {
        self.column(name)?.with_context(|| format!("it has no column `{name}`"))
    }

    /// A column of numbers; `None` if the file has none of that name.
    fn number_column(&self, name: &str) -> Result<Option<Column>> {
        if let Some(field) = self.file.schema.get(name) {
            ensure!(is_numeric(field.dtype()), "its column `{name}` is not numeric");
        }
        self.column(name)
    }

    /// Passes the values of a metric to `take`, NaN for missing; nothing happens if the file has no such column.
    pub fn with_values(&self, name: &str, take: impl FnOnce(&[f32])) -> Result<()> {
        let Some(column) = self.number_column(name)? else { return Ok(()) };
        let floats = column.cast(&DataType::Float32).map_err(|error| anyhow!("{error}"))?;
        let floats: &Float32Chunked = floats.f32().map_err(|error| anyhow!("{error}"))?;
        match floats.cont_slice() {
            Ok(values) => take(values),
            Err(_) => take(&floats.iter().map(|value| value.unwrap_or(f32::NAN)).collect::<Vec<f32>>()),
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

/// Stands for a time that is missing.
const NO_TIME: i64 = i64::MIN;

enum Times {
    /// [`NO_TIME`] for missing.
    Ms(Vec<i64>),
    /// What a clock without a zone showed; [`NO_TIME`] for missing.
    Local(Vec<i64>),
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
    fn of(part: &Part<'_>, columns: &Columns<'_>) -> Result<Self> {
        let [timestamp, server, profile, status] = columns.keys;
        let mut texts = Texts::default();
        let mut optional = |name: &str| match part.column(name)? {
            Some(column) => text_ids(&column, &mut texts),
            None => Ok(vec![NO_TEXT; part.rows.len()]),
        };
        // One after the other, so that not all of them are in memory twice.
        let times = times_of(&part.key_column(timestamp)?)?;
        ensure!(part.file.has_column(server), "it has no column `{server}`");
        let (server, profile, status) = (optional(server)?, optional(profile)?, optional(status)?);
        let mut values = vec![None; columns.n_metrics];
        for (name, target) in &columns.values {
            values[target.metric] = numbers(part, name, *target)?;
        }
        Ok(Self { times, texts, server, profile, status, values })
    }

    pub fn len(&self) -> usize {
        self.server.len()
    }

    pub fn time(&self, idx: usize) -> SliceTime<'_> {
        let time = match &self.times {
            Times::Ms(times) => Some(times[idx]).filter(|time| *time != NO_TIME).map(SliceTime::At),
            Times::Local(times) => Some(times[idx]).filter(|time| *time != NO_TIME).map(SliceTime::Local),
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

/// The numbers of a column's texts among `texts`, [`NO_TEXT`] for none.
pub(in crate::buffer) fn text_ids(column: &Column, texts: &mut Texts) -> Result<Vec<u32>> {
    let given = column.str().map_err(|_| anyhow!("its column `{}` is not text", column.name()))?;
    if given.null_count() > 0 {
        let ids = given.iter().scan((None, NO_TEXT), |before, text| {
            // Rows of a server lie together.
            if text != before.0 {
                *before = (text, texts.optional_id(text));
            }
            Some(before.1)
        });
        return Ok(ids.collect());
    }
    let mut ids = Vec::with_capacity(given.len());
    for chunk in given.downcast_iter() {
        let mut before = None;
        for (idx, view) in chunk.views().iter().enumerate() {
            // Equal views of one chunk show the same text; comparing them costs no look at it.
            let view = view.as_u128();
            let id = match before {
                Some((known, id)) if known == view => id,
                _ => texts.id(chunk.value(idx)),
            };
            before = Some((view, id));
            ids.push(id);
        }
    }
    Ok(ids)
}

/// A column as values of a metric; `None` if there is no such column.
fn numbers(part: &Part<'_>, name: &str, target: Target) -> Result<Option<Vec<f32>>> {
    if target.is_plain() {
        let mut found = None;
        part.with_values(name, |values| found = Some(values.to_vec()))?;
        return Ok(found);
    }
    let Some(column) = part.number_column(name)? else { return Ok(None) };
    // Converted before it is narrowed: a counter of bytes has more digits than 32 bits hold.
    let doubles = column.cast(&DataType::Float64).map_err(|error| anyhow!("{error}"))?;
    let doubles = doubles.f64().map_err(|error| anyhow!("{error}"))?;
    Ok(Some(doubles.iter().map(|value| target.convert(value.unwrap_or(f64::NAN)) as f32).collect()))
}

fn times_of(column: &Column) -> Result<Times> {
    let series = column.as_materialized_series();
    match series.dtype() {
        DataType::Datetime(unit, zone) => {
            let physical = series.to_physical_repr();
            let times = physical.i64().map_err(|error| anyhow!("{error}"))?;
            let times = times.iter().map(|time| time.map_or(NO_TIME, |time| to_ms(time, *unit))).collect();
            Ok(if zone.is_some() { Times::Ms(times) } else { Times::Local(times) })
        }
        DataType::String => Ok(Times::Text(series.str().map_err(|error| anyhow!("{error}"))?.clone())),
        dtype if dtype.is_primitive_numeric() => {
            let numbers = series.cast(&DataType::Float64).map_err(|error| anyhow!("{error}"))?;
            Ok(Times::Epoch(numbers.f64().map_err(|error| anyhow!("{error}"))?.iter().collect()))
        }
        dtype => bail!("its column `{}` is {dtype}, not a time", column.name()),
    }
}
