//! The segment log: rows of one open day, written by one process, that survive a power cut at any instruction.
//!
//! ```text
//! open/YYYY-MM-DD/00000001-4711-5f2c81aa.seg
//!   header  magic "tftseg\r\n", length (u32), JSON {format, schema_digest, metrics, completes_rows}, crc32 of the JSON
//!   frame*  length (u32), crc32 of length and payload (u32), payload
//!   payload written_ms (i64), rows (u32), texts (u32), each text (u32 length, UTF-8),
//!           then by column: times (i64), servers, profiles, statuses (u32 text ids), each metric (f32)
//! ```
//! All numbers are little-endian. A reader takes frames until the first that is cut or does not match its
//! checksum; what follows was never acknowledged. An empty frame is a bad one, because a power cut can leave zeros.
//!
//! Beside a segment that is being written lies `NAME.lock`, locked by its writer from before the segment exists
//! until after its last sync: a segment without a locked file beside it gets no more rows, ever. A writer makes
//! both files while it shares `open/.segments.lock`, which a rotation takes alone to see which are finished.

use std::fs::{self, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::fsx::{self, disk};

use crate::buffer::rows::{NO_TEXT, Rows};

const MAGIC: &[u8; 8] = b"tftseg\r\n";
const FORMAT: u32 = 1;
pub(super) const MAX_HEADER_BYTES: u32 = 1 << 20;
pub(super) const MAX_FRAME_BYTES: u32 = 1 << 28;
pub(super) const FRAME_HEAD_BYTES: u64 = 8;
const EXTENSION: &str = "seg";
const LOCK_EXTENSION: &str = "lock";

#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// The lock that keeps rotations from looking while writers make segments.
pub(in crate::buffer) fn segments_lock(open_dir: &Path) -> Result<disk::File> {
    let path = open_dir.join(".segments.lock");
    fsx::create_dir_durable(open_dir)?;
    disk::File::open_or_create(&path).with_context(|| format!("open {}", path.display()))
}

/// The folder of one open day.
pub(in crate::buffer) fn day_dir(open_dir: &Path, day: NaiveDate) -> PathBuf {
    open_dir.join(day.to_string())
}

/// The segments in the folder of a day, in the order they were begun.
pub(in crate::buffer) fn list(day_dir: &Path) -> Result<Vec<PathBuf>> {
    list_by_extension(day_dir, EXTENSION)
}

/// Bytes of the segments in the folder of a day; one that is sealed meanwhile counts for nothing.
pub(in crate::buffer) fn size_bytes(day_dir: &Path) -> Result<u64> {
    if !day_dir.is_dir() {
        return Ok(0);
    }
    let sizes =
        list(day_dir)?.into_iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
    Ok(sizes.sum())
}

fn list_by_extension(day_dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fsx::list_dir(day_dir)?.iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    Ok(paths)
}

/// The segments of a day that get no more rows, and how many still may. Call it holding the segments lock alone.
pub(in crate::buffer) fn claim_finished(day_dir: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let mut finished = Vec::new();
    let mut n_live = 0;
    for path in list(day_dir)? {
        if is_live(&path.with_extension(LOCK_EXTENSION))? {
            n_live += 1;
        } else {
            finished.push(path);
        }
    }
    for lock in list_by_extension(day_dir, LOCK_EXTENSION)? {
        if !is_live(&lock)? {
            fsx::remove_file(&lock)?;
        }
    }
    Ok((finished, n_live))
}

/// Whether a writer holds this lock file.
pub(in crate::buffer) fn is_live(lock: &Path) -> Result<bool> {
    let file = match fs::File::open(lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.with_context(|| format!("open {}", lock.display()))?,
    };
    // Shared, so that two who ask at the same time do not take each other for the writer.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", lock.display())),
    }
}

/// Whether the writer of a segment is still at work.
pub(in crate::buffer) fn is_segment_live(segment: &Path) -> Result<bool> {
    is_live(&segment.with_extension(LOCK_EXTENSION))
}

/// A segment that this process writes.
pub(in crate::buffer) struct SegmentWriter {
    file: disk::File,
    path: PathBuf,
    lock_path: PathBuf,
    _lock: disk::File,
    frame: Vec<u8>,
    is_name_durable: bool,
    is_broken: bool,
    pub size_bytes: u64,
    pub begun: Instant,
}

