//! Which keys a query of the attention must not see, said once for all forms.
//!
//! Keys are the steps of the history followed by those of the future; queries are the steps of the future. The plain
//! form wants this as a tensor ([`AttentionMask::tensor`]), the fused one as runs of keys that are seen alike
//! ([`AttentionMask::blocks`]).

use std::f32::consts::LOG2_E;
use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use super::simd::ROWS;

/// The mask of a batch.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    encoder_length: usize,
    horizon: usize,
    encoder_lengths: Vec<usize>,
    decoder: Decoder,
    bias: f64,
}

/// What queries see of the future.
#[derive(Clone, Debug)]
pub enum Decoder {
    /// The steps strictly before their own (which is masked, too).
    Causal,
    /// The steps within the sample's length.
    Lengths(Vec<usize>),
}

/// Keys that lie together and are seen alike, at most [`ROWS`] of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub keys: Range<usize>,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    ByAll,
    ByNone,
    /// By the queries after this one the first key; each further key by one query fewer.
    After(usize),
}

/// How a tile of queries looks at a block of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    All,
    /// Query `i` of the tile sees the first `i` keys.
    Before,
    Nothing,
}

impl AttentionMask {
    /// History steps beyond a sample's length are masked; masked scores are replaced by `bias`.
    ///
    /// - Errors: a length exceeds its part; not one history length (and, unless causal, one future length) per sample.
    pub fn new(
        (encoder_length, horizon): (usize, usize),
        encoder_lengths: &[usize],
        decoder: Decoder,
        bias: f64,
    ) -> Result<Self> {
        ensure!(
            encoder_lengths.iter().all(|&n| n <= encoder_length),
            "a history exceeds {encoder_length} steps"
        );
        if let Decoder::Lengths(lengths) = &decoder {
            ensure!(lengths.iter().all(|&n| n <= horizon), "a future exceeds {horizon} steps");
            let (n, n_samples) = (lengths.len(), encoder_lengths.len());
            ensure!(n == n_samples, "{n} future lengths for {n_samples} samples");
        }
        Ok(AttentionMask {
            encoder_length,
            horizon,
            encoder_lengths: encoder_lengths.to_vec(),
            decoder,
            bias,
        })
    }

    /// Samples, queries and keys it was made for.
    pub fn dims(&self) -> (usize, usize, usize) {
        (self.encoder_lengths.len(), self.horizon, self.encoder_length + self.horizon)
    }

    /// What a masked score is replaced by.
    pub fn bias(&self) -> f64 {
        self.bias
    }

    /// How scores of heads of `width` are scaled and what masked ones are replaced by where they are in powers of two,
    /// which softmax does not notice. At most half of what `f32` can say, so that differences stay finite.
    pub(super) fn powers_of_two(&self, width: usize) -> (f32, f32) {
        let fill = (self.bias as f32 * LOG2_E).clamp(f32::MIN / 2.0, f32::MAX / 2.0);
        (LOG2_E / (width as f32).sqrt(), fill)
    }

    /// The steps of each sample's history (`None` if all have all) and future (`None` if queries see what is before them).
    pub(super) fn lengths(&self) -> (Option<&[usize]>, Option<&[usize]>) {
        let is_full = self.encoder_lengths.iter().all(|&length| length == self.encoder_length);
        let future = match &self.decoder {
            Decoder::Causal => None,
            Decoder::Lengths(lengths) => Some(lengths.as_slice()),
        };
        ((!is_full).then_some(self.encoder_lengths.as_slice()), future)
    }

    /// 1 is masked.
    ///
    /// - Shapes: `[B, 1, H, T]` of u8, with `B` 1 if all samples have the same mask.
    pub fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let (n_samples, horizon, n_keys) = self.dims();
        let n_masks = if self.is_uniform() { n_samples.min(1) } else { n_samples };
        let mut masked = Vec::with_capacity(n_masks * horizon * n_keys);
        for sample in 0..n_masks {
            for query in 0..horizon {
                let limit = match &self.decoder {
                    Decoder::Causal => query,
                    Decoder::Lengths(lengths) => lengths[sample],
                };
                let length = self.encoder_lengths[sample];
                masked.extend((0..self.encoder_length).map(|key| u8::from(key >= length)));
                masked.extend((0..horizon).map(|key| u8::from(key >= limit)));
            }
        }
        Tensor::from_vec(masked, (n_masks, 1, horizon, n_keys), device)
    }

    fn is_uniform(&self) -> bool {
        self.encoder_lengths.iter().all(|&length| length == self.encoder_length)
            && match &self.decoder {
                Decoder::Causal => true,
                Decoder::Lengths(lengths) => lengths.iter().all(|&length| length == self.horizon),
            }
    }

    /// All keys of a sample, in order, in blocks.
    pub(super) fn blocks(&self, sample: usize) -> Vec<Block> {
        let (history, end) = (self.encoder_length, self.encoder_length + self.horizon);
        let seen = self.encoder_lengths[sample];
        let mut blocks = Vec::new();
        let mut add = |keys: Range<usize>, seen: &dyn Fn(usize) -> Seen| {
            for first in keys.clone().step_by(ROWS) {
                blocks.push(Block { keys: first..(first + ROWS).min(keys.end), seen: seen(first) });
            }
        };
        add(0..seen, &|_| Seen::ByAll);
        add(seen..history, &|_| Seen::ByNone);
        match &self.decoder {
            Decoder::Causal => add(history..end, &|first| Seen::After(first - history)),
            Decoder::Lengths(lengths) => {
                add(history..history + lengths[sample], &|_| Seen::ByAll);
                add(history + lengths[sample]..end, &|_| Seen::ByNone);
            }
        }
        blocks
    }
}

