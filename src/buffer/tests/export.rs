//! What was exported is what comes in again, to the last bit.

use super::*;

impl Bench {
    fn export(&self, options: &ExportOptions) -> (Vec<u8>, ExportReport) {
        let mut out = Vec::new();
        let report = self.buffer().export(options, &mut out, &Silent).unwrap();
        (out, report)
    }
}

/// Three days: one sealed, one sealed with late rows, one open; gaps, labels and names that need care.
fn three_days() -> Bench {
    let bench = Bench::new(&["cpu", "mem, \"used\""], "2024-01-03T12:00:00Z");
    let row = |time: &str, server: &str, rest: &str| {
        format!("{{\"timestamp\":\"{time}\",\"server_name\":\"{server}\",{rest}}}\n")
    };
    bench.append(
        &[
            row("2024-01-01T10:00:00.007Z", "сервер-01", "\"cpu\":0.1,\"mem, \\\"used\\\"\":-0.0"),
            row("2024-01-01T10:00:00Z", "服务器-7", "\"cpu\":3.4028235e38,\"status\":\"a,\\\"b\\\"; c \""),
            row("2024-01-02T10:00:00Z", "a", "\"cpu\":16777217,\"profile\":\" läuft\""),
            row("2024-01-02T10:00:00Z", "a", "\"cpu\":1e-45,\"profile\":\" läuft\""),
            row("2024-01-02T11:00:00Z", "a", "\"status\":\"offline\""),
        ]
        .concat(),
    );
    bench.rotate();
    bench.append(&row("2024-01-02T09:00:00Z", "b", "\"cpu\":1.1754943e-38"));
    bench.append(&row("2024-01-03T09:00:00Z", "b", "\"mem, \\\"used\\\"\":0.30000001192092896"));
    bench
}

#[test]
fn what_is_exported_comes_in_again_bit_for_bit() {
    let bench = three_days();
    for format in [ExportFormat::Ndjson, ExportFormat::Csv, ExportFormat::Parquet] {
        let options = ExportOptions { format, ..ExportOptions::default() };
        let (first, report) = bench.export(&options);
        assert_eq!((report.n_rows, report.n_days), (6, 3));
        let again = Bench::new(&["cpu", "mem, \"used\""], "2024-01-03T12:00:00Z");
        let path = again.dir.path().join("exported");
        std::fs::write(&path, &first).unwrap();
        let taken = again.append_file(&path);
        assert_eq!((taken.n_good, taken.n_bad), (6, 0), "{format:?} {:?}", taken.reasons);
        for day in ["2024-01-01", "2024-01-02", "2024-01-03"] {
            let rotate = |bench: &Bench| {
                let options = RotateOptions { include_open: true, ..RotateOptions::default() };
                bench.buffer().rotate(&options, bench.now, &Silent).unwrap();
                bench.sealed(day)
            };
            assert_eq!(rotate(&again), rotate(&bench), "{format:?} {day}");
        }
        // Sealed or open: the same rows in the same order.
        assert_eq!(again.export(&options).0, first, "{format:?}");
    }
}

#[test]
fn days_and_servers_can_be_chosen() {
    let bench = three_days();
    let options = ExportOptions {
        format: ExportFormat::Csv,
        from: Some(date("2024-01-02")),
        to: Some(date("2024-01-02")),
        servers: vec!["b".into(), "nobody".into()],
    };
    let (out, report) = bench.export(&options);
    let expected = "timestamp,server_name,profile,status,cpu,\"mem, \"\"used\"\"\"\n\
                    2024-01-02T09:00:00.000Z,b,,,1.1754944e-38,\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    assert_eq!((report.n_rows, report.first, report.last), (1, options.from, options.to));
    let nothing = ExportOptions { servers: vec!["nobody".into()], ..options };
    let (out, report) = bench.export(&ExportOptions { format: ExportFormat::Parquet, ..nothing });
    assert_eq!(report, ExportReport::default());
    assert!(out.starts_with(b"PAR1") && out.ends_with(b"PAR1"));
}

#[test]
fn real_data_comes_back_from_every_form() {
    let Some(source) = shared("feed/bitbrains_2013-08-14T10.expected.parquet") else { return };
    let names = ParquetFile::open(&source).unwrap().numeric_columns();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = Bench::new(&names, "2013-08-14T11:00:00Z");
    bench.append_file(&source);
    for format in [ExportFormat::Ndjson, ExportFormat::Csv, ExportFormat::Parquet] {
        let (out, _) = bench.export(&ExportOptions { format, ..ExportOptions::default() });
        let again = Bench::new(&names, "2013-08-14T11:00:00Z");
        let path = again.dir.path().join("exported");
        std::fs::write(&path, out).unwrap();
        assert_eq!(again.append_file(&path).n_good, 720);
        let options = RotateOptions { include_open: true, ..RotateOptions::default() };
        again.buffer().rotate(&options, again.now, &Silent).unwrap();
        let mut expected = rows_of(&source, &bench.buffer().metric_names());
        let mut found = again.sealed("2013-08-14");
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{format:?}");
    }
}

/// What is exported comes in elsewhere as good rows, so a value that has changed must not.
#[test]
fn a_damaged_day_is_refused_whichever_byte_it_is() {
    let bench = three_days();
    let path = bench.buffer().dir.join("metrics_2024-01-01.parquet");
    let bytes = std::fs::read(&path).unwrap();
    for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 6] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, bad).unwrap();
        let error = bench.buffer().export(&ExportOptions::default(), &mut Vec::new(), &Silent).unwrap_err();
        assert!(format!("{error:#}").contains("metrics_2024-01-01.parquet"), "byte {at}: {error:#}");
    }
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(bench.export(&ExportOptions::default()).1.n_days, 3);
}
