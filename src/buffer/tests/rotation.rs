//! Rotations move rows from open days to sealed ones, whole, and let old days go.

use super::*;

#[test]
fn a_day_is_sealed_once_and_rotating_again_changes_nothing() {
    let bench = Bench::new(&["cpu", "mem"], "2024-01-02T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:05Z", "b", 2.0) + &record("2024-01-01T00:00:00Z", "b", 1.0)));
    bench.append(&(record("2024-01-01T23:59:59Z", "a", 3.0) + &record("2024-01-02T00:00:00Z", "a", 4.0)));
    let dry =
        bench.buffer().rotate(&RotateOptions { dry_run: true, ..Default::default() }, bench.now, &Silent);
    assert_eq!(dry.unwrap().planned.len(), 1);
    let report = bench.rotate();
    assert_eq!(report.sealed.len(), 1);
    assert_eq!(report.steps_written, [date("2024-01-01")]);
    assert_eq!(
        bench.sealed("2024-01-01"),
        ["a 1704153599000 [3.0, NaN]", "b 1704067200000 [1.0, NaN]", "b 1704067205000 [2.0, NaN]",]
    );
    let before = snapshot(bench.dir.path());
    let again = bench.rotate();
    assert_eq!((again.planned.len(), again.sealed.len(), again.steps_written.len()), (0, 0, 0));
    assert_eq!(snapshot(bench.dir.path()), before);
    let days = bench.buffer().days().unwrap();
    assert_eq!(
        days.iter().map(|day| (day.date.to_string(), day.is_open)).collect::<Vec<_>>(),
        [("2024-01-01".to_owned(), false), ("2024-01-02".to_owned(), true)]
    );
}

#[test]
fn late_rows_are_merged_and_the_last_duplicate_wins() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:00:05Z", "a", 2.0)));
    bench.rotate();
    let late =
        bench.append(&(record("2024-01-01T00:00:05Z", "a", 9.0) + &record("2024-01-01T00:00:02Z", "a", 3.0)));
    assert_eq!(late.n_late, 2);
    assert_eq!(bench.buffer().status(bench.now).unwrap().n_late_segments, 1);
    // Readers see late rows before they are merged.
    let table = bench.buffer().read_steps(date("2024-01-01")).unwrap();
    assert_eq!((table.n_rows[0], table.values[0][0]), (3, 13.0 / 3.0));
    bench.append(&record("2024-01-01T00:00:05Z", "a", 10.0));
    let report = bench.rotate();
    assert_eq!((report.sealed[0].n_rows, report.sealed[0].n_duplicates), (3, 2));
    assert!(report.sealed[0].is_merge);
    assert_eq!(
        bench.sealed("2024-01-01"),
        ["a 1704067200000 [1.0]", "a 1704067202000 [3.0]", "a 1704067205000 [10.0]"]
    );
    let table = bench.buffer().read_steps(date("2024-01-01")).unwrap();
    assert_eq!((table.n_rows[0], table.values[0][0]), (3, 14.0 / 3.0));
}

#[test]
fn a_kill_between_any_two_steps_of_a_rotation_loses_and_doubles_nothing() {
    let fill = || {
        let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
        bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:00:00Z", "b", 2.0)));
        bench.append(&record("2024-01-01T00:05:00Z", "a", 3.0));
        bench
    };
    let day = date("2024-01-01");
    let straight = fill();
    straight.rotate();
    let expected = (straight.sealed("2024-01-01"), straight.buffer().read_steps(day).unwrap());

    // After the claim.
    let bench = fill();
    let plans = bench.buffer().plan_seals(date("2024-01-02"), &RotateOptions::default()).unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), expected.1);
    // After the day file, before any segment is dropped.
    bench.buffer().write_sealed(&plans[0], bench.now).unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), expected.1);
    // After one of the two segments is dropped.
    let segments = segment::list(&segment::day_dir(&bench.buffer().open_dir, day)).unwrap();
    std::fs::remove_file(&segments[0]).unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), expected.1);
    bench.rotate();
    assert_eq!((bench.sealed("2024-01-01"), bench.buffer().read_steps(day).unwrap()), expected);
    assert!(!segment::day_dir(&bench.buffer().open_dir, day).exists());
}

#[test]
fn a_torn_segment_is_sealed_up_to_the_tear_and_set_aside_without_a_word() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    bench.append(&record("2024-01-01T00:00:00Z", "a", 1.0));
    let buffer = bench.buffer();
    let path = segment::list(&segment::day_dir(&buffer.open_dir, date("2024-01-01"))).unwrap().remove(0);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"torn").unwrap();
    let verified = buffer.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert_eq!((verified.findings.len(), verified.torn.len(), verified.torn[0].n_bytes), (0, 1, 4));
    assert!(buffer.repair(&RepairOptions::default(), bench.now, &Silent).unwrap().mended.is_empty());
    let report = bench.rotate();
    assert_eq!((report.sealed[0].n_rows, report.sealed[0].n_bytes_torn), (1, 4));
    assert!(report.sealed[0].damaged.is_empty() && report.warnings.is_empty());
    let set_aside = buffer.status(bench.now).unwrap().set_aside;
    assert_eq!(set_aside[0].problem.as_deref(), Some("4 bytes at its end were never completed"));
    assert!(std::fs::read(&set_aside[0].kept).unwrap().ends_with(b"torn"));
}

