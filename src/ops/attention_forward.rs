//! The fused attention's way forward, sample by sample.

use super::attention_fused::{Inputs, Problem};
use super::attention_mask::{Block, Sight};
use super::simd::{Init, Matrix, ROWS, Simd};

/// The work space of one thread.
pub(super) struct Forward<'a> {
    problem: &'a Problem,
    simd: Simd,
    /// Queries of the tile at hand, scaled: `[d][ROWS]`.
    query: Vec<f32>,
    /// Scores, then weights, of a block of keys: `[keys][ROWS]`.
    scores: Vec<f32>,
    /// What a head saw, and its dropout: `[d][ROWS]`.
    head: Vec<f32>,
    factors: Vec<f32>,
    /// The sum over the heads, all tiles of the sample.
    sums: Vec<f32>,
}

impl<'a> Forward<'a> {
    pub fn new(problem: &'a Problem) -> Self {
        let tile = problem.sizes.width * ROWS;
        Forward {
            problem,
            simd: Simd::best(),
            query: vec![0.0; tile],
            scores: vec![0.0; ROWS * ROWS],
            head: vec![0.0; tile],
            factors: vec![0.0; tile],
            sums: vec![0.0; problem.n_tiles() * tile],
        }
    }

    /// One sample: its output `[H, d]`, and what the backward needs, head by head and tile by tile.
    pub fn run(&mut self, sample: usize, inputs: Inputs<'_>, out: &mut [f32], kept: &mut [f32]) {
        let Problem { sizes, .. } = *self.problem;
        let (n_tiles, tile_len) = (self.problem.n_tiles(), sizes.width * ROWS);
        let blocks = self.problem.blocks(sample);
        self.sums.fill(0.0);
        for (unit, kept) in kept.chunks_exact_mut(self.problem.kept_len()).enumerate() {
            let (head, tile) = (unit / n_tiles, unit % n_tiles);
            self.attend(inputs, &blocks, (head, tile), kept);
            self.head.copy_from_slice(&kept[2 * ROWS..]);
            if self.problem.factors(self.simd, (sample, head, tile), &mut self.factors) {
                self.simd.multiply(&self.factors, &mut self.head);
            }
            self.simd.add(&self.head, &mut self.sums[tile * tile_len..(tile + 1) * tile_len]);
        }
        let share = 1.0 / sizes.n_heads as f32;
        self.sums.iter_mut().for_each(|sum| *sum *= share);
        for (tile, sums) in self.sums.chunks_exact(tile_len).enumerate() {
            let out = &mut out[tile * ROWS * sizes.width..];
            self.simd.store_rows(sums, sizes.width, out, sizes.width, self.problem.n_rows(tile));
        }
    }

    /// A tile of one head: what it saw, with the largest score and one over the sum of each query before it.
    fn attend(
        &mut self,
        inputs: Inputs<'_>,
        blocks: &[Block],
        (head, tile): (usize, usize),
        kept: &mut [f32],
    ) {
        let (problem, simd) = (self.problem, self.simd);
        let (joined, width) = (problem.sizes.joined(), problem.sizes.width);
        problem.load_queries(simd, inputs, (head, tile), &mut self.query);
        let (largest, rest) = kept.split_at_mut(ROWS);
        let (sum, seen) = rest.split_at_mut(ROWS);
        largest.fill(f32::MIN);
        sum.fill(0.0);
        self.head.fill(0.0);
        for block in blocks {
            let sight = block.sight(tile * ROWS);
            if sight == Sight::Nothing {
                continue;
            }
            let keys = Matrix::rows(&inputs.keys[block.keys.start * joined + head * width..], joined);
            simd.product(keys, (block.keys.len(), width), &self.query, Init::Zero, &mut self.scores);
            if sight == Sight::Before {
                fill_hidden(&mut self.scores, block.keys.len(), problem.fill());
            }
            self.take(inputs, block, largest, sum);
        }
        if problem.hidden_keys_count(tile, largest) {
            for block in blocks.iter().filter(|block| block.sight(tile * ROWS) == Sight::Nothing) {
                self.scores.fill(problem.fill());
                self.take(inputs, block, largest, sum);
            }
        }
        sum.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        simd.scale(&self.head, width, sum, seen);
    }

    /// Takes a block with its scores into what the head has seen so far.
    fn take(&mut self, inputs: Inputs<'_>, block: &Block, largest: &mut [f32], sum: &mut [f32]) {
        let (width, n) = (self.problem.sizes.width, block.keys.len());
        self.simd.softmax_more(&mut self.scores, n, (largest, sum), &mut self.head, width);
        let values = Matrix::columns(&inputs.values[block.keys.start * width..], width);
        self.simd.product(values, (width, n), &self.scores, Init::Output, &mut self.head);
    }
}

/// Replaces, in a block on the diagonal, what queries must not see: the first `i + 1` queries key `i`.
pub(super) fn fill_hidden(tile: &mut [f32], n_keys: usize, fill: f32) {
    for (i, key) in tile.chunks_exact_mut(ROWS).take(n_keys).enumerate() {
        key[..=i].fill(fill);
    }
}
