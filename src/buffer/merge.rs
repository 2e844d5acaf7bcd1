//! All rows of one day, from its sealed files and its segments, sorted by server and time, each key once.
//!
//! A day may be larger than memory: a first pass counts rows per server, then servers are sorted in groups that
//! fit a budget. Where a (server, timestamp) appears more than once the last row wins: sealed files come first,
//! then frames of segments in the order they were written. A row of a segment that completes rows takes what it does
//! not give itself from the rows before it, up to the last that replaces.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::open::flaws::{Damage, Flaws};
use super::open::frame::Header;
use super::open::reader::SegmentReader;
use super::rows::{NO_TEXT, Rows};
use super::sealed::parquet_rows::ParquetFile;

/// Memory that the rows being sorted may take.
const SORT_BYTES: usize = 512 << 20;

/// Where the rows of a day lie.
#[derive(Clone, Debug)]
pub(super) struct DayInputs {
    pub sealed: Vec<PathBuf>,
    pub segments: Vec<PathBuf>,
    /// Only rows with event times in `[start, end)`; all, if `None`.
    pub bounds: Option<(i64, i64)>,
    /// Taken for the header of a segment that lost its own.
    pub spare: Header,
}

impl DayInputs {
    /// Segments alone.
    pub fn of_segments(segments: Vec<PathBuf>, spare: Header) -> Self {
        Self { sealed: Vec::new(), segments, bounds: None, spare }
    }

    fn open_segment(&self, segment: usize) -> Result<SegmentReader> {
        SegmentReader::open(&self.segments[segment], &self.spare)
    }
}

/// What was found of one source of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub n_rows: u64,
    pub damage: Option<Damage>,
}

/// One block of rows in a segment.
struct FrameAt {
    written_ms: i64,
    segment: usize,
    offset: u64,
    time_range_ms: (i64, i64),
}

/// What a first pass over a day found.
#[derive(Default)]
pub(super) struct Survey {
    /// Good frames in the order they were written.
    frames: Vec<FrameAt>,
    /// Rows per server, duplicates included.
    pub servers: BTreeMap<String, u64>,
    /// Rows per sealed file, in the order of the inputs.
    pub n_sealed_rows: Vec<u64>,
    /// Rows per segment, in the order of the inputs.
    pub n_segment_rows: Vec<u64>,
    /// Rows of sealed files without a readable key; they are left out.
    pub n_without_key: u64,
    /// Smallest and largest event time.
    pub time_range_ms: Option<(i64, i64)>,
    pub has_profile: bool,
    pub has_status: bool,
    /// Every metric column of any input, those of the schema first.
    pub columns: Vec<String>,
    /// What of each segment cannot be read, in the order of the inputs.
    pub flaws: Vec<Flaws>,
}

impl Survey {
    /// Reads everything once, checking it.
    ///
    /// - Errors: a file cannot be read; it is named.
    pub fn of(inputs: &DayInputs, schema_columns: &[String]) -> Result<Self> {
        let mut survey = Survey { columns: schema_columns.to_vec(), ..Self::default() };
        for path in &inputs.sealed {
            let mut file = ParquetFile::open(path)?;
            survey.add_columns(&file.numeric_columns());
            survey.has_profile |= file.has_column("profile");
            survey.has_status |= file.has_column("status");
            let mut n_rows = 0;
            let n_without_key = file
                .read_rows(&[], inputs.bounds, &mut |rows| {
                    n_rows += rows.len() as u64;
                    survey.count(rows, inputs.bounds);
                    Ok(())
                })
                .with_context(|| format!("read {}", path.display()))?;
            survey.n_without_key += n_without_key;
            survey.n_sealed_rows.push(n_rows);
        }
        for segment in 0..inputs.segments.len() {
            survey.add_segment(segment, inputs)?;
        }
        survey.frames.sort_by_key(|frame| (frame.written_ms, frame.segment, frame.offset));
        Ok(survey)
    }

