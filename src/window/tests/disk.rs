//! Windows of a real buffer on disk: the same rows give the same bytes, and what changed since is told.

use super::*;
use crate::buffer::{AppendOptions, Buffer, RotateOptions, Source as Records};
use crate::clock::Clock;

/// A record of each of three servers, every five minutes of `n_days` from 2024-01-01 on.
fn records(n_days: i64) -> Vec<String> {
    let start: DateTime<Utc> = "2024-01-01T00:00:00Z".parse().unwrap();
    let mut lines = Vec::new();
    for step in 0..n_days * 288 {
        let time = start + chrono::Duration::seconds(step * 300 + 7);
        for server in ["a", "b", "c"] {
            let (cpu, mem) = (30.0 + (step % 50) as f64, 60.0 - (step % 7) as f64);
            lines.push(format!(
                "{{\"timestamp\":\"{}\",\"server_name\":\"{server}\",\"cpu\":{cpu},\"mem\":{mem}}}\n",
                time.to_rfc3339()
            ));
        }
    }
    lines
}

fn site_config() -> Config {
    let mut config = config();
    config.series.sample_secs = 300;
    config
}

/// Appends `lines` in as many parts as named, seals what is over, and builds the window up to 2024-01-05.
fn build_of(bench: &Bench, parts: &[&[String]], now: &str) -> Window {
    append(bench, parts, now);
    let request = WindowRequest { end: Some(date("2024-01-05")), ..WindowRequest::default() };
    crate::window::build(&bench.site, &request, now.parse().unwrap(), &Silent).unwrap()
}

fn append(bench: &Bench, parts: &[&[String]], now: &str) {
    let buffer = Buffer::open(&bench.site);
    let now: DateTime<Utc> = now.parse().unwrap();
    for part in parts {
        let source = Records::reader("stdin", std::io::Cursor::new(part.concat()));
        let report = buffer.append(source, &AppendOptions::default(), &Clock::Fixed(now), &Silent).unwrap();
        assert_eq!(report.n_good, part.len() as u64);
    }
    let report = buffer.rotate(&RotateOptions::default(), now, &Silent).unwrap();
    assert_eq!(report.failed, []);
}

#[test]
fn the_same_rows_give_the_same_bytes_wherever_whenever_and_in_whatever_order_they_came() {
    let lines = records(4);
    let backwards: Vec<String> = lines.iter().rev().cloned().collect();
    let (one, two) = (Bench::new(site_config()), Bench::new(site_config()));
    let first = build_of(&one, &[&lines], "2024-01-05T02:00:00Z");
    let parts: Vec<&[String]> = backwards.chunks(1000).collect();
    let second = build_of(&two, &parts, "2024-02-09T05:21:43Z");
    assert_eq!(first.id, second.id);
    let names = |window: &Window| {
        let entries = std::fs::read_dir(&window.dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&first), names(&second));
    for name in names(&first) {
        let bytes = |window: &Window| std::fs::read(window.dir.join(&name)).unwrap();
        assert!(bytes(&first) == bytes(&second), "{name:?} differs");
    }
    let manifest = std::fs::read_to_string(first.dir.join("manifest.json")).unwrap();
    assert!(!manifest.contains(one.dir.path().to_str().unwrap()), "no path of this machine");
    assert_eq!((&first.manifest.schema, first.manifest.sources.len()), (&one.site.schema(), 4));
}

#[test]
fn a_window_says_which_of_its_days_have_changed_since() {
    let bench = Bench::new(site_config());
    let lines = records(4);
    let now = "2024-01-05T02:00:00Z";
    let window = build_of(&bench, &[&lines[..3 * 288 * 3], &lines[3 * 288 * 3 + 1..]], now);
    let check = || crate::window::check(&bench.site, &window).unwrap();
    assert_eq!((check().damage, check().changed_days), (None, vec![]));
    // The row of the fourth day that was left out comes late.
    append(&bench, &[&lines[3 * 288 * 3..3 * 288 * 3 + 1]], now);
    let day = |text: &str, n_rows_then: u64, n_rows_now: u64| ChangedDay {
        date: date(text),
        n_rows_then,
        n_rows_now,
    };
    assert_eq!(check().changed_days, [day("2024-01-04", 863, 864)]);
    let rebuilt = build_of(&bench, &[], now);
    assert_ne!(rebuilt.id, window.id);
    std::fs::remove_file(bench.site.buffer_dir().join("metrics_2024-01-02.parquet")).unwrap();
    assert_eq!(check().changed_days, [day("2024-01-02", 864, 0), day("2024-01-04", 863, 864)]);
    assert_eq!(check().damage, None);
    let path = window.dir.join("steps.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    assert!(check().damage.unwrap().contains("sha256 differs"));
}
