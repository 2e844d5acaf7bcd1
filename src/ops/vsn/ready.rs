//! What tiles read: the collapsed values, and what follows from them alone, made once per pass.

use super::collapse::{Collapsed, CollapsedReal, TableRows};
use super::weights::{Packed, Parameters};
use crate::ops::simd::{Line, Simd};

/// Collapsed values, ready to be worked with.
pub struct Ready {
    pub collapsed: Collapsed,
    pub values: Vec<f32>,
    /// Of each real whose skip has a norm.
    lines: Vec<Option<OwnLine>>,
}

/// A real's skip as its norm sees it: without its mean over the features.
struct OwnLine {
    slope: Vec<f32>,
    offset: Vec<f32>,
    variance: [f32; 3],
}

impl Ready {
    /// Collapses `parameters`. Where `merged`, second layers and gates become one: for a forward that no backward follows
    /// and that drops nothing.
    pub fn of(
        simd: Simd,
        packed: &Packed,
        rows: &[TableRows],
        parameters: Parameters<'_>,
        merged: bool,
    ) -> Self {
        let mut collapsed = Collapsed::of(packed, rows);
        let mut values = collapsed.values(packed, parameters);
        if merged {
            collapsed.reals.iter_mut().for_each(|real| real.tail.merge(simd, &mut values));
            collapsed.joint.tail.merge(simd, &mut values);
        }
        let line = |real: &CollapsedReal| {
            let ends = [real.skip_slope.clone(), real.skip_offset.clone()];
            real.tail.skip_norm.as_ref().map(|_| OwnLine::through(ends.map(|range| &values[range])))
        };
        let lines = collapsed.reals.iter().map(line).collect();
        Ready { collapsed, values, lines }
    }

    /// The skip of real number `r` of the collapsed ones, if it has a norm.
    pub fn line(&self, r: usize) -> Option<Line<'_>> {
        let line = self.lines[r].as_ref()?;
        Some(Line { slope: &line.slope, offset: &line.offset, variance: line.variance })
    }
}

impl OwnLine {
    /// The variance over the features of `slope x + offset` is `a x^2 + 2 b x + c`, of which a sum of two squares is left:
    /// one that falls to nothing between larger terms would lose its digits.
    fn through([slope, offset]: [&[f32]; 2]) -> Self {
        let n = slope.len() as f64;
        let centred = |values: &[f32]| -> Vec<f64> {
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            values.iter().map(|&v| f64::from(v) - mean).collect()
        };
        let [slope, offset] = [centred(slope), centred(offset)];
        let mean_of = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n;
        let (a, b, c) = (mean_of(&slope, &slope), mean_of(&slope, &offset), mean_of(&offset, &offset));
        let (p, q) = if a > 0.0 { (a.sqrt(), b / a.sqrt()) } else { (0.0, 0.0) };
        let variance = [p, q, (c - q * q).max(0.0)].map(|number| number as f32);
        let [slope, offset] = [slope, offset].map(|values| values.into_iter().map(|v| v as f32).collect());
        OwnLine { slope, offset, variance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::random::Key;
    use crate::ops::simd::ROWS;

    /// Its layer norm equals that of the features one by one, also where slope and offset nearly cancel: there as well as
    /// rounded features allow.
    #[track_caller]
    fn case(n: usize, slope: &[f32], offset: &[f32], xs: impl Fn(usize) -> f32) {
        let line = OwnLine::through([slope, offset]);
        let line = Line { slope: &line.slope, offset: &line.offset, variance: line.variance };
        let x: Vec<f32> = (0..ROWS).map(xs).collect();
        let key = Key::new(3);
        let noise =
            |name: &str| -> Vec<f32> { (0..n).map(|i| key.name(name).normal(i as u64) as f32).collect() };
        let (weight, bias) = (noise("weight"), noise("bias"));
        for simd in Simd::available() {
            let [mut inverse, mut normal, mut y] = [1, n, n].map(|n| vec![0.0; n * ROWS]);
            simd.line_norm(line, &x, n, (&weight, &bias), &mut inverse, (&mut normal, &mut y));
            for row in 0..ROWS {
                let features: Vec<f64> =
                    (0..n).map(|i| f64::from(slope[i]) * f64::from(x[row]) + f64::from(offset[i])).collect();
                let mean = features.iter().sum::<f64>() / n as f64;
                let variance = features.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / n as f64;
                let inverted = 1.0 / (variance + 1e-5).sqrt();
                assert!(
                    (f64::from(inverse[row]) - inverted).abs() <= 2e-5 * inverted,
                    "{} at {row}",
                    simd.name()
                );
                for (i, feature) in features.iter().enumerate() {
                    let expected = (feature - mean) * inverted;
                    let found = f64::from(normal[i * ROWS + row]);
                    assert!((found - expected).abs() < 4e-4, "{} at {row}: {found}, {expected}", simd.name());
                    let found = f64::from(y[i * ROWS + row]);
                    let expected = expected * f64::from(weight[i]) + f64::from(bias[i]);
                    assert!((found - expected).abs() < 1e-3, "{} at {row}: {found}, {expected}", simd.name());
                }
            }
        }
    }

    #[test]
    fn a_line_is_normalised_as_its_features_are() {
        let key = Key::new(8);
        let noise = |name: &str, n: usize| -> Vec<f32> {
            (0..n).map(|i| key.name(name).normal(i as u64) as f32).collect()
        };
        for n in [2, 5, 16, 33] {
            let (slope, offset) = (noise("slope", n), noise("offset", n));
            case(n, &slope, &offset, |row| row as f32 * 0.25 - 4.0);
            // Parallel: at x = 2 all features are the same.
            let opposed: Vec<f32> = slope.iter().map(|s| -2.0 * s).collect();
            case(n, &slope, &opposed, |row| 2.0 + (row as f32 - 16.0) * 1e-3);
            case(n, &vec![0.0; n], &offset, |row| row as f32);
            case(n, &slope, &vec![0.5; n], |row| row as f32 * 1e-4);
        }
        case(1, &[0.7], &[0.2], |row| row as f32);
    }
}
