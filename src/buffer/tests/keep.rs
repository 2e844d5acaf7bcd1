//! Which days go, which stay, and who decides.

use super::*;
use crate::config::OldDays;

/// Three sealed days, of which two are too old.
fn aged() -> Bench {
    let mut bench = Bench::new(&["cpu"], "2024-01-12T12:00:00Z");
    for day in ["2024-01-01", "2024-01-03", "2024-01-12"] {
        bench.append(&record(&format!("{day}T00:00:00Z"), "a", 1.0));
    }
    bench.buffer().rotate(&RotateOptions { include_open: true, dry_run: false }, bench.now, &Silent).unwrap();
    (bench.config.data_retention_days, bench.config.training_window_days) = (8, 8);
    bench
}

fn dates_of(bench: &Bench) -> Vec<String> {
    bench.buffer().days().unwrap().iter().map(|day| day.date.to_string()).collect()
}

fn reason_of(report: &RotateReport, day: &str) -> String {
    report.retention.iter().find(|decision| decision.date == date(day)).unwrap().reason.to_string()
}

#[test]
fn a_dry_run_tells_what_is_then_done() {
    let bench = aged();
    let plan = bench
        .buffer()
        .rotate(&RotateOptions { dry_run: true, include_open: false }, bench.now, &Silent)
        .unwrap();
    assert_eq!(dates_of(&bench).len(), 3);
    let done = bench.rotate();
    assert_eq!((plan.retention, 2), (done.retention, done.n_days_deleted));
    assert_eq!(dates_of(&bench), ["2024-01-12"]);
}

#[test]
fn a_day_that_somebody_reads_stays_until_it_was_read_and_the_dead_hold_nothing() {
    let bench = aged();
    let buffer = bench.buffer();
    let lease = buffer.lease(date("2024-01-03"), date("2024-01-10")).unwrap();
    // Of a process that died: nobody locks it.
    let dead = buffer.readers_dir.join("2024-01-01_2024-01-02_1-00000000.lock");
    std::fs::write(&dead, "").unwrap();
    let report = bench.rotate();
    assert_eq!(dates_of(&bench), ["2024-01-03", "2024-01-12"]);
    assert_eq!(reason_of(&report, "2024-01-03"), "too old, but a running job reads it");
    assert!(!dead.exists());
    drop(lease);
    assert_eq!(bench.rotate().n_days_deleted, 1);
    assert_eq!(dates_of(&bench), ["2024-01-12"]);
}

#[test]
fn late_rows_are_merged_before_their_day_goes() {
    let bench = aged();
    let buffer = bench.buffer();
    let mut open = open_days::OpenDays::new(&buffer);
    let values = [2.0];
    let row = rows::Row {
        time_ms: time("2024-01-03T01:00:00Z").timestamp_millis(),
        server: "a",
        profile: None,
        status: None,
        values: &values,
    };
    open.push(row, bench.now.timestamp_millis()).unwrap();
    open.acknowledge(bench.now.timestamp_millis()).unwrap();
    let report = bench.rotate();
    assert_eq!(reason_of(&report, "2024-01-03"), "too old, but late rows wait to be merged");
    drop(open);
    let report = bench.rotate();
    assert_eq!((report.sealed[0].n_rows, report.n_days_deleted), (2, 1));
}

#[test]
fn archived_days_are_proven_before_they_go_and_damaged_ones_stay() {
    let mut bench = aged();
    bench.config.buffer.retention_action = OldDays::Archive;
    let buffer = bench.buffer();
    let [good, bad] = ["2024-01-01", "2024-01-03"].map(|day| day_file::path(&buffer.dir, date(day)));
    let bytes = std::fs::read(&good).unwrap();
    let mut damaged = std::fs::read(&bad).unwrap();
    damaged[10] ^= 1;
    std::fs::write(&bad, &damaged).unwrap();
    let report = buffer.rotate(&RotateOptions::default(), bench.now, &Silent).unwrap();
    assert_eq!(report.n_days_deleted, 1);
    let failed = report.failed.iter().map(|failure| (failure.date, failure.error.as_str()));
    let (dates, errors): (Vec<NaiveDate>, Vec<&str>) = failed.unzip();
    assert_eq!(dates, [date("2024-01-03"); 2], "neither aggregated nor archived: {errors:?}");
    assert!(
        errors[1].starts_with("let go of") && errors[1].contains("not those that were sealed"),
        "{errors:?}"
    );
    assert_eq!(std::fs::read(day_file::path(&buffer.archive_dir, date("2024-01-01"))).unwrap(), bytes);
    assert_eq!(std::fs::read(&bad).unwrap(), damaged);
    assert!(!good.exists());
}

#[test]
fn a_day_sealed_by_a_clock_that_was_wrong_does_no_harm() {
    let mut bench = aged().at("2034-05-05T12:00:00Z");
    bench.config.data_retention_days = 99_999;
    bench.append(&record("2034-05-04T00:00:00Z", "a", 1.0));
    assert_eq!(bench.rotate().sealed[0].date, date("2034-05-04"));
    bench.config.data_retention_days = 8;
    let bench = bench.at("2024-02-20T00:00:00Z");
    let report = bench.rotate();
    // All that is not in the future is too old by now, and stays: the day of the future is no reason to let it go.
    assert_eq!(report.n_days_deleted, 0);
    assert_eq!(dates_of(&bench), ["2024-01-01", "2024-01-03", "2024-01-12", "2034-05-04"]);
    assert_eq!(reason_of(&report, "2034-05-04"), "its date lies in the future");
    let newest = bench.buffer().newest_time_ms(bench.now.timestamp_millis()).unwrap();
    assert_eq!(newest, Some(time("2024-01-12T00:00:00Z").timestamp_millis()));
}
