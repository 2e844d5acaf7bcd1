//! A day that is gone, or whose file holds another day, is told by everybody until its rows are back or a person gives them up.

use super::*;

const DAYS: [&str; 2] = ["2024-01-01", "2024-01-02"];

/// Two sealed days with three rows and two.
fn two_days() -> Bench {
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    let times = ["1T00:00:00Z", "1T00:00:05Z", "1T00:00:10Z", "2T00:00:00Z", "2T00:00:05Z"];
    bench.append(&times.map(|time| record(&format!("2024-01-0{time}"), "a", 1.0)).concat());
    bench.rotate();
    bench
}

fn file_of(bench: &Bench, day: &str) -> PathBuf {
    day_file::path(&bench.buffer().dir, date(day))
}

fn findings(bench: &Bench, known: &[&str]) -> Vec<String> {
    let known_days = known.iter().map(|day| (date(day), "a window knows it".to_owned())).collect();
    let options = VerifyOptions { known_days, ..VerifyOptions::default() };
    let found = bench.buffer().verify(&options, &Silent).unwrap().findings;
    found.into_iter().map(|found| format!("{} {}", found.date, found.message)).collect()
}

fn repair(bench: &Bench, forget: bool) -> RepairReport {
    let known_days = BTreeMap::from([(date(DAYS[0]), "a window knows it".to_owned())]);
    let options = RepairOptions { day: Some(date(DAYS[0])), forget, known_days, dry_run: false };
    bench.buffer().repair(&options, bench.now, &Silent).unwrap()
}

const GONE: &str = "2024-01-01 the day is gone: its step aggregates were made of 3 rows of it";

