//! Tests: whatever a series holds, its scaled values are finite and within the limit, and lead back.

use proptest::prelude::*;

use crate::dataset::scaler::{Observed, SCALED_LIMIT, Scaler, Stats};
use crate::stats;

/// Series as real metrics have them, and worse.
fn series() -> impl Strategy<Value = Vec<f32>> {
    let n = 1..300usize;
    prop_oneof![
        n.clone().prop_map(|n| vec![0.0; n]),
        (any_value(), n.clone()).prop_map(|(value, n)| vec![value; n]),
        (any_value(), n.clone(), 0..300usize, any_value()).prop_map(|(value, n, at, twitch)| {
            let mut constant = vec![value; n];
            constant[at % n] = twitch;
            constant
        }),
        // Counts: mostly nothing, sometimes a burst.
        prop::collection::vec(prop_oneof![20 => Just(0.0f32), 1 => 1.0f32..5000.0], n.clone()),
        prop::collection::vec(any_value(), n.clone()),
        // Holes: what is not observed is NaN and is left out before anything is fitted.
        prop::collection::vec(prop_oneof![1 => Just(f32::NAN), 2 => -100.0f32..100.0], n),
    ]
}

fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1e3f32..1e3,
        1 => prop::num::f32::NORMAL,
        1 => prop::num::f32::SUBNORMAL,
        1 => prop_oneof![Just(0.0f32), Just(-0.0), Just(f32::MAX), Just(f32::MIN), Just(f32::MIN_POSITIVE)],
    ]
}

fn fit(fleet: &[Vec<f32>]) -> Scaler {
    let observe = |(server, series): (usize, &Vec<f32>)| {
        let mut seen: Vec<f32> = series.iter().copied().filter(|value| value.is_finite()).collect();
        Observed { server, profile: server % 2, moments: vec![stats::winsorised_moments(&mut seen)] }
    };
    let observed: Vec<Observed> = fleet.iter().enumerate().map(observe).collect();
    Scaler::fit(None, &observed, fleet.len(), 2, 1)
}

fn all_stats(scaler: &Scaler) -> impl Iterator<Item = &Stats> {
    scaler.servers.iter().chain(&scaler.profiles).chain([&scaler.fleet])
}

/// A value within reach comes back as it was, but for the rounding of what was added and divided.
fn check_round_trip(stats: &Stats, value: f32) -> Result<(), TestCaseError> {
    let scaled = stats.scale(0, value);
    prop_assert!(scaled.is_finite() && scaled.abs() <= SCALED_LIMIT, "{value} is {scaled}, {stats:?}");
    let back = stats.unscale(0, scaled);
    prop_assert!(back.is_finite(), "{scaled} leads back to {back}, {stats:?}");
    if scaled.abs() < SCALED_LIMIT {
        let size = f64::from(value.abs().max(stats.centre[0].abs())) + 50.0 * f64::from(stats.scale[0]);
        let off = (f64::from(back) - f64::from(value)).abs();
        prop_assert!(off <= 1e-6 * size, "{value} comes back as {back}, {stats:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_value_is_scaled_within_the_limit_and_leads_back(
        fleet in prop::collection::vec(series(), 1..6),
        later in prop::collection::vec(any_value(), 20),
    ) {
        let scaler = fit(&fleet);
        for stats in all_stats(&scaler) {
            let (centre, scale) = (stats.centre[0], stats.scale[0]);
            prop_assert!(centre.is_finite() && scale.is_finite() && scale > 0.0, "{stats:?}");
            let own = fleet.iter().flatten().copied().filter(|value| value.is_finite());
            for value in own.chain(later.iter().copied()) {
                check_round_trip(stats, value)?;
            }
        }
    }

    #[test]
    fn order_is_kept(fleet in prop::collection::vec(series(), 1..4), a in any_value(), b in any_value()) {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        for stats in all_stats(&fit(&fleet)) {
            prop_assert!(stats.scale(0, low) <= stats.scale(0, high));
        }
    }

    #[test]
    fn a_series_in_another_unit_has_the_same_scaled_values(
        fleet in prop::collection::vec(prop::collection::vec(0.0f32..100.0, 50..200), 2..5),
        exponent in -20i32..20,
    ) {
        // A power of two changes no digit, so what is scaled must not change in one either.
        let unit = 2f32.powi(exponent);
        let other: Vec<Vec<f32>> =
            fleet.iter().map(|series| series.iter().map(|value| value * unit).collect()).collect();
        let (one, two) = (fit(&fleet), fit(&other));
        for (server, series) in fleet.iter().enumerate() {
            for value in series {
                let (a, b) = (one.servers[server].scale(0, *value), two.servers[server].scale(0, value * unit));
                prop_assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{a} and {b}");
            }
        }
    }
}

#[track_caller]
fn twitch(fleet: &[Vec<f32>], server: usize, value: f32) -> f32 {
    fit(fleet).servers[server].scale(0, value)
}

#[test]
fn the_first_twitch_of_an_idle_series_is_no_scream() {
    let wave: Vec<f32> = (0..400).map(|i| 40.0 + 10.0 * (i as f32 * 0.1).sin()).collect();
    // Typical spread 7: a twitch of that size on a server that stood still is ten of its scales.
    for idle in [vec![0.0; 400], vec![-0.0; 400], vec![25.0; 400], vec![25.0]] {
        let scaled = twitch(&[wave.clone(), wave.clone(), idle.clone()], 2, idle[0] + 7.0);
        assert!((5.0..15.0).contains(&scaled), "{scaled}");
    }
}

#[test]
fn a_rare_burst_of_counts_stays_below_the_limit_if_the_fleet_knows_bursts() {
    let counts =
        |every: usize| -> Vec<f32> { (0..2000).map(|i| if i % every == 7 { 300.0 } else { 0.0 }).collect() };
    let fleet = [counts(50), counts(100), counts(1900)];
    for server in 0..3 {
        let (nothing, burst) = (twitch(&fleet, server, 0.0), twitch(&fleet, server, 300.0));
        assert!(nothing.abs() < 1.0 && burst > 2.0, "{nothing} and {burst}");
    }
    assert!(twitch(&fleet, 0, 300.0) < SCALED_LIMIT);
}
