//! How small a day becomes, beside the writer of the dataframe library, and that it comes back to the bit.

use std::fs::File;

use polars::prelude::{
    Column, DataFrame, Float32Chunked, IntoColumn, IntoSeries, NewChunkedArray, ParquetWriter, PlSmallStr,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::day_file::{self, Layout, time_column};
use super::parquet_rows::ParquetFile;
use crate::buffer::merge::Sorted;
use crate::buffer::rows::{Row, Rows};

const N_SERVERS: usize = 4;
const N_ROWS: usize = 17_280;
const METRICS: [(&str, f32, f32); 3] = [("cpu", 40.0, 8.0), ("mem", 50.0, 4.0), ("net", 80.0, 12.0)];

/// A day of autoregressive noise, sorted; `rounded` to two decimals, or with all its bits.
fn day(rounded: bool) -> Rows {
    let mut dice = ChaCha8Rng::seed_from_u64(7);
    // About normal: the sum of twelve uniform numbers.
    let mut normal = || (0..12).map(|_| dice.random::<f32>()).sum::<f32>() - 6.0;
    let mut rows = Rows::new(METRICS.len());
    for server in 0..N_SERVERS {
        let mut states = METRICS.map(|_| normal());
        for row in 0..N_ROWS {
            states = states.map(|state| 0.99 * state + 0.141 * normal());
            let value = |at: usize| {
                let value = METRICS[at].1 + METRICS[at].2 * states[at];
                if rounded { (f64::from(value) * 100.0).round() as f32 / 100.0 } else { value }
            };
            let mut values = [value(0), value(1), value(2)];
            if row % 1000 == 7 {
                values[0] = f32::NAN;
            }
            let server = format!("server{server:02}");
            let time_ms = 1_705_276_800_000 + 5000 * row as i64;
            rows.push(Row { time_ms, server: &server, profile: None, status: None, values: &values });
        }
    }
    rows
}

fn layout() -> Layout {
    Layout {
        metrics: METRICS.map(|metric| metric.0.to_owned()).to_vec(),
        has_profile: false,
        has_status: false,
        metadata: vec![("mark".to_owned(), "here".to_owned())],
    }
}

/// Bytes of the day as this program and as the dataframe library's default store it; it must come back to the bit.
fn sizes(rows: Rows) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.parquet"), dir.path().join("theirs.parquet"));
    let mut frame = frame(&rows);
    ParquetWriter::new(File::create(&theirs).unwrap()).finish(&mut frame).unwrap();
    let sorted = Sorted { order: (0..rows.len() as u32).collect(), rows };
    day_file::write(&ours, &layout(), &mut |each| each(&sorted)).unwrap();
    let mut file = ParquetFile::open(&ours).unwrap();
    assert_eq!(file.value_of("mark"), Some("here"));
    let mut at = 0;
    file.read_rows(&layout().metrics, None, &mut |found| {
        for idx in 0..found.len() {
            assert_eq!(bits(found.row(idx)), bits(sorted.rows.row(at)), "row {at}");
            at += 1;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(at, sorted.rows.len());
    let bytes = |path| std::fs::metadata(path).unwrap().len();
    (bytes(&ours), bytes(&theirs))
}

fn bits(row: Row<'_>) -> (i64, &str, Vec<u32>) {
    (row.time_ms, row.server, row.values.iter().map(|value| value.to_bits()).collect())
}

fn frame(rows: &Rows) -> DataFrame {
    let servers: Vec<&str> = (0..rows.len()).map(|idx| rows.server_name(idx)).collect();
    let mut columns = vec![
        time_column("timestamp", rows.time_ms.clone()),
        Column::new(PlSmallStr::from_static("server_name"), servers),
    ];
    for (at, (name, ..)) in METRICS.iter().enumerate() {
        let values = (0..rows.len()).map(|idx| Some(rows.values_of(idx)[at]).filter(|value| !value.is_nan()));
        let values = Float32Chunked::from_iter_options(PlSmallStr::from_str(name), values);
        columns.push(values.into_series().into_column());
    }
    DataFrame::new(rows.len(), columns).unwrap()
}

#[test]
fn two_decimals_take_three_quarters_of_the_default_writer() {
    let (ours, theirs) = sizes(day(true));
    println!("two decimals: {ours} bytes beside {theirs}");
    assert!(4 * ours <= 3 * theirs, "{ours} bytes beside {theirs}");
}

#[test]
fn full_entropy_never_takes_more_than_the_default_writer() {
    let (ours, theirs) = sizes(day(false));
    println!("full entropy: {ours} bytes beside {theirs}");
    assert!(ours <= theirs, "{ours} bytes beside {theirs}");
}

#[test]
fn every_pattern_of_bits_comes_back() {
    let mut rows = Rows::new(METRICS.len());
    let odd = [0.0, -0.0, f32::MIN_POSITIVE / 2.0, -f32::MIN_POSITIVE / 4.0, f32::MAX, f32::MIN, 1.0, 0.1];
    for row in 0..10_000usize {
        // A metric of few odd values, one that rests, one that is never there: in all of them, zeros keep their sign.
        let values = [odd[row * row % odd.len()], odd[row / 3000], f32::NAN];
        rows.push(Row { time_ms: row as i64 * 7, server: "a", profile: None, status: None, values: &values });
    }
    let sorted = rows.clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.parquet");
    let order = (0..rows.len() as u32).collect();
    let sorted_rows = Sorted { rows, order };
    day_file::write(&path, &layout(), &mut |each| each(&sorted_rows)).unwrap();
    let mut found = Vec::new();
    let mut take = |rows: &Rows| {
        found.extend(rows.values.iter().map(|value| value.to_bits()));
        Ok(())
    };
    ParquetFile::open(&path).unwrap().read_rows(&layout().metrics, None, &mut take).unwrap();
    let expected: Vec<u32> = sorted.values.iter().map(|value| value.to_bits()).collect();
    assert!(found == expected);
}