#[test]
fn one_damaged_day_does_not_hold_up_the_others() {
    let bench = Bench::new(&["cpu"], "2024-01-03T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-02T00:00:00Z", "a", 2.0)));
    let buffer = bench.buffer();
    std::fs::write(day_file::path(&buffer.dir, date("2024-01-01")), b"PAR1 but no more of it PAR1").unwrap();
    let report = buffer.rotate(&RotateOptions::default(), bench.now, &Silent).unwrap();
    assert_eq!(report.sealed.len(), 1);
    assert!(report.failed.iter().all(|failure| failure.date == date("2024-01-01")));
    assert!(report.failed[0].error.contains("metrics_2024-01-01.parquet"), "{:?}", report.failed);
    // Its rows are still where they were.
    assert_eq!(segment::list(&segment::day_dir(&buffer.open_dir, date("2024-01-01"))).unwrap().len(), 1);
    let status = buffer.status(bench.now).unwrap();
    assert_eq!((status.n_unreadable, status.days[1].state), (1, DayState::Sealed));
    assert!(buffer.days().unwrap().len() == 2);
    let error = buffer.read_steps(date("2024-01-01")).unwrap_err();
    assert!(format!("{error:#}").contains("metrics_2024-01-01.parquet"));
}

#[test]
fn days_are_those_of_the_zone_with_their_true_length() {
    let mut bench = Bench::new(&["cpu"], "2026-03-10T12:00:00Z");
    bench.config.timezone = Tz::America__New_York;
    // 8 March 2026 has 23 hours in New York: 05:00Z to 04:00Z of the next day.
    let mut text = String::new();
    for hour in 0..48 {
        let time = time("2026-03-08T00:30:00Z") + chrono::Duration::hours(hour);
        text += &record(&time.to_rfc3339(), "a", hour as f64);
    }
    let report = bench.append(&text);
    let counts: Vec<(String, u64)> = report.n_per_day.iter().map(|(d, n)| (d.to_string(), *n)).collect();
    let expected = [("2026-03-07", 5), ("2026-03-08", 23), ("2026-03-09", 20)];
    assert_eq!(counts, expected.map(|(d, n)| (d.to_owned(), n)));
    bench.rotate();
    for (day, n) in expected {
        assert_eq!(bench.buffer().read_steps(date(day)).unwrap().n_raw_rows(), n);
        assert_eq!(bench.sealed(day).len() as u64, n);
    }
}

#[test]
fn appenders_and_rotations_at_once_lose_nothing() {
    const N_THREADS: usize = 4;
    const N_APPENDS: usize = 12;
    let bench = Bench::new(&["cpu"], "2024-01-03T00:00:00Z");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let rotator = scope.spawn(|| {
            let mut n_rotations = 0;
            while !is_done.load(Ordering::Relaxed) {
                bench.rotate();
                n_rotations += 1;
            }
            n_rotations
        });
        let appenders: Vec<_> = (0..N_THREADS)
            .map(|thread| {
                let bench = &bench;
                scope.spawn(move || {
                    for n in 0..N_APPENDS {
                        let record = |day: u32| {
                            let time = format!("2024-01-{day:02}T{thread:02}:{n:02}:00Z");
                            record(&time, &format!("s{thread}"), n as f64)
                        };
                        let report = bench.append(&(record(1) + &record(2)));
                        assert_eq!(report.n_good, 2);
                        let steps = bench.buffer().read_steps(date("2024-01-01")).unwrap();
                        let own = steps.servers.iter().position(|s| *s == format!("s{thread}")).unwrap();
                        let idx = steps.server_idx.iter().zip(&steps.n_rows);
                        let n_own: u32 = idx.filter(|(s, _)| **s == own as u32).map(|(_, n)| n).sum();
                        assert_eq!(n_own, n as u32 + 1, "an acknowledged row is not readable");
                    }
                })
            })
            .collect();
        appenders.into_iter().for_each(|thread| thread.join().unwrap());
        is_done.store(true, Ordering::Relaxed);
        assert!(rotator.join().unwrap() > 0);
    });
    bench.rotate();
    for day in ["2024-01-01", "2024-01-02"] {
        assert_eq!(bench.sealed(day).len(), N_THREADS * N_APPENDS);
    }
    assert!(bench.buffer().open_dates().unwrap().is_empty());
}

