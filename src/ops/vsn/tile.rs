//! Tiles of up to 32 steps of one group through all variables, forward and backward.

use super::collapse::{Collapsed, CollapsedCategorical};
use super::ready::Ready;
use crate::ops::dropout::Mask;
use crate::ops::grn_tile::{GrnTile, Skip};
use crate::ops::simd::{Init, Matrix, ROWS, Simd};

/// Shapes of the operation.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Rows of a group share a context.
    pub n_groups: usize,
    pub n_rows: usize,
    /// Columns of the reals.
    pub n_reals: usize,
    /// Columns of the codes.
    pub n_codes: usize,
    pub hidden: usize,
}

/// One part's working memory and what it reads.
pub struct Worker<'a> {
    simd: Simd,
    sizes: Sizes,
    ready: &'a Ready,
    collapsed: &'a Collapsed,
    values: &'a [f32],
    reals: &'a [f32],
    codes: &'a [u32],
    context: &'a [f32],
    masks: Option<&'a [Mask]>,
    /// All columns of the reals.
    raw: Vec<f32>,
    /// The columns that are variables, in their order.
    x: Vec<f32>,
    /// The same in rows.
    x_rows: Vec<f32>,
    joint: GrnTile,
    single: GrnTile,
    /// The joint network's offset with a group's context.
    offset: Vec<f32>,
    /// `[N]` features: how much each variable counts.
    shares: Vec<f32>,
    d_shares: Vec<f32>,
    vector: Vec<f32>,
    d_vector: Vec<f32>,
    selected: Vec<f32>,
    rows: Vec<f32>,
    spare: Vec<f32>,
}

/// Which rows a tile has.
#[derive(Clone, Copy)]
struct Place {
    /// Among all rows of all groups.
    first: usize,
    n: usize,
}

impl<'a> Worker<'a> {
    pub fn new(
        simd: Simd,
        sizes: Sizes,
        ready: &'a Ready,
        (reals, codes): (&'a [f32], &'a [u32]),
        context: &'a [f32],
        masks: Option<&'a [Mask]>,
    ) -> Self {
        let Ready { collapsed, values, .. } = ready;
        let n = collapsed.joint.tail.out;
        let joint_hidden = collapsed.joint.tail.hidden;
        let hidden = collapsed.reals.iter().map(|real| real.tail.hidden).max().unwrap_or(1);
        let widest = sizes.hidden.max(n).max(joint_hidden);
        let tile = |n: usize| vec![0.0; n * ROWS];
        Worker {
            simd,
            sizes,
            ready,
            collapsed,
            values,
            reals,
            codes,
            context,
            masks,
            raw: tile(sizes.n_reals),
            x: tile(collapsed.reals.len()),
            x_rows: tile(collapsed.reals.len().max(1)),
            joint: GrnTile::new(joint_hidden, n),
            single: GrnTile::new(hidden, sizes.hidden),
            offset: vec![0.0; joint_hidden],
            shares: tile(n),
            d_shares: tile(n),
            vector: tile(sizes.hidden),
            d_vector: tile(sizes.hidden),
            selected: tile(sizes.hidden),
            rows: tile(widest),
            spare: tile(widest),
        }
    }

    /// All rows of a group: the selection `[n_rows, D]` and the weights `[n_rows, N]`.
    pub fn forward(&mut self, group: usize, selected: &mut [f32], shares: &mut [f32]) {
        let (hidden, n) = (self.sizes.hidden, self.collapsed.joint.tail.out);
        self.enter(group);
        for place in places(self.sizes, group) {
            self.select(place);
            self.selected.fill(0.0);
            for c in 0..self.collapsed.categoricals.len() {
                let categorical = &self.collapsed.categoricals[c];
                self.look_up(place, categorical);
                let share = &self.shares[categorical.number * ROWS..][..ROWS];
                self.simd.add_scaled(&self.vector, hidden, share, &mut self.selected);
            }
            for r in 0..self.collapsed.reals.len() {
                self.process(place, r);
                let number = self.collapsed.reals[r].number;
                let share = &self.shares[number * ROWS..][..ROWS];
                self.simd.add_scaled(&self.vector, hidden, share, &mut self.selected);
            }
            let at = place.first - group * self.sizes.n_rows;
            self.simd.store_rows(&self.selected, hidden, &mut selected[at * hidden..], hidden, place.n);
            self.simd.store_rows(&self.shares, n, &mut shares[at * n..], n, place.n);
        }
    }

