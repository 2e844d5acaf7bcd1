//! What comes in is taken or quarantined, line by line.

use super::*;

#[test]
fn real_feeds_come_out_as_they_went_in() {
    feed(
        &[
            "bitbrains_2013-08-14T10.ndjson",
            "bitbrains_2013-08-14T10.flat.ndjson",
            "bitbrains_2013-08-14T10.ndjson.gz",
            "bitbrains_2013-08-14T10.expected.parquet",
        ],
        "bitbrains_2013-08-14T10.expected.parquet",
        "2013-08-14T11:00:00Z",
    );
    feed(
        &["bitbrains_rawdup_2013-09-06T23.ndjson"],
        "bitbrains_rawdup_2013-09-06T23.expected.parquet",
        "2013-09-07T00:00:00Z",
    );
    feed(&["smd_2024-01-10T10.ndjson"], "smd_2024-01-10T10.expected.parquet", "2024-01-10T11:00:00Z");
}

#[test]
fn bad_text_files_are_judged_line_by_line_as_their_manifest_says() {
    let Some(dir) = shared("bad") else { return };
    let text = std::fs::read(dir.join("manifest.json")).unwrap();
    let manifest: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    for entry in manifest.iter().filter(|entry| entry["lines"].is_array()) {
        let file = entry["file"].as_str().unwrap();
        let bench = bad_bench();
        let report = bench.append_file(&dir.join(file));
        let bad = quarantined(&bench);
        let lines = entry["lines"].as_array().unwrap();
        let mut n_policy = 0;
        for line in lines {
            let number = line["n"].as_u64().unwrap();
            match line["class"].as_str().unwrap() {
                "good" => assert!(!bad.contains_key(&number), "{file}:{number} {:?}", bad[&number]),
                "bad" => assert!(bad.contains_key(&number), "{file}:{number} {}", line["why"]),
                _ => n_policy += 1,
            }
        }
        assert!(report.n_good >= entry["good"].as_u64().unwrap(), "{file}");
        assert!(report.n_good + report.n_bad <= lines.len() as u64, "{file}");
        assert!(report.n_good <= entry["good"].as_u64().unwrap() + n_policy, "{file}");
        assert!(bench.dir.path().parent().unwrap().join("outside").metadata().is_err());
    }
}

#[test]
fn our_policies_are_these() {
    bad_lines(
        "02_missing_keys.ndjson",
        &[
            (5, "missing_timestamp"),
            (6, "missing_timestamp"),
            (7, "missing_timestamp"),
            (8, "missing_server_name"),
            (9, "missing_timestamp"),
            (10, "missing_timestamp"),
        ],
    );
    // A null is a missing value.
    let not_finite = [4, 5, 6, 7, 8, 9].map(|line| (line, "not_finite"));
    bad_lines("03_nan_infinity.ndjson", &not_finite);
    // A number written as text is text.
    let not_a_number = [3, 4, 5, 6, 7, 8, 9, 10, 11].map(|line| (line, "not_a_number"));
    bad_lines("04_strings_in_numbers.ndjson", &not_a_number);
    bad_lines("05_percent_out_of_range.ndjson", &[7, 8, 9, 10].map(|line| (line, "out_of_range")));
    bad_lines("06_duplicate_rows.ndjson", &[]);
    // The name `_` has no letter or digit to begin with.
    bad_lines("09_unknown_servers.ndjson", &[(7, "bad_server_name")]);
    // Letters of any script; no emoji, decomposed accents, invisible or formatting characters.
    bad_lines("10_unicode_server_names.ndjson", &[5, 7, 8, 9, 11].map(|line| (line, "bad_server_name")));
    bad_lines("12_huge_line.ndjson", &[(3, "line_too_long")]);
    bad_lines("19b_blank_lines.ndjson", &[]);
    bad_lines("20_missing_and_extra_metrics.ndjson", &[(6, "no_metrics"), (10, "no_metrics")]);
    bad_lines("21_partial_last_line.ndjson", &[(11, "malformed_json")]);
}

