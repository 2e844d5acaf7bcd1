//! Dropout factors of a tile: integer hashes, sixteen rows at a time.

use super::lanes::{LANES, Lanes};
use super::tile::ROWS;
use crate::ops::random::Key;

/// Features whose fates one hash decides, with sixteen bits each.
pub const PER_HASH: usize = 4;

/// A mask at the rows of a tile.
#[derive(Clone, Copy, Debug)]
pub struct MaskTile {
    pub key: Key,
    pub first_row: u64,
    /// Of 65536.
    pub keep_below: u32,
    /// What is kept is multiplied by it.
    pub scale: f32,
}

/// Writes the factors. There is nothing of [`Lanes`] in it: the compiler turns the loops over rows into the
/// instructions of the set that the caller is compiled for.
#[inline(always)]
pub(super) unsafe fn mask<L: Lanes>(mask: MaskTile, width: usize, tile: &mut [f32]) {
    assert!(tile.len() >= width * ROWS);
    let n_hashes = width.div_ceil(PER_HASH) as u64;
    for half in [0, LANES] {
        for group in 0..width.div_ceil(PER_HASH) {
            let mut bits = [0u64; LANES];
            let first = (mask.first_row + half as u64) * n_hashes + group as u64;
            for (row, bits) in bits.iter_mut().enumerate() {
                *bits = mask.key.bits(first + row as u64 * n_hashes);
            }
            for i in 0..PER_HASH.min(width - group * PER_HASH) {
                let at = (group * PER_HASH + i) * ROWS + half;
                for (factor, bits) in tile[at..at + LANES].iter_mut().zip(bits) {
                    let own = (bits >> (16 * i)) as u32 & 0xFFFF;
                    *factor = if own < mask.keep_below { mask.scale } else { 0.0 };
                }
            }
        }
    }
}
