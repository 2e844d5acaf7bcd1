//! In which order an epoch meets its samples: a function of (seed, epoch) and nothing else.
//!
//! A resumed run computes the same order again and continues at its position; nothing of it is stored.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// The first `n_taken` places of a random permutation of `0..n`: the samples of one epoch, in order.
///
/// Each epoch draws anew and without replacement, so over many epochs every sample has its turn even where an
/// epoch takes a part. `n_taken` 0, or more than there are, takes all. Where a window is trained on in parts, each has
/// an order of its own, by its number; a window in memory has none.
pub fn epoch_order(n: usize, n_taken: usize, seed: u64, epoch: u64, part: Option<u64>) -> Vec<u32> {
    assert!(u32::try_from(n).is_ok(), "{n} samples are more than one order can name: set training.memory_mb");
    let n_taken = if n_taken == 0 { n } else { n_taken.min(n) };
    let mut rng = generator(seed, epoch, part);
    if n_taken < n / SPARSE {
        return sparse_order(n, n_taken, &mut rng);
    }
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in 0..n_taken {
        let j = i + below(&mut rng, (n - i) as u64) as usize;
        order.swap(i, j);
    }
    order.truncate(n_taken);
    order
}

/// Samples to one taken from which only the places that moved are written down.
const SPARSE: usize = 8;

/// What the swaps of [`epoch_order`] give, without the places that nobody touched.
fn sparse_order(n: usize, n_taken: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut moved: HashMap<u32, u32> = HashMap::with_capacity(2 * n_taken);
    let swap = |i: usize| {
        let j = (i + below(rng, (n - i) as u64) as usize) as u32;
        let at = |moved: &HashMap<u32, u32>, place: u32| moved.get(&place).copied().unwrap_or(place);
        let (first, second) = (at(&moved, i as u32), at(&moved, j));
        moved.insert(j, first);
        second
    };
    (0..n_taken).map(swap).collect()
}

/// One stream per (seed, epoch, part).
fn generator(seed: u64, epoch: u64, part: Option<u64>) -> ChaCha8Rng {
    let mut hasher = Sha256::new();
    hasher.update(b"sample order");
    hasher.update(seed.to_le_bytes());
    hasher.update(epoch.to_le_bytes());
    if let Some(part) = part {
        hasher.update(part.to_le_bytes());
    }
    ChaCha8Rng::from_seed(hasher.finalize().into())
}

/// Uniform in `0..bound` by a wide multiplication.
///
/// Ours rather than a library's, whose values may change with its version. The bias is below `bound` / 2^64.
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_epoch_takes_each_sample_at_most_once(
            n in 0usize..500, n_taken in 0usize..600, seed: u64, epoch in 0u64..1000,
        ) {
            let order = epoch_order(n, n_taken, seed, epoch, None);
            let n_expected = if n_taken == 0 { n } else { n_taken.min(n) };
            prop_assert_eq!(order.len(), n_expected);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), n_expected);
            prop_assert!(sorted.iter().all(|i| (*i as usize) < n));
            prop_assert_eq!(order, epoch_order(n, n_taken, seed, epoch, None));
        }

        #[test]
        fn epochs_and_seeds_differ(seed: u64, epoch in 0u64..1000) {
            let order = epoch_order(100, 0, seed, epoch, None);
            prop_assert_ne!(&order, &epoch_order(100, 0, seed, epoch + 1, None));
            prop_assert_ne!(&order, &epoch_order(100, 0, seed.wrapping_add(1), epoch, None));
            prop_assert_ne!(&order, &epoch_order(100, 0, seed, epoch, Some(0)));
        }
    }

    #[test]
    fn the_order_never_changes_between_versions() {
        assert_eq!(epoch_order(8, 0, 42, 3, None), [1, 6, 2, 7, 3, 4, 0, 5]);
    }

    #[test]
    fn a_few_of_many_are_those_that_all_begin_with() {
        for (n, n_taken) in [(90, 11), (1000, 1), (1000, 124), (5000, 333)] {
            let all = epoch_order(n, 0, 42, 3, Some(2));
            assert_eq!(epoch_order(n, n_taken, 42, 3, Some(2)), all[..n_taken], "{n_taken} of {n}");
        }
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [0u32; 5];
        for epoch in 0..5000 {
            counts[epoch_order(5, 1, 7, epoch, None)[0] as usize] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
