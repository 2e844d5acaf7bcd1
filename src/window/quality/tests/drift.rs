//! Drift: silent on thirty clean nights of a simulated fleet, and not on one that was shifted.

use super::*;
use crate::config::QualityConfig;
use crate::schema::Schema;
use crate::simulate::FleetSpec;
use crate::window::quality::drift;
use crate::window::quality::frame::Frame;

const N_SERVERS: usize = 10;
const N_NIGHTS: usize = 30;
const WINDOW_DAYS: usize = 30;

/// A simulated fleet without incidents: long enough for thirty windows of thirty days.
fn clean_fleet(seed: u64) -> Grid {
    let spec = FleetSpec {
        n_servers: N_SERVERS as u32,
        seed,
        incidents_per_server_week: 0.0,
        ..FleetSpec::default()
    };
    simulated(spec, N_NIGHTS + WINDOW_DAYS)
}

/// The window that night number `night` reads.
fn window(fleet: &Grid, night: usize) -> Grid {
    let n_metrics = fleet.metrics.len();
    let n_steps = WINDOW_DAYS * DAY;
    let of_server = |server: usize| {
        let first = (server * fleet.n_steps + night * DAY) * n_metrics;
        fleet.values[first..first + n_steps * n_metrics].iter().copied()
    };
    Grid {
        start_ms: fleet.time_ms(night * DAY),
        n_steps,
        values: (0..fleet.servers.len()).flat_map(of_server).collect(),
        status: vec![0; fleet.servers.len() * n_steps],
        ..fleet.outline()
    }
}

fn fleet14() -> Config {
    Config { min_training_samples: 1000, ..Config::default() }
}

#[test]
fn thirty_clean_nights_are_silent() {
    let fleet = clean_fleet(7);
    let mut n_by_rule = std::collections::BTreeMap::<String, usize>::new();
    let mut sample = Sample::new(N_SERVERS, WINDOW_DAYS);
    sample.config = fleet14();
    for night in 0..N_NIGHTS {
        sample.first = date("2024-01-01") + chrono::Days::new(night as u64);
        let end = sample.first + chrono::Days::new(WINDOW_DAYS as u64);
        let report = sample.examine_grid(&window(&fleet, night), end);
        for server in &report.servers {
            for metric in &server.metrics {
                for rule in &metric.rules {
                    *n_by_rule.entry(format!("{rule} {}", metric.name)).or_default() += 1;
                }
            }
        }
        for finding in &report.findings {
            *n_by_rule.entry(format!("finding {}", finding.rule)).or_default() += 1;
        }
    }
    let n_series = N_NIGHTS * N_SERVERS * fleet.metrics.len();
    println!("{n_series} series looked at in {N_NIGHTS} nights: {n_by_rule:#?}");
    assert!(n_by_rule.is_empty(), "nothing happened");
}

/// Share of the series of a clean window whose last week is noticed after it was moved by `size` of their own scales.
fn detection(grid: &Grid, size: f32) -> (usize, usize) {
    let schema = Schema::fleet14();
    let limits = QualityConfig::default();
    let end = date("2024-01-31");
    let frame = Frame::of(grid, date("2024-01-01"), end, chrono_tz::UTC);
    let (mut n_found, mut n_all) = (0, 0);
    for server in 0..grid.servers.len() {
        for (position, metric) in schema.metrics.iter().enumerate() {
            let mut values: Vec<f32> =
                (0..grid.n_steps).map(|step| grid.row(server, step)[position]).collect();
            let range = metric.max.map(f64::from);
            let Some(before) = drift::measure(&drift::hourly(&values, &frame), range) else { continue };
            for value in &mut values[grid.n_steps - 7 * DAY..] {
                *value += size * before.scale as f32;
            }
            let after = drift::measure(&drift::hourly(&values, &frame), range).unwrap();
            n_all += 1;
            n_found += usize::from(after.is_notable(&limits));
        }
    }
    (n_found, n_all)
}

#[test]
fn injected_drifts_are_found_the_more_surely_the_larger_they_are() {
    let grid = window(&clean_fleet(7), 0);
    let mut shares = Vec::new();
    for size in [0.0, 1.0, 2.0, 3.0, 4.0, 6.0] {
        let (n_found, n_all) = detection(&grid, size);
        println!("moved by {size} standard deviations: {n_found} of {n_all} series noticed");
        shares.push(n_found as f64 / n_all as f64);
    }
    assert!(shares.is_sorted(), "{shares:?}");
    assert!(shares[1] == 0.0 && shares[2] < 0.1 && shares[4] > 0.8 && shares[5] > 0.95, "{shares:?}");
}

#[test]
fn a_busy_weekend_is_compared_with_weekends() {
    let sample = Sample::new(1, 30);
    let busy = |days: fn(usize) -> bool, by: f32| {
        sample.examine(move |s, m, step| {
            let is_busy = m == 0 && days(step / DAY);
            healthy(s, m, step) + if is_busy { by } else { 0.0 }
        })
    };
    // The window begins on a Monday; every weekend is as busy as the last.
    assert_silent(&busy(|day| day % 7 >= 5, 30.0));
    // Three days of the last week are an incident, four are another level.
    assert_silent(&busy(|day| day >= 27, 30.0));
    let report = busy(|day| day >= 25, 30.0);
    assert_told(&report, "cpu", "drift", "cpu has drifted in the last week on 1 of 1 servers (s0 by +30");
    assert_told(&busy(|day| day >= 23, -25.0), "cpu", "drift", "by -25");
}

#[test]
fn what_climbs_or_wanders_has_no_level_that_could_shift() {
    let sample = Sample::new(1, 30);
    let net = |value: fn(usize) -> f32| {
        sample.examine(move |s, m, step| if m == 2 { value(step) } else { healthy(s, m, step) })
    };
    assert_silent(&net(|step| step as f32 / DAY as f32));
    assert_silent(&net(|step| (step % (25 * DAY)) as f32 / DAY as f32));
    // Steps from week to week as large as the last one.
    assert_silent(&net(|step| 50.0 + 20.0 * (step / DAY / 7 % 2) as f32 + noise(0, 2, step)));
    // Fewer than two reference weeks say nothing.
    let short = Sample::new(1, 20);
    assert_silent(
        &short.examine(|s, m, step| healthy(s, m, step) + if step > 13 * DAY { 40.0 } else { 0.0 }),
    );
}