#[test]
fn a_live_segment_waits_for_the_next_rotation() {
    let bench = Bench::new(&["cpu"], "2024-01-02T00:01:00Z");
    let buffer = bench.buffer();
    let day = date("2024-01-01");
    let mut open = open_days::OpenDays::new(&buffer);
    let row = |time_ms: i64| rows::Row { time_ms, server: "a", profile: None, status: None, values: &[1.0] };
    let now_ms = bench.now.timestamp_millis();
    open.push(row(1_704_067_200_000), now_ms).unwrap();
    open.acknowledge(now_ms).unwrap();
    let report = bench.rotate();
    assert_eq!((report.planned[0].n_live_segments, report.sealed.len()), (1, 0));
    // Its acknowledged rows are readable meanwhile.
    assert_eq!(buffer.read_steps(day).unwrap().n_raw_rows(), 1);
    open.push(row(1_704_067_205_000), now_ms).unwrap();
    open.acknowledge(now_ms).unwrap();
    drop(open);
    assert_eq!(bench.rotate().sealed[0].n_rows, 2);
}

#[test]
fn a_followed_pipe_is_acknowledged_while_it_is_silent() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let options = AppendOptions {
        follow: true,
        flush_every: Duration::from_millis(100),
        stop: Some(stop.clone()),
        ..AppendOptions::default()
    };
    writer.write_all(record("2024-01-02T00:00:00Z", "a", 1.0).as_bytes()).unwrap();
    let mut acks = Vec::new();
    let started = Instant::now();
    let report = bench
        .buffer()
        .append_with(
            Source::reader("stdin", reader),
            &options,
            &Clock::Fixed(bench.now),
            &Silent,
            &mut |report| {
                acks.push(report.n_good);
                // The row is readable by others when it is acknowledged.
                assert_eq!(bench.buffer().status(bench.now).unwrap().n_rows, report.n_good);
                match report.n_good {
                    1 => writer.write_all(record("2024-01-02T00:00:05Z", "a", 1.0).as_bytes()).unwrap(),
                    _ => stop.store(true, Ordering::Relaxed),
                }
            },
        )
        .unwrap();
    assert_eq!((acks, report.n_good), (vec![1, 2], 2));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn old_days_are_deleted_and_a_far_clock_deletes_nothing() {
    let mut bench = Bench::new(&["cpu"], "2024-01-12T12:00:00Z");
    bench.config.data_retention_days = 30;
    for day in [1, 5, 12] {
        bench.append(&record(&format!("2024-01-{day:02}T00:00:00Z"), "a", 1.0));
    }
    bench.rotate();
    (bench.config.data_retention_days, bench.config.training_window_days) = (8, 8);
    let report = bench.rotate();
    assert_eq!(report.n_days_deleted, 1);
    assert_eq!(bench.buffer().days().unwrap().len(), 2);
    assert!(!cache::path(&bench.buffer().steps_dir, date("2024-01-01")).exists());
    let bench = bench.at("2034-01-01T00:00:00Z");
    let report = bench.rotate();
    assert_eq!(report.n_days_deleted, 0);
    assert!(report.warnings[0].contains("would let every day go"));
}

#[test]
fn columns_that_left_the_schema_are_kept_in_the_files() {
    let mut bench = Bench::new(&["cpu", "mem"], "2024-01-02T12:00:00Z");
    bench.append("{\"timestamp\":1704067200,\"server_name\":\"a\",\"cpu\":1,\"mem\":2}\n");
    bench.config.metrics.truncate(1);
    bench.append("{\"timestamp\":1704067205,\"server_name\":\"a\",\"cpu\":3,\"mem\":4}\n");
    bench.rotate();
    bench.config.metrics.insert(0, Metric::new("mem", ""));
    assert_eq!(bench.sealed("2024-01-01"), ["a 1704067200000 [2.0, 1.0]", "a 1704067205000 [NaN, 3.0]"]);
}

#[test]
fn a_retention_of_for_ever_is_no_trouble() {
    let mut bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    bench.config.data_retention_days = 99_999_999;
    assert_eq!(bench.append(&record("2024-01-01T00:00:00Z", "a", 1.0)).n_good, 1);
    assert_eq!(bench.rotate().sealed.len(), 1);
}

#[test]
fn a_rotation_sweeps_what_killed_runs_left() {
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    bench.append(&record("2024-01-01T00:00:00Z", "a", 1.0));
    bench.rotate();
    let buffer = bench.buffer();
    let removed = buffer.removed_dir.join("2024-01-01");
    let folders = [&buffer.dir, &removed, &buffer.steps_dir, &buffer.quarantine_dir];
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    for dir in folders {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(".staging-fresh"), "half").unwrap();
        let old = std::fs::File::create(dir.join(".staging-old")).unwrap();
        old.set_modified(long_ago).unwrap();
    }
    bench.rotate();
    let is_left = |dir: &Path, name: &str| dir.join(name).exists();
    assert!(folders.iter().all(|dir| !is_left(dir, ".staging-old")));
    let fresh = folders.map(|dir| is_left(dir, ".staging-fresh"));
    assert_eq!(fresh, [false, false, true, true], "others write aggregates and quarantine meanwhile");
    assert_eq!(bench.sealed("2024-01-01").len(), 1);
}
