//! One function per parser of foreign bytes, for the fuzz targets in `fuzz/` and for short runs in the tests.
//!
//! Each takes any bytes and must return: no panic, no endless loop, no memory beyond the limits, and what it says of
//! itself must hold. Part of the crate only under `cfg(test)` and `cfg(fuzzing)`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use anyhow::Result;

use crate::config::{ColumnRule, Config, InputConfig};
use crate::schema::{Metric, Schema};

use super::intake::fuzzing as intake;
use super::open::frame::Header;
use super::open::reader::SegmentReader;
use super::rows::Rows;
use super::sealed::parquet_rows::{Columns, ParquetFile};

/// Two metrics, one of them under two names, and a zone for local times.
pub(super) fn site() -> (Schema, InputConfig, Vec<ColumnRule>) {
    let metrics = vec![Metric::new("cpu", "%"), Metric::new("net.bytes", "MB/s")];
    let input = InputConfig { timestamp_zone: "Europe/Berlin".into(), ..InputConfig::default() };
    let column = ColumnRule {
        source: "cpu.usage".into(),
        metric: "cpu".into(),
        scale: 100.0,
        offset: -1.0,
        tags: BTreeMap::from([("cpu".into(), "cpu-total".into())]),
    };
    (Schema { metrics, profiles: Vec::new() }, input, vec![column])
}

/// One line or record of JSON.
pub fn json(data: &[u8]) {
    intake::json(data);
}

/// One record or batch of a Telegraf agent.
pub fn telegraf(data: &[u8]) {
    intake::telegraf(data);
}

/// A CSV file.
pub fn csv(data: &[u8]) {
    intake::csv(data);
}

/// A text of any form, plain or packed, in chunks whose size the first byte chooses.
pub fn text(data: &[u8]) {
    if let Some((size, rest)) = data.split_first() {
        intake::text(rest, usize::from(*size) + 1);
    }
}

/// A config file; what is accepted reads back as itself from the template.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(loaded) = Config::parse(text, &[]) {
        let rendered = crate::config::template::render(&loaded.config);
        let again = Config::parse(&rendered, &[]).expect("what is valid stays valid");
        assert_eq!(format!("{:?}", again.config), format!("{:?}", loaded.config));
    }
}

/// A parquet file, as `append` and as the reader of day files take it.
pub fn parquet(data: &[u8]) {
    let read = || -> Result<()> {
        let file = ParquetFile::of(file_of(data)?)?;
        if file.n_rows() > 1 << 20 {
            return Ok(());
        }
        let metrics = ["cpu".to_owned(), "net.bytes".to_owned()];
        let _ = file.time_range_ms();
        for slice in file.slices() {
            let rows = file.read_slice(&slice, &Columns::plain(&metrics))?;
            assert_eq!(rows.len(), slice.len());
            intake::judge_slice(&rows);
            let mut found = Rows::new(metrics.len());
            let n_without_key = rows.push_into(&mut found, None);
            assert_eq!(found.len() as u64 + n_without_key, slice.len() as u64);
        }
        Ok(())
    };
    // Whether it can be read is not the question; that it ends is.
    let _ = read();
}

/// A segment of an open day.
pub fn segment(data: &[u8]) {
    let read = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(data)?;
        let mut reader = SegmentReader::open(file.path(), &Header::new(&["cpu".to_owned()], "", false))?;
        let mut rows = Rows::new(1);
        while let Some(frame) = reader.next_into(&[Some(0)], &mut rows)? {
            assert_eq!(frame.n_rows as usize, rows.len());
            (0..rows.len()).for_each(|idx| drop(rows.row(idx).server.to_owned()));
        }
        let flaws = reader.flaws();
        let n_bad = flaws.n_bytes_torn + flaws.damage.map_or(0, |damage| damage.n_bytes);
        assert!(n_bad <= data.len() as u64);
        Ok(())
    };
    let _ = read();
}

fn file_of(data: &[u8]) -> Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(data)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A reader of bytes that are held, for sources.
pub(super) fn reader_of(data: &[u8]) -> impl Read + Send + 'static {
    Cursor::new(data.to_vec())
}
