//! Step aggregates, digests and freshness: what is derived fits the rows it was made of.

use super::*;

#[test]
fn a_foreign_buffer_is_cut_by_the_zone_and_never_written() {
    // Written by another program: UTC days, by time and server, no metadata of ours.
    let origin = Bench::new(&["cpu"], "2024-01-05T00:00:00Z");
    let mut text = String::new();
    for hour in 0..72 {
        let time = time("2024-01-01T00:00:00Z") + chrono::Duration::hours(hour);
        text += &record(&time.to_rfc3339(), "a", hour as f64);
    }
    origin.append(&text);
    origin.rotate();
    let foreign = origin.buffer().dir;
    for kind in ["open", "steps"] {
        std::fs::remove_dir_all(foreign.join(kind)).unwrap();
    }
    let before = snapshot(&foreign);
    let mut bench = Bench::new(&["cpu"], "2034-01-05T00:00:00Z");
    bench.config.data_buffer_dir = foreign.display().to_string();
    bench.config.timezone = Tz::America__New_York;
    let buffer = bench.buffer();
    assert!(buffer.is_foreign);
    let days: Vec<String> = buffer.days().unwrap().iter().map(|day| day.date.to_string()).collect();
    assert_eq!(days, ["2023-12-31", "2024-01-01", "2024-01-02", "2024-01-03"]);
    for (day, n) in days.iter().zip([5, 24, 24, 19]) {
        assert_eq!(buffer.read_steps(date(day)).unwrap().n_raw_rows(), n, "{day}");
    }
    let digests = buffer.source_digests(date("2024-01-01")).unwrap();
    let digests: Vec<(&str, u64)> = digests.iter().map(|d| (d.file.as_str(), d.n_rows)).collect();
    assert_eq!(digests, [("metrics_2024-01-01.parquet", 19), ("metrics_2024-01-02.parquet", 5)]);
    let report = bench.rotate();
    assert!(report.is_foreign && report.retention.is_empty() && report.steps_written.is_empty());
    let refused = bench.try_append(Source::reader("stdin", std::io::empty())).unwrap_err();
    assert_eq!(Exit::of(&refused), Exit::Usage);
    assert_eq!(snapshot(&foreign), before);
}

#[test]
fn aggregates_are_made_anew_when_anything_they_depend_on_changes() {
    let mut bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:01:00Z", "a", 3.0)));
    assert_eq!(bench.rotate().steps_written.len(), 1);
    let day = date("2024-01-01");
    let cache = cache::path(&bench.buffer().steps_dir, day);
    let first = bench.buffer().read_steps(day).unwrap();
    assert!(!bench.buffer().ensure_steps(day).unwrap());
    // Damaged.
    std::fs::write(&cache, b"PAR1 nonsense PAR1").unwrap();
    assert_eq!(bench.buffer().read_steps(day).unwrap(), first);
    // Another aggregation.
    bench.config.metrics[0].aggregation = crate::schema::Aggregation::Max;
    assert_eq!(bench.buffer().read_steps(day).unwrap().values[0], [3.0]);
    // Another step.
    bench.config.series.step_secs = 60;
    assert_eq!(bench.buffer().read_steps(day).unwrap().values[0], [1.0, 3.0]);
    assert!(!bench.buffer().ensure_steps(day).unwrap());
    // Another metric, which the file lacks.
    bench.config.metrics.push(Metric::new("mem", ""));
    assert!(bench.buffer().read_steps(day).unwrap().values[1][0].is_nan());
    // Another day file.
    bench.append(&record("2024-01-01T00:01:00Z", "a", 7.0));
    bench.rotate();
    assert_eq!(bench.buffer().read_steps(day).unwrap().values[0], [1.0, 7.0]);
}

#[test]
fn cached_aggregates_equal_fresh_ones() {
    let Some(dir) = shared("asd") else { return };
    let names = ParquetFile::open(&dir.join("metrics_2024-01-03.parquet")).unwrap().numeric_columns();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = Bench::new(&names, "2024-02-01T00:00:00Z");
    bench.config.data_buffer_dir = dir.canonicalize().unwrap().display().to_string();
    let buffer = bench.buffer();
    let fresh = buffer.read_steps(date("2024-01-03")).unwrap();
    assert_eq!(fresh.n_raw_rows(), fresh.len() as u64);
    let cached = buffer.read_steps(date("2024-01-03")).unwrap();
    assert_eq!(
        (&fresh.servers, &fresh.step_ms, &fresh.n_rows),
        (&cached.servers, &cached.step_ms, &cached.n_rows)
    );
    let bits = |table: &StepTable| -> Vec<Vec<u32>> {
        table.values.iter().map(|column| column.iter().map(|value| value.to_bits()).collect()).collect()
    };
    assert_eq!(bits(&fresh), bits(&cached));
    let sources = buffer.sources_of(date("2024-01-03")).unwrap();
    assert_eq!(sources.sealed.len(), 1);
}

