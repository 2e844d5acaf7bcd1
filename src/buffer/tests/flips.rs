//! `verify` finds a flipped bit wherever it is.

use super::*;

fn findings(bench: &Bench, day: Option<NaiveDate>) -> Vec<Finding> {
    bench.buffer().verify(&VerifyOptions { day, ..VerifyOptions::default() }, &Silent).unwrap().findings
}

/// Flips one bit of each byte of `path`, another one from byte to byte, and expects a finding that names file and day.
#[track_caller]
fn every_flip_is_found(bench: &Bench, path: &Path, day: &str) {
    assert_eq!(findings(bench, None), [], "before anything is damaged");
    let whole = std::fs::read(path).unwrap();
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(path, damaged).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        let found = findings(bench, Some(date(day)));
        let is_named = |found: &Finding| found.date == date(day) && found.file == path;
        assert!(found.iter().any(is_named), "byte {at} of {} in {}: {found:?}", whole.len(), path.display());
    }
    std::fs::write(path, whole).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    assert_eq!(findings(bench, None), [], "after it was restored");
}

fn sealed_day() -> Bench {
    let bench = Bench::new(&["cpu", "mem"], "2024-01-05T12:00:00Z");
    let line = |second: i64| {
        let time = time("2024-01-01T00:00:00Z") + chrono::Duration::seconds(second);
        format!(
            "{{\"timestamp\":\"{}\",\"server_name\":\"s{}\",\"status\":\"up\",\"cpu\":{}.5,\"mem\":{second}}}\n",
            time.to_rfc3339(),
            second % 3,
            second % 7
        )
    };
    bench.append(&(0..60).map(line).collect::<String>());
    bench
}

#[test]
fn in_a_sealed_day() {
    let bench = sealed_day();
    bench.rotate();
    let buffer = bench.buffer();
    every_flip_is_found(&bench, &day_file::path(&buffer.dir, date("2024-01-01")), "2024-01-01");
}

#[test]
fn in_step_aggregates() {
    let bench = sealed_day();
    bench.rotate();
    let buffer = bench.buffer();
    every_flip_is_found(&bench, &cache::path(&buffer.steps_dir, date("2024-01-01")), "2024-01-01");
}

#[test]
fn in_a_segment() {
    let bench = sealed_day();
    let buffer = bench.buffer();
    let paths = segment::list(&segment::day_dir(&buffer.open_dir, date("2024-01-01"))).unwrap();
    every_flip_is_found(&bench, &paths[0], "2024-01-01");
}

#[test]
fn in_quarantine() {
    let bench = sealed_day();
    bench.append("no record\n{\"timestamp\":\"2024-01-01T00:00:00Z\",\"server_name\":\"\",\"cpu\":1}\n");
    let (day, path) = quarantine::files(&bench.buffer().quarantine_dir).unwrap().remove(0);
    every_flip_is_found(&bench, &path, &day.to_string());
}

#[test]
fn a_file_from_elsewhere_is_named_as_such_and_no_finding() {
    let bench = sealed_day();
    bench.rotate();
    let buffer = bench.buffer();
    let path = day_file::path(&buffer.dir, date("2024-01-02"));
    write_foreign(&path, &[("a", 1_704_153_600_000, 1.0)]);
    let report = buffer.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert_eq!(report.unstamped, [date("2024-01-02")]);
    let messages: Vec<&str> = report.findings.iter().map(|found| found.message.as_str()).collect();
    assert_eq!(messages, ["metric `mem` is missing"]);
    // Once it was aggregated its bytes are known.
    bench.rotate();
    let mut bytes = std::fs::read(&path).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(findings(&bench, Some(date("2024-01-02"))).len(), 2);
    assert_eq!(findings(&bench, Some(date("2024-01-01"))), []);
}
