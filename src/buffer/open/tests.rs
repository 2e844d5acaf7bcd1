//! Segments: what is written is read, and what is damaged costs no more than it must.

use std::fs;
use std::path::{Path, PathBuf};

use super::flaws::{Damage, Flaws};
use super::frame::{Header, MAGIC};
use super::reader::{Contents, SegmentReader, last_written_ms};
use super::rescue::Rescued;
use super::segment::{claim_finished, day_dir};
use super::writer::SegmentWriter;
use crate::buffer::rows::{Row, Rows};

/// Rows of two metrics with the times `first`, `first + 1`, ...
fn rows(first: i64, n: i64) -> Rows {
    let mut rows = Rows::new(2);
    for i in first..first + n {
        let status = (i % 2 == 0).then_some("healthy");
        let values = [i as f32, f32::NAN];
        rows.push(Row { time_ms: i, server: "a", profile: None, status, values: &values });
    }
    rows
}

/// The times of the frames in [`sample`].
const TIMES: [&[i64]; 3] = [&[10], &[20, 21], &[30, 31, 32]];

/// A segment of three frames with one, two and three rows; its bytes, and where its header and each frame ends.
fn sample(dir: &Path) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let metrics = ["cpu".to_owned(), "mem".to_owned()];
    let mut writer =
        SegmentWriter::create(dir, "2024-01-02".parse().unwrap(), &metrics, "digest", false).unwrap();
    let mut ends = vec![writer.size_bytes as usize];
    for n in 1..=3 {
        writer.append(&rows(10 * n, n), n).unwrap();
        ends.push(writer.size_bytes as usize);
    }
    writer.sync().unwrap();
    let path = writer.path().to_owned();
    (path.clone(), fs::read(path).unwrap(), ends)
}

/// The times in a segment, with the first metric read as the only column.
fn read(path: &Path) -> (Vec<i64>, Flaws) {
    let mut reader = SegmentReader::open(path, &other(&[])).unwrap();
    let mut block = Rows::new(1);
    let mut times = Vec::new();
    while reader.next_into(&[Some(0), None], &mut block).unwrap().is_some() {
        times.extend(&block.time_ms);
        assert_eq!(block.values, block.time_ms.iter().map(|t| *t as f32).collect::<Vec<_>>());
    }
    assert_eq!(
        Contents::of(path, &other(&[])).unwrap(),
        Contents { n_rows: times.len() as u64, flaws: reader.flaws() },
        "with and without decoding"
    );
    (times, reader.flaws())
}

fn other(metrics: &[&str]) -> Header {
    Header::new(&metrics.iter().map(|name| name.to_string()).collect::<Vec<_>>(), "other", false)
}

/// The times of all frames but `hit`.
fn times_without(hit: Option<usize>) -> Vec<i64> {
    let frames = TIMES.iter().enumerate().filter(|(frame, _)| Some(*frame) != hit);
    frames.flat_map(|(_, times)| times.to_vec()).collect()
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_what_was_not_complete_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, ends) = sample(dir.path());
    for end in 0..=bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        let n_frames = ends[1..].iter().filter(|frame_end| **frame_end <= end).count();
        let good = ends.iter().copied().rfind(|frame_end| *frame_end <= end).unwrap_or(0);
        let (times, flaws) = read(&path);
        assert_eq!(times, TIMES[..n_frames].concat(), "cut at {end}");
        assert_eq!(flaws, Flaws::torn((end - good) as u64), "cut at {end}");
    }
}

#[test]
fn any_flipped_bit_costs_its_frame_and_no_other_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, ends) = sample(dir.path());
    for bit in 0..8 * bytes.len() {
        let at = bit / 8;
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (bit % 8);
        fs::write(&path, damaged).unwrap();
        let hit = ends.iter().position(|end| at < *end).unwrap();
        let (times, flaws) = read(&path);
        assert_eq!(times, times_without(hit.checked_sub(1)), "bit {bit}");
        let start = if hit == 0 { 0 } else { ends[hit - 1] };
        let n_bytes = (ends[hit] - start) as u64;
        assert_eq!(flaws.n_bytes_torn, 0, "bit {bit}");
        let damage = flaws.damage.unwrap_or_else(|| panic!("bit {bit} is not noticed"));
        assert_eq!(damage.n_bytes, n_bytes, "bit {bit}");
        assert_eq!(damage.n_rows_lost, Some(hit as u64), "bit {bit}");
        let newest = if hit == 3 { 2 } else { 3 };
        assert!(last_written_ms(&path, &other(&[])).unwrap().unwrap() >= newest, "bit {bit}");
    }
}

