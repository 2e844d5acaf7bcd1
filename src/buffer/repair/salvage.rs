//! Reads what can be read of a damaged day file, block by block and column by column.
//!
//! Where the footer is the one that was sealed, its checksums tell good parts from bad ones: a bad metric costs its values
//! in that block, bad labels cost the labels, bad keys the rows; a page that cannot be decoded costs the blocks it has rows of.
//! Elsewhere what decodes is taken for good.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;

use crate::buffer::rows::{Row, Rows};
use crate::buffer::sealed::pages::PagedFile;
use crate::buffer::sealed::parquet_rows::{Columns, LABELS, ParquetFile};
use crate::buffer::sealed::proof::{self, BlockVerdict, Checksums, Proof};
use crate::buffer::sealed::stamp;

/// Rows that are tried together where the file does not say.
const BLOCK_ROWS: usize = 1 << 16;

/// What became of the rows of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salvage {
    pub n_saved: u64,
    pub n_lost: u64,
    /// Values of saved rows that could not be read, and are missing now.
    pub n_values_lost: u64,
    /// Saved rows whose profile and status could not be read.
    pub n_labels_lost: u64,
    /// Whether checksums vouch for what was saved.
    pub is_checked: bool,
}

/// Passes the good rows of `file`, which lies at `path`, to `take`, with all its metrics in its order.
pub(super) fn salvage(
    path: &Path,
    file: &mut ParquetFile,
    take: &mut dyn FnMut(&Rows) -> Result<()>,
) -> Result<Salvage> {
    let metrics = file.numeric_columns();
    let sums = match stamp::is_footer_whole(path)? {
        true => file.value_of(proof::KEY).map(Checksums::parse).transpose()?,
        false => None,
    };
    // Only the pages of this program are cut so that one can be read without the others.
    let pages = if sums.is_some() { PagedFile::open(path).ok() } else { None };
    let mut source = Source { file, pages };
    let mut salvage = Salvage { is_checked: sums.is_some(), ..Salvage::default() };
    let n_rows = source.file.n_rows();
    let blocks: Vec<Range<usize>> = match &sums {
        Some(sums) => (0..sums.n_blocks()).map(|block| sums.rows_of(block)).collect(),
        None => (0..n_rows).step_by(BLOCK_ROWS).map(|at| at..(at + BLOCK_ROWS).min(n_rows)).collect(),
    };
    for (block, range) in blocks.iter().enumerate() {
        let judge = |rows: &Rows| sums.as_ref().map(|sums| verdict(sums, block, rows));
        let rows = read_block(&mut source, range, &metrics, &judge, &mut salvage);
        salvage.n_saved += rows.len() as u64;
        salvage.n_lost += (range.len() - rows.len()) as u64;
        take(&rows)?;
    }
    Ok(salvage)
}

fn verdict(sums: &Checksums, block: usize, rows: &Rows) -> BlockVerdict {
    let mut proof = Proof::of_blocks(&sums.metrics, sums.block_rows);
    (0..rows.len()).for_each(|idx| proof.add(rows.row(idx)));
    sums.judge(block, &proof.finish())
}

type Judge<'a> = &'a dyn Fn(&Rows) -> Option<BlockVerdict>;

/// A damaged file, read as a whole where that is possible, and else page by page.
struct Source<'a> {
    file: &'a mut ParquetFile,
    pages: Option<PagedFile>,
}

impl Source<'_> {
    /// Some columns of a block; `None` if they cannot be decoded.
    fn read(&mut self, range: &Range<usize>, labels: &[&str], metrics: &[String]) -> Option<Rows> {
        if let Ok(slice) = self.file.read_slice(range, &Columns::plain(metrics).with_labels(labels)) {
            let mut rows = Rows::new(metrics.len());
            let n_without_key = slice.push_into(&mut rows, None);
            // A file from elsewhere may have rows without keys; ours never had.
            if n_without_key == 0 || self.pages.is_none() {
                return Some(rows);
            }
        }
        self.pages.as_mut()?.rows(range, labels, metrics)
    }

    /// The keys of a block, with labels, in rows of `n_metrics` missing values.
    fn read_keys(&mut self, range: &Range<usize>, labels: &[&str], n_metrics: usize) -> Option<Rows> {
        let found = self.read(range, labels, &[])?;
        let mut rows = Rows::new(n_metrics);
        let nothing = vec![f32::NAN; n_metrics];
        for idx in 0..found.len() {
            rows.push(Row { values: &nothing, ..found.row(idx) });
        }
        Some(rows)
    }
}

/// The good rows of one block: as a whole if it is, else column by column.
fn read_block(
    source: &mut Source<'_>,
    range: &Range<usize>,
    metrics: &[String],
    judge: Judge<'_>,
    salvage: &mut Salvage,
) -> Rows {
    if let Some(rows) = source.read(range, &LABELS, metrics)
        && judge(&rows).is_none_or(|verdict| verdict.is_whole())
    {
        return rows;
    }
    let none = Rows::new(metrics.len());
    let Some(mut rows) = source.read_keys(range, &[], metrics.len()) else { return none };
    if judge(&rows).is_some_and(|verdict| !verdict.are_keys_good) {
        return none;
    }
    match source.read_keys(range, &LABELS, metrics.len()) {
        Some(labelled) if judge(&labelled).is_none_or(|verdict| verdict.are_labels_good) => rows = labelled,
        _ => salvage.n_labels_lost += rows.len() as u64,
    }
    for (metric, name) in metrics.iter().enumerate() {
        let column = source.read(range, &[], std::slice::from_ref(name));
        let values = column.filter(|column| column.len() == rows.len()).map(|column| column.values);
        for idx in 0..rows.len() {
            rows.values[idx * metrics.len() + metric] =
                values.as_ref().map_or(f32::NAN, |values| values[idx]);
        }
        let is_good = values.is_some() && judge(&rows).is_none_or(|verdict| verdict.is_good[metric]);
        if !is_good {
            salvage.n_values_lost += rows.len() as u64;
            (0..rows.len()).for_each(|idx| rows.values[idx * metrics.len() + metric] = f32::NAN);
        }
    }
    rows
}
