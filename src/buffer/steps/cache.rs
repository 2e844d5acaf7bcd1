//! Step aggregates on disk: `steps/steps_YYYY-MM-DD.parquet`, derived and rebuilt whenever they do not fit.
//!
//! The file's own metadata holds the key (step, schema, zone, and name, length and modification time of every
//! source file), the sha256 and row count of each source, and the outline of the table, so that whoever wants to know
//! who is in it reads no column. A key that differs in anything makes it stale, and so does a byte that is not the one
//! written ([`stamp`]).

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, anyhow, ensure};
use chrono::NaiveDate;
use polars::prelude::{Column, DataFrame, KeyValueMetadata, ParquetCompression, ParquetWriter, PlSmallStr};
use serde::{Deserialize, Serialize};

use crate::fsx;

use super::step_table::{NO_STATUS, RowCount, StepOutline, StepTable};
use crate::buffer::open::flaws::Damage;
use crate::buffer::rows::Texts;
use crate::buffer::sealed::day_file::{float_column, time_column};
use crate::buffer::sealed::parquet_rows::{ParquetFile, Part, text_ids};
use crate::buffer::sealed::stamp::{self, Stamped};

/// What is written here: since 2, files are stamped, since 3 they have an outline.
const FORMAT: u32 = 3;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 18;

const KEY: &str = "tftctl.steps_key";
const SOURCES: &str = "tftctl.steps_sources";
const OUTLINE: &str = "tftctl.steps_outline";

/// What a file looked like from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::buffer) struct FileId {
    #[serde(skip)]
    pub path: PathBuf,
    pub file: String,
    pub size_bytes: u64,
    pub modified_ns: u64,
}

impl FileId {
    pub fn of(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        let modified = meta.modified().with_context(|| format!("read {}", path.display()))?;
        let modified_ns = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), file, size_bytes: meta.len(), modified_ns })
    }
}

/// One file that rows of a day came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDigest {
    /// Name of the file, without its folder.
    pub file: String,
    pub sha256: String,
    /// Rows of the day in it, duplicates included.
    pub n_rows: u64,
    /// What of an open segment is damaged; a day file that is damaged is not read at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
}

/// Everything that the aggregates of a day depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::buffer) struct StepsKey<'a> {
    pub format: u32,
    pub step_secs: u32,
    pub schema_digest: String,
    pub zone: &'a str,
    pub sources: &'a [FileId],
}

impl<'a> StepsKey<'a> {
    pub fn new(step_secs: u32, schema_digest: String, zone: &'a str, sources: &'a [FileId]) -> Self {
        Self { format: FORMAT, step_secs, schema_digest, zone, sources }
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("plain data always encodes")
    }
}

/// The file of a day in `dir`.
pub(in crate::buffer) fn path(dir: &Path, date: NaiveDate) -> PathBuf {
    dir.join(format!("steps_{date}.parquet"))
}

/// The day a file name stands for.
pub(in crate::buffer) fn date_of(name: &str) -> Option<NaiveDate> {
    name.strip_prefix("steps_")?.strip_suffix(".parquet")?.parse().ok()
}

/// The aggregates in `dir`, by date.
pub(in crate::buffer) fn list(dir: &Path) -> Result<Vec<(NaiveDate, PathBuf)>> {
    let dated = |entry: &fs::DirEntry| Some((date_of(entry.file_name().to_str()?)?, entry.path()));
    Ok(fsx::list_dir(dir)?.iter().filter_map(dated).collect())
}

/// Whether the file at `path` is not the one that was written; one of an older format has no stamp, and is stale anyway.
pub(in crate::buffer) fn is_damaged(path: &Path) -> bool {
    let format = || -> Option<u64> {
        let file = ParquetFile::open(path).ok()?;
        let key: serde_json::Value = serde_json::from_str(file.value_of(KEY)?).ok()?;
        key["format"].as_u64()
    };
    match stamp::check(path) {
        Ok(Stamped::Whole) => false,
        Ok(Stamped::Never) => format().is_none_or(|format| format != 1),
        Ok(Stamped::Damaged) | Err(_) => true,
    }
}

