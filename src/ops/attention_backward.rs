//! The fused attention's way back, sample by sample.
//!
//! With a query's weights `p` (of sum 1), what its head saw `y = sum p v` and the gradient `g` of that, a score's
//! gradient is `p (g v - g y)`. The weights made anew are too large by the factor `sum`; instead of dividing them,
//! `g` is divided once.

use std::f32::consts::LN_2;

use super::attention_forward::fill_hidden;
use super::attention_fused::{Inputs, Problem};
use super::attention_mask::{Block, Sight};
use super::simd::{Init, Matrix, ROWS, Simd, Tiles};

/// Tiles of queries that are worked on together: their sums for a key are added up across the lanes only once.
const GROUP: usize = 4;

/// The work space of one thread; what is per tile, is there for a group of them.
pub(super) struct Backward<'a> {
    problem: &'a Problem,
    simd: Simd,
    /// Queries, scaled, and their gradients: `[d][ROWS]` each.
    queries: Vec<f32>,
    d_queries: Vec<f32>,
    /// The gradient of what the head saw, over the sum of the weights: `[d][ROWS]` each.
    slopes: Vec<f32>,
    /// The mean of the weights' gradients: `[ROWS]` each.
    means: Vec<f32>,
    /// Scores, then weights, and their gradients, of a block of keys: `[keys][ROWS]` each.
    scores: Vec<f32>,
    d_scores: Vec<f32>,
    /// The gradient of one tile's output, and its dropout: `[d][ROWS]` each.
    grad: Vec<f32>,
    factors: Vec<f32>,
    /// Whether keys that a tile must not see have a weight in it after all.
    looks_at_hidden: [bool; GROUP],
}

/// Tiles of a head, from `first` on, and what the forward kept of each.
#[derive(Clone, Copy)]
struct Group<'a> {
    head: usize,
    first: usize,
    kept: &'a [f32],
}

impl<'a> Backward<'a> {
    pub fn new(problem: &'a Problem) -> Self {
        let n_tiles = problem.n_tiles().min(GROUP);
        let tiles = || vec![0.0; n_tiles * problem.sizes.width * ROWS];
        let blocks = || vec![0.0; n_tiles * ROWS * ROWS];
        Backward {
            problem,
            simd: Simd::best(),
            queries: tiles(),
            d_queries: tiles(),
            slopes: tiles(),
            means: vec![0.0; n_tiles * ROWS],
            scores: blocks(),
            d_scores: blocks(),
            grad: vec![0.0; problem.sizes.width * ROWS],
            factors: vec![0.0; problem.sizes.width * ROWS],
            looks_at_hidden: [false; GROUP],
        }
    }

    /// One sample: from the gradient of its output `[H, d]` to those of its inputs, which start as zero.
    pub fn run(
        &mut self,
        sample: usize,
        inputs: Inputs<'_>,
        kept: &[f32],
        grad: &[f32],
        [d_queries, d_keys, d_values]: [&mut [f32]; 3],
    ) {
        let (problem, n_tiles) = (self.problem, self.problem.n_tiles());
        let blocks = problem.blocks(sample);
        for (head, kept) in kept.chunks_exact(n_tiles * problem.kept_len()).enumerate() {
            for (i, kept) in kept.chunks(GROUP * problem.kept_len()).enumerate() {
                let group = Group { head, first: i * GROUP, kept };
                self.prepare(sample, inputs, grad, group);
                for block in &blocks {
                    self.look_back(inputs, block, group, d_keys, d_values);
                }
                self.put_queries(group, d_queries);
            }
        }
    }

    /// Queries, gradients and means of a group's tiles.
    fn prepare(&mut self, sample: usize, inputs: Inputs<'_>, grad: &[f32], group: Group<'_>) {
        let (problem, width) = (self.problem, self.problem.sizes.width);
        self.d_queries.fill(0.0);
        for (i, kept) in group.kept.chunks_exact(problem.kept_len()).enumerate() {
            let tile = group.first + i;
            let queries = &mut self.queries[i * width * ROWS..(i + 1) * width * ROWS];
            problem.load_queries(self.simd, inputs, (group.head, tile), queries);
            self.load_slopes((sample, group.head, tile), grad, i, kept);
            self.looks_at_hidden[i] = problem.hidden_keys_count(tile, &kept[..ROWS]);
        }
    }

    /// The gradient of what the head saw in tile `i` of the group, over the sum of the weights, and its mean.
    fn load_slopes(&mut self, place: (usize, usize, usize), grad: &[f32], i: usize, kept: &[f32]) {
        let (problem, simd, width) = (self.problem, self.simd, self.problem.sizes.width);
        let (inverse, seen) = kept[ROWS..].split_at(ROWS);
        let slopes = &mut self.slopes[i * width * ROWS..(i + 1) * width * ROWS];
        let (_, _, tile) = place;
        simd.load_rows(&grad[tile * ROWS * width..], width, problem.n_rows(tile), width, &mut self.grad);
        if problem.factors(simd, place, &mut self.factors) {
            simd.multiply(&self.factors, &mut self.grad);
        }
        let mut share = [1.0 / problem.sizes.n_heads as f32; ROWS];
        simd.multiply(&inverse[..ROWS], &mut share);
        simd.scale(&self.grad, width, &share, slopes);
        simd.dots(slopes, seen, width, &mut self.means[i * ROWS..(i + 1) * ROWS]);
    }

