//! Gets the good frames out of a damaged segment, also those behind the damage.
//!
//! A reader stops at the first frame that does not match its checksum, because behind a torn one nothing was ever
//! acknowledged. Damage that came later has good frames behind it: they are found by looking at every byte for the head
//! of a frame that could be, and by its checksum.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::calendar::PLAUSIBLE_MS;
use crate::fsx;

use super::segment::{self, FRAME_HEAD_BYTES, Header, MAX_FRAME_BYTES};

/// Frame head, and the fixed part of a payload.
const LOOK_BYTES: usize = 24;
/// Bytes of a row without its metrics.
const ROW_BYTES: u64 = 8 + 3 * 4;
/// A header longer than this is not searched for a flipped bit.
const MAX_MENDED_HEADER: usize = 1 << 14;

/// What is good of a segment.
pub(in crate::buffer) struct Rescued {
    path: PathBuf,
    header: Header,
    /// Where the good frames lie, with their heads.
    frames: Vec<(u64, u64)>,
    pub n_rows: u64,
    /// Bytes that belong to nothing good.
    pub n_bad_bytes: u64,
    /// The header had to be mended or taken from elsewhere.
    pub is_header_mended: bool,
}

impl Rescued {
    /// Looks through the segment at `path`. `other` is taken for its header if its own cannot be mended and the frames
    /// have as many columns; without one they are lost.
    ///
    /// - Errors: the file cannot be read.
    pub fn of(path: &Path, other: &Header) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
            let size_bytes = file.get_ref().metadata()?.len();
            let (header, header_bytes, is_header_mended) = header_of(&mut file, other)?;
            let mut rescued = Self {
                path: path.to_owned(),
                header,
                frames: Vec::new(),
                n_rows: 0,
                n_bad_bytes: 0,
                is_header_mended,
            };
            rescued.find_frames(&mut file, header_bytes, size_bytes)?;
            Ok(rescued)
        };
        read().with_context(|| format!("read {}", path.display()))
    }

    fn find_frames(&mut self, file: &mut BufReader<File>, start: u64, end: u64) -> io::Result<()> {
        let n_metrics = self.header.metrics.len() as u64;
        let mut at = start;
        let mut n_good = 0;
        while let Some((offset, n_bytes, n_rows)) = next_frame(file, at, end, n_metrics)? {
            self.frames.push((offset, n_bytes));
            self.n_rows += n_rows;
            n_good += n_bytes;
            at = offset + n_bytes;
        }
        self.n_bad_bytes = end - start - n_good;
        Ok(())
    }

    pub fn is_whole(&self) -> bool {
        self.n_bad_bytes == 0 && !self.is_header_mended
    }

    /// Writes the good frames into a new segment beside the damaged one; `None` if there are none.
    pub fn write(&self) -> Result<Option<PathBuf>> {
        if self.frames.is_empty() {
            return Ok(None);
        }
        let path = segment::name_beside(&self.path);
        self.write_to(&path)?;
        Ok(Some(path))
    }

    /// Writes the good frames as a segment at `path`.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        fsx::write_durable_with(path, |target| {
            io::Write::write_all(target, &segment::encode_header(&self.header))?;
            let mut source = File::open(&self.path)?;
            for (offset, n_bytes) in &self.frames {
                source.seek(SeekFrom::Start(*offset))?;
                io::copy(&mut (&mut source).take(*n_bytes), target)?;
            }
            Ok(())
        })
    }
}

