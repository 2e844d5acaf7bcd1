//! What is in a segment: rows of one open day, written by one process, that survive a power cut at any instruction.
//!
//! ```text
//! header  magic "tftseg\r\n", length (u32), JSON {format, schema_digest, metrics, completes_rows}, crc32 of the JSON
//! frame*  length (u32), crc32 of length and payload (u32), payload
//! payload written_ms (i64), rows (u32), texts (u32), each text (u32 length, UTF-8),
//!         then by column: times (i64), servers, profiles, statuses (u32 text ids), each metric (f32)
//! ```
//! All numbers are little-endian. An empty frame is a bad one, because a power cut can leave zeros.

use std::io::{self, Read};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::buffer::rows::{NO_TEXT, Rows};

pub(super) const MAGIC: &[u8; 8] = b"tftseg\r\n";
const FORMAT: u32 = 1;
pub(super) const MAX_HEADER_BYTES: u32 = 1 << 20;
pub(super) const MAX_FRAME_BYTES: u32 = 1 << 28;
/// Length and checksum.
pub(super) const FRAME_HEAD_BYTES: u64 = 8;
/// Time of writing and numbers of rows and texts.
pub(super) const PAYLOAD_HEAD_BYTES: u64 = 16;

/// Bytes of one row in a frame.
pub(super) fn row_bytes(n_metrics: usize) -> u64 {
    8 + 3 * 4 + 4 * n_metrics as u64
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::buffer) struct Header {
    format: u32,
    schema_digest: String,
    /// Names of the metric columns in each frame.
    pub metrics: Vec<String>,
    /// A metric that a row lacks keeps the value of an earlier row with the same key; else later rows replace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completes_rows: bool,
}

impl Header {
    pub fn new(metrics: &[String], schema_digest: &str, completes_rows: bool) -> Self {
        let (schema_digest, metrics) = (schema_digest.to_owned(), metrics.to_vec());
        Self { format: FORMAT, schema_digest, metrics, completes_rows }
    }

    /// - Errors: a newer program wrote the segment.
    pub(super) fn ensure_known(&self) -> Result<()> {
        ensure!(self.format <= FORMAT, "it has format {}, this program reads up to {FORMAT}", self.format);
        Ok(())
    }
}
pub(super) fn encode_header(header: &Header) -> Vec<u8> {
    let json = serde_json::to_vec(header).expect("plain data always encodes");
    let mut bytes = MAGIC.to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(&json);
    bytes.extend(crc32fast::hash(&json).to_le_bytes());
    bytes
}

/// Encodes `rows` into `frame`, which is cleared first.
pub(super) fn encode_frame(rows: &Rows, written_ms: i64, frame: &mut Vec<u8>) -> Result<()> {
    frame.clear();
    frame.extend([0; FRAME_HEAD_BYTES as usize]);
    frame.extend(written_ms.to_le_bytes());
    frame.extend((rows.len() as u32).to_le_bytes());
    frame.extend((rows.texts.all().len() as u32).to_le_bytes());
    for text in rows.texts.all() {
        frame.extend((text.len() as u32).to_le_bytes());
        frame.extend(text.as_bytes());
    }
    rows.time_ms.iter().for_each(|time| frame.extend(time.to_le_bytes()));
    for ids in [&rows.server, &rows.profile, &rows.status] {
        ids.iter().for_each(|id| frame.extend(id.to_le_bytes()));
    }
    for metric in 0..rows.n_metrics {
        let column = rows.values.iter().skip(metric).step_by(rows.n_metrics);
        column.for_each(|value| frame.extend(value.to_le_bytes()));
    }
    let length = frame.len() as u64 - FRAME_HEAD_BYTES;
    ensure!(length <= u64::from(MAX_FRAME_BYTES), "a block of {length} bytes is too large");
    let length = (length as u32).to_le_bytes();
    frame[..4].copy_from_slice(&length);
    let crc = frame_crc(length, &frame[FRAME_HEAD_BYTES as usize..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

pub(super) fn frame_crc(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}
pub(super) fn frame_counts(payload: &[u8]) -> (i64, u32) {
    let written_ms = i64::from_le_bytes(payload[..8].try_into().expect("at least 16 bytes"));
    let n_rows = u32::from_le_bytes(payload[8..12].try_into().expect("at least 16 bytes"));
    (written_ms, n_rows)
}

pub(super) fn read_array<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The header and its length; `None` where it is damaged.
pub(super) fn read_header(file: &mut impl Read) -> io::Result<(Option<Header>, u64)> {
    let magic: [u8; 8] = read_array(file)?;
    let length = u32::from_le_bytes(read_array(file)?);
    if magic != *MAGIC || length > MAX_HEADER_BYTES {
        return Ok((None, 0));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json)?;
    let crc = u32::from_le_bytes(read_array(file)?);
    if crc != crc32fast::hash(&json) {
        return Ok((None, 0));
    }
    let header =
        serde_json::from_slice(&json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((Some(header), 16 + u64::from(length)))
}
/// A cursor over a payload whose checksum fits; a mismatch now is a bug or a forged file, and an error.
struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8]> {
        ensure!(n_bytes <= self.0.len(), "a block ends too early");
        let (head, rest) = self.0.split_at(n_bytes);
        self.0 = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    /// `n` little-endian values of 4 bytes.
    fn words(&mut self, n: usize) -> Result<impl Iterator<Item = [u8; 4]> + 'a> {
        Ok(self.take(4 * n)?.chunks_exact(4).map(|word| word.try_into().expect("four bytes")))
    }
}

pub(super) fn decode(
    payload: &[u8],
    n_metrics: usize,
    columns: &[Option<usize>],
    rows: &mut Rows,
) -> Result<()> {
    rows.clear();
    let mut payload = Payload(payload);
    payload.take(8)?;
    let n_rows = payload.u32()? as usize;
    let n_texts = payload.u32()?;
    for expected in 0..n_texts {
        let length = payload.u32()? as usize;
        let id = rows.texts.id(std::str::from_utf8(payload.take(length)?)?);
        ensure!(id == expected, "a block names a text twice");
    }
    let times = payload.take(8 * n_rows)?.chunks_exact(8);
    rows.time_ms.extend(times.map(|time| i64::from_le_bytes(time.try_into().expect("eight bytes"))));
    rows.server.extend(payload.words(n_rows)?.map(u32::from_le_bytes));
    rows.profile.extend(payload.words(n_rows)?.map(u32::from_le_bytes));
    rows.status.extend(payload.words(n_rows)?.map(u32::from_le_bytes));
    ensure!(rows.server.iter().all(|id| *id < n_texts), "a block has a row without a server");
    let labels = rows.profile.iter().chain(&rows.status);
    ensure!(labels.copied().all(|id| id == NO_TEXT || id < n_texts), "a block has an unknown label");
    rows.values.resize(n_rows * rows.n_metrics, f32::NAN);
    for metric in 0..n_metrics {
        let column = payload.words(n_rows)?;
        let Some(target) = columns.get(metric).copied().flatten() else { continue };
        for (row, word) in column.enumerate() {
            rows.values[row * rows.n_metrics + target] = f32::from_le_bytes(word);
        }
    }
    ensure!(payload.0.is_empty(), "a block has bytes left over");
    Ok(())
}
