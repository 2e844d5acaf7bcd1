//! Writes the row groups of a day file: each column in the encoding that makes it smallest, columns side by side.
//!
//! No single encoding wins. A metric reported with two decimals has few distinct values: a dictionary of them is
//! smallest, in long pages of runs where it rests ([`encode_as`]), in short pages of a sorted one where it moves
//! ([`dictionary`]). A metric that uses all its bits has as many values as rows: its bytes compress best when the first
//! bytes of all values come first, then the second (`BYTE_STREAM_SPLIT`). Which of them a column of a row group gets is
//! tried out on its own values ([`encoding`]). Times are stored as differences, texts as dictionaries. All of it is compressed with
//! zstd, and is ordinary parquet.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::column::writer::{ColumnCloseResult, ColumnWriter, get_column_writer};
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, Type, TypePtr};
use rayon::prelude::*;

use super::dictionary;
use super::encoding::{self, Choice};
use super::proof::BLOCK_ROWS;
use crate::buffer::rows::{NO_TEXT, Rows, Texts};

/// Level of zstd: what it saves beyond is a few per cent, and costs several times the time.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// The columns of a day file.
pub(in crate::buffer) struct Columns {
    pub metrics: Vec<String>,
    pub has_profile: bool,
    pub has_status: bool,
}

/// The values of one column of a row group.
enum Values<'a> {
    Times(Vec<i64>),
    /// Text ids, [`NO_TEXT`] for none.
    Texts(Vec<u32>, &'a Texts),
    /// NaN for none.
    Floats(Vec<f32>),
}

/// A column of a row group as it will be in the file.
pub(super) struct Chunk {
    pub bytes: Bytes,
    pub closed: ColumnCloseResult,
}

/// A day file in the making.
pub(in crate::buffer) struct GroupWriter<W: Write + Send> {
    columns: Columns,
    writer: SerializedFileWriter<W>,
}

impl<W: Write + Send> GroupWriter<W> {
    pub fn new(sink: W, columns: Columns) -> Result<Self> {
        let writer = SerializedFileWriter::new(sink, schema_of(&columns)?, Arc::default())?;
        Ok(Self { columns, writer })
    }

    /// Adds the rows with the numbers `order` as one row group.
    pub fn write(&mut self, rows: &Rows, order: &[u32]) -> Result<()> {
        let descriptors = self.writer.schema_descr().columns().to_vec();
        let values = self.columns.gather(rows, order);
        let chunks =
            descriptors.into_par_iter().zip(values).map(|(descriptor, values)| values.encode(&descriptor));
        let chunks: Vec<Chunk> = chunks.collect::<Result<_>>()?;
        let mut group = self.writer.next_row_group()?;
        for Chunk { bytes, closed } in chunks {
            group.append_column(&bytes, closed)?;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file with `pairs` as its own metadata.
    pub fn finish(mut self, pairs: Vec<(String, String)>) -> Result<()> {
        for (key, value) in pairs {
            self.writer.append_key_value_metadata(KeyValue::new(key, value));
        }
        self.writer.close()?;
        Ok(())
    }
}

impl Columns {
    /// The columns of some rows, in the file's order.
    fn gather<'a>(&self, rows: &'a Rows, order: &[u32]) -> Vec<Values<'a>> {
        let of_rows = |ids: &[u32]| order.iter().map(|idx| ids[*idx as usize]).collect();
        let times = order.iter().map(|idx| rows.time_ms[*idx as usize]).collect();
        let mut values = vec![Values::Times(times), Values::Texts(of_rows(&rows.server), &rows.texts)];
        for (is_there, ids) in [(self.has_profile, &rows.profile), (self.has_status, &rows.status)] {
            if is_there {
                values.push(Values::Texts(of_rows(ids), &rows.texts));
            }
        }
        // Row by row, because that is how they lie in memory.
        let mut metrics = vec![Vec::with_capacity(order.len()); rows.n_metrics];
        for idx in order {
            for (metric, value) in metrics.iter_mut().zip(rows.values_of(*idx as usize)) {
                metric.push(*value);
            }
        }
        values.extend(metrics.into_iter().map(Values::Floats));
        values
    }
}