    /// All rows of a group backward: from the gradient of its selection to that of its context and, added up in `grads`,
    /// that of the collapsed values.
    pub fn backward(&mut self, group: usize, d_selected: &[f32], d_context: &mut [f32], grads: &mut [f32]) {
        let hidden = self.sizes.hidden;
        self.enter(group);
        for place in places(self.sizes, group) {
            self.select(place);
            let at = place.first - group * self.sizes.n_rows;
            // `selected` holds the gradient of the selection here.
            self.simd.load_rows(&d_selected[at * hidden..], hidden, place.n, hidden, &mut self.selected);
            for c in 0..self.collapsed.categoricals.len() {
                self.categorical_backward(place, c, grads);
            }
            for r in 0..self.collapsed.reals.len() {
                self.real_backward(place, r, grads);
            }
            self.joint_backward(place, d_context, grads);
        }
    }

    fn enter(&mut self, group: usize) {
        let n = self.offset.len();
        self.offset.copy_from_slice(&self.values[self.collapsed.joint.offset.clone()]);
        self.simd.add(&self.context[group * n..(group + 1) * n], &mut self.offset);
    }

    /// Reads a tile's reals and weighs the variables.
    fn select(&mut self, place: Place) {
        let (simd, sizes, n_reals) = (self.simd, self.sizes, self.collapsed.reals.len());
        let rows = &self.reals[place.first * sizes.n_reals..];
        simd.load_rows(rows, sizes.n_reals, place.n, sizes.n_reals, &mut self.raw);
        for (r, real) in self.collapsed.reals.iter().enumerate() {
            let column = &self.raw[real.column * ROWS..][..ROWS];
            self.x[r * ROWS..][..ROWS].copy_from_slice(column);
        }
        let joint = &self.collapsed.joint;
        let (hidden, n) = (joint.tail.hidden, joint.tail.out);
        let slopes = Matrix::rows(&self.values[joint.slopes.clone()], n_reals);
        let offset = Init::Bias(&self.offset);
        simd.product(slopes, (hidden, n_reals), &self.x, offset, &mut self.joint.first);
        let slopes = Matrix::rows(&self.values[joint.skip_slopes.clone()], n_reals);
        let offset = Init::Bias(&self.values[joint.skip_offset.clone()]);
        simd.product(slopes, (n, n_reals), &self.x, offset, &mut self.joint.skip);
        for categorical in &self.collapsed.categoricals {
            for (table, width, to) in [
                (&categorical.first, hidden, &mut self.joint.first),
                (&categorical.skip, n, &mut self.joint.skip),
            ] {
                let table = &self.values[table.clone()];
                gather(table, width, codes(self.codes, self.sizes, place, categorical), &mut self.rows);
                simd.load_rows(&self.rows, width, place.n, width, &mut self.spare);
                simd.add(&self.spare[..width * ROWS], &mut to[..width * ROWS]);
            }
        }
        let mask = self.masks.map(|masks| (masks[n_reals], place.first));
        self.joint.forward(simd, &joint.tail, self.values, Skip::Tile, mask, &mut self.shares);
        simd.softmax(&mut self.shares, n);
    }

    /// A categorical's vectors in `vector`.
    fn look_up(&mut self, place: Place, categorical: &CollapsedCategorical) {
        let (table, hidden) = (&self.values[categorical.vectors.clone()], self.sizes.hidden);
        gather(table, hidden, codes(self.codes, self.sizes, place, categorical), &mut self.rows);
        self.simd.load_rows(&self.rows, hidden, place.n, hidden, &mut self.vector);
    }

    /// A real variable's vectors in `vector`.
    fn process(&mut self, place: Place, r: usize) {
        let (simd, real) = (self.simd, &self.collapsed.reals[r]);
        let x = &self.x[r * ROWS..][..ROWS];
        let slope = Matrix::rows(&self.values[real.slope.clone()], 1);
        let offset = Init::Bias(&self.values[real.offset.clone()]);
        simd.product(slope, (real.tail.hidden, 1), x, offset, &mut self.single.first);
        let skip = match self.ready.line(r) {
            Some(line) => Skip::Line(line, x),
            None => {
                let slope = Matrix::rows(&self.values[real.skip_slope.clone()], 1);
                let offset = Init::Bias(&self.values[real.skip_offset.clone()]);
                simd.product(slope, (real.tail.out, 1), x, offset, &mut self.single.skip);
                Skip::Tile
            }
        };
        let mask = self.masks.map(|masks| (masks[r], place.first));
        self.single.forward(simd, &real.tail, self.values, skip, mask, &mut self.vector);
    }

    /// The gradient of variable `number`'s weight in `d_shares` and of its vectors in `d_vector`.
    fn share_backward(&mut self, number: usize) {
        let (simd, hidden) = (self.simd, self.sizes.hidden);
        let d_share = &mut self.d_shares[number * ROWS..][..ROWS];
        simd.dots(&self.selected, &self.vector, hidden, d_share);
        simd.scale(&self.selected, hidden, &self.shares[number * ROWS..][..ROWS], &mut self.d_vector);
    }

