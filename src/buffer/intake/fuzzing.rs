//! The parsers of [`super`] on any bytes; see [`crate::buffer::fuzzing`].

use anyhow::Result;

use super::csv_rows::Header;
use super::lines::Line;
use super::names::Fields;
use super::ndjson::LineReader;
use super::record::{Candidate, Rules, UnknownFields};
use super::source::{Format, Input, Source};
use super::telegraf::{Series, TelegrafReader, is_telegraf};
use super::text::{TakeText, Text};
use crate::buffer::fuzzing::{reader_of, site};
use crate::buffer::sealed::parquet_rows::Slice;
use crate::schema::Metric;

/// Unpacked bytes after which a packed text is left.
const MAX_UNPACKED: u64 = 1 << 24;

fn fields() -> (Vec<Metric>, Fields) {
    let (schema, input, columns) = site();
    let fields = Fields::of(&schema, &input, &columns);
    (schema.metrics, fields)
}

/// What passes the rules is a row that can be filed.
fn judge(candidate: &mut Candidate, metrics: &[Metric]) {
    let status_values = &Default::default();
    let rules = Rules { metrics, min_ms: 0, max_ms: 4_000_000_000_000, status_values };
    if rules.check(candidate).is_ok() {
        let row = candidate.row();
        assert!((rules.min_ms..=rules.max_ms).contains(&row.time_ms));
        assert!(!row.server.is_empty() && !row.server.contains(['/', '\\', '\0', '\n']));
        assert!(row.values.iter().all(|value| !value.is_infinite()));
    }
}

pub fn json(data: &[u8]) {
    let (metrics, fields) = fields();
    let mut candidate = Candidate::new(metrics.len(), fields.times());
    let reader = LineReader {
        fields: &fields,
        metrics: &metrics,
        candidate: &mut candidate,
        unknown: &mut UnknownFields::default(),
        emit: &mut |candidate, _| judge(candidate, &metrics),
    };
    let _ = reader.read(data);
}

pub fn telegraf(data: &[u8]) {
    let _ = is_telegraf(data);
    let (metrics, fields) = fields();
    let mut candidate = Candidate::new(metrics.len(), fields.times());
    let reader = TelegrafReader {
        fields: &fields,
        metrics: &metrics,
        candidate: &mut candidate,
        unknown: &mut UnknownFields::default(),
        series: &mut Series::default(),
        n_unmapped: &mut 0,
        emit: &mut |candidate, _| judge(candidate, &metrics),
    };
    let _ = reader.read(data);
}

pub fn csv(data: &[u8]) {
    let (metrics, fields) = fields();
    let mut lines = data.split(|byte| *byte == b'\n');
    let Ok(mut header) = Header::parse(lines.next().unwrap_or_default(), &fields) else { return };
    let mut candidate = Candidate::new(metrics.len(), fields.times());
    for line in lines {
        if header.read(line, &metrics, &mut candidate, &mut UnknownFields::default()).is_ok() {
            judge(&mut candidate, &metrics);
        }
    }
}

pub fn judge_slice(rows: &Slice) {
    let (metrics, fields) = fields();
    let mut candidate = Candidate::new(metrics.len(), fields.times());
    for idx in 0..rows.len() {
        rows.fill(idx, &mut candidate, &metrics);
        judge(&mut candidate, &metrics);
    }
}

/// Collects the records of a text.
#[derive(Default)]
struct Collected(Vec<(u64, Vec<u8>)>);

impl TakeText for Collected {
    fn take(&mut self, number: u64, text: Line<'_>, _is_csv: bool) -> Result<()> {
        let text = match text {
            Line::Whole(text) => text,
            Line::TooLong(head) => head,
        };
        self.0.push((number, text.to_vec()));
        Ok(())
    }

    fn n_good(&self) -> u64 {
        0
    }
}

/// The records of a text do not depend on the chunks it comes in.
pub fn text(data: &[u8], chunk_bytes: usize) {
    let cut = |chunk_bytes: usize| -> Result<Vec<(u64, Vec<u8>)>> {
        let source = Source::reader("fuzz", reader_of(data));
        let Input::Text { reader, format, is_compressed } = Input::open(source, Format::Auto)? else {
            return Ok(Vec::new());
        };
        let mut reader = std::io::Read::take(reader, MAX_UNPACKED);
        let mut text = Text::new(format, ["timestamp".into(), "server_name".into()], is_compressed);
        let mut found = Collected::default();
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut unpacked)?;
        for chunk in unpacked.chunks(chunk_bytes) {
            text.push(chunk, &mut found)?;
        }
        text.finish(&mut found)?;
        Ok(found.0)
    };
    if let (Ok(a), Ok(b)) = (cut(chunk_bytes), cut(1 << 20)) {
        assert!(a == b, "chunks of {chunk_bytes} give other records");
    }
}
