//! Text on its way to records: finds out what form it has and cuts it.

use anyhow::{Result, ensure};

use super::documents::{DocumentSplitter, opens_document};
use super::lines::{Line, LineSplitter};
use super::source::{Format, detect_text};

/// The first line is waited for up to this length before the form is decided.
const MAX_HEAD_BYTES: usize = 1 << 16;
/// Bytes that a compressed source may unpack to without a good record among them.
const MAX_BARREN_BYTES: u64 = 1 << 30;

/// Takes the records of a text.
pub(super) trait TakeText {
    /// Takes the record or line that begins at line `number`.
    fn take(&mut self, number: u64, text: Line<'_>, is_csv: bool) -> Result<()>;
    /// Good records so far.
    fn n_good(&self) -> u64;
}

/// What cuts the text.
enum Cutter {
    Lines { lines: LineSplitter, is_csv: bool },
    Documents(DocumentSplitter),
}

/// A text whose form shows in its first line.
pub(super) struct Text {
    format: Format,
    /// The names of time and server, which tell a CSV header.
    keys: [String; 2],
    is_compressed: bool,
    /// What came before the form was known.
    head: Vec<u8>,
    cutter: Option<Cutter>,
    n_bytes: u64,
    /// Bytes and good records when there was a good record last.
    fertile: (u64, u64),
}

impl Text {
    pub fn new(format: Format, keys: [String; 2], is_compressed: bool) -> Self {
        Self { format, keys, is_compressed, head: Vec::new(), cutter: None, n_bytes: 0, fertile: (0, 0) }
    }

    /// Takes the next part.
    ///
    /// - Errors: those of `taker`; a compressed source unpacks to far too much without a good record.
    pub fn push(&mut self, chunk: &[u8], taker: &mut dyn TakeText) -> Result<()> {
        self.n_bytes += chunk.len() as u64;
        if self.cutter.is_none() {
            self.head.extend_from_slice(chunk);
            if first_line(&self.head).is_some() || self.head.len() >= MAX_HEAD_BYTES {
                self.decide(taker)?;
            }
        } else {
            self.cut(chunk, taker)?;
        }
        self.ensure_fertile(taker.n_good())
    }

    /// Takes what is left when the source has ended.
    pub fn finish(&mut self, taker: &mut dyn TakeText) -> Result<()> {
        if self.cutter.is_none() {
            self.decide(taker)?;
        }
        match self.cutter.as_mut().expect("decided above") {
            Cutter::Lines { lines, is_csv } => {
                lines.finish(&mut |number, line| taker.take(number, line, *is_csv))
            }
            Cutter::Documents(documents) => {
                documents.finish(&mut |number, record| taker.take(number, record, false))
            }
        }
    }

    fn decide(&mut self, taker: &mut dyn TakeText) -> Result<()> {
        let head = std::mem::take(&mut self.head);
        let keys = [self.keys[0].as_str(), &self.keys[1]];
        let format = if self.format == Format::Auto { detect_text(&head, keys) } else { self.format };
        let is_csv = format == Format::Csv;
        let first = first_line(&head).unwrap_or(&head);
        self.cutter = Some(match !is_csv && opens_document(without_mark(first)) {
            true => Cutter::Documents(DocumentSplitter::default()),
            false => Cutter::Lines { lines: LineSplitter::default(), is_csv },
        });
        self.cut(&head, taker)
    }

    fn cut(&mut self, chunk: &[u8], taker: &mut dyn TakeText) -> Result<()> {
        match self.cutter.as_mut().expect("decided before") {
            Cutter::Lines { lines, is_csv } => {
                lines.push(chunk, &mut |number, line| taker.take(number, line, *is_csv))
            }
            Cutter::Documents(documents) => {
                documents.push(chunk, &mut |number, record| taker.take(number, record, false))
            }
        }
    }

    /// Kilobytes can unpack to years of reading; what holds no record for so long is given up.
    fn ensure_fertile(&mut self, n_good: u64) -> Result<()> {
        if n_good > self.fertile.1 {
            self.fertile = (self.n_bytes, n_good);
        }
        let n_barren = self.n_bytes - self.fertile.0;
        ensure!(
            !self.is_compressed || n_barren <= MAX_BARREN_BYTES,
            "its last {n_barren} bytes, unpacked, hold no good record; unpack it first if it is meant to be read"
        );
        Ok(())
    }
}

/// The first line that is not blank, if it is complete.
fn first_line(head: &[u8]) -> Option<&[u8]> {
    let start = head.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let rest = &head[start..];
    rest.iter().position(|byte| *byte == b'\n').map(|end| &rest[..end])
}

/// A text without the byte order mark that some writers begin with.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
