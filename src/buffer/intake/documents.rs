//! Cuts JSON that is written over several lines into records, with bounded memory however long the document is.
//!
//! Understood are a pretty-printed record, an array of records, and the batches `{"records": [...]}` and
//! `{"metrics": [...]}`; several may follow each other. A record is what begins at the level of records and ends
//! with its own bracket; the parser says what is wrong inside. A string with a line break in it ends its record, so
//! that a stray quote costs one; a missing bracket costs the rest of the document.

use anyhow::Result;

use super::lines::{HEAD_BYTES, Line, MAX_LINE_BYTES};

/// Takes chunks of any size, gives records, each with the line it begins in. Lines are counted from 1.
pub(in crate::buffer) struct DocumentSplitter {
    line: u64,
    /// The value in the making, and where it began.
    text: Vec<u8>,
    begun: u64,
    is_too_long: bool,
    depth: usize,
    /// At this depth values are records.
    record_depth: usize,
    is_string: bool,
    is_escaped: bool,
}

impl Default for DocumentSplitter {
    fn default() -> Self {
        Self {
            line: 1,
            text: Vec::new(),
            begun: 1,
            is_too_long: false,
            depth: 0,
            record_depth: 0,
            is_string: false,
            is_escaped: false,
        }
    }
}

/// Whether a first line says that a document over several lines begins.
pub(in crate::buffer) fn opens_document(line: &[u8]) -> bool {
    let line: Vec<u8> = line.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(32).collect();
    let openers: [&[u8]; 9] = [
        b"{",
        b"[",
        b"[{",
        b"{\"records\":",
        b"{\"records\":[",
        b"{\"records\":[{",
        b"{\"metrics\":",
        b"{\"metrics\":[",
        b"{\"metrics\":[{",
    ];
    openers.contains(&line.as_slice())
}