    fn add_segment(&mut self, segment: usize, inputs: &DayInputs) -> Result<()> {
        let mut reader = inputs.open_segment(segment)?;
        self.add_columns(&reader.header.metrics);
        let mut rows = Rows::new(0);
        let mut n_rows = 0;
        while let Some(frame) = reader.next_into(&[], &mut rows)? {
            n_rows += self.count(&rows, inputs.bounds);
            let (min, max) = (rows.time_ms.iter().min(), rows.time_ms.iter().max());
            let (Some(min), Some(max)) = (min, max) else { continue };
            self.frames.push(FrameAt {
                written_ms: frame.written_ms,
                segment,
                offset: frame.offset,
                time_range_ms: (*min, *max),
            });
        }
        self.n_segment_rows.push(n_rows);
        self.flaws.push(reader.flaws());
        Ok(())
    }

    fn add_columns(&mut self, names: &[String]) {
        for name in names {
            if !self.columns.contains(name) {
                self.columns.push(name.clone());
            }
        }
    }

    /// Counts the rows of a batch that lie in `bounds`.
    fn count(&mut self, rows: &Rows, bounds: Option<(i64, i64)>) -> u64 {
        let mut n_per_text = vec![0; rows.texts.all().len()];
        let mut n_rows = 0;
        for (idx, time_ms) in rows.time_ms.iter().enumerate() {
            if bounds.is_some_and(|(start, end)| !(start..end).contains(time_ms)) {
                continue;
            }
            n_rows += 1;
            n_per_text[rows.server[idx] as usize] += 1;
            self.has_profile |= rows.texts.get(rows.profile[idx]).is_some();
            self.has_status |= rows.texts.get(rows.status[idx]).is_some();
            let (min, max) = self.time_range_ms.unwrap_or((*time_ms, *time_ms));
            self.time_range_ms = Some((min.min(*time_ms), max.max(*time_ms)));
        }
        for (text, n) in rows.texts.all().iter().zip(n_per_text).filter(|(_, n)| *n > 0) {
            match self.servers.get_mut(text) {
                Some(count) => *count += n,
                None => drop(self.servers.insert(text.clone(), n)),
            }
        }
        n_rows
    }

    /// What was found of each input: sealed files, then segments.
    pub fn found_by_source(&self) -> Vec<Found> {
        let whole = |n_rows: &u64| Found { n_rows: *n_rows, damage: None };
        let segments = self.n_segment_rows.iter().zip(&self.flaws);
        let of_segment = |(n_rows, flaws): (&u64, &Flaws)| Found { n_rows: *n_rows, damage: flaws.damage };
        self.n_sealed_rows.iter().map(whole).chain(segments.map(of_segment)).collect()
    }

    pub fn n_rows(&self) -> u64 {
        self.servers.values().sum()
    }

    /// Consecutive servers whose rows fit into memory together.
    fn groups(&self, max_rows: u64) -> Vec<HashSet<&str>> {
        let mut groups = vec![HashSet::new()];
        let mut n_in_group = 0;
        for (server, n_rows) in &self.servers {
            if n_in_group > 0 && n_in_group + n_rows > max_rows {
                groups.push(HashSet::new());
                n_in_group = 0;
            }
            groups.last_mut().expect("there is always one").insert(server.as_str());
            n_in_group += n_rows;
        }
        groups
    }
}

/// Some servers of a day: all their rows, and the order in which to take them.
pub(super) struct Sorted {
    pub rows: Rows,
    /// Row numbers by server name and time, each key once.
    pub order: Vec<u32>,
}

/// Passes the rows of a day to `each`, group by group, with the metrics `columns`; returns the duplicates dropped.
pub(super) fn for_each_sorted(
    inputs: &DayInputs,
    survey: &Survey,
    columns: &[String],
    each: &mut dyn FnMut(&Sorted) -> Result<()>,
) -> Result<u64> {
    let max_rows = (SORT_BYTES / Rows::row_bytes(columns.len())) as u64;
    sort_in_groups(inputs, survey, columns, max_rows, each)
}

