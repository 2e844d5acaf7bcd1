//! A sealed day: `metrics_YYYY-MM-DD.parquet`, ordinary parquet that any reader opens.
//!
//! Columns: `timestamp` (datetime in ms, UTC), `server_name`, `profile` and `status` where any row has one, then
//! one float32 column per metric, null where a value is missing. Sorted by server and time, keys unique, zstd.
//! The file's own metadata says which zone cut it (`tftctl.zone`), so that files that were cut otherwise are known,
//! and has checksums of its rows ([`super::proof`]) and a digest of the whole file ([`stamp`]), because parquet pages
//! have none. It has no arrow schema, which older readers stumble over; the parquet types say everything.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use chrono::NaiveDate;
use polars::prelude::{
    BatchedWriter, Column, DataFrame, Float32Chunked, Int64Chunked, IntoColumn, IntoSeries, KeyValueMetadata,
    NewChunkedArray, ParquetCompression, ParquetWriter, PlSmallStr, TimeUnit, TimeZone,
};

use crate::error::HintExt;
use crate::fsx;

use super::parquet_rows::ParquetFile;
use super::proof::{self, Checksums, Proof};
use super::stamp::{self, Stamped};
use crate::buffer::merge::Sorted;
use crate::buffer::rows::Rows;

/// Rows per row group.
const GROUP_ROWS: usize = 1 << 17;

/// Names of the file's own metadata.
pub(in crate::buffer) const ZONE_KEY: &str = "tftctl.zone";
pub(in crate::buffer) const FORMAT_KEY: &str = "tftctl.format";
pub(in crate::buffer) const SERVERS_KEY: &str = "tftctl.n_servers";

/// What is written here: since 2, files are stamped and have checksums of their rows.
pub(in crate::buffer) const FORMAT: u32 = 2;

/// Whether a file says that it was sealed with a stamp.
pub(in crate::buffer) fn must_be_stamped(file: &ParquetFile) -> bool {
    file.value_of(FORMAT_KEY).and_then(|format| format.parse::<u32>().ok()).is_some_and(|format| format >= 2)
}

/// Checks that a file is the one that was stamped; one without a stamp passes.
///
/// - Errors: it is damaged, with the hint to mend it; or it cannot be read.
pub(in crate::buffer) fn ensure_whole(path: &Path, date: NaiveDate) -> Result<()> {
    if stamp::check(path)? != Stamped::Damaged {
        return Ok(());
    }
    Err(anyhow!("{}: its bytes are not those that were sealed", path.display()))
        .hint(|| format!("`tftctl buffer repair --day {date}` keeps what can be read of it"))
}

/// The file of a day in `dir`.
pub(in crate::buffer) fn path(dir: &Path, date: NaiveDate) -> PathBuf {
    dir.join(format!("metrics_{date}.parquet"))
}

/// The day a file name stands for.
pub(in crate::buffer) fn date_of(name: &str) -> Option<NaiveDate> {
    name.strip_prefix("metrics_")?.strip_suffix(".parquet")?.parse().ok()
}

/// The day files in `dir`, by date; none if there is no such folder.
pub(in crate::buffer) fn list(dir: &Path) -> Result<BTreeMap<NaiveDate, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fsx::list_dir(dir)? {
        if let Some(date) = entry.file_name().to_str().and_then(date_of) {
            files.insert(date, entry.path());
        }
    }
    Ok(files)
}

/// The columns of a day file and what it says of itself.
pub(in crate::buffer) struct Layout {
    pub metrics: Vec<String>,
    pub has_profile: bool,
    pub has_status: bool,
    pub metadata: Vec<(String, String)>,
}

/// Takes sorted rows, group by group.
pub(in crate::buffer) type Take<'a> = &'a mut dyn FnMut(&Sorted) -> Result<()>;

