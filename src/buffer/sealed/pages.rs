//! Reads a damaged day file of this program page by page: a page that cannot be decoded costs its own rows and no others.
//!
//! Ordinary readers give up on a row group where one of its pages is damaged. Here each page is decoded alone, with the
//! dictionary of its column. What decodes may still be wrong: that is for the checksums of the rows to say
//! ([`super::proof`]). Behind a page whose own head is damaged the next one is searched for: where heads begin that lead to
//! the very end of the column.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use super::parquet_rows::LABELS;
use crate::buffer::rows::{Row, Rows};

/// A column of a row group.
enum Values {
    Times(Vec<i64>),
    Texts(Vec<Option<ByteArray>>),
    /// NaN for none.
    Floats(Vec<f32>),
}

struct Decoded {
    values: Values,
    /// Per row: whether its page could be decoded.
    is_good: Vec<bool>,
}

/// An open day file.
pub(in crate::buffer) struct PagedFile {
    reader: SerializedFileReader<File>,
    file: Arc<File>,
    /// Rows of each row group.
    groups: Vec<Range<usize>>,
    columns: HashMap<String, usize>,
    /// By row group and column; those of groups that were passed are forgotten.
    decoded: HashMap<(usize, usize), Decoded>,
}

impl PagedFile {
    /// - Errors: the footer cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
        let pages = Arc::new(file.try_clone().with_context(|| format!("read {}", path.display()))?);
        let reader = guarded(|| SerializedFileReader::new(file))
            .with_context(|| format!("read {}", path.display()))?;
        let (metadata, mut groups, mut start) = (reader.metadata(), Vec::new(), 0);
        for group in metadata.row_groups() {
            let n_rows = usize::try_from(group.num_rows()).context("a row group of a negative length")?;
            groups.push(start..start + n_rows);
            start += n_rows;
        }
        let columns = metadata.file_metadata().schema_descr().columns().iter().enumerate();
        let columns = columns.map(|(at, column)| (column.name().to_owned(), at)).collect();
        Ok(Self { reader, file: pages, groups, columns, decoded: HashMap::new() })
    }

    /// The rows of `range` with some of their columns; `None` if a page of any of these cannot be decoded.
    pub fn rows(&mut self, range: &Range<usize>, labels: &[&str], metrics: &[String]) -> Option<Rows> {
        let groups = self.groups.clone();
        let mut rows = Rows::new(metrics.len());
        for (group, of_group) in groups.iter().enumerate() {
            let (start, end) = (range.start.max(of_group.start), range.end.min(of_group.end));
            if start < end {
                self.decoded.retain(|(known, _), _| *known >= group);
                let part = start - of_group.start..end - of_group.start;
                self.add_rows(group, &part, labels, metrics, &mut rows)?;
            }
        }
        Some(rows)
    }

    fn add_rows(
        &mut self,
        group: usize,
        part: &Range<usize>,
        labels: &[&str],
        metrics: &[String],
        rows: &mut Rows,
    ) -> Option<()> {
        let mut wanted: Vec<&str> = vec!["timestamp", "server_name"];
        wanted.extend(LABELS.iter().copied().filter(|label| labels.contains(label)));
        wanted.extend(metrics.iter().map(String::as_str));
        for name in &wanted {
            // A label that no row has is no column.
            let Some(column) = self.columns.get(*name).copied() else { continue };
            let decoded = self.decode(group, column)?;
            decoded.is_good.get(part.clone())?.iter().all(|is_good| *is_good).then_some(())?;
        }
        let column = |name: &str| Some(&self.decoded.get(&(group, *self.columns.get(name)?))?.values);
        let Values::Times(times) = column("timestamp")? else { return None };
        let text = |name: &str, idx: usize| match column(name) {
            Some(Values::Texts(texts)) => texts[idx].as_ref().and_then(|text| text.as_utf8().ok()),
            _ => None,
        };
        let label = |name: &str, idx: usize| if labels.contains(&name) { text(name, idx) } else { None };
        let mut columns = Vec::with_capacity(metrics.len());
        for name in metrics {
            let Values::Floats(values) = column(name)? else { return None };
            columns.push(values);
        }
        let mut values = vec![f32::NAN; metrics.len()];
        for idx in part.clone() {
            values.iter_mut().zip(&columns).for_each(|(value, column)| *value = column[idx]);
            rows.push(Row {
                time_ms: times[idx],
                server: text("server_name", idx)?,
                profile: label("profile", idx),
                status: label("status", idx),
                values: &values,
            });
        }
        Some(())
    }

    fn decode(&mut self, group: usize, column: usize) -> Option<&Decoded> {
        if !self.decoded.contains_key(&(group, column)) {
            let decoded = self.read_column(group, column).ok()?;
            self.decoded.insert((group, column), decoded);
        }
        self.decoded.get(&(group, column))
    }

    fn read_column(&self, group: usize, column: usize) -> Result<Decoded> {
        use parquet::basic::Type as Physical;
        let n_rows = self.groups[group].len();
        let pages = self.find_pages(self.reader.metadata().row_group(group).column(column), n_rows);
        let descriptor = self.reader.metadata().file_metadata().schema_descr().column(column);
        let (values, is_good) = match descriptor.physical_type() {
            Physical::INT64 => {
                let (values, is_good) = decode_pages::<Int64Type>(pages, &descriptor, n_rows);
                (Values::Times(values.into_iter().map(Option::unwrap_or_default).collect()), is_good)
            }
            Physical::BYTE_ARRAY => {
                let (values, is_good) = decode_pages::<ByteArrayType>(pages, &descriptor, n_rows);
                (Values::Texts(values), is_good)
            }
            Physical::FLOAT => {
                let (values, is_good) = decode_pages::<FloatType>(pages, &descriptor, n_rows);
                let values = values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect();
                (Values::Floats(values), is_good)
            }
            other => return Err(anyhow!("a column of {other} is none of this program")),
        };
        Ok(Decoded { values, is_good })
    }

    /// The pages of a column of `n_rows` rows, in their order; what lies between those that were found is one without
    /// content.
    fn find_pages(&self, chunk: &ColumnChunkMetaData, n_rows: usize) -> Pages {
        let (start, length) = chunk.byte_range();
        let mut found = self.walk(chunk, start, start + length);
        let n_found = found.n_rows();
        if n_found >= n_rows {
            return found;
        }
        let is_rest = |pages: &Pages| pages.is_to_the_end && (1..=n_rows - n_found).contains(&pages.n_rows());
        let rest = (start + 1..start + length).map(|at| self.walk(chunk, at, start + length)).find(is_rest);
        let rest = rest.map_or(Vec::new(), |rest| rest.data);
        let n_rest: usize = rest.iter().map(|(n_rows, _)| n_rows).sum();
        found.data.push((n_rows - n_found - n_rest, None));
        found.data.extend(rest);
        found
    }

    /// The pages from the head that begins at byte `at`, as far as one leads to the next.
    fn walk(&self, chunk: &ColumnChunkMetaData, at: u64, end: u64) -> Pages {
        let mut pages = Pages { dictionary: None, data: Vec::new(), is_to_the_end: false };
        let part = chunk.clone().into_builder().set_dictionary_page_offset(None);
        let part = part.set_data_page_offset(at as i64).set_total_compressed_size((end - at) as i64).build();
        let open = |part| guarded(|| SerializedPageReader::new(self.file.clone(), &part, 0, None));
        let Ok(mut reader) = part.map_err(Into::into).and_then(open) else { return pages };
        loop {
            match guarded(|| reader.peek_next_page()) {
                Err(_) => return pages,
                Ok(None) => {
                    pages.is_to_the_end = true;
                    return pages;
                }
                Ok(Some(head)) => {
                    // The reader is behind the page also where it could not be decompressed.
                    let page = guarded(|| reader.get_next_page()).ok().flatten();
                    match head.is_dict {
                        true => pages.dictionary = page,
                        false => pages.data.push((head.num_levels.unwrap_or_default(), page)),
                    }
                }
            }
        }
    }
}

