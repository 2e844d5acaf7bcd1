//! `repair` keeps every row that can be read, and everything that it takes away.

use super::*;

const DAY: &str = "2024-01-01";
const DAY_MS: i64 = 1_704_067_200_000;

/// Fails for nothing but a day that is gone.
fn repair(bench: &Bench) -> RepairReport {
    let report = bench.buffer().repair(&RepairOptions::default(), bench.now, &Silent).unwrap();
    assert!(report.failed.iter().all(|failure| failure.error.contains("the day is gone")), "{report:?}");
    report
}

/// Everything is in order, and a second repair finds nothing to do.
#[track_caller]
fn is_mended(bench: &Bench, what: &str) {
    if bench.buffer().days().unwrap().is_empty() {
        return is_gone(bench, what);
    }
    let options = VerifyOptions { read_data: true, ..VerifyOptions::default() };
    assert_eq!(bench.buffer().verify(&options, &Silent).unwrap().findings, [], "{what}");
    let before = snapshot(&bench.buffer().dir);
    assert_eq!(repair(bench).mended, [], "{what}");
    assert!(before == snapshot(&bench.buffer().dir), "{what}: a second repair changed something");
}

/// Nothing is left of the day, and that is told until the day is given up.
#[track_caller]
fn is_gone(bench: &Bench, what: &str) {
    let buffer = bench.buffer();
    let found = buffer.verify(&VerifyOptions::default(), &Silent).unwrap().findings;
    assert!(found.len() == 1 && found[0].message.starts_with("the day is gone"), "{what}: {found:?}");
    let report = buffer.repair(&RepairOptions::default(), bench.now, &Silent).unwrap();
    assert!(report.mended.is_empty() && report.failed.len() == 1, "{what}: {report:?}");
}

fn rows_in(path: &Path, metrics: &[&str]) -> BTreeMap<(String, i64), Vec<u32>> {
    let metrics: Vec<String> = metrics.iter().map(|name| name.to_string()).collect();
    let mut found = BTreeMap::new();
    ParquetFile::open(path)
        .unwrap()
        .read_rows(&metrics, None, &mut |rows| {
            for idx in 0..rows.len() {
                let row = rows.row(idx);
                let bits = row.values.iter().map(|value| value.to_bits()).collect();
                found.insert((row.server.to_owned(), row.time_ms), bits);
            }
            Ok(())
        })
        .unwrap();
    found
}

/// A sealed day of `n` rows of two metrics that hardly compress.
fn sealed(n: i64) -> (Bench, PathBuf) {
    let bench = Bench::new(&["cpu", "mem"], "2024-01-05T12:00:00Z");
    let mut text = String::from("timestamp,server_name,cpu,mem\n");
    for i in 0..n {
        let time_ms = DAY_MS + 400 * (i / 2);
        let (cpu, mem) = ((i * i % 9973) as f64 / 7.0, (i * 31 % 6007) as f64 / 3.0);
        text += &format!("{time_ms},s{},{cpu},{mem}\n", i % 2);
    }
    assert_eq!(bench.append(&text).n_good, n as u64);
    bench.rotate();
    let path = day_file::path(&bench.buffer().dir, date(DAY));
    (bench, path)
}