#[test]
fn broken_files_are_refused_by_name_and_what_was_read_is_kept() {
    let Some(dir) = shared("bad") else { return };
    for file in [
        "14_zero_length.parquet",
        "15_truncated_footer.parquet",
        "16a_no_server_name.parquet",
        "16c_text_metric.parquet",
        "17_csv_named.parquet",
    ] {
        let error = bad_bench().try_append(Source::File(dir.join(file))).unwrap_err();
        assert!(format!("{error:#}").contains(file), "{error:#}");
        assert_eq!(Exit::of(&error), Exit::Failed);
    }
    let bench = bad_bench();
    let error = bench.try_append(Source::File(dir.join("13_truncated.ndjson.gz"))).unwrap_err();
    let message = format!("{error:#}");
    let n_kept: u64 = message.split("the ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(n_kept > 0 && message.contains("13_truncated.ndjson.gz"), "{message}");
    assert_eq!(bench.buffer().status(bench.now).unwrap().n_rows, n_kept);
    let cases = [
        ("16b_string_timestamp.parquet", 4000, 0),
        ("16d_null_keys.parquet", 3920, 80),
        ("18_nan_inf_values.parquet", 3920, 80),
    ];
    for (file, n_good, n_bad) in cases {
        let report = bad_bench().append_file(&dir.join(file));
        assert_eq!((report.n_good, report.n_bad), (n_good, n_bad), "{file} {:?}", report.reasons);
    }
}

#[test]
fn csv_batches_profiles_and_statuses_are_taken() {
    let bench = Bench::new(&["cpu"], "2024-01-02T12:00:00Z");
    let csv = "timestamp,server_name,profile,status,cpu,rack\n\
               2024-01-01T00:00:00Z,a,db,idle,1.5,r1\n2024-01-01T00:00:05Z,a,db,offline,,r1\n";
    let report = bench.append(csv);
    assert_eq!((report.n_good, report.n_bad, report.n_unknown_fields["rack"]), (2, 0, 2));
    let batch =
        "{\"records\":[{\"timestamp\":1704067210,\"server_name\":\"a\",\"cpu\":1},{\"timestamp\":1}]}";
    let report = bench.append(batch);
    assert_eq!((report.n_good, report.n_bad), (1, 1));
    let table = bench.buffer().read_steps(date("2024-01-01")).unwrap();
    assert_eq!((table.profiles, table.statuses), (vec![Some("db".to_owned())], vec!["offline".to_owned()]));
    assert_eq!((table.n_rows, table.values), (vec![3], vec![vec![1.25]]));
    let zst = zstd::encode_all(csv.as_bytes(), 1).unwrap();
    let path = bench.dir.path().join("rows.csv.zst");
    std::fs::write(&path, zst).unwrap();
    assert_eq!(bench.append_file(&path).n_good, 2);
}

/// Not a test of correctness: prints the rate of the hot path (`--no-capture` shows it).
#[test]
fn append_tells_its_rate() {
    let names: Vec<String> = (0..14).map(|idx| format!("metric_{idx:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = Bench::new(&names, "2024-01-02T12:00:00Z");
    let mut text = String::new();
    for tick in 0..1000 {
        for server in 0..20 {
            let time = 1_704_067_200 + 5 * tick;
            text += &format!(
                "{{\"timestamp\":\"{}\",\"server_name\":\"ppml{server:04}\",\"status\":\"healthy\"",
                DateTime::from_timestamp(time, 0).unwrap().to_rfc3339()
            );
            for (idx, name) in names.iter().enumerate() {
                text += &format!(",\"{name}\":{}.{server:02}", (tick + idx as i64) % 100);
            }
            text += "}\n";
        }
    }
    let report = bench.append(&text);
    assert_eq!(report.n_good, 20_000);
    println!("append: {:.0} rows/s", report.n_good as f64 / report.duration_secs);
    let started = Instant::now();
    let sealed = bench.rotate().sealed.remove(0);
    println!(
        "rotate: {:.0} rows/s, {:.1} bytes per row",
        sealed.n_rows as f64 / started.elapsed().as_secs_f64(),
        sealed.size_bytes as f64 / sealed.n_rows as f64
    );
}
