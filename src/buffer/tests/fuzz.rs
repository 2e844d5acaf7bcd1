//! A short run of every fuzz target: any bytes, and seeds with pieces cut, doubled and flipped.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;

/// The committed seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The tests also run in a crate of the data layers only, which links to this one's sources.
    let sources = root.join("src/buffer").canonicalize().unwrap();
    let dir = sources.join("../../fuzz/seeds").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", dir.display());
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs `target` on `n_cases` inputs made from `seeds`, and on as many of any bytes.
fn run(target: fn(&[u8]), seeds: Vec<Vec<u8>>, n_cases: u32) {
    seeds.iter().for_each(|seed| target(seed));
    let mut runner = TestRunner::new(Cases { cases: n_cases, failure_persistence: None, ..Cases::default() });
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let feed = |data: Vec<u8>| {
        target(&data);
        Ok(())
    };
    runner.run(&bytes, feed).unwrap();
    let edits = prop::collection::vec((0..4u8, any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let edited = (prop::sample::select(seeds), edits).prop_map(|(mut data, edits): (Vec<u8>, Vec<_>)| {
        for (kind, place, byte) in edits {
            if data.is_empty() {
                break;
            }
            let at = place.index(data.len());
            match kind {
                0 => data[at] ^= byte | 1,
                1 => data.truncate(at),
                2 => data.insert(at, byte),
                _ => data.extend_from_within(at..),
            }
            data.truncate(1 << 16);
        }
        data
    });
    runner.run(&edited, feed).unwrap();
}

#[test]
fn text_parsers_take_any_bytes() {
    run(fuzzing::json, seeds("json"), 4000);
    run(fuzzing::telegraf, seeds("telegraf"), 4000);
    run(fuzzing::csv, seeds("csv"), 4000);
    run(fuzzing::text, seeds("text"), 2000);
}

#[test]
fn packed_texts_take_any_bytes() {
    let text = record("2024-01-01T10:00:00Z", "a", 1.0).repeat(20);
    let mut gzip = flate2::write::GzEncoder::new(vec![7], flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let mut zst = vec![7];
    zst.extend(zstd::encode_all(text.as_bytes(), 1).unwrap());
    run(fuzzing::text, vec![gzip.finish().unwrap(), zst], 500);
}

#[test]
fn configs_take_any_bytes() {
    run(fuzzing::config, seeds("config"), 300);
}

#[test]
fn segments_and_parquet_files_take_any_bytes() {
    let bench = Bench::new(&["cpu"], "2024-01-01T12:00:00Z");
    bench.append(&record("2024-01-01T10:00:00Z", "a", 1.0).repeat(3));
    let dir = segment::day_dir(&bench.buffer().open_dir, date("2024-01-01"));
    let path = segment::list(&dir).unwrap().remove(0);
    run(fuzzing::segment, vec![std::fs::read(path).unwrap()], 500);
    let options = ExportOptions { format: ExportFormat::Parquet, ..ExportOptions::default() };
    let mut out = Vec::new();
    bench.buffer().export(&options, &mut out, &Silent).unwrap();
    // The parquet reader panics on some of these; that is caught, and not to be shown.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| run(fuzzing::parquet, vec![out], 150));
    std::panic::set_hook(hook);
    assert!(outcome.is_ok(), "some parquet file ends the program");
}
