//! What the simulator injects is found.

use super::*;

/// The report on thirty days of a simulated fleet, and its grid.
fn examine(change: impl Fn(&mut FleetSpec)) -> (QualityReport, Grid) {
    let mut spec = FleetSpec { incidents_per_server_week: 0.0, seed: 5, ..FleetSpec::default() };
    change(&mut spec);
    let grid = simulated(spec, 30);
    let mut sample = Sample::new(grid.servers.len(), 30);
    sample.config = Config { min_training_samples: 1000, ..Config::default() };
    (sample.examine_grid(&grid, date("2024-01-31")), grid)
}

/// Whether a rule speaks of a metric of a server.
fn speaks(server: &ServerQuality, rule: &str) -> bool {
    server
        .rules
        .iter()
        .chain(server.metrics.iter().flat_map(|metric| &metric.rules))
        .any(|known| known == rule)
}

#[test]
fn days_in_another_unit() {
    let (report, grid) = examine(|spec| spec.unit_error_rate = 0.03);
    let clean = examine(|_| ()).1;
    let net_in = grid.metrics.iter().position(|name| name == "net_in_mb_s").unwrap();
    let (mut n_injected, mut n_found) = (0, 0);
    for (server, quality) in report.servers.iter().enumerate() {
        let is_odd = |step: &usize| {
            let (value, right) = (grid.row(server, *step)[net_in], clean.row(server, *step)[net_in]);
            right > 0.0 && value > 500.0 * right
        };
        let odd_days: std::collections::BTreeSet<usize> =
            (0..grid.n_steps).filter(is_odd).map(|step| step / DAY).collect();
        let found = quality.metrics.iter().find(|metric| metric.name == "net_in_mb_s");
        let jump = found.and_then(|metric| metric.unit_jump.as_ref());
        if odd_days.is_empty() {
            assert_eq!(jump, None, "{} had no such day", quality.name);
            continue;
        }
        n_injected += 1;
        let Some(jump) = jump else { continue };
        n_found += 1;
        assert!((1000.0..=1024.0).contains(&jump.factor) && jump.is_up, "{jump:?}");
        assert_eq!(jump.n_days, odd_days.len(), "{}", quality.name);
    }
    println!("servers with days in another unit: {n_found} of {n_injected} found");
    // Servers whose days differ by more than four times anyway are not judged.
    assert!(n_injected >= 8 && 2 * n_found >= n_injected, "{n_found} of {n_injected}");
}

#[test]
fn servers_that_come_and_go() {
    let (report, grid) = examine(|spec| (spec.newcomer_share, spec.replaced_share) = (0.2, 0.2));
    assert!(grid.servers.len() > 20, "some were replaced");
    let n_with = |rule: &str| report.servers.iter().filter(|server| speaks(server, rule)).count();
    let is_seen = |server: usize, step: usize| grid.row(server, step).iter().any(|value| value.is_finite());
    let absent = |steps: std::ops::Range<usize>| {
        let is_absent = |server: &usize| !steps.clone().any(|step| is_seen(*server, step));
        (0..grid.servers.len()).filter(is_absent).count()
    };
    let (n_new, n_gone) = (absent(0..DAY + 1), absent(grid.n_steps - DAY - 1..grid.n_steps));
    println!("{n_new} new, {n_gone} gone");
    assert!(n_new >= 3 && n_gone >= 2);
    assert_eq!((n_with("new"), n_with("vanished")), (n_new, n_gone));
}

#[test]
fn rows_that_never_arrive() {
    let (report, _) = examine(|spec| spec.missing_rate = 0.3);
    assert!(report.servers.iter().all(|server| speaks(server, "incomplete") || speaks(server, "excluded")));
    assert_told(&report, "servers", "incomplete", "20 of 20 servers have gaps");
    let (report, _) = examine(|spec| spec.missing_rate = 0.02);
    assert!(!report.servers.iter().any(|server| speaks(server, "incomplete")));
}
