//! Tests: a series that left its frozen scales is noticed, and nothing else is.

use super::*;
use crate::dataset::drift::{MAX_TOLD, StaleScales};

const NAMES: [&str; 3] = ["db1", "db2", "web1"];

fn changed(change: impl Fn(usize, usize, &mut [f32])) -> Grid {
    let mut grid = grid(&NAMES);
    for server in 0..NAMES.len() {
        for step in 0..grid.n_steps {
            let at = (server * grid.n_steps + step) * 3;
            change(server, step, &mut grid.values[at..at + 3]);
        }
    }
    grid
}

/// Targets and servers that are stale when a lineage fitted to the plain grid meets `later`.
fn found(later: &Grid) -> StaleScales {
    find(&fit(&grid(&NAMES)), later).unwrap()
}

fn find(lineage: &Preprocessing, later: &Grid) -> Result<StaleScales> {
    StaleScales::find(lineage, &Survey::of_grid(later, &split(), &config())?)
}

fn names(stale: &StaleScales) -> Vec<(&str, &str)> {
    stale.worst.iter().map(|series| (series.server.as_str(), series.target.as_str())).collect()
}

#[test]
fn a_fleet_as_it_was_has_no_stale_scale() {
    assert_eq!(found(&grid(&NAMES)), StaleScales::default());
    assert_eq!(StaleScales::default().message(), None);
    // A little drift is what the network is for.
    assert_eq!(found(&changed(|_, _, row| row[1] += 2.0)).n_series, 0);
}

#[test]
fn a_server_that_was_upgraded_is_named_with_the_remedy() {
    // `mem` swings by 0.7 around 70; eight times the memory makes that a tenth of a percent around 8.75.
    let stale = found(&changed(|server, _, row| row[1] /= if server == 1 { 8.0 } else { 1.0 }));
    assert_eq!(names(&stale), [("db2", "mem")]);
    let series = &stale.worst[0];
    assert!((series.centre - 70.0).abs() < 0.2 && (series.mean - 8.75).abs() < 0.1, "{series:?}");
    assert!(series.shift < -50.0, "{series:?}");
    let message = stale.message().unwrap();
    assert!(message.contains("mem on db2") && message.contains("--fresh"), "{message}");
}

#[test]
fn a_series_that_swings_far_wider_is_stale_and_a_quieter_one_is_not() {
    let swing = |factor: f32| changed(move |_, _, row| row[0] = 40.0 + factor * (row[0] - 40.0));
    assert_eq!(found(&swing(0.01)).n_series, 0);
    assert_eq!(found(&swing(8.0)).n_series, 0);
    assert_eq!(found(&swing(12.0)).n_series, 3);
}

#[test]
fn an_idle_series_that_wakes_is_measured_by_what_is_typical() {
    let idle = changed(|server, _, row| row[0] = if server == 2 { 0.0 } else { row[0] });
    let lineage = fit(&idle);
    assert_eq!(lineage.scaler.servers[2].scale[0], lineage.scaler.floor[0]);
    let wakes = |level: f32| {
        changed(move |server, _, row| {
            if server == 2 {
                row[0] = level
            }
        })
    };
    let stale = |level: f32| find(&lineage, &wakes(level)).unwrap().n_series;
    assert_eq!((stale(20.0), stale(60.0)), (0, 1)); // typical spread 7: three of them, and eight
}

#[test]
fn what_is_after_the_train_part_new_or_hardly_seen_is_not_compared() {
    let lineage = fit(&grid(&NAMES));
    let mut later = changed(|_, step, row| {
        if step >= split().train_end {
            row.fill(1e6);
        }
    });
    assert_eq!(find(&lineage, &later).unwrap().n_series, 0);
    later = changed(|server, _, row| row[1] += if server == 0 { 500.0 } else { 0.0 });
    lose(&mut later, 0, 0..split().train_end - 10);
    assert_eq!(find(&lineage, &later).unwrap().n_series, 0);
    later.servers[1].name = "db9".into();
    assert_eq!(find(&lineage, &later).unwrap().n_series, 0);
}

#[test]
fn the_remedy_heals_and_going_on_does_not() {
    let upgraded = changed(|server, _, row| row[1] /= if server == 1 { 8.0 } else { 1.0 });
    let before = fit(&grid(&NAMES));
    let next = Preprocessing::fit(&upgraded, &split(), &config(), Some(&before)).unwrap();
    assert_eq!(next.scaler, before.scaler);
    assert_eq!(find(&next, &upgraded).unwrap().n_series, 1);
    assert_eq!(find(&fit(&upgraded), &upgraded).unwrap().n_series, 0);
}

#[test]
fn many_are_counted_and_the_worst_are_told() {
    let names: Vec<String> = (0..15).map(|i| format!("web{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lineage = fit(&grid(&names));
    let mut later = grid(&names);
    for (at, value) in later.values.iter_mut().enumerate() {
        *value += 100.0 + 10.0 * (at / 3 / later.n_steps) as f32;
    }
    let stale = find(&lineage, &later).unwrap();
    assert_eq!((stale.n_series, stale.worst.len()), (30, MAX_TOLD));
    assert_eq!((stale.worst[0].server.as_str(), stale.worst[0].target.as_str()), ("web14", "mem"));
    let message = stale.message().unwrap();
    assert!(message.starts_with("30 series") && message.contains(", ..."), "{message}");
}
