//! Drift: silent on thirty clean nights of a simulated fleet, and not on one that was shifted.

use super::*;
use crate::config::QualityConfig;
use crate::schema::Schema;
use crate::simulate::FleetSpec;
use crate::window::quality::drift;
use crate::window::quality::frame::Frame;

const N_SERVERS: usize = 20;
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
    let seed = std::env::var("SEED").map_or(7, |s| s.parse().unwrap());
    let fleet = clean_fleet(seed);
    let mut n_by_rule = std::collections::BTreeMap::<String, usize>::new();
    let mut sample = Sample::new(N_SERVERS, WINDOW_DAYS);
    sample.config = fleet14();
    for night in 0..N_NIGHTS {
        sample.first = date("2024-01-01") + chrono::Days::new(night as u64);
        let end = sample.first + chrono::Days::new(WINDOW_DAYS as u64);
        let report = sample.examine_grid(&window(&fleet, night), end);
        for server in &report.servers {
            for metric in &server.metrics {
                if let Some(d) = &metric.drift {
                    println!(
                        "ALARM {night} {} {} effect {:.2} noise {:.1} margin {:.1} neff {:.1} shift {:.3}",
                        server.name,
                        metric.name,
                        d.effect(),
                        d.shift.abs() / d.error,
                        d.shift.abs() / d.largest_before,
                        d.n_effective,
                        d.shift
                    );
                }
                for rule in &metric.rules {
                    *n_by_rule.entry(format!("{rule} {}", metric.name)).or_default() += 1;
                }
            }
        }
        for finding in &report.findings {
            *n_by_rule.entry(format!("finding {}", finding.rule)).or_default() += 1;
            if night % 10 == 0 {
                println!("night {night}: {}", finding.message);
            }
        }
    }
    let n_series = N_NIGHTS * N_SERVERS * fleet.metrics.len();
    println!("{n_series} series looked at in {N_NIGHTS} nights: {n_by_rule:#?}");
    let n_alarms: usize =
        n_by_rule.iter().filter(|(rule, _)| rule.starts_with("drift")).map(|(_, n)| n).sum();
    println!("{n_alarms} false alarms of drift");
    assert_eq!(n_alarms, 0);
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
    for size in [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0] {
        let (n_found, n_all) = detection(&grid, size);
        println!("moved by {size} standard deviations: {n_found} of {n_all} series noticed");
        shares.push(n_found as f64 / n_all as f64);
    }
    assert!(shares.is_sorted());
}
