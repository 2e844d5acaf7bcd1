//! A column of float32 as a dictionary in ascending order, and pages of positions in it.
//!
//! A page says with how many bits it packs its positions. Where servers or hours differ, short pages pay: a stretch of
//! small values costs less than one of large ones. Positions of 8 or 16 bits are whole bytes, which zstd can squeeze, so
//! wider ones than needed can be smaller: each page has the better. All of this gains on noise and loses on constant
//! stretches, which runs say in no time.

use anyhow::{Context, Result};
use parquet::basic::{CompressionCodec, Encoding};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

use super::row_groups::{Chunk, ZSTD_LEVEL};

/// Rows of a page: shorter ones take fewer bits, longer ones fewer headers.
const PAGE_ROWS: [usize; 2] = [1 << 11, 1 << 16];

/// What a page costs beside its positions, in bits.
const PAGE_BITS: u64 = 8 * 48;

/// Stands for "no value" among positions.
const NONE: u32 = u32::MAX;

/// The column with these values, NaN for none.
///
/// - Errors: the compressor or the writer of pages fails.
pub(super) fn encode(descriptor: &ColumnDescPtr, values: &[f32]) -> Result<Chunk> {
    let (dictionary, positions) = sorted(values);
    let mut sink = TrackedWrite::new(Vec::new());
    let mut pages = Pages {
        writer: SerializedPageWriter::new(&mut sink),
        compressor: Compressor::new(ZSTD_LEVEL).context("start zstd")?,
        n_bytes: 0,
        n_bytes_plain: 0,
    };
    let data_offset = pages.add_dictionary(&dictionary)?;
    let page_rows =
        PAGE_ROWS.into_iter().min_by_key(|rows| n_bits(&positions, *rows)).expect("there are two");
    for page in positions.chunks(page_rows) {
        pages.add(page)?;
    }
    let (n_bytes, n_bytes_plain) = (pages.n_bytes, pages.n_bytes_plain);
    let n_null = positions.iter().filter(|position| **position == NONE).count();
    let metadata = ColumnChunkMetaData::builder(descriptor.clone())
        .set_compression_codec(CompressionCodec::ZSTD)
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
        .set_num_values(values.len() as i64)
        .set_total_compressed_size(n_bytes)
        .set_total_uncompressed_size(n_bytes_plain)
        .set_dictionary_page_offset(Some(0))
        .set_data_page_offset(data_offset)
        .set_statistics(statistics(&dictionary, n_null))
        .build()?;
    let closed = ColumnCloseResult {
        bytes_written: n_bytes as u64,
        rows_written: values.len() as u64,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    };
    Ok(Chunk { bytes: sink.into_inner()?.into(), closed })
}

/// The smallest and the largest value; zeros with the signs that parquet asks for.
fn statistics(dictionary: &[f32], n_null: usize) -> Statistics {
    let min = dictionary.first().map(|min| if *min == 0.0 { -0.0 } else { *min });
    let max = dictionary.last().map(|max| if *max == 0.0 { 0.0 } else { *max });
    Statistics::float(min, max, None, Some(n_null as u64), false)
}

/// The distinct values by their bits, ascending, and the position of each row's among them.
fn sorted(values: &[f32]) -> (Vec<f32>, Vec<u32>) {
    let mut distinct = Distinct::default();
    let mut ids: Vec<u32> =
        values.iter().map(|value| if value.is_nan() { NONE } else { distinct.id(value.to_bits()) }).collect();
    let found: Vec<f32> = distinct.bits.iter().map(|bits| f32::from_bits(*bits)).collect();
    let mut order: Vec<u32> = (0..found.len() as u32).collect();
    order.sort_unstable_by(|a, b| found[*a as usize].total_cmp(&found[*b as usize]));
    let mut position = vec![0; found.len()];
    for (at, id) in order.iter().enumerate() {
        position[*id as usize] = at as u32;
    }
    ids.iter_mut().filter(|id| **id != NONE).for_each(|id| *id = position[*id as usize]);
    (order.iter().map(|id| found[*id as usize]).collect(), ids)
}

/// Bits that pages of so many rows take before they are compressed.
fn n_bits(positions: &[u32], page_rows: usize) -> u64 {
    let of_page = |page: &[u32]| PAGE_BITS + page.len() as u64 * u64::from(width_of(page));
    positions.chunks(page_rows).map(of_page).sum()
}

/// Bits that the largest position of a page takes.
fn width_of(page: &[u32]) -> u32 {
    let widest = page.iter().copied().filter(|position| *position != NONE).max().unwrap_or(0);
    32 - widest.leading_zeros()
}

/// A set of 32-bit patterns, numbered in order of first use: a hash table without anything that is not needed here.
#[derive(Default)]
struct Distinct {
    bits: Vec<u32>,
    /// A number plus one, or zero; the length is a power of two and at least twice the number of patterns.
    slots: Vec<u32>,
}

impl Distinct {
    fn id(&mut self, bits: u32) -> u32 {
        if 2 * (self.bits.len() + 1) > self.slots.len() {
            self.grow();
        }
        let slot = self.slot(bits);
        if self.slots[slot] == 0 {
            self.bits.push(bits);
            self.slots[slot] = self.bits.len() as u32;
        }
        self.slots[slot] - 1
    }

