//! The data path, stage by stage: append, rotate, a full window build and a night, each beside a floor of the same run.
//!
//! `cargo bench --bench data` runs all of it, `cargo bench --bench data -- window` a part. A simulated fleet of 10 servers
//! reports its 14 metrics every 15 seconds for 8 days, into sites in the folder for temporary files (`TMPDIR` names
//! another disk). What criterion prints as Kelem/s are thousands of raw rows per second. What is timed is durable: synced
//! before it counts.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tftctl::benchmark::DataSizes;
use tftctl::benchmark::data::{Scene, decode_secs, write_secs};
use tftctl::config::Config;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: DataSizes = DataSizes { servers: 10, days: 8, tick_secs: 15 };

fn scene() -> Scene {
    Scene::new(&Config::default(), SIZES, &std::env::temp_dir())
        .expect("a site in the folder for temporary files")
}

/// Stages of so many rows per second; each sample is one run.
fn group_of<'a>(criterion: &'a mut Criterion, name: &str, n_rows: u64) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(n_rows)).sampling_mode(SamplingMode::Flat);
    group
}

/// Times what returns its own seconds; what it does around them does not count.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut timed: impl FnMut() -> anyhow::Result<f64>,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let secs: anyhow::Result<f64> = (0..rounds).map(|_| timed()).sum();
            Duration::from_secs_f64(secs.expect("the data path does its work"))
        });
    });
}

fn secs_of<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    std::hint::black_box(work()?);
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds to parse all lines to plain JSON values.
fn parse_secs(text: &[u8]) -> anyhow::Result<f64> {
    secs_of(|| {
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            std::hint::black_box(serde_json::from_slice::<serde_json::Value>(line)?);
        }
        Ok(())
    })
}

fn append(criterion: &mut Criterion, text: &Bytes, n_rows: u64) {
    let mut group = group_of(criterion, "append", n_rows);
    bench(&mut group, "NDJSON, durable", || {
        let scene = scene();
        secs_of(|| scene.append(text.clone()))
    });
    bench(&mut group, "floor: plain parse of the lines", || parse_secs(text));
    let folder = scene();
    let n_bytes = folder.payload_bytes(n_rows);
    bench(&mut group, "floor: bare write of the float32", || write_secs(folder.folder.path(), n_bytes));
    group.finish();
}

fn rotate(criterion: &mut Criterion, text: &Bytes, n_rows: u64) {
    let mut group = group_of(criterion, "rotate", n_rows);
    bench(&mut group, "seal, read back, aggregate", || {
        let scene = scene();
        scene.append(text.clone())?;
        scene.rotate(scene.end)
    });
    let folder = scene();
    let n_bytes = folder.payload_bytes(n_rows);
    bench(&mut group, "floor: bare write of the float32", || write_secs(folder.folder.path(), n_bytes));
    group.finish();
}

/// `scene` has all days but the last sealed; `segments` are those of the last.
fn window(criterion: &mut Criterion, scene: &Scene, segments: &Path, n_rows: u64) {
    let mut group = group_of(criterion, "window", n_rows);
    bench(&mut group, "night: rotate, then build", || {
        scene.reopen_last_day(segments)?;
        Ok(scene.rotate(scene.end)? + scene.build()?)
    });
    bench(&mut group, "night: build, all aggregated by rotate", || scene.build());
    bench(&mut group, "night: build, last day not aggregated", || {
        scene.forget_last_steps()?;
        scene.build()
    });
    bench(&mut group, "full: build, no day aggregated", || {
        scene.forget_steps()?;
        scene.build()
    });
    bench(&mut group, "floor: decode of all columns", || decode_secs(&scene.site));
    group.finish();
}

fn all(criterion: &mut Criterion) {
    let scene = scene();
    let text = scene.text().expect("the fleet reports");
    let n_rows = scene.append(text.clone()).expect("all rows are good");
    append(criterion, &text, n_rows);
    rotate(criterion, &text, n_rows);
    let segments = scene.folder.path().join("segments");
    let ready = || -> anyhow::Result<()> {
        scene.rotate(scene.last_day())?;
        scene.keep_last_day(&segments)?;
        scene.rotate(scene.end).map(drop)
    };
    ready().expect("the days are sealed");
    window(criterion, &scene, &segments, n_rows);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(2));
    targets = all
}
criterion_main!(benches);
