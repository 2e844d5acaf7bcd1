//! Which encoding makes a column of float32 small, told from a look at some of its values.

use anyhow::{Context, Result};

use super::row_groups::ZSTD_LEVEL;

/// How a column is to be encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    /// As a split of bytes: its values hardly repeat.
    Split,
    /// As a dictionary, unless that takes more than so many bytes: then a split of bytes may be smaller.
    Dictionary { has_runs: bool, unless_above: usize },
}

/// Stretches of values that are looked at, and the values of each.
const N_STRETCHES: usize = 16;
const STRETCH: usize = 512;

/// Of so many values in a hundred that are looked at, each is another one: no dictionary will be small.
const DISTINCT_PERCENT: usize = 75;

/// Of so many values in a hundred, each is the one before: there are runs.
const REPEATED_PERCENT: usize = 25;

/// Looks at stretches of `values` all along the column.
///
/// - Errors: the compressor fails.
pub(super) fn choose(values: &[f32]) -> Result<Choice> {
    let sample = sample(values);
    let mut bits: Vec<u32> = sample.iter().map(|value| value.to_bits()).collect();
    bits.sort_unstable();
    bits.dedup();
    if 100 * bits.len() > DISTINCT_PERCENT * sample.len() {
        return Ok(Choice::Split);
    }
    let n_repeated = sample.windows(2).filter(|pair| pair[0].to_bits() == pair[1].to_bits()).count();
    let n_bytes = split_bytes(&sample)?;
    Ok(Choice::Dictionary {
        has_runs: 100 * n_repeated > REPEATED_PERCENT * sample.len(),
        unless_above: n_bytes * values.len() / sample.len().max(1),
    })
}

fn sample(values: &[f32]) -> Vec<f32> {
    if values.len() <= N_STRETCHES * STRETCH {
        return values.to_vec();
    }
    let begins = (0..N_STRETCHES).map(|stretch| stretch * (values.len() - STRETCH) / (N_STRETCHES - 1));
    begins.flat_map(|begin| &values[begin..begin + STRETCH]).copied().collect()
}

/// What a split of bytes, compressed, takes for these values.
fn split_bytes(values: &[f32]) -> Result<usize> {
    let byte = |at: usize| values.iter().map(move |value| value.to_le_bytes()[at]);
    let split: Vec<u8> = (0..4).flat_map(byte).collect();
    Ok(zstd::bulk::compress(&split, ZSTD_LEVEL).context("compress a sample")?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look like noise.
    fn noise(n: u32) -> impl Iterator<Item = f32> {
        (0..n).map(|i| {
            (i.wrapping_mul(2_654_435_761).rotate_left(15) ^ i).wrapping_mul(2_246_822_519) as f32 / 1e8
        })
    }

    #[test]
    fn values_that_hardly_repeat_are_split_and_others_are_not() {
        let all: Vec<f32> = noise(100_000).collect();
        assert_eq!(choose(&all).unwrap(), Choice::Split);
        let few: Vec<f32> = all.iter().map(|value| (value * 10.0).round() / 10.0).collect();
        let found = choose(&few).unwrap();
        let Choice::Dictionary { has_runs: false, unless_above } = found else { panic!("{found:?}") };
        assert!((100_000..300_000).contains(&unless_above), "{unless_above}");
        let slow: Vec<f32> = all.iter().flat_map(|value| [value.round(); 3]).collect();
        assert!(matches!(choose(&slow).unwrap(), Choice::Dictionary { has_runs: true, .. }));
        assert_eq!(choose(&[]).unwrap(), Choice::Dictionary { has_runs: false, unless_above: 0 });
    }

    #[test]
    fn a_sample_reaches_from_the_first_value_to_the_last() {
        let values: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
        let sample = sample(&values);
        assert_eq!(sample.len(), N_STRETCHES * STRETCH);
        assert_eq!((sample[0], sample[sample.len() - 1]), (0.0, 49_999.0));
        assert!(sample.is_sorted());
    }
}