#[test]
fn a_rotation_tells_a_day_that_is_gone_and_the_finding_stays() {
    let bench = two_days();
    let path = file_of(&bench, DAYS[0]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(findings(&bench, &[]), [GONE]);
    let planned = RotateOptions { dry_run: true, ..RotateOptions::default() };
    let before = snapshot(&bench.buffer().dir);
    let planned = bench.buffer().rotate(&planned, bench.now, &Silent).unwrap();
    assert!(before == snapshot(&bench.buffer().dir), "a dry run writes nothing");
    let report = bench.rotate();
    assert!(planned.has_damage() && report.has_damage(), "{report:?}");
    assert_eq!((&planned.troubles, &planned.warnings), (&report.troubles, &report.warnings));
    assert_eq!((report.troubles[0].kind, report.troubles[0].n_rows_lost), (TroubleKind::Gone, Some(3)));
    assert!(report.warnings[0].contains("buffer repair --day 2024-01-01 --forget"), "{:?}", report.warnings);
    // The next one has nothing new to tell; who asks is told.
    assert!(!bench.rotate().has_damage());
    for known in [&[][..], &DAYS[..1]] {
        assert_eq!(findings(&bench, known), [GONE]);
    }
    assert_eq!(bench.buffer().status(bench.now).unwrap().troubles, report.troubles);
    let exported = bench.buffer().export(&ExportOptions::default(), &mut Vec::new(), &Silent).unwrap();
    assert_eq!((exported.n_rows, exported.troubles), (2, report.troubles.clone()));
    let set_aside = bench.buffer().status(bench.now).unwrap().set_aside;
    assert_eq!(set_aside[0].file, Some(cache::path(&bench.buffer().steps_dir, date(DAYS[0]))));
    // Late rows are sealed as ever, and are not the rows that are gone.
    bench.append(&record("2024-01-01T09:00:00Z", "a", 2.0));
    assert_eq!(bench.rotate().sealed[0].n_rows, 1);
    assert_eq!(findings(&bench, &[]), [GONE]);
    std::fs::write(&path, whole).unwrap();
    assert_eq!(findings(&bench, &DAYS[..1]), Vec::<String>::new(), "its rows are back");
}

#[test]
fn a_damaged_note_of_a_day_that_is_gone_holds_nothing_up_and_can_be_given_up() {
    let bench = two_days();
    std::fs::remove_file(file_of(&bench, DAYS[0])).unwrap();
    bench.rotate();
    let note = bench.buffer().removed_dir.join(DAYS[0]).join("lost.reason.json");
    std::fs::write(&note, "not what was written").unwrap();
    bench.append(&record("2024-01-02T09:00:00Z", "b", 2.0));
    assert_eq!(bench.rotate().sealed.len(), 1);
    let found = findings(&bench, &[]);
    assert!(found.len() == 1 && found[0].contains("the note of them is damaged"), "{found:?}");
    assert!(found[0].contains("lost.reason.json"), "{found:?}");
    let report = repair(&bench, false);
    assert!(!report.is_whole() && report.failed[0].hint.as_ref().unwrap().contains("--forget"), "{report:?}");
    assert_eq!(std::fs::read(&note).unwrap(), b"not what was written");
    assert!(repair(&bench, true).is_whole());
    assert_eq!(findings(&bench, &[]), Vec::<String>::new());
}

#[test]
fn a_day_that_is_gone_is_missed_until_it_is_given_up() {
    let bench = two_days();
    std::fs::remove_file(file_of(&bench, DAYS[0])).unwrap();
    for _ in 0..2 {
        let report = repair(&bench, false);
        assert!(!report.is_whole() && report.mended.is_empty());
        assert!(report.failed[0].hint.as_ref().unwrap().contains("put it back from a copy"), "{report:?}");
        assert_eq!(findings(&bench, &DAYS[..1]), [GONE]);
    }
    let report = repair(&bench, true);
    assert!(report.is_whole(), "a person said so: {report:?}");
    assert_eq!(findings(&bench, &DAYS[..1]), Vec::<String>::new());
    assert!(repair(&bench, false).mended.is_empty());
    assert!(bench.buffer().status(bench.now).unwrap().troubles.is_empty());
}

#[test]
fn a_day_that_only_a_window_knows_can_be_given_up_too() {
    let bench = two_days();
    let buffer = bench.buffer();
    std::fs::remove_file(file_of(&bench, DAYS[0])).unwrap();
    std::fs::remove_file(cache::path(&buffer.steps_dir, date(DAYS[0]))).unwrap();
    assert_eq!(findings(&bench, &DAYS[..1]), ["2024-01-01 the day is gone: a window knows it"]);
    assert!(repair(&bench, true).is_whole());
    assert_eq!(findings(&bench, &DAYS[..1]), Vec::<String>::new());
}

#[test]
fn a_day_overwritten_by_another_is_told_and_not_forgotten() {
    let bench = two_days();
    let buffer = bench.buffer();
    let path = file_of(&bench, DAYS[0]);
    std::fs::copy(file_of(&bench, DAYS[1]), &path).unwrap();
    let message = format!("its rows are those of {}", DAYS[1]);
    let remembered = cache::rows_recorded(&cache::path(&buffer.steps_dir, date(DAYS[0])), None);
    assert_eq!(remembered, Some(3));

    // Everybody says so, and nobody makes anything of it that would be the day's.
    let status = buffer.status(bench.now).unwrap();
    assert_eq!((status.days[0].state, &status.troubles[0].problem), (DayState::Damaged, &message));
    assert_eq!((status.troubles[0].kind, status.troubles[0].n_rows_lost), (TroubleKind::Misnamed, Some(3)));
    assert_eq!(findings(&bench, &[]), [format!("{} {message}", DAYS[0])]);
    assert_eq!(buffer.missing_rows(date(DAYS[0]), date(DAYS[1])).unwrap(), status.troubles);
    assert_eq!(buffer.missing_rows(date(DAYS[1]), date("2024-01-03")).unwrap(), []);
    let exported = buffer.export(&ExportOptions::default(), &mut Vec::new(), &Silent).unwrap();
    assert_eq!((exported.n_rows, &exported.troubles), (2, &status.troubles));
    assert_eq!(buffer.read_steps(date(DAYS[0])).unwrap().n_raw_rows(), 0);
    for _ in 0..2 {
        let report = bench.rotate();
        assert_eq!((report.has_damage(), &report.troubles), (true, &status.troubles));
    }
    bench.append(&record("2024-01-01T09:00:00Z", "a", 2.0));
    let failed = buffer.rotate(&RotateOptions::default(), bench.now, &Silent).unwrap().failed;
    assert!(failed[0].error.contains(&message) && failed[0].hint.is_some(), "{failed:?}");

    // The repair files its rows where they belong, and says that those of the day are lost.
    let report = repair(&bench, false);
    let mended = &report.mended[0];
    assert_eq!((mended.n_rows_saved, mended.n_rows_lost), (2, Some(3)));
    assert!(!report.is_whole() && report.failed[0].error.contains("the day is gone"), "{report:?}");
    bench.rotate();
    assert_eq!((bench.sealed(DAYS[0]).len(), bench.sealed(DAYS[1]).len()), (1, 2));
    assert_eq!(findings(&bench, &[]), [GONE]);
}

#[test]
fn an_unreadable_day_file_is_told_with_what_was_in_it_and_what_helps() {
    let bench = two_days();
    let buffer = bench.buffer();
    let path = file_of(&bench, DAYS[0]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let told = |error: anyhow::Error| crate::error::message_and_hint(&error).1.unwrap();
    let export = buffer.export(&ExportOptions::default(), &mut Vec::new(), &Silent);
    for hint in [told(buffer.read_steps(date(DAYS[0])).unwrap_err()), told(export.unwrap_err())] {
        assert!(hint.contains("buffer repair --day 2024-01-01"), "{hint}");
    }
    let status = buffer.status(bench.now).unwrap();
    assert_eq!((status.days[0].state, status.troubles.len()), (DayState::Unreadable, 1));
    assert!(status.troubles[0].warning().contains("buffer repair --day 2024-01-01"));
    let planned = RotateOptions { dry_run: true, ..RotateOptions::default() };
    for options in [planned, RotateOptions::default()] {
        let failed = buffer.rotate(&options, bench.now, &Silent).unwrap().failed;
        assert_eq!((failed.len(), failed[0].date), (1, date(DAYS[0])));
        assert!(failed[0].hint.as_ref().unwrap().contains("buffer repair"), "{failed:?}");
    }
    assert_eq!(repair(&bench, false).mended[0].n_rows_lost, Some(3));
    assert_eq!(findings(&bench, &[]), [GONE]);
}

#[test]
fn a_dry_run_sees_the_damage_that_the_rotation_meets() {
    let bench = two_days();
    let buffer = bench.buffer();
    let planned = RotateOptions { dry_run: true, ..RotateOptions::default() };
    bench.append(&record("2024-01-03T00:00:00Z", "a", 1.0));
    let segments = segment::list(&segment::day_dir(&buffer.open_dir, date("2024-01-03"))).unwrap();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();
    let report = buffer.rotate(&planned, bench.now, &Silent).unwrap();
    assert_eq!((report.troubles.len(), report.troubles[0].n_rows_lost), (1, Some(1)));
    assert_eq!(bench.rotate().sealed[0].damaged, report.troubles);
    // Late rows for a day whose file is damaged.
    bench.append(&record("2024-01-01T09:00:00Z", "a", 2.0));
    let path = file_of(&bench, DAYS[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let status = buffer.status(bench.now).unwrap();
    assert_eq!((status.days[0].state, status.troubles.len()), (DayState::Damaged, 1));
    let planned = buffer.rotate(&planned, bench.now, &Silent).unwrap().failed;
    let done = buffer.rotate(&RotateOptions::default(), bench.now, &Silent).unwrap().failed;
    assert_eq!((planned.len(), &planned), (1, &done));
}

#[test]
fn a_day_of_torn_files_alone_is_no_day_and_its_files_are_set_aside() {
    let bench = two_days();
    bench.append(&record("2024-01-03T00:00:00Z", "a", 1.0));
    let dir = segment::day_dir(&bench.buffer().open_dir, date("2024-01-03"));
    let path = segment::list(&dir).unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let report = bench.rotate();
    let sealed = &report.sealed[0];
    assert!(!report.has_damage() && sealed.n_rows == 0 && sealed.n_bytes_torn > 0);
    assert_eq!(std::fs::read(&sealed.set_aside[0]).unwrap(), bytes[..bytes.len() - 1]);
}