fn sort_in_groups(
    inputs: &DayInputs,
    survey: &Survey,
    columns: &[String],
    max_rows: u64,
    each: &mut dyn FnMut(&Sorted) -> Result<()>,
) -> Result<u64> {
    let mut n_duplicates = 0;
    for group in survey.groups(max_rows) {
        let (mut rows, completing) = collect(inputs, survey, columns, &group)?;
        let order = sort(&mut rows, &completing);
        n_duplicates += (rows.len() - order.len()) as u64;
        each(&Sorted { rows, order })?;
    }
    Ok(n_duplicates)
}

/// The rows of the servers in `group`, in the order in which later ones win, and which of them complete others.
fn collect(
    inputs: &DayInputs,
    survey: &Survey,
    columns: &[String],
    group: &HashSet<&str>,
) -> Result<(Rows, Vec<Range<u32>>)> {
    let mut found = Rows::new(columns.len());
    let mut completing = Vec::new();
    for path in &inputs.sealed {
        let mut take = |rows: &Rows| {
            take_group(rows, inputs.bounds, group, &mut found);
            Ok(())
        };
        ParquetFile::open(path)?
            .read_rows(columns, inputs.bounds, &mut take)
            .with_context(|| format!("read {}", path.display()))?;
    }
    let mut rows = Rows::new(columns.len());
    let mut open: Option<(usize, SegmentReader, Vec<Option<usize>>)> = None;
    for frame in &survey.frames {
        let (min, max) = frame.time_range_ms;
        if inputs.bounds.is_some_and(|(start, end)| max < start || min >= end) {
            continue;
        }
        if open.as_ref().is_none_or(|(segment, ..)| *segment != frame.segment) {
            let reader = inputs.open_segment(frame.segment)?;
            let targets = targets_of(&reader, columns);
            open = Some((frame.segment, reader, targets));
        }
        let (_, reader, targets) = open.as_mut().expect("opened above");
        reader.read_at(frame.offset, targets, &mut rows)?;
        let first = found.len() as u32;
        take_group(&rows, inputs.bounds, group, &mut found);
        if reader.header.completes_rows {
            completing.push(first..found.len() as u32);
        }
    }
    Ok((found, completing))
}

/// For each metric of a segment its position in `columns`.
fn targets_of(reader: &SegmentReader, columns: &[String]) -> Vec<Option<usize>> {
    let metrics = &reader.header.metrics;
    metrics.iter().map(|name| columns.iter().position(|column| column == name)).collect()
}

fn take_group(rows: &Rows, bounds: Option<(i64, i64)>, group: &HashSet<&str>, found: &mut Rows) {
    let is_wanted: Vec<bool> = rows.texts.all().iter().map(|text| group.contains(text.as_str())).collect();
    for idx in 0..rows.len() {
        let is_inside = bounds.is_none_or(|(start, end)| (start..end).contains(&rows.time_ms[idx]));
        if is_inside && is_wanted[rows.server[idx] as usize] {
            found.push(rows.row(idx));
        }
    }
}

/// Row numbers by server name and time; of rows with the same key only the last, completed where it is to be.
fn sort(rows: &mut Rows, completing: &[Range<u32>]) -> Vec<u32> {
    let texts = rows.texts.all();
    let mut by_name: Vec<u32> = (0..texts.len() as u32).collect();
    by_name.sort_by(|a, b| texts[*a as usize].cmp(&texts[*b as usize]));
    let mut rank = vec![0u32; texts.len()];
    for (position, text) in by_name.iter().enumerate() {
        rank[*text as usize] = position as u32;
    }
    let key = |rows: &Rows, idx: u32| (rank[rows.server[idx as usize] as usize], rows.time_ms[idx as usize]);
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    if !order.is_sorted_by(|a, b| key(rows, *a) < key(rows, *b)) {
        order.sort_unstable_by_key(|idx| (key(rows, *idx), std::cmp::Reverse(*idx)));
        if !completing.is_empty() {
            let runs = order.chunk_by(|a, b| key(rows, *a) == key(rows, *b));
            let runs: Vec<&[u32]> = runs.filter(|run| run.len() > 1).collect();
            runs.into_iter().for_each(|run| complete(rows, run, completing));
        }
        order.dedup_by_key(|idx| key(rows, *idx));
    }
    order
}