#[test]
fn a_flipped_bit_costs_a_column_at_most_where_the_keys_are_whole() {
    let (bench, path) = sealed(40);
    let (bytes, rows) = (std::fs::read(&path).unwrap(), rows_in(&path, &["cpu", "mem"]));
    let (mut n_whole, mut n_partly, mut n_gone) = (0, 0, 0);
    for at in (0..bytes.len()).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        let report = repair(&bench);
        let mended = &report.mended[0];
        let kept = mended.kept.as_ref().unwrap();
        assert_eq!(std::fs::read(kept).unwrap(), damaged, "byte {at}");
        assert!(Path::new(&format!("{}.reason.json", kept.display())).exists());
        is_mended(&bench, &format!("byte {at}"));
        if !path.exists() {
            assert_eq!((mended.n_rows_saved, mended.n_rows_lost), (0, Some(40)), "byte {at}");
            n_gone += 1;
        } else {
            let found = rows_in(&path, &["cpu", "mem"]);
            assert!(found.keys().eq(rows.keys()), "byte {at}");
            let nan = f32::NAN.to_bits();
            let n_lost: usize = rows
                .iter()
                .map(|(key, values)| {
                    let pairs = values.iter().zip(&found[key]);
                    pairs
                        .map(|(was, is)| {
                            assert!(is == was || *is == nan, "byte {at}: a wrong value");
                            usize::from(is != was)
                        })
                        .sum::<usize>()
                })
                .sum();
            assert!(n_lost <= 40, "byte {at}: two columns went");
            assert_eq!(n_lost as u64, mended.n_values_lost, "byte {at}");
            if n_lost == 0 { n_whole += 1 } else { n_partly += 1 }
        }
        std::fs::write(&path, &bytes).unwrap();
        bench.rotate();
    }
    println!("{n_whole} flips cost nothing, {n_partly} a column, {n_gone} the rows");
    assert!(n_whole > 0 && n_partly > 0);
}

#[test]
fn random_damage_to_a_metric_costs_values_and_to_the_keys_their_rows() {
    const N: i64 = 200_000;
    let (bench, path) = sealed(N);
    let (bytes, rows) = (std::fs::read(&path).unwrap(), rows_in(&path, &["cpu", "mem"]));
    assert_eq!(rows.len() as i64, N);
    let mut n_without_loss = 0;
    for damage in 0..5usize {
        let at = 4 + (bytes.len() - 20_000) * damage / 5;
        let mut damaged = bytes.clone();
        damaged[at..at + 300].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
        std::fs::write(&path, damaged).unwrap();
        let mended = repair(&bench).mended.remove(0);
        println!("at {at} of {}: {mended:?}", bytes.len());
        assert_eq!(mended.n_rows_saved + mended.n_rows_lost.unwrap(), N as u64);
        n_without_loss += usize::from(mended.n_rows_lost == Some(0));
        is_mended(&bench, "random damage");
        // A day none of whose keys can be read is no day any more.
        let found = if path.exists() { rows_in(&path, &["cpu", "mem"]) } else { BTreeMap::new() };
        assert_eq!(found.len() as u64, mended.n_rows_saved);
        let mut n_values_lost = 0;
        for (key, values) in &found {
            for (is, was) in values.iter().zip(&rows[key]) {
                assert!(is == was || f32::from_bits(*is).is_nan());
                n_values_lost += u64::from(is != was);
            }
        }
        assert_eq!(n_values_lost, mended.n_values_lost);
        std::fs::write(&path, &bytes).unwrap();
        bench.rotate();
    }
    assert!(n_without_loss > 0, "damage to a metric costs no row");
}