impl SegmentWriter {
    /// Begins a segment of `day` for rows with the given metrics.
    pub fn create(
        open_dir: &Path,
        day: NaiveDate,
        metrics: &[String],
        schema_digest: &str,
        completes_rows: bool,
    ) -> Result<Self> {
        let guard = segments_lock(open_dir)?;
        guard.lock_shared().with_context(|| format!("lock {}", open_dir.display()))?;
        let dir = day_dir(open_dir, day);
        fsx::create_dir_durable(&dir)?;
        let (number, process, nonce) = (next_number(&dir)?, std::process::id(), fsx::nonce());
        let stem = dir.join(format!("{number:08}-{process}-{nonce:08x}"));
        let (path, lock_path) = (stem.with_extension(EXTENSION), stem.with_extension(LOCK_EXTENSION));
        let create =
            |path: &Path| disk::File::create_new(path).with_context(|| format!("create {}", path.display()));
        let lock = create(&lock_path)?;
        lock.lock().with_context(|| format!("lock {}", lock_path.display()))?;
        let mut file = create(&path)?;
        let header = encode_header(&Header::new(metrics, schema_digest, completes_rows));
        file.write_all(&header).with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            file,
            path,
            lock_path,
            _lock: lock,
            frame: Vec::new(),
            is_name_durable: false,
            is_broken: false,
            size_bytes: header.len() as u64,
            begun: Instant::now(),
        })
    }

    /// Writes `rows` as one frame; they are durable after the next [`SegmentWriter::sync`].
    pub fn append(&mut self, rows: &Rows, written_ms: i64) -> Result<()> {
        ensure!(!self.is_broken, "write {}: an earlier write failed", self.path.display());
        encode_frame(rows, written_ms, &mut self.frame)?;
        // A frame behind a torn one would never be read, so nothing may follow a failed write.
        self.is_broken = true;
        self.file.write_all(&self.frame).with_context(|| format!("write {}", self.path.display()))?;
        self.is_broken = false;
        self.size_bytes += self.frame.len() as u64;
        Ok(())
    }

    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all rows appended so far durable, and the name of the segment; those of its folders are.
    pub fn sync(&mut self) -> Result<()> {
        ensure!(!self.is_broken, "sync {}: an earlier write failed", self.path.display());
        // What a failed sync was to write may be lost although the next one succeeds.
        self.is_broken = true;
        self.file.sync_data().with_context(|| format!("sync {}", self.path.display()))?;
        if !self.is_name_durable {
            fsx::sync_dir(self.path.parent().expect("a segment lies in the folder of its day"))?;
            self.is_name_durable = true;
        }
        self.is_broken = false;
        Ok(())
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        // Tidiness only: a lock file that stays is removed by the next rotation.
        let _ = disk::remove_file(&self.lock_path);
    }
}

/// One more than the highest number in the folder, so that later segments sort behind earlier ones.
fn next_number(dir: &Path) -> Result<u64> {
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        name.split('-').next()?.parse::<u64>().ok()
    };
    Ok(list(dir)?.iter().filter_map(number).max().unwrap_or(0) + 1)
}

/// A name for a segment that takes the place of the one at `path` in the order of segments.
pub(super) fn name_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split('-').next().unwrap_or_default();
    path.with_file_name(format!("{number}-{}-{:08x}.{EXTENSION}", std::process::id(), fsx::nonce()))
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
fn encode_frame(rows: &Rows, written_ms: i64, frame: &mut Vec<u8>) -> Result<()> {
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

/// Where a good frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct Frame {
    pub offset: u64,
    pub written_ms: i64,
    pub n_rows: u32,
}

/// Reads a segment, from the first frame to the last good one.
pub(in crate::buffer) struct SegmentReader {
    path: PathBuf,
    file: BufReader<fs::File>,
    size_bytes: u64,
    /// `None` if the segment has no complete header, and so no rows.
    pub header: Option<Header>,
    /// End of the good part.
    offset: u64,
    payload: Vec<u8>,
}

