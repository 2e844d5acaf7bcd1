//! Inputs made to hurt: endless, deep, packed, lying, and a disk that is full. The good rows beside them arrive.

use std::io::{Cursor, Read};

use super::*;

const NOW: &str = "2024-01-01T12:00:00Z";

fn bench() -> Bench {
    Bench::new(&["cpu", "mem"], NOW)
}

fn good(second: u32) -> String {
    record(&format!("2024-01-01T10:00:{second:02}Z"), "a", f64::from(second))
}

/// Resident memory of this process at its largest, in MiB; `None` where the system does not say.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

#[test]
fn a_line_of_a_gigabyte_costs_only_itself() {
    if !is_alone("a_line_of_a_gigabyte_costs_only_itself") {
        return;
    }
    let bench = bench();
    let long = std::io::repeat(b'x').take(1 << 30);
    let reader = Cursor::new(good(1)).chain(long).chain(Cursor::new(format!("\n{}", good(2))));
    let before = peak_mb();
    let report = bench.try_append(Source::reader("stdin", reader)).unwrap();
    assert_eq!((report.n_good, report.n_bad), (2, 1));
    assert_eq!(quarantined(&bench), BTreeMap::from([(2, "line_too_long".to_owned())]));
    if let (Some(before), Some(after)) = (before, peak_mb()) {
        assert!(after.saturating_sub(before) < 100, "{before} MiB before, {after} MiB after");
    }
}

/// Whether this process runs this test of the module alone, so that nobody else takes memory in it. If not, such a process
/// has run it meanwhile, and it has passed there.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "TFTCTL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").expect("a module of the crate").1);
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    let output = process.args([&name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[test]
fn a_packed_nothing_is_given_up_and_the_rows_before_it_are_kept() {
    let mut packed = Vec::new();
    let mut encoder = zstd::Encoder::new(&mut packed, 1).unwrap();
    encoder.write_all(good(1).as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(b' ').take((1 << 30) + (1 << 26)), &mut encoder).unwrap();
    encoder.finish().unwrap();
    assert!(packed.len() < 1 << 18, "{} bytes", packed.len());
    let bench = bench();
    let error = bench.try_append(Source::reader("stdin", Cursor::new(packed))).unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("no good record") && message.contains("the 1 good rows before"), "{message}");
    assert_eq!(bench.buffer().status(bench.now).unwrap().n_rows, 1);
}

#[test]
fn a_depth_of_thousands_ends_in_quarantine_and_not_in_a_stack_overflow() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let keys = "\"timestamp\":\"2024-01-01T10:00:00Z\",\"server_name\":\"a\"";
    for json in [deep("[", "]"), deep("{\"a\":", "}"), deep("[", "")] {
        let bench = bench();
        let lines = [
            json.clone(),
            format!("{{{keys},\"cpu\":{json}}}"),
            format!("{{{keys},\"metrics\":{{\"cpu\":{json}}}}}"),
            format!("{{{keys},\"metrics\":[{json}]}}"),
            format!("{{\"records\":[{json}]}}"),
            format!("{{\"name\":\"cpu\",\"tags\":{json},\"fields\":{{}},\"timestamp\":1}}"),
            good(1),
        ];
        let report = bench.append(&lines.join("\n"));
        assert_eq!((report.n_good, report.n_bad), (1, 6), "{:?}", report.reasons);
        let telegraf = AppendOptions { format: Format::Telegraf, ..AppendOptions::default() };
        let text = Cursor::new(lines[..6].join("\n"));
        let report = bench.buffer().append(
            Source::reader("stdin", text),
            &telegraf,
            &Clock::Fixed(bench.now),
            &Silent,
        );
        assert_eq!(report.unwrap().n_good, 0);
    }
}

#[test]
fn bytes_that_are_no_text_and_names_that_are_no_names_are_quarantined() {
    let bench = bench();
    let mut text = good(1).into_bytes();
    text.extend(b"{\"timestamp\":\"2024-01-01T10:00:00Z\",\"server_name\":\"a\xff\xfe\",\"cpu\":1}\n");
    text.extend(b"{\"timestamp\":\"2024-01-01T10:00:00Z\",\"server_name\":\"\\ud800\",\"cpu\":1}\n");
    text.extend(b"\xff\xfe\x00\x01\x02\n");
    for name in
        ["../../etc/passwd", "a\\u0000b", "a\\u001b[31m", &"n".repeat(1_000_000), "-rf", "a/b", "$(x)"]
    {
        text.extend(
            format!("{{\"timestamp\":\"2024-01-01T10:00:00Z\",\"server_name\":\"{name}\",\"cpu\":1}}\n")
                .bytes(),
        );
    }
    text.extend(format!("{{\"{}\":1,{}", "f".repeat(500_000), &good(2)[1..]).bytes());
    let report = bench.try_append(Source::reader("stdin", Cursor::new(text))).unwrap();
    assert_eq!((report.n_good, report.n_bad), (2, 10));
    assert!(report.n_unknown_fields.keys().all(|name| name.len() <= 64));
    let reasons = quarantined(&bench);
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), (2..=11).collect::<Vec<_>>());
    assert!([2, 3, 4].iter().all(|line| reasons[line] == "malformed_json"), "{reasons:?}");
    assert!((5..=11).all(|line| reasons[&line] == "bad_server_name"), "{reasons:?}");
    let quarantine = bench.buffer().status(bench.now).unwrap().quarantine;
    assert!(quarantine.size_bytes < 200_000, "{quarantine:?}");
}

