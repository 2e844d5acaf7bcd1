//! The buffer on a disk whose power goes, and which fails, at any change: nothing acknowledged is lost, nothing is
//! unreadable, and the next run of the same command succeeds.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use anyhow::{Result, ensure};

use super::*;
use crate::buffer::merge;
use crate::fsx::simulated::{Trial, nothing};

const NOW: &str = "2024-03-02T12:00:00Z";
const NEXT_DAY: &str = "2024-03-03T00:30:00Z";

fn buffer(root: &Path) -> Buffer {
    let config = Config {
        metrics: vec![Metric::new("cpu", ""), Metric::new("mem", "")],
        data_retention_days: 3,
        training_window_days: 3,
        ..Config::default()
    };
    Buffer::open(&Site::of(root, config))
}

/// A pipe that passes on one batch at a time, so that each is acknowledged by itself.
struct Batches {
    later: std::vec::IntoIter<String>,
    now: std::io::Cursor<String>,
}

impl Read for Batches {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self.now.read(bytes)? {
            0 => {
                self.now = std::io::Cursor::new(self.later.next().unwrap_or_default());
                self.now.read(bytes)
            }
            n_read => Ok(n_read),
        }
    }
}

/// Follows a pipe of `batches`, and calls `on_ack` after each.
fn follow(root: &Path, batches: &[String], on_ack: &mut dyn FnMut()) -> Result<()> {
    let options = AppendOptions {
        follow: true,
        batch_rows: 1,
        flush_every: Duration::from_secs(3600),
        ..AppendOptions::default()
    };
    let batches = Batches { later: Vec::from(batches).into_iter(), now: std::io::Cursor::default() };
    let pipe = Source::reader("pipe", batches);
    let clock = Clock::Fixed(time(NOW));
    buffer(root).append_with(pipe, &options, &clock, &Silent, &mut |_| on_ack()).map(drop)
}

fn append(root: &Path, text: &str) {
    follow(root, &[text.to_owned()], &mut || {}).unwrap();
}

fn rotate(root: &Path, now: &str) -> Result<RotateReport> {
    let report = buffer(root).rotate(&RotateOptions::default(), time(now), &Silent)?;
    ensure!(report.failed.is_empty(), "{:?}", report.failed);
    Ok(report)
}