impl SegmentReader {
    /// Opens a segment.
    ///
    /// - Errors: it cannot be read, or was written by a newer program.
    pub fn open(path: &Path) -> Result<Self> {
        let file = fs::File::open(path).with_context(|| format!("read {}", path.display()))?;
        let size_bytes = file.metadata().with_context(|| format!("read {}", path.display()))?.len();
        let mut file = BufReader::with_capacity(1 << 16, file);
        let (header, offset) = match read_header(&mut file) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => (None, 0),
            found => found.with_context(|| format!("read {}", path.display()))?,
        };
        if let Some(header) = &header {
            header.ensure_known().with_context(|| format!("read {}", path.display()))?;
        }
        Ok(Self { path: path.to_owned(), file, size_bytes, header, offset, payload: Vec::new() })
    }

    /// The next good frame with its rows, or `None` at the end of the good part.
    ///
    /// `columns[m]` is where metric `m` of this segment goes in `rows`; its other metrics become NaN.
    pub fn next_into(&mut self, columns: &[Option<usize>], rows: &mut Rows) -> Result<Option<Frame>> {
        let Some(frame) = self.next_frame()? else { return Ok(None) };
        let n_metrics = self.header.as_ref().map_or(0, |header| header.metrics.len());
        decode(&self.payload, n_metrics, columns, rows)
            .with_context(|| format!("read {} at byte {}", self.path.display(), frame.offset))?;
        Ok(Some(frame))
    }

    /// The frame at `offset`, which was good before, with its rows.
    pub fn read_at(&mut self, offset: u64, columns: &[Option<usize>], rows: &mut Rows) -> Result<()> {
        self.offset = offset;
        self.file.seek(SeekFrom::Start(offset)).with_context(|| format!("read {}", self.path.display()))?;
        let found = self.next_into(columns, rows)?;
        ensure!(found.is_some(), "{} changed at byte {offset} while it was read", self.path.display());
        Ok(())
    }

    /// Bytes behind the good part; call it after the last frame.
    pub fn n_bytes_cut(&self) -> u64 {
        self.size_bytes.saturating_sub(self.offset)
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        if self.header.is_none() {
            return Ok(None);
        }
        match self.read_frame() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            found => found.with_context(|| format!("read {}", self.path.display())),
        }
    }

    fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        let length = read_array::<4>(&mut self.file)?;
        let crc = u32::from_le_bytes(read_array(&mut self.file)?);
        let n_bytes = u32::from_le_bytes(length);
        let rest = self.size_bytes.saturating_sub(self.offset + FRAME_HEAD_BYTES);
        if !(16..=MAX_FRAME_BYTES).contains(&n_bytes) || u64::from(n_bytes) > rest {
            return Ok(None);
        }
        self.payload.resize(n_bytes as usize, 0);
        self.file.read_exact(&mut self.payload)?;
        if frame_crc(length, &self.payload) != crc {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += FRAME_HEAD_BYTES + u64::from(n_bytes);
        let (written_ms, n_rows) = frame_counts(&self.payload);
        Ok(Some(Frame { offset, written_ms, n_rows }))
    }
}

fn frame_counts(payload: &[u8]) -> (i64, u32) {
    let written_ms = i64::from_le_bytes(payload[..8].try_into().expect("at least 16 bytes"));
    let n_rows = u32::from_le_bytes(payload[8..12].try_into().expect("at least 16 bytes"));
    (written_ms, n_rows)
}

fn read_array<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
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

/// Rows in a segment, by its frame heads alone (payloads are skipped, checksums not checked).
pub(in crate::buffer) fn count_rows(path: &Path) -> Result<u64> {
    let mut reader = SegmentReader::open(path)?;
    let mut n_rows = 0;
    if reader.header.is_none() {
        return Ok(0);
    }
    while let Some((_, n)) = skip_frame(&mut reader).with_context(|| format!("read {}", path.display()))? {
        n_rows += u64::from(n);
    }
    Ok(n_rows)
}

/// When the newest frame of a segment was written, by its frame heads alone.
pub(in crate::buffer) fn last_written_ms(path: &Path) -> Result<Option<i64>> {
    let mut reader = SegmentReader::open(path)?;
    let mut last = None;
    if reader.header.is_none() {
        return Ok(None);
    }
    while let Some((written_ms, _)) =
        skip_frame(&mut reader).with_context(|| format!("read {}", path.display()))?
    {
        last = last.max(Some(written_ms));
    }
    Ok(last)
}

