//! Reads a segment, good frame by good frame.
//!
//! A frame is good if its checksum fits. Behind a bad one the next good one is searched for, byte by byte: behind a frame that
//! was torn nothing was ever acknowledged, but behind one that was damaged later there may be. What was passed over is
//! told as [`Flaws`]. A header with one flipped bit is mended as it is read; for one that is lost stands a spare one, that of a
//! segment begun now, and the frames that have as many columns are read. Everybody who reads segments reads them here,
//! so that all of them find the same rows.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::buffer::rows::Rows;
use crate::calendar::PLAUSIBLE_MS;

use super::flaws::{self, Flaws};
use super::frame::{
    FRAME_HEAD_BYTES, Header, MAGIC, MAX_FRAME_BYTES, MAX_HEADER_BYTES, PAYLOAD_HEAD_BYTES, decode,
    encode_header, frame_counts, frame_crc, read_array, read_header, row_bytes,
};

/// Frame head, and the fixed part of a payload.
const LOOK_BYTES: usize = (FRAME_HEAD_BYTES + PAYLOAD_HEAD_BYTES) as usize;
/// A header longer than this is not searched for a flipped bit.
const MAX_MENDED_HEADER: usize = 1 << 14;

/// Where a good frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct Frame {
    pub offset: u64,
    /// With its head.
    pub n_bytes: u64,
    pub written_ms: i64,
    pub n_rows: u32,
}

/// Reads a segment, from the first good frame to the last.
pub(in crate::buffer) struct SegmentReader {
    path: PathBuf,
    file: BufReader<File>,
    size_bytes: u64,
    pub header: Header,
    /// Whether the header is the spare one: only frames of its shape are its frames.
    is_spare: bool,
    /// Set where the header is lost and no good frame was found yet.
    lost_header: Option<LostHeader>,
    /// Where the next frame begins.
    offset: u64,
    payload: Vec<u8>,
    flaws: Flaws,
}

impl SegmentReader {
    /// Opens a segment; `spare` is taken for its header if that is lost.
    ///
    /// - Errors: it cannot be read, or was written by a newer program.
    pub fn open(path: &Path, spare: &Header) -> Result<Self> {
        let read = || -> Result<Self> {
            let file = File::open(path)?;
            let size_bytes = file.metadata()?.len();
            let mut file = BufReader::with_capacity(1 << 16, file);
            let FoundHeader { header, end: offset, flaws, lost } = find_header(&mut file, size_bytes, spare)?;
            header.ensure_known()?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(Self {
                path: path.to_owned(),
                file,
                size_bytes,
                header,
                is_spare: lost.is_some(),
                lost_header: lost,
                offset,
                payload: Vec::new(),
                flaws,
            })
        };
        read().with_context(|| format!("read {}", path.display()))
    }

    /// The next good frame with its rows, or `None` behind the last one.
    ///
    /// `columns[m]` is where metric `m` of this segment goes in `rows`; its other metrics become NaN.
    pub fn next_into(&mut self, columns: &[Option<usize>], rows: &mut Rows) -> Result<Option<Frame>> {
        let Some(frame) = self.next_frame()? else { return Ok(None) };
        decode(&self.payload, self.n_metrics(), columns, rows)
            .with_context(|| format!("read {} at byte {}", self.path.display(), frame.offset))?;
        Ok(Some(frame))
    }

    /// The frame at `offset`, which was good before, with its rows.
    pub fn read_at(&mut self, offset: u64, columns: &[Option<usize>], rows: &mut Rows) -> Result<()> {
        self.go_to(offset).with_context(|| format!("read {}", self.path.display()))?;
        let found = self.next_into(columns, rows)?.filter(|frame| frame.offset == offset);
        ensure!(found.is_some(), "{} changed at byte {offset} while it was read", self.path.display());
        Ok(())
    }