/// Every row that a reader finds, each key once, as `server time value`.
fn rows(root: &Path) -> Result<BTreeSet<String>> {
    let buffer = buffer(root);
    let mut found = BTreeSet::new();
    for day in buffer.days()? {
        let inputs = buffer.sources_of(day.date)?.inputs();
        let names = buffer.metric_names();
        let survey = merge::Survey::of(&inputs, &names)?;
        merge::for_each_sorted(&inputs, &survey, &names, &mut |sorted| {
            for idx in &sorted.order {
                let row = sorted.rows.row(*idx as usize);
                found.insert(format!("{} {} {}", row.server, row.time_ms, row.values[0]));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// The good rows of some lines, as [`rows`] tells them.
fn rows_in(lines: &[String]) -> BTreeSet<String> {
    let of_line = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let at = record["timestamp"].as_str()?.parse::<DateTime<Utc>>().ok()?;
        Some(format!("{} {} {}", record["server_name"].as_str()?, at.timestamp_millis(), record["cpu"]))
    };
    lines.iter().flat_map(|batch| batch.lines().filter_map(of_line)).collect()
}

fn line(time: &str, server: &str, value: u32) -> String {
    format!("{{\"timestamp\":\"{time}\",\"server_name\":\"{server}\",\"cpu\":{value}}}\n")
}

/// What no crash may leave: a file that cannot be read. A block of which only parts reached the disk looks damaged; it
/// was never acknowledged.
fn ensure_whole(root: &Path) -> Result<()> {
    for finding in buffer(root).verify(&VerifyOptions::default(), &Silent)?.findings {
        let is_torn_tail = finding.message.contains("bytes of it are damaged")
            || finding.message.ends_with("was torn while it was written");
        ensure!(is_torn_tail, "{finding:?}");
    }
    Ok(())
}

/// At least the rows of the promised batches, and none that was not offered.
fn ensure_rows(root: &Path, batches: &[String], n_promised: usize) -> Result<()> {
    ensure_whole(root)?;
    let (found, offered) = (rows(root)?, rows_in(batches));
    let promised = rows_in(&batches[..n_promised]);
    ensure!(found.is_superset(&promised), "lost {:?}", promised.difference(&found).collect::<Vec<_>>());
    ensure!(found.is_subset(&offered), "made up {:?}", found.difference(&offered).collect::<Vec<_>>());
    Ok(())
}

/// The lines in quarantine that are whole.
fn quarantined(root: &Path) -> Result<Vec<String>> {
    let mut raws = Vec::new();
    for (_, path) in quarantine::files(&buffer(root).quarantine_dir)? {
        let text = std::fs::read_to_string(&path)?;
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let entry: serde_json::Value = serde_json::from_str(line)?;
            raws.push(entry["raw"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(raws)
}

#[test]
fn an_append_keeps_what_it_acknowledged() {
    let batches = [
        line("2024-03-01T10:00:00Z", "a", 1) + &line("2024-03-02T10:00:00Z", "a", 2) + "bad 0\n",
        line("2024-03-02T10:00:05Z", "a", 3) + &line("2024-03-02T10:00:05Z", "b", 4),
        "bad 2\n".to_owned() + &line("2024-03-02T10:00:10Z", "b", 5),
    ];
    let run = |root: &Path, promise: &dyn Fn()| follow(root, &batches, &mut || promise());
    let check = |root: &Path, n_promised: usize| {
        ensure_rows(root, &batches, n_promised)?;
        let bad = quarantined(root)?;
        let has = |number: usize| bad.iter().any(|raw| *raw == format!("bad {number}"));
        ensure!((n_promised < 1 || has(0)) && (n_promised < 3 || has(2)), "only {bad:?} is in quarantine");
        Ok(())
    };
    Trial { prepare: &nothing, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn two_appenders_and_a_rotation_at_once_keep_what_they_acknowledged() {
    let ours = [line("2024-03-01T10:00:00Z", "a", 1), line("2024-03-01T10:00:05Z", "a", 2)];
    let theirs = [line("2024-03-01T10:00:00Z", "b", 3), line("2024-03-02T10:00:00Z", "b", 4)];
    // In the order of the promises: they follow each of our batches, and a rotation follows them.
    let all: Vec<String> = [&ours[0], &theirs[0], &ours[1], &theirs[1]].map(String::clone).to_vec();
    let run = |root: &Path, promise: &dyn Fn()| {
        let (mut turn, mut outcome) = (0, Ok(()));
        let appended = follow(root, &ours, &mut || {
            // A promise after a failure would have another number than it has without.
            if outcome.is_ok() {
                promise();
                outcome = follow(root, &theirs[turn..=turn], &mut || promise())
                    .and_then(|()| rotate(root, NOW).map(drop));
            }
            turn += 1;
        });
        outcome.and(appended)
    };
    let check = |root: &Path, n_promised: usize| ensure_rows(root, &all, n_promised);
    Trial { prepare: &nothing, run: &run, check: &check, recover: &nothing }.pass();
}

/// A rotation is on trial: the same rows are found at any time, and after it in the files of their days.
#[track_caller]
fn rotation(prepare: &dyn Fn(&Path), now: &str, expected: &[String]) {
    let is_done = RefCell::new(false);
    let run = |root: &Path, promise: &dyn Fn()| {
        rotate(root, now)?;
        *is_done.borrow_mut() = true;
        promise();
        Ok(())
    };
    let check = |root: &Path, n_promised: usize| {
        ensure_whole(root)?;
        let (found, expected) = (rows(root)?, rows_in(expected));
        ensure!(found == expected, "found {found:?} for {expected:?}");
        let sealed = day_file::list(&buffer(root).dir)?;
        ensure!(n_promised == 0 || sealed.contains_key(&date("2024-03-01")), "only {sealed:?} are sealed");
        Ok(())
    };
    Trial { prepare, run: &run, check: &check, recover: &nothing }.pass();
    assert!(*is_done.borrow());
}

#[test]
fn a_rotation_of_a_fresh_day_moves_rows_whole() {
    let first = line("2024-03-02T10:00:00Z", "a", 1) + &line("2024-03-02T10:00:05Z", "b", 2);
    let second = line("2024-03-02T10:00:10Z", "a", 3) + &line("2024-03-01T10:00:00Z", "a", 4);
    let prepare = |root: &Path| [&first, &second].into_iter().for_each(|text| append(root, text));
    rotation(&prepare, NEXT_DAY, &[first.clone(), second.clone()]);
}

#[test]
fn a_rotation_merges_late_rows_whole() {
    let early = line("2024-03-01T10:00:00Z", "a", 1) + &line("2024-03-01T10:00:05Z", "b", 2);
    let late = line("2024-03-01T10:00:00Z", "a", 7) + &line("2024-03-01T10:00:10Z", "a", 3);
    let prepare = |root: &Path| {
        append(root, &early);
        rotate(root, NOW).unwrap();
        append(root, &late);
    };
    let expected = [late.clone(), line("2024-03-01T10:00:05Z", "b", 2)];
    rotation(&prepare, NOW, &expected);
}

#[test]
fn a_rotation_keeps_a_torn_segment_before_it_drops_it() {
    let text = line("2024-03-01T10:00:00Z", "a", 1);
    let prepare = |root: &Path| {
        append(root, &text);
        let day = segment::day_dir(&buffer(root).open_dir, date("2024-03-01"));
        let path = segment::list(&day).unwrap().remove(0);
        let mut torn = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        torn.write_all(b"half a block").unwrap();
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        rotate(root, NOW)?;
        promise();
        Ok(())
    };
    let check = |root: &Path, _: usize| {
        ensure_rows(root, std::slice::from_ref(&text), 1)?;
        let kept = snapshot(root);
        let has_evidence = kept.iter().any(|(path, bytes)| {
            let is_staged = path.to_string_lossy().contains(".staging-");
            !is_staged && bytes.ends_with(b"half a block")
        });
        ensure!(has_evidence, "the torn bytes are gone");
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn retention_deletes_a_day_whole_and_no_other() {
    let days =
        ["2024-02-26", "2024-02-27", "2024-03-01"].map(|day| line(&format!("{day}T10:00:00Z"), "a", 1));
    let prepare = |root: &Path| {
        // They came while they were young enough.
        for (day, now) in days.iter().zip(["2024-02-27T00:00:00Z", "2024-02-28T00:00:00Z", NOW]) {
            let clock = Clock::Fixed(time(now));
            let source = Source::reader("stdin", std::io::Cursor::new(day.clone()));
            buffer(root).append(source, &AppendOptions::default(), &clock, &Silent).unwrap();
        }
        let all = RotateOptions::default();
        let report = buffer(root).rotate(&all, time("2024-02-28T12:00:00Z"), &Silent).unwrap();
        assert_eq!((report.failed.len(), report.n_days_deleted), (0, 0));
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        rotate(root, NOW)?;
        promise();
        Ok(())
    };
    let check = |root: &Path, n_promised: usize| {
        ensure_whole(root)?;
        let found = rows(root)?;
        ensure!(found.is_subset(&rows_in(&days)), "made up {found:?}");
        ensure!(found.is_superset(&rows_in(&days[2..])), "a young day is gone: {found:?}");
        ensure!(n_promised == 0 || found == rows_in(&days[2..]), "an old day is left: {found:?}");
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn a_day_that_is_gone_is_told_until_it_is_written_down_and_after() {
    let days = ["2024-03-01", "2024-03-02"].map(|day| line(&format!("{day}T10:00:00Z"), "a", 1));
    let gone = date("2024-03-01");
    let prepare = |root: &Path| {
        append(root, &days.concat());
        rotate(root, NEXT_DAY).unwrap();
        std::fs::remove_file(day_file::path(&buffer(root).dir, gone)).unwrap();
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        rotate(root, NEXT_DAY)?;
        promise();
        Ok(())
    };
    let check = |root: &Path, n_promised: usize| {
        ensure!(rows(root)? == rows_in(&days[1..]), "other rows are left: {:?}", rows(root)?);
        let found = buffer(root).gone_days(&|_| true, &BTreeMap::new())?;
        let told: Vec<_> = found.iter().map(|day| (day.trouble.date, day.trouble.n_rows_lost)).collect();
        ensure!(told == [(gone, Some(1))], "told of {told:?}");
        // Its removal from `steps/` may come undone: then the next rotation sets it aside again.
        let note = buffer(root).removed_dir.join(gone.to_string()).join("lost.reason.json");
        ensure!(n_promised == 0 || note.is_file(), "it is not written down");
        let is_aggregate = |path: &Path| path.to_string_lossy().contains(&format!("steps_{gone}"));
        ensure!(snapshot(root).keys().any(|path| is_aggregate(path)), "its aggregates are not kept");
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}
