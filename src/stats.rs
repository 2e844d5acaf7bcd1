//! Pure numbers: moments and order statistics that survive empty, constant and extreme input.

/// Mean and spread of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    pub mean: f64,
    /// Population standard deviation.
    pub std: f64,
    /// Values behind both.
    pub n: usize,
}

/// Moments of `values`; all zero when there are none.
pub fn moments(values: &[f32]) -> Moments {
    let n = values.len();
    if n == 0 {
        return Moments::default();
    }
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / n as f64;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / n as f64;
    Moments { mean, std: variance.sqrt(), n }
}

/// [`moments`] after the most extreme thousandth at either end (at least one value) is moved to its neighbour.
///
/// One absurd reading then changes neither mean nor spread, while a tail that is really there keeps its weight.
/// `values` is reordered and clipped in place; fewer than three values are taken as they are.
pub fn winsorised_moments(values: &mut [f32]) -> Moments {
    let n = values.len();
    if n >= 3 {
        let n_clipped = n.div_ceil(1000).min((n - 1) / 2);
        let low = *values.select_nth_unstable_by(n_clipped, f32::total_cmp).1;
        let high = *values.select_nth_unstable_by(n - 1 - n_clipped, f32::total_cmp).1;
        values.iter_mut().for_each(|value| *value = value.clamp(low, high));
    }
    moments(values)
}

/// The `q` quantile of `sorted` values, linear between neighbours; none when there are no values.
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (position - below as f64) * (sorted[above] - sorted[below]))
}

/// The middle of `values`; none when there are no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_sorted(&sorted, 0.5)
}

/// A spread that outliers do not move: the interquartile range, scaled to a normal's standard deviation.
pub fn robust_spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (quantile_sorted(&sorted, 0.25), quantile_sorted(&sorted, 0.75)) {
        (Some(low), Some(high)) => (high - low) / 1.349,
        _ => 0.0,
    }
}

/// The value nearest to the `q` quantile of `values`, which are reordered; none when there are no values.
pub fn quantile_nearest(values: &mut [f32], q: f64) -> Option<f32> {
    let last = values.len().checked_sub(1)?;
    let position = (q.clamp(0.0, 1.0) * last as f64).round() as usize;
    Some(*values.select_nth_unstable_by(position, f32::total_cmp).1)
}

/// [`quantile_nearest`] at a quarter, the half and three quarters of values that are not empty; rearranges them.
pub fn quartiles_nearest(values: &mut [f32]) -> [f32; 3] {
    let last = values.len() - 1;
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| (q * last as f64).round() as usize);
    let (below, median, above) = values.select_nth_unstable_by(middle, f32::total_cmp);
    // The outer two lie on their sides of the median, which is all that is left to look through.
    let within = |part: &mut [f32], at: usize| *part.select_nth_unstable_by(at, f32::total_cmp).1;
    let first = if low == middle { *median } else { within(below, low) };
    let third = if high == middle { *median } else { within(above, high - middle - 1) };
    [first, *median, third]
}

/// The quantile loss of one forecast: the mean over `quantiles` of what missing `truth` costs at each level.
///
/// `forecast` has one value per level.
pub fn pinball(forecast: &[f32], truth: f32, quantiles: &[f64]) -> f64 {
    debug_assert_eq!(forecast.len(), quantiles.len());
    let at_level = |(value, q): (&f32, &f64)| {
        let error = f64::from(truth) - f64::from(*value);
        (q * error).max((q - 1.0) * error)
    };
    forecast.iter().zip(quantiles).map(at_level).sum::<f64>() / quantiles.len() as f64
}

/// How many neighbouring values of a series tell as much as one independent value: 1 for white noise, more the longer it
/// remembers.
///
/// `1 + 2 * sum((1 - k / (K + 1)) * r_k)` over the lags `k` up to `max_lag` (Bartlett's weights), at least 1. NaN
/// stands for a missing value. A series of n values has n divided by this many independent ones.
pub fn correlation_time(values: &[f64], max_lag: usize) -> f64 {
    let observed: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let mean = observed.iter().sum::<f64>() / observed.len().max(1) as f64;
    let covariance = |lag: usize| {
        let pairs = values.iter().zip(values.iter().skip(lag)).map(|(a, b)| (a - mean) * (b - mean));
        let (sum, n) = pairs
            .filter(|product| product.is_finite())
            .fold((0.0, 0u32), |(sum, n), product| (sum + product, n + 1));
        sum / f64::from(n.max(1))
    };
    let variance = covariance(0);
    if variance <= 0.0 {
        return 1.0;
    }
    let weight = |lag: usize| 1.0 - lag as f64 / (max_lag + 1) as f64;
    let sum: f64 = (1..=max_lag).map(|lag| weight(lag) * covariance(lag) / variance).sum();
    (1.0 + 2.0 * sum).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_the_three_quantiles() {
        for n in 1..40u32 {
            let mut values: Vec<f32> = (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32).collect();
            let quantile = |q| quantile_nearest(&mut values.clone(), q).unwrap();
            let expected = [0.25, 0.5, 0.75].map(quantile);
            assert_eq!(quartiles_nearest(&mut values), expected, "{n} values");
        }
    }

    #[test]
    fn moments_of_nothing_and_of_constants() {
        assert_eq!(moments(&[]), Moments::default());
        assert_eq!(moments(&[7.0; 5]), Moments { mean: 7.0, std: 0.0, n: 5 });
        assert_eq!(moments(&[1.0, 3.0]), Moments { mean: 2.0, std: 1.0, n: 2 });
    }

    #[test]
    fn one_absurd_value_moves_nothing() {
        let mut values: Vec<f32> = (0..500).map(|i| (i % 10) as f32).collect();
        values[77] = 1e30;
        let found = winsorised_moments(&mut values);
        assert!((found.mean - 4.5).abs() < 0.05 && (found.std - 2.87).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        assert_eq!(quantile_sorted(&[0.0, 10.0], 0.25), Some(2.5));
        assert_eq!(quantile_sorted(&[4.0], 0.9), Some(4.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
        assert_eq!(robust_spread(&[]), 0.0);
        assert_eq!(quantile_nearest(&mut [9.0, 1.0, 5.0, 7.0], 0.4), Some(5.0));
        assert_eq!(quantile_nearest(&mut [], 0.4), None);
    }

    #[test]
    fn missing_costs_by_the_level() {
        let loss = pinball(&[0.0, 1.0, 6.0], 5.0, &[0.1, 0.5, 0.9]);
        assert!((loss - (0.1 * 5.0 + 0.5 * 4.0 + 0.1 * 1.0) / 3.0).abs() < 1e-12, "{loss}");
    }

    #[test]
    fn a_series_that_remembers_tells_less() {
        // An autoregression of 0.9 remembers (1 + 0.9) / (1 - 0.9) = 19 values, a little less with lags cut at 48.
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
        };
        let white: Vec<f64> = (0..20_000).map(|_| noise()).collect();
        let mut level = 0.0;
        let mut slow: Vec<f64> = white
            .iter()
            .map(|value| {
                level = 0.9 * level + value;
                level
            })
            .collect();
        assert!((0.8..1.5).contains(&correlation_time(&white, 48)));
        let found = correlation_time(&slow, 48);
        assert!((13.0..20.0).contains(&found), "{found}");
        slow[5..50].fill(f64::NAN);
        assert!((correlation_time(&slow, 48) - found).abs() < 0.5);
        assert_eq!(correlation_time(&[3.0; 10], 4), 1.0);
        assert_eq!(correlation_time(&[], 4), 1.0);
    }
}