    /// Where `bits` are, or belong.
    fn slot(&self, bits: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (u64::from(bits).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & mask;
        while self.slots[slot] != 0 && self.bits[self.slots[slot] as usize - 1] != bits {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        self.slots = vec![0; (4 * self.slots.len()).max(1 << 10)];
        for id in 0..self.bits.len() {
            let slot = self.slot(self.bits[id]);
            self.slots[slot] = id as u32 + 1;
        }
    }
}

/// The pages of one column.
struct Pages<'a> {
    writer: SerializedPageWriter<'a, Vec<u8>>,
    compressor: Compressor<'static>,
    n_bytes: i64,
    n_bytes_plain: i64,
}

impl Pages<'_> {
    /// Returns where the next page begins.
    fn add_dictionary(&mut self, dictionary: &[f32]) -> Result<i64> {
        let plain: Vec<u8> = dictionary.iter().flat_map(|value| value.to_le_bytes()).collect();
        let buf = self.compress(&plain)?;
        let (num_values, encoding) = (dictionary.len() as u32, Encoding::PLAIN);
        let page = Page::DictionaryPage { buf: buf.into(), num_values, encoding, is_sorted: true };
        self.write(page, plain.len())?;
        Ok(self.n_bytes)
    }

    /// Adds a page with these positions.
    fn add(&mut self, positions: &[u32]) -> Result<()> {
        let width = width_of(positions);
        let mut plain = page_of(positions, width);
        let mut buf = self.compress(&plain)?;
        if let Some(wider) = wider(width) {
            let other = page_of(positions, wider);
            let squeezed = self.compress(&other)?;
            if squeezed.len() < buf.len() {
                (plain, buf) = (other, squeezed);
            }
        }
        let page = Page::DataPage {
            buf: buf.into(),
            num_values: positions.len() as u32,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        self.write(page, plain.len())
    }

    fn compress(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        self.compressor.compress(plain).context("compress a page")
    }

    fn write(&mut self, page: Page, n_bytes_plain: usize) -> Result<()> {
        let written = self.writer.write_page(CompressedPage::new(page, n_bytes_plain))?;
        self.n_bytes += written.compressed_size as i64;
        self.n_bytes_plain += written.uncompressed_size as i64;
        Ok(())
    }
}

/// Whole bytes that may be worth it.
fn wider(width: u32) -> Option<u32> {
    match width {
        5..=7 => Some(8),
        13..=15 => Some(16),
        _ => None,
    }
}

/// A data page: which rows have a value, the width, and the positions packed with it.
fn page_of(positions: &[u32], width: u32) -> Vec<u8> {
    let mut page = vec![0; 4];
    let is_there = positions.iter().map(|position| u32::from(*position != NONE));
    if positions.contains(&NONE) {
        pack(is_there, positions.len(), 1, &mut page);
    } else {
        varint((positions.len() as u64) << 1, &mut page);
        page.push(1);
    }
    let n_level_bytes = page.len() as u32 - 4;
    page[..4].copy_from_slice(&n_level_bytes.to_le_bytes());
    page.push(width as u8);
    let given = positions.iter().copied().filter(|position| *position != NONE);
    pack(given.clone(), given.count(), width, &mut page);
    page
}

/// One bit-packed run of `n` values, filled up with zeros to a multiple of eight.
fn pack(values: impl Iterator<Item = u32>, n: usize, width: u32, page: &mut Vec<u8>) {
    let n_groups = n.div_ceil(8);
    varint((n_groups as u64) << 1 | 1, page);
    let end = page.len() + n_groups * width as usize;
    let (mut bits, mut n_bits) = (0u64, 0);
    for value in values {
        bits |= u64::from(value) << n_bits;
        n_bits += width;
        while n_bits >= 8 {
            page.push(bits as u8);
            bits >>= 8;
            n_bits -= 8;
        }
    }
    page.push(bits as u8);
    page.resize(end, 0);
}

fn varint(mut value: u64, page: &mut Vec<u8>) {
    while value >= 0x80 {
        page.push(value as u8 | 0x80);
        value >>= 7;
    }
    page.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_by_their_bits_and_sorted() {
        let (dictionary, positions) = sorted(&[2.0, f32::NAN, -0.0, 0.0, 2.0, -1.5]);
        let bits: Vec<u32> = dictionary.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, [-1.5f32, -0.0, 0.0, 2.0].map(f32::to_bits));
        assert_eq!(positions, [3, NONE, 1, 2, 3, 0]);
    }

    #[test]
    fn pages_are_short_where_stretches_differ() {
        let alike: Vec<u32> = (0..1 << 17).map(|i| i % 2048).collect();
        let different: Vec<u32> =
            (0..1 << 17).map(|i| if i % 8192 < 4096 { i % 16 } else { i % 2048 }).collect();
        let [short, long] = PAGE_ROWS;
        assert!(n_bits(&alike, long) < n_bits(&alike, short));
        assert!(n_bits(&different, short) < n_bits(&different, long));
    }

    #[test]
    fn many_patterns_keep_their_numbers_while_the_table_grows() {
        let mut distinct = Distinct::default();
        let ids: Vec<u32> = (0..5000u32).map(|bits| distinct.id(bits << 12)).collect();
        assert!(ids.iter().enumerate().all(|(at, id)| at as u32 == *id));
        assert!((0..5000u32).all(|bits| distinct.id(bits << 12) == bits));
    }

    #[test]
    fn bits_are_packed_from_the_lowest() {
        let mut page = Vec::new();
        // The example of the format's own description: 0 to 7 in three bits each.
        pack(0..8, 8, 3, &mut page);
        assert_eq!(page, [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
        page.clear();
        pack([1, 2, 3].into_iter(), 3, 12, &mut page);
        assert_eq!((page.len(), &page[1..6]), (13, &[1, 0x20, 0, 3, 0][..]));
        page.clear();
        varint(300, &mut page);
        assert_eq!(page, [0xac, 0x02]);
    }
}