/// A cache file that fits its key.
#[derive(Debug)]
pub(in crate::buffer) struct Fresh {
    path: PathBuf,
    step_secs: u32,
    pub sources: Vec<SourceDigest>,
    pub outline: StepOutline,
}

/// The cache at `path`, if it is there, readable and fits `key`, the text of a [`StepsKey`] with a step of `step_secs`; a
/// damaged one counts as stale.
pub(in crate::buffer) fn fresh(path: &Path, key: &str, step_secs: u32) -> Option<Fresh> {
    let file = ParquetFile::open(path).ok()?;
    if file.value_of(KEY)? != key {
        return None;
    }
    let sources = serde_json::from_str(file.value_of(SOURCES)?).ok()?;
    let outline = serde_json::from_str(file.value_of(OUTLINE)?).ok()?;
    if stamp::check(path).ok()? != Stamped::Whole {
        return None;
    }
    Some(Fresh { path: path.to_owned(), step_secs, sources, outline })
}

/// The sha256 that `file` had when the cache at `path` was made from it, if it looks the same from outside since.
pub(in crate::buffer) fn recorded_sha256(path: &Path, file: &FileId) -> Option<String> {
    let cache = ParquetFile::open(path).ok()?;
    let key: serde_json::Value = serde_json::from_str(cache.value_of(KEY)?).ok()?;
    let ids: Vec<FileId> = serde_json::from_value(key["sources"].clone()).ok()?;
    let sources: Vec<SourceDigest> = serde_json::from_str(cache.value_of(SOURCES)?).ok()?;
    let is_same = |id: &FileId| (id.size_bytes, id.modified_ns) == (file.size_bytes, file.modified_ns);
    let mut pairs = ids.into_iter().zip(sources);
    pairs.find(|(id, source)| source.file == file.file && is_same(id)).map(|(_, source)| source.sha256)
}

/// Rows of the day in the sources that the aggregates at `path` were made of, or in that named `file` alone; `None` where
/// there are no aggregates, or they cannot be read.
pub(in crate::buffer) fn rows_recorded(path: &Path, file: Option<&str>) -> Option<u64> {
    let cache = ParquetFile::open(path).ok()?;
    let sources: Vec<SourceDigest> = serde_json::from_str(cache.value_of(SOURCES)?).ok()?;
    let chosen = sources.iter().filter(|source| file.is_none_or(|file| source.file == file));
    Some(chosen.map(|source| source.n_rows).sum())
}

/// Writes the aggregates of a day.
pub(in crate::buffer) fn write(
    path: &Path,
    table: &StepTable,
    metrics: &[String],
    key: &StepsKey<'_>,
    sources: &[SourceDigest],
) -> Result<()> {
    let sources = serde_json::to_string(sources).expect("plain data always encodes");
    let outline = serde_json::to_string(&table.outline()).expect("plain data always encodes");
    let pairs = [(KEY, key.text()), (SOURCES, sources), (OUTLINE, outline)];
    let mut metadata: Vec<(String, String)> =
        pairs.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    metadata.push(stamp::blank());
    let mut frame = frame_of(table, metrics)?;
    fsx::write_durable_with(path, |file| {
        // The parquet writer has thousands of small pieces to write.
        let mut sink = BufWriter::with_capacity(WRITE_BYTES, &*file);
        ParquetWriter::new(&mut sink)
            .with_compression(ParquetCompression::Zstd(None))
            .with_key_value_metadata(Some(KeyValueMetadata::from_static(metadata)))
            .finish(&mut frame)
            .map_err(|error| anyhow!("{error}"))?;
        sink.flush()?;
        drop(sink);
        stamp::seal(file)
    })
}

