//! How rows are written: NDJSON, CSV, parquet. Every number is written so that reading it gives the same 32 bits.

use std::io::Write;

use anyhow::{Context, Result};
use chrono::SecondsFormat;

use crate::calendar;

use super::{ExportFormat, columns};
use crate::buffer::rows::{Row, Rows};
use crate::buffer::sealed::row_groups::GroupWriter;

/// Rows on their way out.
pub(super) enum Form<'a> {
    Text { out: &'a mut (dyn Write + Send), names: Vec<Vec<u8>>, is_csv: bool, text: Vec<u8> },
    Parquet(Box<GroupWriter<&'a mut (dyn Write + Send)>>),
}

impl<'a> Form<'a> {
    /// Begins with what stands before the first row.
    pub fn begin(format: ExportFormat, metrics: &[String], out: &'a mut (dyn Write + Send)) -> Result<Self> {
        if format == ExportFormat::Parquet {
            return Ok(Form::Parquet(Box::new(GroupWriter::new(out, columns(metrics))?)));
        }
        let is_csv = format == ExportFormat::Csv;
        let mut text = Vec::new();
        let mut names = Vec::new();
        for name in metrics {
            let mut written = Vec::new();
            if is_csv {
                push_csv(&mut written, name);
            } else {
                serde_json::to_writer(&mut written, name).context("encode a name")?;
            }
            names.push(written);
        }
        if is_csv {
            text.extend(b"timestamp,server_name,profile,status");
            for name in &names {
                text.push(b',');
                text.extend(name);
            }
            text.push(b'\n');
        }
        Ok(Form::Text { out, names, is_csv, text })
    }

    pub fn add(&mut self, rows: &Rows) -> Result<()> {
        match self {
            Form::Text { out, names, is_csv, text } => {
                for idx in 0..rows.len() {
                    match *is_csv {
                        true => push_csv_row(text, rows.row(idx))?,
                        false => push_json_row(text, rows.row(idx), names)?,
                    }
                    if text.len() >= 1 << 16 {
                        out.write_all(text)?;
                        text.clear();
                    }
                }
                Ok(())
            }
            Form::Parquet(writer) => {
                let all: Vec<u32> = (0..rows.len() as u32).collect();
                if all.is_empty() { Ok(()) } else { writer.write(rows, &all) }
            }
        }
    }

    /// Writes what is left.
    pub fn end(self) -> Result<()> {
        match self {
            Form::Text { out, text, .. } => {
                out.write_all(&text)?;
                Ok(out.flush()?)
            }
            Form::Parquet(writer) => writer.finish(Vec::new()),
        }
    }
}

fn push_json_row(text: &mut Vec<u8>, row: Row<'_>, names: &[Vec<u8>]) -> Result<()> {
    text.extend(b"{\"timestamp\":\"");
    push_time(text, row.time_ms);
    text.extend(b"\",\"server_name\":");
    serde_json::to_writer(&mut *text, row.server)?;
    for (name, label) in [("profile", row.profile), ("status", row.status)] {
        if let Some(label) = label {
            write!(text, ",\"{name}\":")?;
            serde_json::to_writer(&mut *text, label)?;
        }
    }
    text.extend(b",\"metrics\":{");
    let given = names.iter().zip(row.values).filter(|(_, value)| !value.is_nan());
    for (position, (name, value)) in given.enumerate() {
        if position > 0 {
            text.push(b',');
        }
        text.extend(name);
        text.push(b':');
        push_number(text, *value)?;
    }
    text.extend(b"}}\n");
    Ok(())
}

fn push_csv_row(text: &mut Vec<u8>, row: Row<'_>) -> Result<()> {
    push_time(text, row.time_ms);
    for label in [Some(row.server), row.profile, row.status] {
        text.push(b',');
        push_csv(text, label.unwrap_or_default());
    }
    for value in row.values {
        text.push(b',');
        if !value.is_nan() {
            push_number(text, *value)?;
        }
    }
    text.push(b'\n');
    Ok(())
}

fn push_time(text: &mut Vec<u8>, time_ms: i64) {
    text.extend(calendar::to_utc(time_ms).to_rfc3339_opts(SecondsFormat::Millis, true).as_bytes());
}

/// A field as it is, or in quotes where a reader would take it for something else.
fn push_csv(text: &mut Vec<u8>, field: &str) {
    let is_plain = field.trim() == field && !field.contains([',', ';', '\t', '"', '\r', '\n']);
    if is_plain {
        text.extend(field.as_bytes());
    } else {
        text.push(b'"');
        text.extend(field.replace('"', "\"\"").as_bytes());
        text.push(b'"');
    }
}

/// The shortest digits of `value`; all digits in the rare case that reading those as 64 bits and narrowing them
/// would round to its neighbour.
fn push_number(text: &mut Vec<u8>, value: f32) -> Result<()> {
    let start = text.len();
    serde_json::to_writer(&mut *text, &value)?;
    let read = std::str::from_utf8(&text[start..])?.parse::<f64>();
    if read.map(|read| (read as f32).to_bits()) != Ok(value.to_bits()) {
        text.truncate(start);
        serde_json::to_writer(&mut *text, &f64::from(value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_that_could_be_mistaken_are_quoted() {
        for (field, expected) in
            [("a", "a"), ("", ""), ("a,b", "\"a,b\""), (" a", "\" a\""), ("\"", "\"\"\"\"")]
        {
            let mut text = Vec::new();
            push_csv(&mut text, field);
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn every_float_comes_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            let mut text = Vec::new();
            push_number(&mut text, value).unwrap();
            let read: f64 = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!((read as f32).to_bits(), bits);
        }
    }
}
