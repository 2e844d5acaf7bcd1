//! Random numbers as a function of where they are used.
//!
//! A [`Key`] names a stream (a seed, then for instance a training step and a place in the network) and the number
//! at index `i` is a hash of key and index. Nothing is consumed, so a run continued from a checkpoint draws what
//! the uninterrupted one would have drawn, and work can be split over threads freely. The same few lines of
//! integer arithmetic can be written in a GPU kernel.
//!
//! The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
//! number generators", 2014). Good enough for initial weights and dropout; of no use for secrets.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of random numbers, indexed rather than consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The stream that belongs to `seed` alone.
    pub fn new(seed: u64) -> Self {
        Key(mix(seed.wrapping_add(GOLDEN)))
    }

    /// The stream of one use of this one: a step, a site.
    pub fn number(self, n: u64) -> Self {
        Key(mix(self.0 ^ mix(n.wrapping_add(GOLDEN))))
    }

    /// The stream of one named use, such as a parameter (FNV-1a over the bytes of the name).
    pub fn name(self, name: &str) -> Self {
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        self.number(name.bytes().fold(0xCBF2_9CE4_8422_2325, hash))
    }

    /// The stream as a number, for whoever draws from it elsewhere.
    pub fn number_of_stream(self) -> u64 {
        self.0
    }

    /// 64 random bits at `index`.
    #[inline(always)]
    pub fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn uniform(self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller), from the two uniform numbers at `2 * index` and `2 * index + 1`.
    pub fn normal(self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }
}

#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_number_name_and_order() {
        let keys = [
            Key::new(1),
            Key::new(2),
            Key::new(1).number(0),
            Key::new(1).number(1),
            Key::new(1).number(1).number(2),
            Key::new(1).number(2).number(1),
            Key::new(1).name("fc1.weight"),
            Key::new(1).name("fc1.bias"),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|b| a.bits(0) != b.bits(0) && a.bits(7) != b.bits(7)), "{i}");
        }
    }

    #[test]
    fn uniform_and_normal_have_the_right_moments() {
        let (key, n) = (Key::new(3), 100_000u64);
        let moments = |draw: &dyn Fn(u64) -> f64| {
            let mean = (0..n).map(draw).sum::<f64>() / n as f64;
            (mean, (0..n).map(|i| (draw(i) - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let (mean, variance) = moments(&|i| key.uniform(i));
        assert!((mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.002, "{mean} {variance}");
        let (mean, variance) = moments(&|i| key.normal(i));
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