fn frame_of(table: &StepTable, metrics: &[String]) -> Result<DataFrame> {
    ensure!(metrics.len() == table.values.len(), "a step table must have one column per metric");
    let column = |name: &str, texts: Vec<Option<&str>>| Column::new(PlSmallStr::from_str(name), texts);
    let servers = table.server_idx.iter().map(|idx| Some(table.servers[*idx as usize].as_str()));
    let profiles = table.server_idx.iter().map(|idx| table.profiles[*idx as usize].as_deref());
    let statuses = table.status_idx.iter().map(|idx| table.statuses.get(*idx as usize).map(String::as_str));
    let mut columns = vec![
        time_column("timestamp", table.step_ms.clone()),
        column("server_name", servers.collect()),
        column("profile", profiles.collect()),
        column("status", statuses.collect()),
        Column::new(PlSmallStr::from_static("n_rows"), table.n_rows.clone()),
    ];
    for (name, values) in metrics.iter().zip(&table.values) {
        columns.push(float_column(&column_of(name), values.iter().copied()));
    }
    DataFrame::new(table.len(), columns).map_err(|error| anyhow!("{error}"))
}

impl Fresh {
    /// Reads the aggregates, column by column.
    pub fn read(&self, metrics: &[String]) -> Result<StepTable> {
        self.try_read(metrics).with_context(|| format!("read {}", self.path.display()))
    }

    fn try_read(&self, metrics: &[String]) -> Result<StepTable> {
        let file = ParquetFile::open(&self.path)?;
        let mut table = self.without_entries(metrics.len(), file.n_rows());
        let columns: Vec<String> = metrics.iter().map(|name| column_of(name)).collect();
        for rows in file.slices_overlapping(None, usize::MAX) {
            let part = file.part(&rows);
            add_keys(&mut table, &part)?;
            for (name, values) in columns.iter().zip(&mut table.values) {
                part.with_values(name, |found| values.extend_from_slice(found))?;
                ensure!(values.len() == table.step_ms.len(), "it has no column `{name}`");
            }
        }
        ensure!(table.server_idx.len() == table.len(), "its outline is not that of its rows");
        Ok(table)
    }

    /// The table before its entries are read, but for whose they are.
    fn without_entries(&self, n_metrics: usize, n_entries: usize) -> StepTable {
        let StepOutline { servers, profiles, statuses, row_counts } = self.outline.clone();
        let of_server = |(count, idx): (&RowCount, u32)| std::iter::repeat_n(idx, count.n_steps as usize);
        StepTable {
            step_secs: self.step_secs,
            servers,
            profiles,
            statuses,
            server_idx: row_counts.iter().zip(0..).flat_map(of_server).collect(),
            step_ms: Vec::with_capacity(n_entries),
            n_rows: Vec::with_capacity(n_entries),
            status_idx: Vec::with_capacity(n_entries),
            values: (0..n_metrics).map(|_| Vec::with_capacity(n_entries)).collect(),
        }
    }
}

/// Adds the steps of `part`, their rows and their statuses.
fn add_keys(table: &mut StepTable, part: &Part<'_>) -> Result<()> {
    let polars = |error: polars::prelude::PolarsError| anyhow!("{error}");
    let times = part.key_column("timestamp")?.to_physical_repr();
    for time in times.i64().map_err(polars)?.iter() {
        table.step_ms.push(time.context("a step without a time")?);
    }
    let counts = part.key_column("n_rows")?;
    table.n_rows.extend(counts.u32().map_err(polars)?.iter().map(|n| n.unwrap_or(0)));
    let mut texts = Texts::default();
    let ids = text_ids(&part.key_column("status")?, &mut texts)?;
    let place = |text: &String| {
        let place = table.statuses.binary_search(text);
        place.map(|place| place as u32).map_err(|_| anyhow!("status `{text}` is not in its outline"))
    };
    let places: Vec<u32> = texts.all().iter().map(place).collect::<Result<_>>()?;
    table.status_idx.extend(ids.iter().map(|id| places.get(*id as usize).copied().unwrap_or(NO_STATUS)));
    Ok(())
}

/// The name of a metric's column: prefixed, because a metric may have any name.
fn column_of(metric: &str) -> String {
    format!("metric:{metric}")
}
