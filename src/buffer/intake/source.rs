//! Opens what is to be appended: a file or a pipe, plain, gzip or zstd, NDJSON, Telegraf JSON, CSV or parquet.
//!
//! Compression and parquet are recognised by their first bytes, not by names; a file that is called `.parquet`
//! and is not one is refused.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The form of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Recognised by the first bytes and the name.
    #[default]
    Auto,
    Ndjson,
    /// NDJSON whose records are those of a Telegraf agent.
    Telegraf,
    Csv,
    Parquet,
}

/// Where records come from.
pub enum Source {
    File(PathBuf),
    /// A pipe; `name` stands for it in messages, such as `stdin`.
    Reader {
        name: String,
        reader: Box<dyn Read + Send>,
    },
}

impl Source {
    /// A pipe with a name for messages.
    pub fn reader(name: &str, reader: impl Read + Send + 'static) -> Self {
        Source::Reader { name: name.to_owned(), reader: Box::new(reader) }
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Reader { name, .. } => name.clone(),
        }
    }
}

/// An opened source.
pub(in crate::buffer) enum Input {
    /// Text, decompressed; the format is [`Format::Auto`] until its first bytes are seen.
    Text {
        reader: Box<dyn Read + Send>,
        format: Format,
        is_compressed: bool,
    },
    Parquet(ParquetInput),
}

/// A parquet file, or a pipe that was spooled into one.
pub(in crate::buffer) struct ParquetInput {
    pub file: File,
}

const PARQUET_MAGIC: &[u8] = b"PAR1";

impl Input {
    /// Opens `source`; blocks until a pipe has given its first bytes.
    ///
    /// - Errors: it cannot be read, or is not in the format that `format` or its name claims.
    pub fn open(source: Source, format: Format) -> Result<Self> {
        let (reader, name): (Box<dyn Read + Send>, Option<PathBuf>) = match source {
            Source::File(path) => {
                let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
                (Box::new(file), Some(path))
            }
            Source::Reader { reader, .. } => (reader, None),
        };
        let extension = name.as_deref().map(extension_of).unwrap_or_default();
        let claims_parquet = format == Format::Parquet || (format == Format::Auto && extension == "parquet");
        let (head, reader) = peek(reader).context("read its first bytes")?;
        let is_parquet = head.starts_with(PARQUET_MAGIC);
        ensure!(is_parquet || !claims_parquet, "it is no parquet file (it does not begin with `PAR1`)");
        if is_parquet {
            let text_wanted = !matches!(format, Format::Auto | Format::Parquet);
            ensure!(!text_wanted, "it is a parquet file, not text");
            return Ok(Input::Parquet(ParquetInput { file: spool(name.as_deref(), reader)? }));
        }
        let (reader, is_compressed): (Box<dyn Read + Send>, bool) = match head.as_slice() {
            [0x1f, 0x8b, ..] => (Box::new(flate2::read::MultiGzDecoder::new(reader)), true),
            [0x28, 0xb5, 0x2f, 0xfd] => (Box::new(zstd::Decoder::new(reader).context("start zstd")?), true),
            _ => (reader, false),
        };
        let by_name = match extension.as_str() {
            "csv" | "tsv" => Format::Csv,
            "ndjson" | "jsonl" | "json" => Format::Ndjson,
            _ => Format::Auto,
        };
        let format = if format == Format::Auto { by_name } else { format };
        Ok(Input::Text { reader, format, is_compressed })
    }
}

/// Tells CSV from NDJSON by the first line: JSON begins with a brace or bracket, a CSV header names its `keys`.
pub(in crate::buffer) fn detect_text(head: &[u8], keys: [&str; 2]) -> Format {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    if matches!(first, Some(b'{' | b'[')) {
        return Format::Ndjson;
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let is_header = keys.iter().all(|key| line.contains(key));
    if is_header { Format::Csv } else { Format::Ndjson }
}

/// The extension of a path in lower case, without that of a compression.
pub(in crate::buffer) fn extension_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    name.rsplit_once('.').map(|(_, extension)| extension.to_owned()).unwrap_or_default()
}

/// The first four bytes, and a reader that still gives them.
fn peek(mut reader: Box<dyn Read + Send>) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

/// Parquet is read from its end, so a pipe is copied to an unnamed temporary file first.
fn spool(path: Option<&Path>, mut reader: Box<dyn Read + Send>) -> Result<File> {
    if let Some(path) = path {
        return File::open(path).with_context(|| format!("open {}", path.display()));
    }
    let mut file = tempfile::tempfile().context("make a temporary file")?;
    io::copy(&mut reader, &mut file).context("copy the pipe to a temporary file")?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(head: &[u8], expected: Format) {
        assert_eq!(detect_text(head, ["timestamp", "server_name"]), expected);
    }

    #[test]
    fn text_formats_show_in_the_first_line() {
        case(b"\n {\"timestamp\":1}", Format::Ndjson);
        case(b"[{}]", Format::Ndjson);
        case(b"\xef\xbb\xbftimestamp,server_name,cpu\n{", Format::Csv);
        case(b"garbage", Format::Ndjson);
    }

    #[test]
    fn extensions_look_through_compression() {
        assert_eq!(extension_of(Path::new("a/b.CSV.gz")), "csv");
        assert_eq!(extension_of(Path::new("x.ndjson.zst")), "ndjson");
        assert_eq!(extension_of(Path::new("x")), "");
    }
}
