//! Checksums of the rows of a day file, by block and column: equal before writing and after reading back.
//!
//! They lie in the file's own metadata as JSON (`tftctl.blocks_crc32`) and depend on the rows in their order alone, not on
//! how a writer cuts or encodes them. The stamp of the file says that something is damaged; these say what is not.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::buffer::rows::Row;

/// The name of the pair.
pub(in crate::buffer) const KEY: &str = "tftctl.blocks_crc32";
/// Rows of a block; the last one may have fewer.
pub(super) const BLOCK_ROWS: usize = 1 << 16;
/// Checksums of a block before those of its metrics: times with servers, and profiles with statuses.
const N_LEADING: usize = 2;

/// What the metadata says of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::buffer) struct Checksums {
    pub n_rows: usize,
    pub block_rows: usize,
    pub metrics: Vec<String>,
    /// One text per block: 8 hexadecimal digits for the keys, for the labels, and for each metric.
    blocks: Vec<String>,
}

/// Which parts of a block are the rows that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct BlockVerdict {
    pub are_keys_good: bool,
    pub are_labels_good: bool,
    /// Per metric.
    pub is_good: Vec<bool>,
}

impl BlockVerdict {
    pub fn is_whole(&self) -> bool {
        self.are_keys_good && self.are_labels_good && self.is_good.iter().all(|is_good| *is_good)
    }
}

impl Checksums {
    /// Reads the value of the pair.
    ///
    /// - Errors: it is not one that this program writes.
    pub fn parse(text: &str) -> Result<Self> {
        let sums: Self = serde_json::from_str(text).with_context(|| format!("read its {KEY}"))?;
        let n_digits = 8 * (N_LEADING + sums.metrics.len());
        let is_sane = sums.block_rows > 0 && sums.blocks.len() == sums.n_rows.div_ceil(sums.block_rows);
        let is_hex =
            |block: &String| block.len() == n_digits && block.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(is_sane && sums.blocks.iter().all(is_hex), "its {KEY} is damaged");
        Ok(sums)
    }

    /// The value of the pair.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("plain data always encodes")
    }

    pub fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The rows of block `block`, in the order of the file.
    pub fn rows_of(&self, block: usize) -> std::ops::Range<usize> {
        let start = block * self.block_rows;
        start..(start + self.block_rows).min(self.n_rows)
    }

    /// Compares block `block` with the only block of `found`, which has the same metrics.
    pub fn judge(&self, block: usize, found: &Checksums) -> BlockVerdict {
        let (wanted, found) = (&self.blocks[block], found.blocks.first().map_or("", String::as_str));
        let part = |text: &str, idx: usize| text.get(8 * idx..8 * (idx + 1)).map(str::to_owned);
        let is_good = |idx: usize| part(wanted, idx) == part(found, idx);
        BlockVerdict {
            are_keys_good: is_good(0),
            are_labels_good: is_good(1),
            is_good: (0..self.metrics.len()).map(|metric| is_good(N_LEADING + metric)).collect(),
        }
    }
}

/// Takes rows in their order and becomes their [`Checksums`].
pub(in crate::buffer) struct Proof {
    sums: Checksums,
    block_rows: usize,
    n_in_block: usize,
    /// What is to be summed up of the block so far, by column.
    pending: Vec<Vec<u8>>,
}

impl Proof {
    pub fn new(metrics: &[String]) -> Self {
        Self::of_blocks(metrics, BLOCK_ROWS)
    }

    /// [`Proof::new`] with blocks of another size.
    pub fn of_blocks(metrics: &[String], block_rows: usize) -> Self {
        let sums = Checksums { n_rows: 0, block_rows, metrics: metrics.to_vec(), blocks: Vec::new() };
        Self { sums, block_rows, n_in_block: 0, pending: vec![Vec::new(); N_LEADING + metrics.len()] }
    }

    pub fn add(&mut self, row: Row<'_>) {
        let (keys, others) = self.pending.split_at_mut(1);
        keys[0].extend(row.time_ms.to_le_bytes());
        keys[0].extend(row.server.as_bytes());
        keys[0].push(b'\n');
        for text in [row.profile, row.status] {
            others[0].extend(text.unwrap_or("\0").as_bytes());
            others[0].push(b'\n');
        }
        for (column, value) in others[1..].iter_mut().zip(row.values) {
            let bits = if value.is_nan() { u32::MAX } else { value.to_bits() };
            column.extend(bits.to_le_bytes());
        }
        self.sums.n_rows += 1;
        self.n_in_block += 1;
        if self.n_in_block == self.block_rows {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        let digits = self.pending.iter().map(|bytes| format!("{:08x}", crc32fast::hash(bytes)));
        self.sums.blocks.push(digits.collect());
        self.pending.iter_mut().for_each(Vec::clear);
        self.n_in_block = 0;
    }

    pub fn finish(mut self) -> Checksums {
        if self.n_in_block > 0 {
            self.end_block();
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time, server, status and two values.
    type Plain = (i64, &'static str, Option<&'static str>, [f32; 2]);

    fn sums(rows: &[Plain], block_rows: usize) -> Checksums {
        let mut proof = Proof::of_blocks(&["cpu".to_owned(), "mem".to_owned()], block_rows);
        for (time_ms, server, status, values) in rows {
            proof.add(Row { time_ms: *time_ms, server, profile: None, status: *status, values });
        }
        proof.finish()
    }

    #[test]
    fn a_difference_is_found_in_its_block_and_column() {
        let rows =
            [(1, "a", None, [1.0, f32::NAN]), (2, "a", Some("up"), [2.0, 0.0]), (3, "b", None, [3.0, 1.0])];
        let whole = sums(&rows, 2);
        assert_eq!((whole.n_blocks(), whole.rows_of(1)), (2, 2..3));
        assert_eq!(Checksums::parse(&whole.text()).unwrap(), whole);
        let judge = |change: &dyn Fn(&mut [Plain])| {
            let mut rows = rows;
            change(&mut rows);
            let verdict = whole.judge(0, &sums(&rows[..2], 2));
            (verdict.are_keys_good, verdict.are_labels_good, verdict.is_good)
        };
        assert_eq!(judge(&|_| {}), (true, true, vec![true, true]));
        assert_eq!(judge(&|rows| rows[1].3[0] = 2.5), (true, true, vec![false, true]));
        assert_eq!(judge(&|rows| rows[0].3[1] = 0.0), (true, true, vec![true, false]), "null is no zero");
        assert_eq!(
            judge(&|rows| rows[0].2 = Some("")),
            (true, false, vec![true, true]),
            "nor is no text an empty one"
        );
        assert_eq!(judge(&|rows| rows[0].1 = "b"), (false, true, vec![true, true]));
        assert_eq!(judge(&|rows| rows.swap(0, 1)), (false, false, vec![false, false]));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let whole = sums(&[(1, "a", None, [1.0, 2.0])], 2).text();
        for wrong in [
            "",
            "{}",
            &whole.replace("\"n_rows\":1", "\"n_rows\":9"),
            &whole.replace("_rows\":2", "_rows\":0"),
        ] {
            assert!(Checksums::parse(wrong).is_err(), "{wrong}");
        }
    }
}