/// Writes the rows that `produce` passes on, in their order, reads them back and checks them, and then puts the
/// file under its name. Returns the number of rows.
///
/// - Errors: the disk refuses, or what was read back differs; the old file, if any, is untouched.
pub(in crate::buffer) fn write(
    path: &Path,
    layout: &Layout,
    produce: &mut dyn FnMut(Take<'_>) -> Result<()>,
) -> Result<u64> {
    let mut n_rows = 0;
    fsx::write_durable_with(path, |file| {
        let written = write_groups(file, layout, produce)?;
        stamp::seal(file)?;
        n_rows = written.n_rows as u64;
        read_back(file, layout, &written)
    })?;
    Ok(n_rows)
}

fn write_groups(
    file: &File,
    layout: &Layout,
    produce: &mut dyn FnMut(Take<'_>) -> Result<()>,
) -> Result<Checksums> {
    let mut proof = Proof::new(&layout.metrics);
    let mut writer: Option<BatchedWriter<&File>> = None;
    produce(&mut |sorted| {
        for part in sorted.order.chunks(GROUP_ROWS) {
            part.iter().for_each(|idx| proof.add(sorted.rows.row(*idx as usize)));
            let frame = frame_of(&sorted.rows, part, layout)?;
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(
                    ParquetWriter::new(file)
                        .with_compression(ParquetCompression::Zstd(None))
                        .batched(frame.schema())
                        .map_err(|error| anyhow!("{error}"))?,
                ),
            };
            writer.write_batch(&frame).map_err(|error| anyhow!("{error}"))?;
        }
        Ok(())
    })?;
    let writer = writer.context("a day file needs rows")?;
    // Not through `finish`: the checksums are known only now.
    let written = proof.finish();
    let mut pairs = layout.metadata.clone();
    pairs.push((proof::KEY.to_owned(), written.text()));
    pairs.push(stamp::blank());
    let KeyValueMetadata::Static(pairs) = KeyValueMetadata::from_static(pairs) else {
        unreachable!("it was made static");
    };
    let mut writer = writer.get_writer().lock().expect("no thread panicked while it held the writer");
    writer.end(Some(pairs)).map_err(|error| anyhow!("{error}"))?;
    Ok(written)
}

fn frame_of(rows: &Rows, order: &[u32], layout: &Layout) -> Result<DataFrame> {
    let order = || order.iter().map(|idx| *idx as usize);
    let texts = |name: &str, ids: &[u32]| {
        let texts: Vec<Option<&str>> = order().map(|idx| rows.texts.get(ids[idx])).collect();
        Column::new(PlSmallStr::from_str(name), texts)
    };
    let times: Vec<i64> = order().map(|idx| rows.time_ms[idx]).collect();
    let mut columns = vec![time_column("timestamp", times), texts("server_name", &rows.server)];
    if layout.has_profile {
        columns.push(texts("profile", &rows.profile));
    }
    if layout.has_status {
        columns.push(texts("status", &rows.status));
    }
    for (metric, name) in layout.metrics.iter().enumerate() {
        let values = order().map(|idx| rows.values[idx * rows.n_metrics + metric]);
        columns.push(float_column(name, values));
    }
    DataFrame::new(order().len(), columns).map_err(|error| anyhow!("{error}"))
}

/// A column of times in ms, UTC.
pub(in crate::buffer) fn time_column(name: &str, times_ms: Vec<i64>) -> Column {
    Int64Chunked::from_vec(PlSmallStr::from_str(name), times_ms)
        .into_datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC))
        .into_series()
        .into_column()
}

/// A column of float32 with null for NaN.
pub(in crate::buffer) fn float_column(name: &str, values: impl Iterator<Item = f32>) -> Column {
    let options = values.map(|value| (!value.is_nan()).then_some(value));
    Float32Chunked::from_iter_options(PlSmallStr::from_str(name), options).into_series().into_column()
}

fn read_back(file: &File, layout: &Layout, written: &Checksums) -> Result<()> {
    let mut found = Proof::new(&layout.metrics);
    let mut reader = ParquetFile::of(file.try_clone()?).context("read it back")?;
    let n_without_key = reader
        .read_rows(&layout.metrics, None, &mut |rows| {
            (0..rows.len()).for_each(|idx| found.add(rows.row(idx)));
            Ok(())
        })
        .context("read it back")?;
    ensure!(n_without_key == 0 && *written == found.finish(), "what was read back is not what was written");
    Ok(())
}