/// Gives the first row of `run` (rows of one key, newest first) what it lacks, from the rows that it completes.
fn complete(rows: &mut Rows, run: &[u32], completing: &[Range<u32>]) {
    let completes = |idx: u32| {
        let after = completing.partition_point(|range| range.end <= idx);
        completing.get(after).is_some_and(|range| range.contains(&idx))
    };
    let newest = run[0] as usize;
    for pair in run.windows(2).take_while(|pair| completes(pair[0])) {
        let older = pair[1] as usize;
        for metric in 0..rows.n_metrics {
            let value = rows.values[newest * rows.n_metrics + metric];
            if value.is_nan() {
                rows.values[newest * rows.n_metrics + metric] = rows.values[older * rows.n_metrics + metric];
            }
        }
        for labels in [&mut rows.profile, &mut rows.status] {
            if labels[newest] == NO_TEXT {
                labels[newest] = labels[older];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::open::segment::{day_dir, list};
    use crate::buffer::open::writer::SegmentWriter;
    use crate::buffer::rows::Row;

    fn rows(keys: &[(&str, i64, f32)]) -> Rows {
        let mut rows = Rows::new(1);
        for (server, time_ms, value) in keys {
            rows.push(Row { time_ms: *time_ms, server, profile: None, status: None, values: &[*value] });
        }
        rows
    }

    #[test]
    fn of_rows_with_the_same_key_the_last_wins() {
        let mut rows = rows(&[("b", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0), ("a", 1, 4.0), ("b", 1, 5.0)]);
        assert_eq!(sort(&mut rows, &[]), [3, 1, 4]);
    }

    #[test]
    fn rows_that_complete_take_the_rest_from_those_before_them() {
        let mut rows = Rows::new(3);
        let gap = f32::NAN;
        for (status, values) in [
            (None, [9.0, 9.0, 9.0]),
            (Some("up"), [1.0, gap, gap]),
            (None, [2.0, 3.0, gap]),
            (Some("down"), [gap, 4.0, gap]),
        ] {
            rows.push(Row { time_ms: 1, server: "a", profile: None, status, values: &values });
        }
        // The second row replaces the first; the last two complete it.
        assert_eq!(sort(&mut rows, std::slice::from_ref(&(2..4))), [3]);
        let row = rows.row(3);
        assert_eq!((row.status, &row.values[..2]), (Some("down"), &[2.0, 4.0][..]));
        assert!(row.values[2].is_nan());
    }

    #[test]
    fn small_groups_give_what_one_group_gives() {
        let dir = tempfile::tempdir().unwrap();
        let day = "1970-01-01".parse().unwrap();
        let columns = ["cpu".to_owned()];
        let mut first = SegmentWriter::create(dir.path(), day, &columns, "", false).unwrap();
        let mut second = SegmentWriter::create(dir.path(), day, &columns, "", false).unwrap();
        // Written alternately: the order of writing decides, not that of the segments.
        second.append(&rows(&[("a", 1, 1.0), ("c", 1, 1.0), ("b", 9, 1.0)]), 10).unwrap();
        first.append(&rows(&[("c", 1, 2.0), ("b", 2, 2.0)]), 20).unwrap();
        second.append(&rows(&[("b", 2, 3.0), ("d", 1, 3.0)]), 30).unwrap();
        let segments = list(&day_dir(dir.path(), day)).unwrap();
        let inputs = DayInputs::of_segments(segments, Header::new(&columns, "", false));
        let survey = Survey::of(&inputs, &columns).unwrap();
        assert_eq!(survey.n_rows(), 7);
        for max_rows in [1, 2, 3, 100] {
            let mut found = Vec::new();
            let n_duplicates = sort_in_groups(&inputs, &survey, &columns, max_rows, &mut |sorted| {
                for idx in &sorted.order {
                    let row = sorted.rows.row(*idx as usize);
                    found.push(format!("{}{}={}", row.server, row.time_ms, row.values[0]));
                }
                Ok(())
            });
            assert_eq!(found, ["a1=1", "b2=3", "b9=1", "c1=2", "d1=3"], "groups of {max_rows}");
            assert_eq!(n_duplicates.unwrap(), 2);
        }
    }
}