    /// The next good frame, or `None` behind the last one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        self.find_frame().with_context(|| format!("read {}", self.path.display()))
    }

    /// What could not be read; call it after the last frame.
    pub fn flaws(&self) -> Flaws {
        self.flaws
    }

    fn n_metrics(&self) -> usize {
        self.header.metrics.len()
    }

    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset;
        self.file.seek(SeekFrom::Start(offset)).map(drop)
    }

    fn find_frame(&mut self) -> io::Result<Option<Frame>> {
        if self.offset >= self.size_bytes {
            return Ok(None);
        }
        let bad = self.offset;
        if let Some(frame) = self.read_frame()? {
            return Ok(Some(frame));
        }
        let good = self.search(bad + 1)?;
        let flaws = match (self.lost_header.take(), good) {
            (Some(lost), Some(good)) => Flaws::damaged(good - bad, lost.rows_before(good)),
            (Some(lost), None) => lost.flaws,
            (None, Some(good)) => {
                let bytes = self.read_range(bad..good)?;
                let n_rows_lost = bytes.and_then(|bytes| flaws::rows_in(&bytes, self.n_metrics()));
                Flaws::damaged(good - bad, n_rows_lost)
            }
            (None, None) => {
                let tail = self.read_range(bad..self.size_bytes)?;
                let of_tail = |bytes: Vec<u8>| Flaws::of_tail(&bytes, self.n_metrics());
                tail.map_or(Flaws::damaged(self.size_bytes - bad, None), of_tail)
            }
        };
        self.flaws.add(flaws);
        self.go_to(good.unwrap_or(self.size_bytes))?;
        if good.is_some() { self.read_frame() } else { Ok(None) }
    }

    /// The frame at the offset, if it is good.
    fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        let offset = self.offset;
        let rest = self.size_bytes - offset;
        if rest < LOOK_BYTES as u64 {
            return Ok(None);
        }
        let length = read_array::<4>(&mut self.file)?;
        let crc = u32::from_le_bytes(read_array(&mut self.file)?);
        let n_bytes = u32::from_le_bytes(length);
        let is_inside = u64::from(n_bytes) <= rest - FRAME_HEAD_BYTES && n_bytes <= MAX_FRAME_BYTES;
        if !is_inside || u64::from(n_bytes) < PAYLOAD_HEAD_BYTES {
            return Ok(None);
        }
        self.payload.resize(n_bytes as usize, 0);
        self.file.read_exact(&mut self.payload)?;
        let is_good = frame_crc(length, &self.payload) == crc;
        if !is_good || (self.is_spare && !flaws::is_of_shape(&self.payload, self.n_metrics())) {
            return Ok(None);
        }
        let n_bytes = FRAME_HEAD_BYTES + u64::from(n_bytes);
        self.offset += n_bytes;
        let (written_ms, n_rows) = frame_counts(&self.payload);
        Ok(Some(Frame { offset, n_bytes, written_ms, n_rows }))
    }

    /// Where the first good frame at or behind `from` begins.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let n_metrics = self.n_metrics();
        let (mut at, end) = (from, self.size_bytes);
        self.file.seek(SeekFrom::Start(at))?;
        let mut look = [0; LOOK_BYTES];
        while at + LOOK_BYTES as u64 <= end {
            self.file.read_exact(&mut look)?;
            if is_plausible(&look, end - at, n_metrics) {
                self.go_to(at)?;
                if self.read_frame()?.is_some() {
                    return Ok(Some(at));
                }
                self.file.seek(SeekFrom::Start(at + 1))?;
            } else {
                self.file.seek_relative(1 - LOOK_BYTES as i64)?;
            }
            at += 1;
        }
        Ok(None)
    }

    /// Some bytes; `None` if they are more than a frame can have.
    fn read_range(&mut self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        let n_bytes = range.end - range.start;
        if n_bytes > FRAME_HEAD_BYTES + u64::from(MAX_FRAME_BYTES) {
            return Ok(None);
        }
        let mut bytes = vec![0; n_bytes as usize];
        self.file.seek(SeekFrom::Start(range.start))?;
        self.file.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Passes over a frame by its head alone: when it was written; `None` at the end, or where that cannot be a head.
    fn skip_frame(&mut self) -> io::Result<Option<i64>> {
        let rest = self.size_bytes.saturating_sub(self.offset);
        if rest < LOOK_BYTES as u64 {
            return Ok(None);
        }
        let n_bytes = u64::from(u32::from_le_bytes(read_array(&mut self.file)?));
        let _crc: [u8; 4] = read_array(&mut self.file)?;
        if n_bytes < PAYLOAD_HEAD_BYTES || n_bytes > rest - FRAME_HEAD_BYTES {
            return Ok(None);
        }
        let head: [u8; PAYLOAD_HEAD_BYTES as usize] = read_array(&mut self.file)?;
        self.file.seek_relative((n_bytes - PAYLOAD_HEAD_BYTES) as i64)?;
        self.offset += FRAME_HEAD_BYTES + n_bytes;
        Ok(Some(frame_counts(&head).0))
    }
}

/// What a segment holds, by its checksums; no row is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct Contents {
    pub n_rows: u64,
    pub flaws: Flaws,
}

impl Contents {
    pub fn of(path: &Path, spare: &Header) -> Result<Self> {
        let mut reader = SegmentReader::open(path, spare)?;
        let mut n_rows = 0;
        while let Some(frame) = reader.next_frame()? {
            n_rows += u64::from(frame.n_rows);
        }
        Ok(Self { n_rows, flaws: reader.flaws() })
    }
}

