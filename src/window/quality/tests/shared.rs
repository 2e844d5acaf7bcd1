//! What the report says of real servers, where the shared data set is there.

use std::path::{Path, PathBuf};

use super::*;
use crate::buffer::{AppendOptions, Buffer, RotateOptions, Source, derive};
use crate::clock::Clock;
use crate::progress::Silent;
use crate::site::Site;
use crate::window::{WindowRequest, inspect};

/// A folder of the shared data set, where it is.
fn shared(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["../shared/data", "../../shared/data"].map(|place| root.join(place).join(name));
    let found = places.into_iter().find(|dir| dir.exists());
    if found.is_none() {
        println!("skipped: there is no shared/data/{name}");
    }
    found
}

/// The config that `init --from` makes of a sample.
fn config_of(sample: &Path) -> Config {
    let derived = derive(sample, 30).unwrap();
    let mut config = Config { metrics: derived.schema.metrics, ..Config::default() };
    config.series.sample_secs = derived.sample_secs;
    config.series.step_secs = derived.step_secs;
    config.min_training_samples = derived.min_training_samples;
    config.model.targets = derived.targets;
    config
}

fn report_of(name: &str, site: &Site, end: &str) -> QualityReport {
    let request = WindowRequest { end: Some(date(end)), ..WindowRequest::default() };
    let report = inspect(site, &request, DateTime::UNIX_EPOCH, &Silent).unwrap();
    let n_with = |verdict: Verdict| report.n_with(verdict);
    println!(
        "{name} up to {end}: {} good, {} warn, {} excluded",
        n_with(Verdict::Good),
        n_with(Verdict::Warn),
        n_with(Verdict::Excluded)
    );
    for finding in &report.findings {
        println!("  {:?} {} {}: {}", finding.severity, finding.subject, finding.rule, finding.message);
        assert!(finding.message.len() < 500, "nobody reads that");
    }
    assert!(report.findings.len() <= 12, "an engineer would not read that");
    report
}

/// The report on a window of a shared folder of days as `init --from` would set it up; none where it is missing.
fn report_on(name: &str, end: &str) -> Option<QualityReport> {
    let dir = shared(name)?;
    let mut config = config_of(&dir);
    config.data_buffer_dir = dir.canonicalize().unwrap().display().to_string();
    let home = tempfile::tempdir().unwrap();
    Some(report_of(name, &Site::of(home.path(), config), end))
}

#[test]
fn bitbrains_has_a_hole_of_a_day_and_machines_that_change_size() {
    let Some(report) = report_on("bitbrains", "2013-09-16") else { return };
    let hole = "60 of 60 servers have no rows from 2013-08-30 22:00 to 2013-08-31 22:00 (24.0 h)";
    assert_told(&report, "window", "fleet_gap", hole);
    assert_told(&report, "cpu_cores", "resized", "bb-vm-204 2 -> 4 at 2013-08-26 07:00");
    assert_told(&report, "cpu_capacity_mhz", "resized", "bb-vm-204");
    assert_told(&report, "mem_capacity_kb", "resized", "bb-vm-324 5087232 -> 10969088 at 2013-08-21 02:10");
    // Two interleaved samplers, and machines whose trace froze.
    assert_told(&report, "bb-vm-050", "row_rate", "1.3 rows a step");
    assert_told(&report, "metrics", "stuck", "bb-vm-041 at 78 for 218 h");
    let earlier = report_on("bitbrains", "2013-08-30").unwrap();
    assert!(earlier.fleet_gaps.is_empty());
    assert_told(&earlier, "mem_capacity_kb", "resized", "on 3 of 60 servers");
}

#[test]
fn healthy_fleets_do_not_drown() {
    for (name, end) in
        [("smd", "2024-01-31"), ("smd", "2024-02-02"), ("asd", "2024-01-31"), ("asd", "2024-02-15")]
    {
        let Some(report) = report_on(name, end) else { return };
        assert!(report.findings.iter().all(|finding| finding.severity == Severity::Soft));
        assert!(report.findings.iter().all(|finding| finding.rule != "unit_jump"), "nobody changed a unit");
    }
}

#[test]
fn nab_has_sparse_columns() {
    let Some(dir) = shared("nab") else { return };
    let file = dir.join("nab_cloudwatch.parquet");
    let home = tempfile::tempdir().unwrap();
    let mut config = config_of(&file);
    config.min_training_samples = 1000;
    let site = Site::of(&home.path().canonicalize().unwrap(), config);
    let now: DateTime<Utc> = "2014-04-25T02:00:00Z".parse().unwrap();
    let n_metrics = site.config.metrics.len();
    let buffer = Buffer::open(&site);
    buffer.append(Source::File(file), &AppendOptions::default(), &Clock::Fixed(now), &Silent).unwrap();
    buffer.rotate(&RotateOptions::default(), now, &Silent).unwrap();
    let report = report_of("nab", &site, "2014-04-15");
    let n_empty = report.findings.iter().filter(|finding| finding.rule == "never_observed").count();
    assert!(n_empty > 0, "each server has one metric");
    for server in report.servers.iter().filter(|server| server.excluded.is_none()) {
        let is_empty = |metric: &&MetricQuality| metric.rules.iter().any(|rule| rule == "never_observed");
        assert_eq!(server.metrics.iter().filter(is_empty).count(), n_metrics - 1, "{}", server.name);
    }
}

/// Not only a test of correctness: prints the share of the examination in a build (`--no-capture` shows it).
#[test]
fn the_examination_tells_its_time() {
    let Some(dir) = shared("bitbrains") else { return };
    let mut config = config_of(&dir);
    config.data_buffer_dir = dir.canonicalize().unwrap().display().to_string();
    let home = tempfile::tempdir().unwrap();
    let site = Site::of(home.path(), config.clone());
    let request = WindowRequest { end: Some(date("2013-09-16")), ..WindowRequest::default() };
    // The first look makes the step aggregates.
    inspect(&site, &request, DateTime::UNIX_EPOCH, &Silent).unwrap();
    let started = std::time::Instant::now();
    let window = crate::window::build(&site, &request, DateTime::UNIX_EPOCH, &Silent).unwrap();
    let build_secs = started.elapsed().as_secs_f64();
    let grid = window.read_grid().unwrap();
    let sample = Sample { config, first: date("2013-08-17"), ..Sample::new(60, 30) };
    let started = std::time::Instant::now();
    let report = sample.examine_grid(&grid, date("2013-09-16"));
    let secs = started.elapsed().as_secs_f64();
    println!("examination {secs:.2} s of {build_secs:.2} s that the build takes from step aggregates");
    assert_eq!(report.fleet_gaps, window.manifest.quality.fleet_gaps);
}