#[test]
fn a_type_that_changes_half_way_costs_the_rows_that_have_it() {
    let csv = (0..60).map(|second| {
        let value = if second < 30 { second.to_string() } else { format!("v{second}") };
        format!("2024-01-01T10:00:{second:02}Z,a,{value}\n")
    });
    let text = format!("timestamp,server_name,cpu\n{}", csv.collect::<String>());
    let bench = bench();
    let report = bench.append(&text);
    assert_eq!((report.n_good, report.n_bad, report.reasons["not_a_number"]), (30, 30, 30));
    let header = format!("timestamp,server_name,{}\n{}", "c,".repeat(3 << 20), good(1));
    let error = bench.try_append(Source::reader("stdin", Cursor::new(header))).unwrap_err();
    assert!(format!("{error:#}").contains("header is longer than 1 MiB"), "{error:#}");
}

/// A file system of a few megabytes; unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: no small file system can be mounted here");
        }
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

/// Rows for a site on a small disk, more than it holds; without room that is kept beyond what sealing takes.
fn small_site(disk: &SmallDisk) -> (Bench, Buffer, Source) {
    let mut bench = bench();
    bench.config.buffer.min_free_disk_mb = 0;
    let buffer = Buffer::open(&Site::of(&disk.0.path().join("site"), bench.config.clone()));
    let lines = (0..200_000u32).map(|row| {
        format!("{{\"timestamp\":{},\"server_name\":\"a\",\"cpu\":{row}}}\n", 1_704_060_000 + row % 36_000)
    });
    (bench, buffer, Source::reader("stdin", Cursor::new(lines.collect::<String>())))
}

#[test]
fn a_disk_that_fills_up_keeps_what_was_acknowledged() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (bench, buffer, source) = small_site(&disk);
    let options = AppendOptions { follow: true, batch_rows: 1000, ..AppendOptions::default() };
    let mut n_acknowledged = 0;
    let mut on_ack = |report: &AppendReport| {
        n_acknowledged = report.n_good;
        if n_acknowledged > 5000 {
            // Somebody else takes the rest of the disk.
            drop(std::fs::write(disk.0.path().join("theirs"), vec![1; 4 << 20]));
        }
    };
    let clock = Clock::Fixed(bench.now);
    let error = buffer.append_with(source, &options, &clock, &Silent, &mut on_ack).unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("o space left") && message.contains(".seg"), "{message}");
    assert!(message.contains(&format!("the {n_acknowledged} good rows before are kept")), "{message}");
    assert!(n_acknowledged > 0);
    // The segments say what they hold; nothing that was acknowledged is missing.
    let mut out = Vec::new();
    let report = buffer.export(&ExportOptions::default(), &mut out, &Silent).unwrap();
    let n_distinct = n_acknowledged.min(36_000);
    assert!(report.n_rows >= n_distinct, "{} of {n_distinct}", report.n_rows);
}

#[test]
fn room_to_seal_what_was_taken_is_kept_also_where_no_other_room_is() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (bench, buffer, source) = small_site(&disk);
    let options = AppendOptions { follow: true, batch_rows: 1000, ..AppendOptions::default() };
    let clock = Clock::Fixed(bench.now);
    let error = buffer.append_with(source, &options, &clock, &Silent, &mut |_| ()).unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("MiB free") && message.contains("are needed"), "{message}");
    let n_rows = buffer.status(bench.now).unwrap().n_rows;
    let next_day = bench.now + chrono::Duration::days(1);
    let report = buffer.rotate(&RotateOptions::default(), next_day, &Silent).unwrap();
    assert_eq!(report.failed, []);
    let n_sealed: u64 = report.sealed.iter().map(|day| day.n_rows + day.n_duplicates).sum();
    assert!(n_sealed == n_rows && n_rows > 1000, "{n_sealed} of {n_rows}");
}
