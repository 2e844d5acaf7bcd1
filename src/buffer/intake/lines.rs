//! Cuts a stream of bytes into lines with bounded memory, however long a line is.

use anyhow::Result;

/// Longest line taken, in bytes.
pub(in crate::buffer) const MAX_LINE_BYTES: usize = 1 << 20;
/// Longest line taken that holds a batch (`{"records": [...]}`, `{"metrics": [...]}` or a JSON array), in bytes.
pub(in crate::buffer) const MAX_BATCH_BYTES: usize = 32 << 20;
/// What is kept of a line that is too long.
pub(super) const HEAD_BYTES: usize = 4096;

/// One line without its line break.
pub(in crate::buffer) enum Line<'a> {
    Whole(&'a [u8]),
    /// Over the limit; its first bytes.
    TooLong(&'a [u8]),
}

/// Takes chunks of any size, gives lines. Lines are counted from 1.
#[derive(Default)]
pub(in crate::buffer) struct LineSplitter {
    partial: Vec<u8>,
    is_skipping: bool,
    n_lines: u64,
}

impl LineSplitter {
    /// Passes every line that `chunk` completes to `each`, with its number.
    pub fn push(
        &mut self,
        mut chunk: &[u8],
        each: &mut dyn FnMut(u64, Line<'_>) -> Result<()>,
    ) -> Result<()> {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = (&chunk[..end], &chunk[end + 1..]);
            chunk = rest;
            if self.partial.is_empty() && !self.is_skipping {
                self.n_lines += 1;
                each(self.n_lines, whole_or_too_long(head))?;
            } else {
                self.keep(head);
                self.emit(each)?;
            }
        }
        self.keep(chunk);
        Ok(())
    }

    /// Passes the last line, if the stream did not end with a line break.
    pub fn finish(&mut self, each: &mut dyn FnMut(u64, Line<'_>) -> Result<()>) -> Result<()> {
        if self.partial.is_empty() && !self.is_skipping { Ok(()) } else { self.emit(each) }
    }

    fn keep(&mut self, part: &[u8]) {
        if self.is_skipping {
            return;
        }
        self.partial.extend_from_slice(part);
        if self.partial.len() > limit_of(&self.partial) {
            self.is_skipping = true;
            self.partial.truncate(HEAD_BYTES);
            self.partial.shrink_to(MAX_LINE_BYTES);
        }
    }

    fn emit(&mut self, each: &mut dyn FnMut(u64, Line<'_>) -> Result<()>) -> Result<()> {
        self.n_lines += 1;
        let line =
            if self.is_skipping { Line::TooLong(&self.partial) } else { Line::Whole(trim_cr(&self.partial)) };
        let outcome = each(self.n_lines, line);
        self.partial.clear();
        self.is_skipping = false;
        outcome
    }
}

fn whole_or_too_long(line: &[u8]) -> Line<'_> {
    if line.len() > limit_of(line) { Line::TooLong(&line[..HEAD_BYTES]) } else { Line::Whole(trim_cr(line)) }
}

/// A batch may be longer than a record; it shows in its first bytes.
fn limit_of(line: &[u8]) -> usize {
    if line.len() <= MAX_LINE_BYTES {
        return MAX_LINE_BYTES;
    }
    let head: Vec<u8> = line[..64].iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let openers: [&[u8]; 3] = [b"{\"records\":[", b"{\"metrics\":[", b"[{"];
    let is_batch = openers.iter().any(|opener| head.starts_with(opener));
    if is_batch { MAX_BATCH_BYTES } else { MAX_LINE_BYTES }
}

fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &[u8], chunk_bytes: usize) -> Vec<(u64, String)> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        let mut each = |n: u64, line: Line<'_>| {
            lines.push(match line {
                Line::Whole(text) => (n, String::from_utf8_lossy(text).into_owned()),
                Line::TooLong(head) => (n, format!("too long, {} kept", head.len())),
            });
            Ok(())
        };
        for chunk in text.chunks(chunk_bytes) {
            splitter.push(chunk, &mut each).unwrap();
        }
        splitter.finish(&mut each).unwrap();
        lines
    }

    #[test]
    fn chunks_do_not_matter() {
        let expected =
            [(1, "one".to_owned()), (2, String::new()), (3, "three".to_owned()), (4, "4".to_owned())];
        for chunk_bytes in 1..20 {
            assert_eq!(split(b"one\n\r\nthree\r\n4", chunk_bytes), expected, "chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn a_long_line_costs_only_itself() {
        let mut text = b"a\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 3 << 20));
        text.extend(b"\nb\n");
        for chunk_bytes in [1 << 16, 8 << 20] {
            let lines = split(&text, chunk_bytes);
            assert_eq!(lines[1], (2, "too long, 4096 kept".to_owned()));
            assert_eq!(lines[2], (3, "b".to_owned()));
        }
    }

    #[test]
    fn a_batch_may_be_longer() {
        let text = format!("{{ \"records\": [{}]}}\n", "1,".repeat(1 << 20));
        assert_eq!(split(text.as_bytes(), 1 << 16)[0].1.len(), text.len() - 1);
    }
}
