//! How operations on rows go through a tensor: in units that stay together, part by part, tile by tile.
//!
//! A unit is a tile of consecutive rows, or all rows of a sample where they share something. Parts are cut as in
//! [`super::split`], by the number of rows alone; few rows are one part, worked on where the caller stands.

use rayon::prelude::*;

use super::simd::{ROWS, Simd};
use super::split;

/// Up to so many tiles it takes longer to hand them to other threads than to work on them.
const ALONE: usize = 4;

/// The rows of a `[.., width]` tensor, in units.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    n_rows: usize,
    per_unit: usize,
}

impl Rows {
    /// Rows that have nothing to do with each other.
    pub fn free(n_rows: usize) -> Self {
        Rows { n_rows, per_unit: ROWS }
    }

    /// Rows of which each `per_sample` belong together.
    pub fn of_samples(n_rows: usize, per_sample: usize) -> Self {
        Rows { n_rows, per_unit: per_sample.max(1) }
    }

    /// Runs `work` for each part, which owns its stretch of every output (`width` numbers per row). Results come in
    /// the order of the parts; there is at least one.
    pub fn in_parts<const N: usize, R: Send>(
        self,
        outputs: [Output<'_>; N],
        work: impl Fn(Part, [&mut [f32]; N]) -> R + Sync,
    ) -> Vec<R> {
        let n_units = self.n_rows.div_ceil(self.per_unit);
        let few = n_units * self.per_unit.div_ceil(ROWS) <= ALONE;
        let per_part = if few { n_units.max(1) } else { split::units_per_part(n_units) };
        let mut outputs = outputs;
        let mut parts = Vec::with_capacity(n_units / per_part + 1);
        for first_unit in (0..n_units.max(1)).step_by(per_part) {
            let part = Part { rows: self, first_unit, n_units: per_part.min(n_units - first_unit) };
            parts.push((part, outputs.each_mut().map(|output| output.take(part))));
        }
        match parts.len() {
            1 => parts.into_iter().map(|(part, outputs)| work(part, outputs)).collect(),
            _ => parts.into_par_iter().map(|(part, outputs)| work(part, outputs)).collect(),
        }
    }
}

/// What parts write to.
pub enum Output<'a> {
    /// So many numbers for every row.
    PerRow(&'a mut [f32], usize),
    /// So many numbers for every unit.
    PerUnit(&'a mut [f32], usize),
}

impl<'a> Output<'a> {
    /// Splits off what belongs to the next part.
    fn take(&mut self, part: Part) -> &'a mut [f32] {
        let (rest, n) = match self {
            Output::PerRow(rest, width) => (rest, part.n_rows() * *width),
            Output::PerUnit(rest, width) => (rest, part.n_units * *width),
        };
        let (own, after) = std::mem::take(rest).split_at_mut(n);
        *rest = after;
        own
    }
}

/// The units that one thread works on.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    rows: Rows,
    first_unit: usize,
    n_units: usize,
}

/// Up to [`ROWS`] consecutive rows of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileRows {
    /// The unit they belong to.
    pub unit: usize,
    /// The first of them.
    pub first: usize,
    pub n: usize,
    /// The unit, counted within the part: where it stands in a part's outputs.
    pub unit_here: usize,
    /// The first row, counted within the part.
    pub first_here: usize,
}

impl Part {
    fn n_rows(self) -> usize {
        self.row_of(self.n_units) - self.row_of(0)
    }

    /// Where a unit of this part starts, or the part ends.
    fn row_of(self, unit_here: usize) -> usize {
        ((self.first_unit + unit_here) * self.rows.per_unit).min(self.rows.n_rows)
    }

    /// The units, in order.
    pub fn units(self) -> std::ops::Range<usize> {
        self.first_unit..self.first_unit + self.n_units
    }

    /// The tiles of all units, in order.
    pub fn tiles(self) -> impl Iterator<Item = TileRows> {
        (0..self.n_units).flat_map(move |unit_here| {
            let end = self.row_of(unit_here + 1);
            (self.row_of(unit_here)..end).step_by(ROWS).map(move |first| TileRows {
                unit: self.first_unit + unit_here,
                first,
                n: ROWS.min(end - first),
                unit_here,
                first_here: first - self.row_of(0),
            })
        })
    }
}

impl TileRows {
    /// Their tile: of `x`, a tensor with rows of `width`. The rows behind them are asked for: while this tile is worked
    /// on, they come into the cache.
    pub fn load(self, simd: Simd, x: &[f32], width: usize, tile: &mut [f32]) {
        let (own, behind) = x[self.first * width..].split_at(self.n * width);
        simd.prefetch(&behind[..behind.len().min(ROWS * width)]);
        simd.load_rows(own, width, self.n, width, tile);
    }

    /// The tile back into rows: of `y`, a part's output with rows of `width`.
    pub fn store(self, simd: Simd, tile: &[f32], width: usize, y: &mut [f32]) {
        simd.store_rows(tile, width, &mut y[self.first_here * width..], width, self.n);
    }

    /// [`ROWS`] rows of `x`: those in memory if there are so many, else a copy in `spare` that ends in zeros.
    pub fn whole<'a>(self, x: &'a [f32], width: usize, spare: &'a mut [f32]) -> &'a [f32] {
        let x = &x[self.first * width..][..self.n * width];
        if self.n == ROWS {
            return x;
        }
        let (own, rest) = spare[..ROWS * width].split_at_mut(x.len());
        own.copy_from_slice(x);
        rest.fill(0.0);
        &spare[..ROWS * width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(rows: Rows, n_parts: usize, expected: &[(usize, usize, usize)]) {
        let mut output: Vec<f32> = (0..2 * rows.n_rows).map(|i| i as f32).collect();
        let mut per_unit = vec![0.0; rows.n_rows.div_ceil(rows.per_unit)];
        let outputs = [Output::PerRow(&mut output, 2), Output::PerUnit(&mut per_unit, 1)];
        let parts = rows.in_parts(outputs, |part, [output, per_unit]| {
            for tile in part.tiles() {
                assert_eq!(output[2 * tile.first_here], 2.0 * tile.first as f32);
                per_unit[tile.unit_here] += tile.n as f32;
            }
            assert_eq!(output.len(), 2 * part.tiles().map(|tile| tile.n).sum::<usize>());
            part.tiles().map(|tile| (tile.unit, tile.first, tile.n)).collect::<Vec<_>>()
        });
        assert_eq!(parts.len(), n_parts, "{rows:?}");
        assert_eq!(parts.concat(), expected, "{rows:?}");
        assert_eq!(per_unit.iter().sum::<f32>(), rows.n_rows as f32, "{rows:?}");
    }

    #[test]
    fn tiles_cover_all_rows_once() {
        case(Rows::free(0), 1, &[]);
        case(Rows::free(5), 1, &[(0, 0, 5)]);
        case(Rows::free(64), 1, &[(0, 0, 32), (1, 32, 32)]);
        let many: Vec<_> = (0..7).map(|i| (i, 32 * i, if i == 6 { 1 } else { 32 })).collect();
        case(Rows::free(193), 7, &many);
        case(Rows::free(32 * 40), 14, &(0..40).map(|i| (i, 32 * i, 32)).collect::<Vec<_>>());
    }

    #[test]
    fn a_tile_holds_rows_of_one_sample() {
        case(Rows::of_samples(10, 5), 1, &[(0, 0, 5), (1, 5, 5)]);
        let tiles = [0, 1, 2].map(|i| [(i, 40 * i, 32), (i, 40 * i + 32, 8)]);
        case(Rows::of_samples(120, 40), 3, &tiles.concat());
    }
}