/// When the newest frame of a segment was written: by the heads of its frames alone, if those lead to its end.
pub(in crate::buffer) fn last_written_ms(path: &Path, spare: &Header) -> Result<Option<i64>> {
    let mut reader = SegmentReader::open(path, spare)?;
    let mut last = None;
    let start = reader.offset;
    while let Some(written_ms) = reader.skip_frame().with_context(|| format!("read {}", path.display()))? {
        last = last.max(Some(written_ms));
    }
    if reader.offset < reader.size_bytes {
        reader.go_to(start).with_context(|| format!("read {}", path.display()))?;
        last = None;
        while let Some(frame) = reader.next_frame()? {
            last = last.max(Some(frame.written_ms));
        }
    }
    Ok(last)
}

/// What stands at the beginning of a segment.
struct FoundHeader {
    header: Header,
    /// Where the frames begin.
    end: u64,
    flaws: Flaws,
    lost: Option<LostHeader>,
}

/// What is known of a header that cannot be read.
struct LostHeader {
    /// How long it may have been: by its own word, and if it was the spare one.
    lengths: [u64; 2],
    /// What to say of the segment if there is no good frame in it.
    flaws: Flaws,
}

impl LostHeader {
    /// Rows in front of the first good frame: none if only the header fits in there, else nobody can know.
    fn rows_before(&self, good: u64) -> Option<u64> {
        self.lengths.contains(&good).then_some(0)
    }
}

fn find_header(file: &mut BufReader<File>, size_bytes: u64, spare: &Header) -> Result<FoundHeader> {
    match read_header(file) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
        Ok((Some(header), end)) => {
            return Ok(FoundHeader { header, end, flaws: Flaws::default(), lost: None });
        }
        _ => file.rewind()?,
    }
    let mut bytes = Vec::new();
    file.take(u64::from(MAX_HEADER_BYTES) + 16).read_to_end(&mut bytes)?;
    if let Some((header, end)) = mended_header(&mut bytes) {
        return Ok(FoundHeader { header, end, flaws: Flaws::damaged(end, Some(0)), lost: None });
    }
    let flaws =
        if is_torn_header(&bytes) { Flaws::torn(size_bytes) } else { Flaws::damaged(size_bytes, None) };
    let own = bytes.get(8..12).map_or(0, |length| u32::from_le_bytes(length.try_into().expect("four bytes")));
    let lengths = [16 + u64::from(own), encode_header(spare).len() as u64];
    let lost = Some(LostHeader { lengths, flaws });
    Ok(FoundHeader { header: spare.clone(), end: 0, flaws: Flaws::default(), lost })
}

/// The header whose only damage is one flipped bit.
fn mended_header(bytes: &mut [u8]) -> Option<(Header, u64)> {
    for bit in 0..8 * bytes.len().min(MAX_MENDED_HEADER) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = read_header(&mut &*bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok((Some(header), end)) = read {
            return Some((header, end));
        }
    }
    None
}

/// Whether a header was never written to its end: the file ends before it does, or has zeros where it should be.
fn is_torn_header(bytes: &[u8]) -> bool {
    let n_magic = bytes.len().min(MAGIC.len());
    let is_cut = bytes[..n_magic] == MAGIC[..n_magic]
        && matches!(read_header(&mut &*bytes), Err(error) if error.kind() == io::ErrorKind::UnexpectedEof);
    is_cut || bytes.iter().all(|byte| *byte == 0)
}

/// Whether this can be the head of a frame; what a checksum costs is spent on those only.
fn is_plausible(look: &[u8; LOOK_BYTES], rest: u64, n_metrics: usize) -> bool {
    let u32_at = |at: usize| u32::from_le_bytes(look[at..at + 4].try_into().expect("four bytes"));
    let n_bytes = u64::from(u32_at(0));
    let written_ms = i64::from_le_bytes(look[8..16].try_into().expect("eight bytes"));
    let (n_rows, n_texts) = (u64::from(u32_at(16)), u64::from(u32_at(20)));
    let is_inside = n_bytes <= u64::from(MAX_FRAME_BYTES) && n_bytes + FRAME_HEAD_BYTES <= rest;
    let least = PAYLOAD_HEAD_BYTES + n_rows * row_bytes(n_metrics) + 4 * n_texts;
    let is_filled = n_rows > 0 && (1..=n_bytes).contains(&n_texts) && least <= n_bytes;
    is_inside && is_filled && PLAUSIBLE_MS.contains(&written_ms)
}