type Each<'a> = &'a mut dyn FnMut(u64, Line<'_>) -> Result<()>;

impl DocumentSplitter {
    /// Passes every record that `chunk` completes to `each`, with its line.
    pub fn push(&mut self, chunk: &[u8], each: Each<'_>) -> Result<()> {
        for byte in chunk {
            self.take(*byte, each)?;
            self.line += u64::from(*byte == b'\n');
        }
        Ok(())
    }

    /// Passes what was left unfinished.
    pub fn finish(&mut self, each: Each<'_>) -> Result<()> {
        self.emit(each)
    }

    fn take(&mut self, byte: u8, each: Each<'_>) -> Result<()> {
        if self.is_string {
            return self.take_in_string(byte, each);
        }
        match byte {
            b'"' => {
                self.is_string = true;
                self.keep(byte);
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(byte, each)?,
            b',' if self.depth == self.record_depth => self.emit(each)?,
            // A line break also ends a record without brackets: garbage between documents.
            b'\n' if self.depth == 0 => self.emit(each)?,
            _ if byte.is_ascii_whitespace() && self.text.is_empty() => {}
            _ => self.keep(byte),
        }
        Ok(())
    }

    fn take_in_string(&mut self, byte: u8, each: Each<'_>) -> Result<()> {
        if byte == b'\n' {
            self.is_string = false;
            self.is_escaped = false;
            return self.emit(each);
        }
        self.keep(byte);
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => self.is_string = false,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, byte: u8) {
        let is_list_of_records = byte == b'['
            && match self.depth {
                0 => self.text.is_empty(),
                1 => self.record_depth == 0 && ends_with_batch_key(&self.text),
                _ => false,
            };
        self.depth += 1;
        if is_list_of_records {
            self.record_depth = self.depth;
            self.text.clear();
            self.is_too_long = false;
        } else {
            self.keep(byte);
        }
    }

    fn close(&mut self, byte: u8, each: Each<'_>) -> Result<()> {
        if self.record_depth > 0 && self.depth == self.record_depth {
            // The end of a list of records; what is left of its envelope is no record.
            self.emit(each)?;
            self.depth -= 1;
            self.record_depth = if self.depth == 0 { 0 } else { usize::MAX };
            return Ok(());
        }
        self.keep(byte);
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 0 && self.record_depth == usize::MAX {
            self.record_depth = 0;
            self.text.clear();
            self.is_too_long = false;
        }
        if self.depth == self.record_depth { self.emit(each) } else { Ok(()) }
    }

    fn keep(&mut self, byte: u8) {
        if self.text.is_empty() {
            self.begun = self.line;
        }
        if self.is_too_long {
            return;
        }
        self.text.push(byte);
        if self.text.len() > MAX_LINE_BYTES {
            self.is_too_long = true;
            self.text.truncate(HEAD_BYTES);
        }
    }

    fn emit(&mut self, each: Each<'_>) -> Result<()> {
        let text = self.text.trim_ascii();
        let outcome = match (text.is_empty(), self.is_too_long) {
            (true, _) => Ok(()),
            (_, true) => each(self.begun, Line::TooLong(text)),
            (_, false) => each(self.begun, Line::Whole(text)),
        };
        self.text.clear();
        self.is_too_long = false;
        outcome
    }
}

/// Whether a list that begins after `text` is that of a batch.
fn ends_with_batch_key(text: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    let Some(key) = text.strip_suffix(b":") else { return false };
    let key = key.trim_ascii_end();
    key.ends_with(b"\"records\"") || key.ends_with(b"\"metrics\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, chunk_bytes: usize) -> Vec<(u64, String)> {
        let mut splitter = DocumentSplitter::default();
        let mut found = Vec::new();
        let mut each = |line: u64, text: Line<'_>| {
            found.push(match text {
                Line::Whole(text) => (line, String::from_utf8_lossy(text).replace(['\n', ' '], "")),
                Line::TooLong(head) => (line, format!("too long, {} kept", head.len())),
            });
            Ok(())
        };
        for chunk in text.as_bytes().chunks(chunk_bytes) {
            splitter.push(chunk, &mut each).unwrap();
        }
        splitter.finish(&mut each).unwrap();
        found
    }

    #[track_caller]
    fn case(text: &str, expected: &[(u64, &str)]) {
        let expected: Vec<(u64, String)> = expected.iter().map(|(n, text)| (*n, text.to_string())).collect();
        for chunk_bytes in [1, 3, 1000] {
            assert_eq!(split(text, chunk_bytes), expected, "{text} in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn records_are_cut_out_of_documents() {
        case(
            "{\n \"a\": 1,\n \"b\": {\"c\": [1]}\n}\n{\n \"a\": 2\n}\n",
            &[(1, r#"{"a":1,"b":{"c":[1]}}"#), (5, r#"{"a":2}"#)],
        );
        case("[\n {\"a\": 1},\n {\"a\": 2},\n 7\n]\n", &[(2, r#"{"a":1}"#), (3, r#"{"a":2}"#), (4, "7")]);
        case(
            "{\n \"from\": \"x\",\n \"records\": [\n  {\"a\": \"]\"},\n  {\"a\": 2}\n ],\n \"n\": [2]\n}\n{\n\"a\":3}",
            &[(4, r#"{"a":"]"}"#), (5, r#"{"a":2}"#), (9, r#"{"a":3}"#)],
        );
        case("{\n \"metrics\": {\"cpu\": 1}\n}", &[(1, r#"{"metrics":{"cpu":1}}"#)]);
        case("{\n \"records\": []\n}\n", &[]);
    }

    #[test]
    fn broken_documents_cost_little() {
        // A stray quote, closing brackets too many, and an end in the middle.
        case("[\n {\"a\": \"x},\n {\"a\": 2}\n]\n", &[(2, r#"{"a":"x},"#), (3, r#"{"a":2}]"#)]);
        case("]\n}\n{\n\"a\":1}\n", &[(1, "]"), (2, "}"), (3, r#"{"a":1}"#)]);
        case("[\n {\"a\": 1},\n {\"a\"", &[(2, r#"{"a":1}"#), (3, r#"{"a""#)]);
        let long = format!("[\n{{\"a\": \"{}\"}},\n{{\"a\": 2}}\n]", "x".repeat(2 << 20));
        assert_eq!(split(&long, 1 << 16), [(2, "too long, 4096 kept".into()), (3, "{\"a\":2}".into())]);
    }

    #[test]
    fn only_an_unfinished_first_line_opens_a_document() {
        for line in ["{", "[", " [ {", "{ \"records\" : ["] {
            assert!(opens_document(line.as_bytes()), "{line}");
        }
        for line in ["{\"a\": 1", "{}", "", "x", "{\"records\":[{\"a\":1"] {
            assert!(!opens_document(line.as_bytes()), "{line}");
        }
    }
}