/// Time of writing and rows of the next frame, which is passed over.
fn skip_frame(reader: &mut SegmentReader) -> io::Result<Option<(i64, u32)>> {
    let rest = reader.size_bytes.saturating_sub(reader.offset);
    if rest < FRAME_HEAD_BYTES + 16 {
        return Ok(None);
    }
    let n_bytes = u32::from_le_bytes(read_array(&mut reader.file)?);
    let _crc: [u8; 4] = read_array(&mut reader.file)?;
    if n_bytes < 16 || u64::from(n_bytes) > rest - FRAME_HEAD_BYTES {
        return Ok(None);
    }
    let head: [u8; 16] = read_array(&mut reader.file)?;
    reader.file.seek_relative(i64::from(n_bytes) - 16)?;
    reader.offset += FRAME_HEAD_BYTES + u64::from(n_bytes);
    Ok(Some(frame_counts(&head)))
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

fn decode(payload: &[u8], n_metrics: usize, columns: &[Option<usize>], rows: &mut Rows) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::rows::Row;

    fn rows(first: i64, n: i64) -> Rows {
        let mut rows = Rows::new(2);
        for i in first..first + n {
            let status = (i % 2 == 0).then_some("healthy");
            let values = [i as f32, f32::NAN];
            rows.push(Row { time_ms: i, server: "a", profile: None, status, values: &values });
        }
        rows
    }

    /// A segment of three frames with one, two and three rows; its bytes, and where each frame ends.
    fn sample(dir: &Path) -> (PathBuf, Vec<u8>, Vec<usize>) {
        let metrics = ["cpu".to_owned(), "mem".to_owned()];
        let mut writer =
            SegmentWriter::create(dir, "2024-01-02".parse().unwrap(), &metrics, "digest", false).unwrap();
        let mut ends = Vec::new();
        for n in 1..=3 {
            writer.append(&rows(10 * n, n), n).unwrap();
            ends.push(writer.size_bytes as usize);
        }
        writer.sync().unwrap();
        let path = writer.path.clone();
        (path.clone(), fs::read(path).unwrap(), ends)
    }

    /// The times in a segment, with the second metric read as the only column.
    fn times(path: &Path) -> (Vec<i64>, u64) {
        let mut reader = SegmentReader::open(path).unwrap();
        let mut block = Rows::new(1);
        let mut times = Vec::new();
        while reader.next_into(&[Some(0), None], &mut block).unwrap().is_some() {
            times.extend(&block.time_ms);
            assert_eq!(block.values, block.time_ms.iter().map(|t| *t as f32).collect::<Vec<_>>());
        }
        (times, reader.n_bytes_cut())
    }

    #[test]
    fn a_tail_torn_at_any_byte_costs_only_what_was_not_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes, ends) = sample(dir.path());
        let all = [10, 20, 21, 30, 31, 32];
        for end in 0..=bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            let n_frames = ends.iter().filter(|frame_end| **frame_end <= end).count();
            let n_rows = n_frames * (n_frames + 1) / 2;
            assert_eq!(times(&path).0, all[..n_rows], "cut at {end}");
            assert_eq!(count_rows(&path).unwrap(), n_rows as u64, "cut at {end}");
        }
    }

    #[test]
    fn any_flipped_byte_ends_the_good_part_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes, ends) = sample(dir.path());
        let all = [10, 20, 21, 30, 31, 32];
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            let n_frames =
                if at < ends[0] { 0 } else { ends.iter().filter(|frame_end| **frame_end <= at).count() };
            let n_rows = n_frames * (n_frames + 1) / 2;
            let (found, n_cut) = times(&path);
            assert_eq!(found, all[..n_rows], "flipped at {at}");
            assert!(n_cut > 0);
        }
    }

    #[test]
    fn zeros_behind_the_last_frame_are_no_frame() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut bytes, _) = sample(dir.path());
        bytes.extend([0; 100]);
        fs::write(&path, &bytes).unwrap();
        assert_eq!((times(&path).0.len(), times(&path).1), (6, 100));
        assert_eq!(count_rows(&path).unwrap(), 6);
    }

    #[test]
    fn a_newer_format_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let header = br#"{"format":2,"schema_digest":"","metrics":[]}"#;
        let mut bytes = MAGIC.to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        bytes.extend(crc32fast::hash(header).to_le_bytes());
        let path = dir.path().join("x.seg");
        fs::write(&path, bytes).unwrap();
        assert!(format!("{:#}", SegmentReader::open(&path).err().unwrap()).contains("reads up to 1"));
    }

    #[test]
    fn a_segment_is_finished_only_when_its_writer_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let day = "2024-01-02".parse().unwrap();
        let writer = SegmentWriter::create(dir.path(), day, &[], "digest", false).unwrap();
        let folder = day_dir(dir.path(), day);
        assert_eq!(claim_finished(&folder).unwrap().1, 1);
        drop(writer);
        let (finished, n_live) = claim_finished(&folder).unwrap();
        assert_eq!((finished.len(), n_live), (1, 0));
        let later = SegmentWriter::create(dir.path(), day, &[], "digest", false).unwrap();
        assert!(later.path > finished[0]);
    }
}