#[test]
fn every_row_of_a_foreign_buffer_belongs_to_exactly_one_day_of_any_zone() {
    let Some(dir) = shared("bitbrains") else { return };
    let dir = dir.canonicalize().unwrap();
    let names = ["cpu_usage_pct", "no_such_metric"];
    for zone in [Tz::UTC, Tz::America__New_York] {
        let mut bench = Bench::new(&names, "2013-10-01T00:00:00Z");
        bench.config.data_buffer_dir = dir.display().to_string();
        bench.config.timezone = zone;
        let buffer = bench.buffer();
        let started = Instant::now();
        let mut n_rows = 0;
        for day in buffer.days().unwrap() {
            let table = buffer.read_steps(day.date).unwrap();
            let (start, end) = crate::calendar::day_bounds_ms(day.date, zone);
            assert!(table.step_ms.iter().all(|step| (start..end).contains(step)));
            assert!(table.values[1].iter().all(|value| value.is_nan()));
            n_rows += table.n_raw_rows();
        }
        assert_eq!(n_rows, 779_857, "{zone}");
        println!("{zone}: {:.0} rows/s aggregated", n_rows as f64 / started.elapsed().as_secs_f64());
    }
}

#[test]
fn verify_finds_flipped_bits_and_wrong_schemas_and_names_gaps() {
    let mut bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    let mut text = String::new();
    for second in 0..2000 {
        let time = time("2024-01-01T00:00:00Z") + chrono::Duration::seconds(second);
        text += &record(&time.to_rfc3339(), "a", (second * second % 977) as f64 / 7.0);
    }
    text += &record("2024-01-03T00:00:00Z", "a", 1.0);
    bench.append(&text);
    bench.rotate();
    bench.append(&record("2024-01-03T00:00:05Z", "a", 2.0));
    let verify = |bench: &Bench| {
        let report = bench
            .buffer()
            .verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }, &Silent)
            .unwrap();
        let messages: Vec<String> =
            report.findings.iter().map(|found| format!("{} {}", found.date, found.message)).collect();
        (report.n_rows, messages)
    };
    assert_eq!(verify(&bench), (2002, Vec::new()));
    let missing = bench.buffer().verify(&VerifyOptions::default(), &Silent).unwrap().missing;
    assert_eq!(missing, [date("2024-01-02")], "a gap is a fact");
    bench.config.metrics.push(Metric::new("mem", ""));
    assert_eq!(verify(&bench).1.len(), 2);
    bench.config.metrics.pop();
    let path = day_file::path(&bench.buffer().dir, date("2024-01-01"));
    let bytes = std::fs::read(&path).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let rot = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    for at in (0..bytes.len()).step_by(211) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        rot(&damaged);
        let found = verify(&bench).1;
        assert!(!found.is_empty() && found[0].starts_with("2024-01-01"), "flipped at {at}: {found:?}");
    }
    rot(&bytes);
    assert_eq!(verify(&bench).1, Vec::<String>::new());
}