    /// What a block of keys gives and gets from the tiles of a group.
    fn look_back(
        &mut self,
        inputs: Inputs<'_>,
        block: &Block,
        group: Group<'_>,
        d_keys: &mut [f32],
        d_values: &mut [f32],
    ) {
        let (joined, width) = (self.problem.sizes.joined(), self.problem.sizes.width);
        let (n, first) = (block.keys.len(), block.keys.start);
        let sights = |i: usize| block.sight((group.first + i) * ROWS);
        let n_tiles = group.kept.len() / self.problem.kept_len();
        let looks = |i: &usize| sights(*i) != Sight::Nothing || self.looks_at_hidden[*i];
        let Some(start) = (0..n_tiles).find(looks) else { return };
        for i in start..n_tiles {
            match sights(i) {
                Sight::Nothing => self.hidden(i, n, group),
                sight => self.seen(inputs, block, sight, i, group),
            }
        }
        let (scores_at, tiles_at) = (start * ROWS * ROWS, start * width * ROWS);
        let of_keys = |values| Tiles { values, n, stride: ROWS * ROWS };
        let of_queries = |values| Tiles { values, n: width, stride: width * ROWS };
        self.simd.row_products(
            of_keys(&self.d_scores[scores_at..]),
            of_queries(&self.queries[tiles_at..]),
            n_tiles - start,
            LN_2,
            &mut d_keys[first * joined + group.head * width..],
            joined,
        );
        self.simd.row_products(
            of_keys(&self.scores[scores_at..]),
            of_queries(&self.slopes[tiles_at..]),
            n_tiles - start,
            1.0,
            &mut d_values[first * width..],
            width,
        );
    }

    /// A block that tile `i` of the group sees, or sees a part of: weights, their gradients, the queries' gradients.
    fn seen(&mut self, inputs: Inputs<'_>, block: &Block, sight: Sight, i: usize, group: Group<'_>) {
        let (problem, simd) = (self.problem, self.simd);
        let (joined, width) = (problem.sizes.joined(), problem.sizes.width);
        let (n, key_start) = (block.keys.len(), block.keys.start * joined + group.head * width);
        let tile = i * width * ROWS..(i + 1) * width * ROWS;
        let scores = &mut self.scores[i * ROWS * ROWS..(i + 1) * ROWS * ROWS];
        let d_scores = &mut self.d_scores[i * ROWS * ROWS..(i + 1) * ROWS * ROWS];
        let keys = Matrix::rows(&inputs.keys[key_start..], joined);
        simd.product(keys, (n, width), &self.queries[tile.clone()], Init::Zero, scores);
        let values = Matrix::rows(&inputs.values[block.keys.start * width..], width);
        simd.product(values, (n, width), &self.slopes[tile.clone()], Init::Zero, d_scores);
        if sight == Sight::Before {
            fill_hidden(scores, n, problem.fill());
        }
        let largest = &group.kept[i * problem.kept_len()..][..ROWS];
        simd.softmax_again(scores, d_scores, n, largest, &self.means[i * ROWS..(i + 1) * ROWS]);
        if sight == Sight::Before {
            fill_hidden(d_scores, n, 0.0);
        }
        let keys = Matrix::columns(&inputs.keys[key_start..], joined);
        simd.product(keys, (width, n), d_scores, Init::Output, &mut self.d_queries[tile]);
    }

    /// A block that tile `i` must not see: nothing, or the weight of the replaced scores, which has no gradient.
    fn hidden(&mut self, i: usize, n: usize, group: Group<'_>) {
        let scores = &mut self.scores[i * ROWS * ROWS..(i + 1) * ROWS * ROWS];
        let d_scores = &mut self.d_scores[i * ROWS * ROWS..(i + 1) * ROWS * ROWS];
        if self.looks_at_hidden[i] {
            let largest = &group.kept[i * self.problem.kept_len()..][..ROWS];
            scores.fill(self.problem.fill());
            self.simd.softmax_again(scores, d_scores, n, largest, &self.means[i * ROWS..(i + 1) * ROWS]);
        } else {
            scores.fill(0.0);
        }
        d_scores.fill(0.0);
    }

    /// The gradients of a group's queries, as rows.
    fn put_queries(&mut self, group: Group<'_>, d_queries: &mut [f32]) {
        let (problem, width) = (self.problem, self.problem.sizes.width);
        // The scores were in powers of two, their gradients are those of powers of e.
        let scale = problem.score_scale() * LN_2;
        self.d_queries.iter_mut().for_each(|slope| *slope *= scale);
        let n_tiles = group.kept.len() / problem.kept_len();
        for (i, slopes) in self.d_queries.chunks_exact(width * ROWS).take(n_tiles).enumerate() {
            let tile = group.first + i;
            let rows = &mut d_queries[problem.query_start(tile, group.head)..];
            self.simd.store_rows(slopes, width, rows, problem.sizes.joined(), problem.n_rows(tile));
        }
    }
}