/// The pages of a column.
struct Pages {
    dictionary: Option<Page>,
    /// Each with its rows; `None` for one that cannot be decompressed.
    data: Vec<(usize, Option<Page>)>,
    /// Whether their heads lead to the end of the column.
    is_to_the_end: bool,
}

impl Pages {
    fn n_rows(&self) -> usize {
        self.data.iter().map(|(n_rows, _)| n_rows).sum()
    }
}

/// Calls into the parquet reader, which may panic on damaged content.
fn guarded<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(anyhow!("the parquet reader gave up on damaged content")),
    }
}

/// The values of a column, and which of them could be decoded.
fn decode_pages<T: DataType>(
    pages: Pages,
    descriptor: &ColumnDescPtr,
    n_rows: usize,
) -> (Vec<Option<T::T>>, Vec<bool>) {
    let (mut values, mut is_good) = (Vec::with_capacity(n_rows), Vec::with_capacity(n_rows));
    for (n_in_page, page) in pages.data {
        let n_in_page = n_in_page.min(n_rows - values.len());
        let dictionary = pages.dictionary.clone();
        let found = page.and_then(|page| decode_page::<T>(dictionary, page, descriptor, n_in_page));
        is_good.resize(is_good.len() + n_in_page, found.is_some());
        values.extend(found.unwrap_or_else(|| vec![None; n_in_page]));
    }
    values.resize(n_rows, None);
    is_good.resize(n_rows, false);
    (values, is_good)
}

fn decode_page<T: DataType>(
    dictionary: Option<Page>,
    page: Page,
    descriptor: &ColumnDescPtr,
    n_rows: usize,
) -> Option<Vec<Option<T::T>>> {
    let pages = Box::new(OnePage(dictionary.into_iter().chain([page]).collect()));
    let decode = || {
        let mut reader = ColumnReaderImpl::<T>::new(descriptor.clone(), pages);
        let (mut levels, mut given) = (Vec::new(), Vec::new());
        let is_optional = descriptor.max_def_level() > 0;
        let n_read = reader.read_records(n_rows, is_optional.then_some(&mut levels), None, &mut given)?.0;
        Ok((n_read, levels, given, is_optional))
    };
    let (n_read, levels, given, is_optional) = guarded(decode).ok()?;
    if n_read != n_rows {
        return None;
    }
    if !is_optional {
        return Some(given.into_iter().map(Some).collect());
    }
    let mut given = given.into_iter();
    levels.into_iter().map(|level| if level == 0 { Some(None) } else { given.next().map(Some) }).collect()
}

/// A page with its dictionary before it, as a column of its own.
struct OnePage(VecDeque<Page>);

impl Iterator for OnePage {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.pop_front().map(Ok)
    }
}

impl PageReader for OnePage {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.0.pop_front();
        Ok(())
    }
}