#[test]
fn times_that_cannot_be_are_left_out_and_told() {
    let day_ms = time("2024-01-01T00:00:00Z").timestamp_millis();
    let year_2300 = time("2300-01-01T00:00:00Z").timestamp_millis();
    for zone in [Tz::UTC, Tz::America__New_York, Tz::Asia__Kolkata] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
        bench.config.timezone = zone;
        bench.config.data_buffer_dir = dir.path().canonicalize().unwrap().display().to_string();
        let good = ("a", day_ms + 12 * 3_600_000, 1.0);
        let absurd = [i64::MAX, i64::MIN, year_2300, -1].map(|time_ms| ("a", time_ms, 9.0));
        let path = day_file::path(dir.path(), date("2024-01-01"));
        write_foreign(&path, &[&absurd[..], &[good]].concat());
        let buffer = bench.buffer();
        let n_rows: u64 =
            buffer.days().unwrap().iter().map(|day| buffer.read_steps(day.date).unwrap().n_raw_rows()).sum();
        assert_eq!(n_rows, 1, "{zone}");
        assert_eq!(buffer.newest_time_ms(i64::MAX).unwrap(), Some(good.1), "{zone}");
        let findings = buffer
            .verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }, &Silent)
            .unwrap()
            .findings;
        assert!(
            findings.iter().any(|found| found.message.starts_with("it has 4 rows without a time")),
            "{findings:?}"
        );
        write_foreign(&path, &absurd);
        assert_eq!(buffer.newest_time_ms(i64::MAX).unwrap(), None);
        buffer.status(bench.now).unwrap();
    }
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    let path = bench.dir.path().join("metrics.parquet");
    write_foreign(&path, &[("a", i64::MAX, 1.0), ("a", i64::MIN, 1.0), ("a", day_ms, 1.0)]);
    let report = bench.append_file(&path);
    assert_eq!((report.n_good, report.n_bad), (1, 2));
}

#[test]
fn digests_come_from_what_was_written_down() {
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    for second in [0, 5, 10] {
        bench.append(&record(&format!("2024-01-01T00:00:{second:02}Z"), "a", 1.0));
    }
    let (day, buffer) = (date("2024-01-01"), bench.buffer());
    assert_eq!(buffer.source_digests(day).unwrap(), buffer.read_day(day).unwrap().1, "of an open day");
    bench.rotate();
    let digests = buffer.source_digests(day).unwrap();
    assert_eq!(digests, buffer.read_day(day).unwrap().1);
    assert_eq!((digests.len(), digests[0].n_rows), (1, 3));
    // Pages of the day file that cannot be read, under a footer that is whole: nobody decodes them for a digest.
    let path = day_file::path(&buffer.dir, day);
    let (sealed, modified) =
        (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    let mut bytes = sealed.clone();
    bytes[4..64].fill(0xff);
    write(&bytes);
    assert_eq!(buffer.source_digests(day).unwrap(), digests);
    write(&sealed);
    // Aggregates that were damaged are never taken for the day's: they are made anew.
    let table = buffer.read_steps(day).unwrap();
    let path = cache::path(&buffer.steps_dir, day);
    let whole = std::fs::read(&path).unwrap();
    for at in [4, whole.len() / 2, whole.len() - 20] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(buffer.read_steps(day).unwrap(), table);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(buffer.source_digests(day).unwrap(), digests);
    }
}

#[test]
fn the_newest_row_is_found_without_aggregating() {
    let bench = Bench::new(&["cpu"], "2024-01-03T12:00:00Z");
    let newest = |bench: &Bench, before: &str| {
        bench
            .buffer()
            .newest_time_ms(time(before).timestamp_millis())
            .unwrap()
            .map(|time_ms| crate::calendar::to_utc(time_ms).format("%dT%H:%M:%S").to_string())
    };
    assert_eq!(newest(&bench, "2024-01-04T00:00:00Z"), None);
    for stamp in ["03T11:59:57", "01T23:59:58", "02T10:00:01", "03T07:00:00", "02T22:00:03", "03T11:00:00"] {
        bench.append(&record(&format!("2024-01-{stamp}Z"), "a", 1.0));
    }
    let check = |bench: &Bench| {
        for (before, expected) in [
            ("2024-01-04T00:00:00Z", Some("03T11:59:57")),
            ("2024-01-03T11:59:58Z", Some("03T11:59:57")),
            ("2024-01-03T11:59:57Z", Some("03T11:00:00")),
            ("2024-01-03T07:00:00Z", Some("02T22:00:03")),
            ("2024-01-02T22:00:03Z", Some("02T10:00:01")),
            ("2024-01-02T00:00:00Z", Some("01T23:59:58")),
            ("2024-01-01T00:00:00Z", None),
        ] {
            assert_eq!(newest(bench, before).as_deref(), expected, "before {before}");
        }
    };
    check(&bench);
    bench.rotate();
    let file = ParquetFile::open(&day_file::path(&bench.buffer().dir, date("2024-01-02"))).unwrap();
    assert!(file.time_range_ms().is_some(), "footers answer for sealed days");
    check(&bench);
    bench.append(&record("2024-01-02T23:00:00Z", "a", 1.0));
    assert_eq!(newest(&bench, "2024-01-03T00:00:00Z").as_deref(), Some("02T23:00:00"));
}
