//! Step aggregates on disk: `steps/steps_YYYY-MM-DD.parquet`, derived and rebuilt whenever they do not fit.
//!
//! The file's own metadata holds the key (step, schema, zone, and name, length and modification time of every
//! source file) and the sha256 and row count of each source. A key that differs in anything makes it stale, and so does
//! a byte that is not the one written ([`stamp`]).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, anyhow, ensure};
use chrono::NaiveDate;
use polars::prelude::{
    Column, DataFrame, KeyValueMetadata, ParallelStrategy, ParquetCompression, ParquetReader, ParquetWriter,
    PlSmallStr, SerReader, StringChunked,
};
use serde::{Deserialize, Serialize};

use crate::fsx;

use super::step_table::{NO_STATUS, RowCount, StepOutline, StepTable};
use crate::buffer::sealed::day_file::{float_column, time_column};
use crate::buffer::sealed::parquet_rows::ParquetFile;
use crate::buffer::sealed::stamp::{self, Stamped};

const FORMAT: u32 = 2;
const KEY: &str = "tftctl.steps_key";
const SOURCES: &str = "tftctl.steps_sources";

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

    fn text(&self) -> String {
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

/// A cache file that fits its key.
pub(in crate::buffer) struct Fresh {
    path: PathBuf,
    step_secs: u32,
    pub sources: Vec<SourceDigest>,
}

/// The cache at `path`, if it is there, readable and fits `key`; a damaged one counts as stale.
pub(in crate::buffer) fn fresh(path: &Path, key: &StepsKey<'_>) -> Option<Fresh> {
    let file = ParquetFile::open(path).ok()?;
    if file.value_of(KEY)? != key.text() {
        return None;
    }
    let sources = serde_json::from_str(file.value_of(SOURCES)?).ok()?;
    if stamp::check(path).ok()? != Stamped::Whole {
        return None;
    }
    Some(Fresh { path: path.to_owned(), step_secs: key.step_secs, sources })
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

/// Writes the aggregates of a day.
pub(in crate::buffer) fn write(
    path: &Path,
    table: &StepTable,
    metrics: &[String],
    key: &StepsKey<'_>,
    sources: &[SourceDigest],
) -> Result<()> {
    let sources = serde_json::to_string(sources).expect("plain data always encodes");
    let metadata = vec![(KEY.to_owned(), key.text()), (SOURCES.to_owned(), sources), stamp::blank()];
    let mut frame = frame_of(table, metrics)?;
    fsx::write_durable_with(path, |file| {
        ParquetWriter::new(&*file)
            .with_compression(ParquetCompression::Zstd(None))
            .with_key_value_metadata(Some(KeyValueMetadata::from_static(metadata)))
            .finish(&mut frame)
            .map_err(|error| anyhow!("{error}"))?;
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
    // Prefixed, because a metric may have any name.
    for (name, values) in metrics.iter().zip(&table.values) {
        columns.push(float_column(&format!("metric:{name}"), values.iter().copied()));
    }
    DataFrame::new(table.len(), columns).map_err(|error| anyhow!("{error}"))
}

impl Fresh {
    /// Reads the aggregates.
    pub fn read(&self, metrics: &[String]) -> Result<StepTable> {
        self.read_frame(None, |frame| table_of(frame, self.step_secs, metrics))
    }

    /// Reads who and what is in the aggregates; their values stay on disk.
    pub fn outline(&self) -> Result<StepOutline> {
        let columns = ["server_name", "profile", "status", "n_rows"].map(str::to_owned).to_vec();
        self.read_frame(Some(columns), |frame| {
            let (series, counts) = (Series::of(frame)?, counts_of(frame)?);
            let Series { servers, profiles, server_idx } = series;
            let row_counts = RowCount::of_entries(servers.len(), &server_idx, &counts);
            Ok(StepOutline { servers, profiles, statuses: statuses_of(frame)?.0, row_counts })
        })
    }

    fn read_frame<T>(
        &self,
        columns: Option<Vec<String>>,
        take: impl FnOnce(&DataFrame) -> Result<T>,
    ) -> Result<T> {
        let read = || {
            // Too small to be worth waking other threads.
            let reader = ParquetReader::new(fs::File::open(&self.path)?)
                .read_parallel(ParallelStrategy::None)
                .with_columns(columns);
            take(&reader.finish().map_err(|error| anyhow!("{error}"))?)
        };
        read().with_context(|| format!("read {}", self.path.display()))
    }
}

fn table_of(frame: &DataFrame, step_secs: u32, metrics: &[String]) -> Result<StepTable> {
    let times = column(frame, "timestamp")?.to_physical_repr();
    let times = times.i64().map_err(|error| anyhow!("{error}"))?;
    let Series { servers, profiles, server_idx } = Series::of(frame)?;
    let (statuses, status_idx) = statuses_of(frame)?;
    let mut table = StepTable {
        step_secs,
        servers,
        profiles,
        statuses,
        server_idx,
        step_ms: times.iter().map(|time| time.context("a step without a time")).collect::<Result<_>>()?,
        n_rows: counts_of(frame)?,
        status_idx,
        values: Vec::with_capacity(metrics.len()),
    };
    for name in metrics {
        let values = column(frame, &format!("metric:{name}"))?.f32().map_err(|error| anyhow!("{error}"))?;
        table.values.push(values.iter().map(|value| value.unwrap_or(f32::NAN)).collect());
    }
    Ok(table)
}

fn column<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a Column> {
    frame.column(name).map_err(|error| anyhow!("{error}"))
}

fn texts<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a StringChunked> {
    column(frame, name)?.str().map_err(|error| anyhow!("{error}"))
}

fn counts_of(frame: &DataFrame) -> Result<Vec<u32>> {
    let counts = column(frame, "n_rows")?.u32().map_err(|error| anyhow!("{error}"))?;
    Ok(counts.iter().map(|n| n.unwrap_or(0)).collect())
}

/// Whose the rows are; those of a server lie together.
struct Series {
    servers: Vec<String>,
    profiles: Vec<Option<String>>,
    /// Per row.
    server_idx: Vec<u32>,
}

impl Series {
    fn of(frame: &DataFrame) -> Result<Self> {
        let mut series = Self {
            servers: Vec::new(),
            profiles: Vec::new(),
            server_idx: Vec::with_capacity(frame.height()),
        };
        let names = texts(frame, "server_name")?.iter();
        for (name, profile) in names.zip(texts(frame, "profile")?.iter()) {
            let name = name.context("a step without a server")?;
            if series.servers.last().is_none_or(|last| last != name) {
                series.servers.push(name.to_owned());
                series.profiles.push(profile.map(str::to_owned));
            }
            series.server_idx.push(series.servers.len() as u32 - 1);
        }
        Ok(series)
    }
}

/// The distinct status texts, ascending, and the place of each row's among them.
fn statuses_of(frame: &DataFrame) -> Result<(Vec<String>, Vec<u32>)> {
    let given = texts(frame, "status")?;
    let distinct: BTreeSet<&str> = given.iter().flatten().collect();
    let places: HashMap<&str, u32> = distinct.iter().copied().zip(0..).collect();
    let status_idx = given.iter().map(|text| text.map_or(NO_STATUS, |text| places[text])).collect();
    Ok((distinct.into_iter().map(str::to_owned).collect(), status_idx))
}