fn schema_of(columns: &Columns) -> Result<TypePtr> {
    let column = |name: &str, physical, is_optional, logical| -> Result<TypePtr> {
        let repetition = if is_optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let column = Type::primitive_type_builder(name, physical).with_repetition(repetition);
        Ok(Arc::new(column.with_logical_type(logical).build()?))
    };
    let time = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let mut fields = vec![
        column("timestamp", Physical::INT64, false, Some(time))?,
        column("server_name", Physical::BYTE_ARRAY, false, Some(LogicalType::String))?,
    ];
    for (name, is_there) in [("profile", columns.has_profile), ("status", columns.has_status)] {
        if is_there {
            fields.push(column(name, Physical::BYTE_ARRAY, true, Some(LogicalType::String))?);
        }
    }
    for name in &columns.metrics {
        fields.push(column(name, Physical::FLOAT, true, None)?);
    }
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
}

impl Values<'_> {
    fn encode(&self, descriptor: &ColumnDescPtr) -> Result<Chunk> {
        match self {
            Values::Times(times) => encode_as(descriptor, Some(Encoding::DELTA_BINARY_PACKED), &|writer| {
                let ColumnWriter::Int64ColumnWriter(writer) = writer else { unreachable!("times are int64") };
                writer.write_batch(times, None, None)
            }),
            Values::Texts(ids, texts) => encode_texts(descriptor, ids, texts),
            Values::Floats(values) => encode_floats(descriptor, values),
        }
    }
}

fn encode_texts(descriptor: &ColumnDescPtr, ids: &[u32], texts: &Texts) -> Result<Chunk> {
    let known: Vec<ByteArray> = texts.all().iter().map(|text| ByteArray::from(text.as_str())).collect();
    let given: Vec<ByteArray> =
        ids.iter().filter(|id| **id != NO_TEXT).map(|id| known[*id as usize].clone()).collect();
    let is_optional = descriptor.max_def_level() > 0;
    let levels: Option<Vec<i16>> =
        is_optional.then(|| ids.iter().map(|id| i16::from(*id != NO_TEXT)).collect());
    encode_as(descriptor, None, &|writer| {
        let ColumnWriter::ByteArrayColumnWriter(writer) = writer else { unreachable!("texts are bytes") };
        writer.write_batch(&given, levels.as_deref(), None)
    })
}

/// The smaller of a dictionary and a split of bytes; where a look at some values says which, only that one is made.
fn encode_floats(descriptor: &ColumnDescPtr, values: &[f32]) -> Result<Chunk> {
    let given: Vec<f32> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    let plain = |encoding| {
        let levels: Vec<i16> = values.iter().map(|value| i16::from(!value.is_nan())).collect();
        encode_as(descriptor, encoding, &|writer| {
            let ColumnWriter::FloatColumnWriter(writer) = writer else { unreachable!("metrics are float32") };
            writer.write_batch(&given, Some(&levels), None)
        })
    };
    let Choice::Dictionary { has_runs, unless_above } = encoding::choose(&given)? else {
        return plain(Some(Encoding::BYTE_STREAM_SPLIT));
    };
    let dictionary = if has_runs { plain(None)? } else { dictionary::encode(descriptor, values)? };
    if dictionary.bytes.len() <= unless_above {
        return Ok(dictionary);
    }
    let split = plain(Some(Encoding::BYTE_STREAM_SPLIT))?;
    Ok(if split.bytes.len() < dictionary.bytes.len() { split } else { dictionary })
}

/// One column in the given encoding, in a dictionary if there is none, in pages of a block of checksums at most: a page that
/// is damaged costs no more than its block.
fn encode_as(
    descriptor: &ColumnDescPtr,
    encoding: Option<Encoding>,
    write: &dyn Fn(&mut ColumnWriter<'_>) -> parquet::errors::Result<usize>,
) -> Result<Chunk> {
    let mut sink = TrackedWrite::new(Vec::new());
    let pages = Box::new(SerializedPageWriter::new(&mut sink));
    let mut writer = get_column_writer(descriptor.clone(), Arc::new(properties(encoding)?), pages);
    write(&mut writer).with_context(|| format!("encode column `{}`", descriptor.name()))?;
    let closed = writer.close()?;
    Ok(Chunk { bytes: sink.into_inner()?.into(), closed })
}

fn properties(encoding: Option<Encoding>) -> Result<WriterProperties> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_data_page_row_count_limit(BLOCK_ROWS)
        .set_dictionary_page_size_limit(usize::MAX)
        .set_dictionary_enabled(encoding.is_none());
    Ok(match encoding {
        Some(encoding) => properties.set_encoding(encoding).build(),
        None => properties.build(),
    })
}