/// The header, where the frames begin, and whether it is not the one that was read.
fn header_of(file: &mut BufReader<File>, other: &Header) -> Result<(Header, u64, bool)> {
    let mut bytes = Vec::new();
    file.take(u64::from(segment::MAX_HEADER_BYTES) + 16).read_to_end(&mut bytes)?;
    if let (Some(header), n_bytes) = parse(&bytes) {
        header.ensure_known()?;
        return Ok((header, n_bytes, false));
    }
    for bit in 0..8 * bytes.len().min(MAX_MENDED_HEADER) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let (Some(header), n_bytes) = parse(&bytes) {
            return Ok((header, n_bytes, true));
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    Ok((other.clone(), 0, true))
}

fn parse(mut bytes: &[u8]) -> (Option<Header>, u64) {
    segment::read_header(&mut bytes).unwrap_or((None, 0))
}

/// The first good frame at or behind `from`: where it lies, its bytes with the head, its rows.
fn next_frame(
    file: &mut BufReader<File>,
    from: u64,
    end: u64,
    n_metrics: u64,
) -> io::Result<Option<(u64, u64, u64)>> {
    let mut at = from;
    file.seek(SeekFrom::Start(at))?;
    let mut look = [0; LOOK_BYTES];
    while at + LOOK_BYTES as u64 <= end {
        file.read_exact(&mut look)?;
        if let Some((n_bytes, n_rows)) = plausible(&look, end - at, n_metrics) {
            file.seek_relative(FRAME_HEAD_BYTES as i64 - LOOK_BYTES as i64)?;
            let mut payload = vec![0; n_bytes as usize];
            file.read_exact(&mut payload)?;
            let (length, crc) = look[..8].split_at(4);
            let length: [u8; 4] = length.try_into().expect("four bytes");
            if segment::frame_crc(length, &payload).to_le_bytes() == *crc {
                return Ok(Some((at, n_bytes + FRAME_HEAD_BYTES, n_rows)));
            }
            file.seek(SeekFrom::Start(at + 1))?;
        } else {
            file.seek_relative(1 - LOOK_BYTES as i64)?;
        }
        at += 1;
    }
    Ok(None)
}

/// Bytes of the payload and rows, if this can be the head of a frame; what a checksum costs is spent on those only.
fn plausible(look: &[u8; LOOK_BYTES], rest: u64, n_metrics: u64) -> Option<(u64, u64)> {
    let u32_at = |at: usize| u32::from_le_bytes(look[at..at + 4].try_into().expect("four bytes"));
    let n_bytes = u64::from(u32_at(0));
    let written_ms = i64::from_le_bytes(look[8..16].try_into().expect("eight bytes"));
    let (n_rows, n_texts) = (u64::from(u32_at(16)), u64::from(u32_at(20)));
    let is_inside = n_bytes <= u64::from(MAX_FRAME_BYTES) && n_bytes + FRAME_HEAD_BYTES <= rest;
    let row_bytes = n_rows * (ROW_BYTES + 4 * n_metrics);
    let is_filled = (1..=n_bytes).contains(&n_texts) && 16 + row_bytes + 4 * n_texts <= n_bytes;
    (is_inside && is_filled && n_rows > 0 && PLAUSIBLE_MS.contains(&written_ms)).then_some((n_bytes, n_rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::open::segment::{SegmentReader, SegmentWriter};
    use crate::buffer::rows::{Row, Rows};

    const N_FRAMES: i64 = 5;

    fn sample(dir: &Path) -> (PathBuf, Vec<u8>, Vec<usize>) {
        let metrics = ["cpu".to_owned(), "mem".to_owned()];
        let mut writer =
            SegmentWriter::create(dir, "2024-01-02".parse().unwrap(), &metrics, "digest", false).unwrap();
        let mut ends = vec![writer.size_bytes as usize];
        for frame in 0..N_FRAMES {
            let mut rows = Rows::new(2);
            for i in 0..=frame {
                rows.push(Row {
                    time_ms: 10 * frame + i,
                    server: "a",
                    profile: None,
                    status: None,
                    values: &[1.0, 2.0],
                });
            }
            writer.append(&rows, frame).unwrap();
            ends.push(writer.size_bytes as usize);
        }
        writer.sync().unwrap();
        let path = writer.path().to_owned();
        drop(writer);
        (path.clone(), std::fs::read(path).unwrap(), ends)
    }

    fn other(metrics: &[&str]) -> Header {
        Header::new(&metrics.iter().map(|name| name.to_string()).collect::<Vec<_>>(), "other", false)
    }

    fn times(path: &Path) -> Vec<i64> {
        let mut reader = SegmentReader::open(path).unwrap();
        let (mut rows, mut times) = (Rows::new(0), Vec::new());
        while reader.next_into(&[], &mut rows).unwrap().is_some() {
            times.extend(&rows.time_ms);
        }
        assert_eq!(reader.n_bytes_cut(), 0);
        times
    }

    #[test]
    fn a_flipped_bit_costs_its_frame_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes, ends) = sample(dir.path());
        assert!(Rescued::of(&path, &other(&[])).unwrap().is_whole());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, damaged).unwrap();
            let rescued = Rescued::of(&path, &other(&[])).unwrap();
            assert!(!rescued.is_whole(), "byte {at}");
            let hit = ends.iter().position(|end| at < *end).unwrap() as i64 - 1;
            let expected: Vec<i64> = (0..N_FRAMES)
                .filter(|frame| *frame != hit)
                .flat_map(|frame| (0..=frame).map(move |i| 10 * frame + i))
                .collect();
            let mended = rescued.write().unwrap().unwrap();
            assert_eq!(times(&mended), expected, "byte {at}");
            assert_eq!(SegmentReader::open(&mended).unwrap().header.unwrap().metrics, ["cpu", "mem"]);
            assert_eq!(rescued.n_rows as usize, expected.len());
            std::fs::remove_file(mended).unwrap();
        }
    }

    #[test]
    fn frames_behind_a_lost_header_need_another_of_their_shape() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes, ends) = sample(dir.path());
        let mut damaged = bytes;
        damaged[..ends[0] - 4].fill(0xaa);
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(Rescued::of(&path, &other(&["x", "y"])).unwrap().n_rows, 15);
        assert_eq!(Rescued::of(&path, &other(&["x", "y", "z", "u", "v", "w"])).unwrap().n_rows, 0);
    }
}