#[test]
fn a_damaged_day_is_neither_aggregated_nor_sealed_again_before_it_is_mended() {
    let (bench, path) = sealed(40);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    bench.append(&format!("timestamp,server_name,cpu\n{},late,1\n", DAY_MS + 5));
    let buffer = bench.buffer();
    let report = buffer.rotate(&RotateOptions::default(), bench.now, &Silent).unwrap();
    assert!(report.sealed.is_empty() && report.failed[0].error.contains("not those that were sealed"));
    assert!(buffer.read_steps(date(DAY)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let report = repair(&bench);
    assert_eq!(report.sealed[0].n_rows, report.mended[0].n_rows_saved + 1, "the late row, too");
    is_mended(&bench, "with a late row");
}

#[test]
fn a_day_that_cannot_be_read_at_all_gives_way_and_is_kept() {
    let (bench, path) = sealed(40);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    bench.append(&format!("timestamp,server_name,cpu\n{},late,1\n", DAY_MS + 5));
    let mended = repair(&bench).mended.remove(0);
    let lost = Some(40);
    assert_eq!((mended.n_rows_saved, mended.n_rows_lost), (0, lost), "as its aggregates remember");
    assert_eq!(std::fs::read(mended.kept.unwrap()).unwrap(), bytes[..bytes.len() / 2]);
    assert!(!path.exists());
    bench.rotate();
    assert_eq!(bench.sealed(DAY).len(), 1, "what came late is there");
}

/// A day with one segment of three frames, of which the second is damaged; where it lies, and its bytes.
fn damaged_segment() -> (Bench, PathBuf, Vec<u8>) {
    let bench = Bench::new(&["cpu"], "2024-01-05T12:00:00Z");
    let buffer = bench.buffer();
    let mut open = open_days::OpenDays::new(&buffer);
    let now_ms = bench.now.timestamp_millis();
    let row = |time_ms: i64| rows::Row { time_ms, server: "a", profile: None, status: None, values: &[1.0] };
    for second in 0..3 {
        open.push(row(DAY_MS + 1000 * second), now_ms).unwrap();
        open.acknowledge(now_ms + second).unwrap();
    }
    drop(open);
    let path = segment::list(&segment::day_dir(&buffer.open_dir, date(DAY))).unwrap().remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    // Each frame has 53 bytes.
    let in_second_frame = bytes.len() - 80;
    bytes[in_second_frame] ^= 0x10;
    std::fs::write(&path, &bytes).unwrap();
    (bench, path, bytes)
}

#[test]
fn a_rotation_seals_good_frames_behind_a_damaged_one() {
    let (bench, path, bytes) = damaged_segment();
    let report = bench.rotate();
    assert_eq!((report.sealed[0].n_rows, bench.sealed(DAY).len()), (2, 2));
    let damage = Damage { n_bytes: 53, n_rows_lost: Some(1) };
    let damaged = Trouble::of_segment(date(DAY), path.clone(), damage);
    assert_eq!(report.sealed[0].damaged, [damaged]);
    let set_aside = bench.buffer().status(bench.now).unwrap().set_aside;
    assert_eq!((set_aside.len(), set_aside[0].file.as_ref()), (1, Some(&path)));
    assert_eq!(std::fs::read(&set_aside[0].kept).unwrap(), bytes, "as it was");
    assert_eq!(set_aside[0].problem, Some(damage.to_string()));
    is_mended(&bench, "rotation");
}

#[test]
fn a_damaged_block_of_an_open_day_is_told_by_everybody_who_reads_it() {
    let (bench, path, _) = damaged_segment();
    let buffer = bench.buffer();
    let damage = Damage { n_bytes: 53, n_rows_lost: Some(1) };
    let status = buffer.status(bench.now).unwrap();
    assert_eq!(status.n_rows, 2, "the row behind it is read");
    assert_eq!(status.troubles, [Trouble::of_segment(date(DAY), path.clone(), damage)]);
    let (table, sources) = buffer.read_day(date(DAY)).unwrap();
    assert_eq!((table.n_raw_rows(), sources[0].n_rows, sources[0].damage), (2, 2, Some(damage)));
    assert_eq!(buffer.source_digests(date(DAY)).unwrap(), sources);
    let mut out = Vec::new();
    let report = buffer.export(&ExportOptions::default(), &mut out, &Silent).unwrap();
    assert_eq!((report.n_rows, &report.troubles), (2, &status.troubles));
    let found = buffer.verify(&VerifyOptions::default(), &Silent).unwrap().findings.remove(0);
    let message = "53 bytes of it are damaged, and 1 row is lost";
    assert_eq!((found.file, found.message.as_str()), (path, message));
}

#[test]
fn everybody_reads_the_rows_behind_a_lost_header() {
    let (bench, path, mut bytes) = damaged_segment();
    // The frame that was damaged is whole again, and three bits of the header are not.
    let in_second_frame = bytes.len() - 80;
    bytes[in_second_frame] ^= 0x10;
    [20, 21, 22].iter().for_each(|at: &usize| bytes[*at] ^= 1);
    std::fs::write(&path, &bytes).unwrap();
    let buffer = bench.buffer();
    assert_eq!(buffer.status(bench.now).unwrap().n_rows, 3);
    let verified = buffer.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert_eq!(verified.n_rows, 3);
    assert!(verified.findings[0].message.ends_with("and no row is lost"), "{:?}", verified.findings);
    assert_eq!(buffer.export(&ExportOptions::default(), &mut Vec::new(), &Silent).unwrap().n_rows, 3);
    assert_eq!(buffer.read_steps(date(DAY)).unwrap().n_raw_rows(), 3);
    let newest = buffer.newest_time_ms(bench.now.timestamp_millis()).unwrap();
    assert_eq!(newest, Some(DAY_MS + 2000));
    let dry_run = RepairOptions { dry_run: true, ..RepairOptions::default() };
    let mended = &buffer.repair(&dry_run, bench.now, &Silent).unwrap().mended[0];
    assert_eq!((mended.n_rows_saved, mended.n_rows_lost), (3, Some(0)));
    assert_eq!(bench.rotate().sealed[0].n_rows, 3);
}

#[test]
fn a_repair_writes_good_frames_behind_a_damaged_one_anew() {
    let (bench, path, bytes) = damaged_segment();
    let buffer = bench.buffer();
    let dry_run = RepairOptions { dry_run: true, ..RepairOptions::default() };
    let planned = buffer.repair(&dry_run, bench.now, &Silent).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let done = repair(&bench);
    assert_eq!(planned.mended[0].n_rows_saved, done.mended[0].n_rows_saved);
    assert_eq!(done.mended[0].n_rows_saved, 2);
    assert_eq!(std::fs::read(done.mended[0].kept.as_ref().unwrap()).unwrap(), bytes);
    is_mended(&bench, "segment");
    bench.rotate();
    assert_eq!(bench.sealed(DAY).len(), 2);
}

#[test]
fn rows_of_other_days_and_repeated_keys_are_filed_anew() {
    let bench = Bench::new(&["cpu"], "2024-01-20T12:00:00Z");
    let buffer = bench.buffer();
    std::fs::create_dir_all(&buffer.dir).unwrap();
    let day = |day: i64| DAY_MS + 86_400_000 * (day - 1);
    // Out of order, with a repeated key, and with a row of a day where no reader looks for it.
    let rows = [("b", day(1), 1.0), ("a", day(1), 2.0), ("b", day(1), 3.0), ("c", day(9), 4.0)];
    write_foreign(&day_file::path(&buffer.dir, date(DAY)), &rows);
    bench.append(&record("2024-01-09T00:00:00Z", "c", 5.0));
    assert_eq!(buffer.read_steps(date("2024-01-09")).unwrap().n_raw_rows(), 1);
    let report = repair(&bench);
    assert_eq!((report.mended[0].n_rows_saved, report.mended[0].n_rows_lost), (4, Some(0)));
    assert_eq!(bench.sealed(DAY), ["a 1704067200000 [2.0]", "b 1704067200000 [3.0]"]);
    let newest = format!("c {} [5.0]", day(9));
    assert_eq!(bench.sealed("2024-01-09"), [newest], "the row that came by itself later is newer");
    assert_eq!(repair(&bench).mended, []);
}

#[test]
fn derived_files_are_made_anew_and_bad_lines_leave_quarantine() {
    let (bench, _) = sealed(40);
    bench.append("no record\nnor this\n");
    let buffer = bench.buffer();
    let path = cache::path(&buffer.steps_dir, date(DAY));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let (_, lines) = quarantine::files(&buffer.quarantine_dir).unwrap().remove(0);
    let text = std::fs::read_to_string(&lines).unwrap();
    std::fs::write(&lines, text.replacen("no record", "no recard", 1)).unwrap();
    let report = repair(&bench);
    assert_eq!(report.mended.len(), 2);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert_eq!(std::fs::read_to_string(&lines).unwrap().lines().count(), 1);
}

#[test]
fn a_day_file_under_another_days_name_goes_back_to_its_day_whoever_sealed_it() {
    let (bench, path) = sealed(40);
    let buffer = bench.buffer();
    let there = bench.sealed(DAY);
    let wrong = day_file::path(&buffer.dir, date("2024-01-04"));
    std::fs::rename(&path, &wrong).unwrap();
    std::fs::remove_file(cache::path(&buffer.steps_dir, date(DAY))).unwrap();
    bench.rotate();
    for read_data in [false, true] {
        let options = VerifyOptions { read_data, ..VerifyOptions::default() };
        let found = buffer.verify(&options, &Silent).unwrap().findings;
        assert!(found.iter().all(|found| found.file == wrong), "{found:?}");
        assert_eq!(found[0].message, "its rows are those of 2024-01-01", "{read_data}");
    }
    assert_eq!(repair(&bench).mended[0].problem, "its rows are those of 2024-01-01");
    assert!(!wrong.exists());
    assert_eq!(bench.sealed(DAY), there);
    is_mended(&bench, "a renamed day");

    // One from elsewhere, further from its name than readers look; the keyless row is lost, and told.
    let far = day_file::path(&buffer.dir, date("2023-12-20"));
    write_foreign(&far, &[("z", DAY_MS + 1, 5.0), ("z", -1, 6.0)]);
    let options = VerifyOptions { read_data: true, ..VerifyOptions::default() };
    let found: Vec<String> =
        buffer.verify(&options, &Silent).unwrap().findings.into_iter().map(|found| found.message).collect();
    let problems = [
        "it has 1 row without a time that can be, or without a server",
        "it has 1 row of a day that nobody looks for in it",
    ];
    assert_eq!(found[found.len() - 2..], problems);
    let mended = repair(&bench).mended.remove(0);
    assert_eq!((mended.problem, mended.n_rows_saved, mended.n_rows_lost), (problems.join("; "), 1, Some(1)));
    assert_eq!(bench.sealed(DAY).len(), there.len() + 1);
    is_mended(&bench, "a foreign file under a wrong name");
}

/// Where the data pages of a column lie, by the file's metadata: the first byte of its chunk, and of the next.
fn chunk_of(path: &Path, group: usize, column: &str) -> std::ops::Range<usize> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let columns = reader.metadata().row_group(group).columns();
    let (start, length) =
        columns.iter().find(|found| found.column_path().string() == column).unwrap().byte_range();
    start as usize..(start + length) as usize
}

#[test]
fn a_damaged_page_costs_the_rows_of_its_block_and_no_more() {
    const N: usize = 200_000;
    let (bench, path) = sealed(N as i64);
    let whole = std::fs::read(&path).unwrap();
    let rows = rows_in(&path, &["cpu", "mem"]);
    let blocks = N.div_ceil(1 << 16);
    let times = chunk_of(&path, 0, "timestamp");
    let mut n_partly = 0;
    for place in 0..8 {
        let at = times.start + times.len() * (2 * place + 1) / 16;
        let mut damaged = whole.clone();
        damaged[at..at + 8].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, &damaged).unwrap();
        let mended = repair(&bench).mended.remove(0);
        let n_lost = mended.n_rows_lost.unwrap();
        println!("byte {at} of {times:?}: {n_lost} rows of {N} are lost");
        assert!(n_lost > 0 && mended.n_rows_saved + n_lost == N as u64 && mended.n_values_lost == 0);
        n_partly += usize::from(n_lost <= 1 << 16);
        assert!(n_lost < N as u64, "of {blocks} blocks some are whole");
        let found = rows_in(&path, &["cpu", "mem"]);
        assert!(
            found.len() as u64 == mended.n_rows_saved
                && found.iter().all(|(key, values)| rows[key] == *values)
        );
        is_mended(&bench, "a damaged page");
        std::fs::write(&path, &whole).unwrap();
        bench.rotate();
    }
    assert!(n_partly >= 6, "only {n_partly} of 8 cost one block");
}