    fn categorical_backward(&mut self, place: Place, c: usize, grads: &mut [f32]) {
        let categorical = &self.collapsed.categoricals[c];
        self.look_up(place, categorical);
        self.share_backward(categorical.number);
        let hidden = self.sizes.hidden;
        self.simd.store_rows(&self.d_vector, hidden, &mut self.rows, hidden, place.n);
        let table = &mut grads[categorical.vectors.clone()];
        let codes = codes(self.codes, self.sizes, place, categorical);
        scatter(self.simd, &self.rows, hidden, codes, table);
    }

    fn real_backward(&mut self, place: Place, r: usize, grads: &mut [f32]) {
        self.process(place, r);
        let real = &self.collapsed.reals[r];
        self.share_backward(real.number);
        let simd = self.simd;
        let is_masked = self.masks.is_some();
        self.single.backward(simd, &real.tail, self.values, is_masked, &self.d_vector, grads);
        let x = &self.x[r * ROWS..][..ROWS];
        for (d, n, slope, offset) in [
            (&self.single.d_first, real.tail.hidden, &real.slope, &real.offset),
            (&self.single.d_skip, real.tail.out, &real.skip_slope, &real.skip_offset),
        ] {
            simd.add_row_moments(d, x, n, &mut grads[slope.clone()]);
            simd.add_row_sums(d, n, &mut grads[offset.clone()]);
        }
    }

    fn joint_backward(&mut self, place: Place, d_context: &mut [f32], grads: &mut [f32]) {
        let (simd, joint, n_reals) = (self.simd, &self.collapsed.joint, self.collapsed.reals.len());
        let (hidden, n) = (joint.tail.hidden, joint.tail.out);
        simd.softmax_backward(&self.shares, &mut self.d_shares, n);
        self.joint.backward(simd, &joint.tail, self.values, self.masks.is_some(), &self.d_shares, grads);
        simd.add_row_sums(&self.joint.d_first, hidden, d_context);
        simd.add_row_sums(&self.joint.d_first, hidden, &mut grads[joint.offset.clone()]);
        simd.add_row_sums(&self.joint.d_skip, n, &mut grads[joint.skip_offset.clone()]);
        if n_reals > 0 {
            simd.store_rows(&self.x, n_reals, &mut self.x_rows, n_reals, ROWS);
            let (d_first, d_skip) = (&self.joint.d_first, &self.joint.d_skip);
            let slopes = &mut grads[joint.slopes.clone()];
            simd.outer(d_first, &self.x_rows, n_reals, (hidden, n_reals), slopes);
            let slopes = &mut grads[joint.skip_slopes.clone()];
            simd.outer(d_skip, &self.x_rows, n_reals, (n, n_reals), slopes);
        }
        for categorical in &self.collapsed.categoricals {
            for (d, width, table) in [
                (&self.joint.d_first, hidden, &categorical.first),
                (&self.joint.d_skip, n, &categorical.skip),
            ] {
                simd.store_rows(d, width, &mut self.rows, width, place.n);
                let codes = codes(self.codes, self.sizes, place, categorical);
                scatter(simd, &self.rows, width, codes, &mut grads[table.clone()]);
            }
        }
    }
}

/// The tiles of a group.
fn places(sizes: Sizes, group: usize) -> impl Iterator<Item = Place> {
    let start = group * sizes.n_rows;
    let tiles = (0..sizes.n_rows).step_by(ROWS);
    tiles.map(move |at| Place { first: start + at, n: (sizes.n_rows - at).min(ROWS) })
}

/// A categorical's codes at the rows of a tile.
fn codes<'a>(
    codes: &'a [u32],
    sizes: Sizes,
    place: Place,
    categorical: &CollapsedCategorical,
) -> impl Iterator<Item = usize> + use<'a> {
    let first = place.first * sizes.n_codes + categorical.column;
    codes[first..].iter().step_by(sizes.n_codes).take(place.n).map(|&code| code as usize)
}

fn gather(table: &[f32], width: usize, codes: impl Iterator<Item = usize>, rows: &mut [f32]) {
    for (row, code) in rows.chunks_exact_mut(width).zip(codes) {
        row.copy_from_slice(&table[code * width..(code + 1) * width]);
    }
}

fn scatter(simd: Simd, rows: &[f32], width: usize, codes: impl Iterator<Item = usize>, table: &mut [f32]) {
    for (row, code) in rows.chunks_exact(width).zip(codes) {
        simd.add(row, &mut table[code * width..(code + 1) * width]);
    }
}