#[test]
fn several_damaged_frames_are_counted_together() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut bytes, ends) = sample(dir.path());
    for end in &ends[1..=2] {
        bytes[end - 1] ^= 1;
    }
    fs::write(&path, &bytes).unwrap();
    let (times, flaws) = read(&path);
    assert_eq!(times, TIMES[2]);
    let n_bytes = (ends[2] - ends[0]) as u64;
    assert_eq!(flaws.damage, Some(Damage { n_bytes, n_rows_lost: Some(3) }));
    // And a torn tail behind them is told apart.
    bytes.extend(b"torn");
    fs::write(&path, &bytes).unwrap();
    assert_eq!(read(&path).1, Flaws { n_bytes_torn: 4, ..flaws });
}

#[test]
fn a_mended_segment_has_the_good_frames_and_no_flaw() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, ends) = sample(dir.path());
    assert_eq!(Rescued::of(&path, &other(&[])).unwrap().damage, None);
    for (at, hit) in [(9, None), (ends[0] - 1, None), (ends[1] - 1, Some(0)), (ends[3] - 1, Some(2))] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 8;
        fs::write(&path, damaged).unwrap();
        let rescued = Rescued::of(&path, &other(&[])).unwrap();
        assert!(rescued.damage.is_some(), "byte {at}");
        let mended = rescued.write().unwrap().unwrap();
        assert_eq!(read(&mended), (times_without(hit), Flaws::default()), "byte {at}");
        assert_eq!(SegmentReader::open(&mended, &other(&[])).unwrap().header.metrics, ["cpu", "mem"]);
        assert_eq!(rescued.n_rows as usize, times_without(hit).len());
        fs::remove_file(mended).unwrap();
    }
}

#[test]
fn frames_behind_a_lost_header_are_read_by_a_spare_one_of_their_shape() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, ends) = sample(dir.path());
    let mut damaged = bytes.clone();
    damaged[..ends[0] - 4].fill(0xaa);
    fs::write(&path, &damaged).unwrap();
    let read_by = |spare: &[&str]| Contents::of(&path, &other(spare)).unwrap();
    // Of another shape: nothing can be read, and that is no torn file.
    let n_bytes = bytes.len() as u64;
    assert_eq!(read_by(&[]), Contents { n_rows: 0, flaws: Flaws::damaged(n_bytes, None) });
    assert_eq!(read_by(&["x", "y", "z", "u", "v", "w"]).flaws, Flaws::damaged(n_bytes, None));
    assert_eq!(Rescued::of(&path, &other(&["x", "y"])).unwrap().n_rows, 6);
    // Nobody knows what stood in front of the first good frame, unless a header as long as the spare one fills that place.
    assert_eq!(read_by(&["x", "y"]), Contents { n_rows: 6, flaws: Flaws::damaged(ends[0] as u64, None) });
    let spare = Header::new(&["cpu".to_owned(), "mem".to_owned()], "digest", false);
    let whole = Contents { n_rows: 6, flaws: Flaws::damaged(ends[0] as u64, Some(0)) };
    assert_eq!(Contents::of(&path, &spare).unwrap(), whole);
    assert_eq!(last_written_ms(&path, &spare).unwrap(), Some(3));
}

#[test]
fn zeros_behind_the_last_frame_are_no_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut bytes, _) = sample(dir.path());
    bytes.extend([0; 100]);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(read(&path), (times_without(None), Flaws::torn(100)));
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
    assert!(
        format!("{:#}", SegmentReader::open(&path, &other(&[])).err().unwrap()).contains("reads up to 1")
    );
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
    assert!(later.path() > finished[0].as_path());
}
