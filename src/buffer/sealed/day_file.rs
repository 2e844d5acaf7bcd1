//! A sealed day: `metrics_YYYY-MM-DD.parquet`, ordinary parquet that any reader opens.
//!
//! Columns: `timestamp` (datetime in ms, UTC), `server_name`, `profile` and `status` where any row has one, then
//! one float32 column per metric, null where a value is missing. Sorted by server and time, keys unique, zstd.
//! The file's own metadata says which zone cut it (`tftctl.zone`), so that files that were cut otherwise are known,
//! and has checksums of its rows ([`super::proof`]) and a digest of the whole file ([`stamp`]), because parquet pages
//! have none. It has no arrow schema, which older readers stumble over; the parquet types say everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use chrono::NaiveDate;
use polars::prelude::{
    Column, Float32Chunked, Int64Chunked, IntoColumn, IntoSeries, NewChunkedArray, PlSmallStr, TimeUnit,
    TimeZone,
};

use crate::error::HintExt;
use crate::fsx::{self, File};

use super::parquet_rows::ParquetFile;
use super::proof::{self, Checksums, Proof};
use super::row_groups::{Columns, GroupWriter};
use super::stamp::{self, Stamped};
use crate::buffer::merge::Sorted;
use crate::buffer::trouble::remedy;

/// Rows per row group.
pub(in crate::buffer) const GROUP_ROWS: usize = 1 << 19;

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

/// Checks that a file is the one that was stamped, and returns its sha256; one without a stamp passes.
///
/// - Errors: it is damaged, with the hint to mend it; or it cannot be read.
pub(in crate::buffer) fn ensure_whole(path: &Path, date: NaiveDate) -> Result<String> {
    match stamp::check_and_digest(path)? {
        None => return fsx::sha256_file(path),
        Some((Stamped::Damaged, _)) => {}
        Some((_, sha256)) => return Ok(sha256),
    }
    Err(damaged(path)).hint(|| remedy(date))
}

/// What is said of a file that is not the one that was stamped.
pub(in crate::buffer) fn damaged(path: &Path) -> anyhow::Error {
    anyhow!("{}: its bytes are not those that were sealed", path.display())
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
    let columns = Columns {
        metrics: layout.metrics.clone(),
        has_profile: layout.has_profile,
        has_status: layout.has_status,
    };
    let mut writer = GroupWriter::new(file, columns)?;
    produce(&mut |sorted| {
        for part in sorted.order.chunks(GROUP_ROWS) {
            part.iter().for_each(|idx| proof.add(sorted.rows.row(*idx as usize)));
            writer.write(&sorted.rows, part)?;
        }
        Ok(())
    })?;
    let written = proof.finish();
    ensure!(written.n_rows > 0, "a day file needs rows");
    let mut pairs = layout.metadata.clone();
    pairs.push((proof::KEY.to_owned(), written.text()));
    pairs.push(stamp::blank());
    writer.finish(pairs)?;
    Ok(written)
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
    let mut reader = ParquetFile::of(file.reader()?).context("read it back")?;
    let n_without_key = reader
        .read_rows(&layout.metrics, None, &mut |rows| {
            (0..rows.len()).for_each(|idx| found.add(rows.row(idx)));
            Ok(())
        })
        .context("read it back")?;
    ensure!(n_without_key == 0 && *written == found.finish(), "what was read back is not what was written");
    Ok(())
}