impl Block {
    /// How the tile of queries from `first_query` on, a multiple of [`ROWS`], looks at this block.
    pub fn sight(&self, first_query: usize) -> Sight {
        match self.seen {
            Seen::ByAll => Sight::All,
            Seen::ByNone => Sight::Nothing,
            Seen::After(query) if query < first_query => Sight::All,
            Seen::After(query) if query == first_query => Sight::Before,
            Seen::After(_) => Sight::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(sizes: (usize, usize), encoder: &[usize], decoder: Decoder) -> AttentionMask {
        AttentionMask::new(sizes, encoder, decoder, -1e9).unwrap()
    }

    #[track_caller]
    fn case(encoder: &[usize], decoder: Option<&[usize]>, expected: &[&[u8]]) {
        let decoder = decoder.map_or(Decoder::Causal, |lengths| Decoder::Lengths(lengths.to_vec()));
        let masked = mask((2, 2), encoder, decoder).tensor(&Device::Cpu).unwrap();
        let rows = masked.flatten_to(2).unwrap().to_vec2::<u8>().unwrap();
        assert_eq!(rows, expected.iter().map(|row| row.to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn masks_by_hand() {
        case(&[2, 2], None, &[&[0, 0, 1, 1], &[0, 0, 0, 1]]);
        case(&[1], None, &[&[0, 1, 1, 1], &[0, 1, 0, 1]]);
        case(&[2, 2], Some(&[2, 2]), &[&[0, 0, 0, 0], &[0, 0, 0, 0]]);
        let two = [&[0u8, 0, 0, 0][..], &[0, 0, 0, 0], &[0, 1, 0, 1], &[0, 1, 0, 1]];
        case(&[2, 1], Some(&[2, 1]), &two);
    }

    /// The mask of a sample as the blocks tell it.
    fn from_blocks(mask: &AttentionMask, sample: usize) -> Vec<u8> {
        let (_, horizon, n_keys) = mask.dims();
        let mut masked = vec![9; horizon * n_keys];
        for query in 0..horizon {
            for block in mask.blocks(sample) {
                for (i, key) in block.keys.clone().enumerate() {
                    let seen = match block.sight(query / ROWS * ROWS) {
                        Sight::All => true,
                        Sight::Before => i < query % ROWS,
                        Sight::Nothing => false,
                    };
                    masked[query * n_keys + key] = u8::from(!seen);
                }
            }
        }
        masked
    }

    #[test]
    fn blocks_say_what_the_tensor_says() {
        for (history, horizon) in [(0, 1), (5, 3), (33, 40), (64, 96), (7, 65)] {
            let lengths = [history, 0, history / 2];
            for decoder in [Decoder::Causal, Decoder::Lengths(vec![horizon, 1, horizon.div_ceil(2)])] {
                let mask = mask((history, horizon), &lengths, decoder);
                let tensor = mask.tensor(&Device::Cpu).unwrap();
                let n_masks = tensor.dim(0).unwrap();
                for sample in 0..3 {
                    let expected = tensor.get(sample % n_masks).unwrap().flatten_all().unwrap();
                    assert_eq!(from_blocks(&mask, sample), expected.to_vec1::<u8>().unwrap());
                }
            }
        }
    }

    #[test]
    fn misfitting_lengths_are_refused() {
        let refused =
            |encoder: &[usize], decoder| AttentionMask::new((4, 3), encoder, decoder, -1e9).is_err();
        assert!(refused(&[5], Decoder::Causal));
        assert!(refused(&[4], Decoder::Lengths(vec![4])));
        assert!(refused(&[4, 4], Decoder::Lengths(vec![3])));
    }
}
