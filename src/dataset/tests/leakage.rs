//! Tests: nothing reaches a sample that was not known at its cutoff, and nobody reaches another's sample.
//!
//! What is said of single columns and keys is in `tests`; here whole batches are compared, to the bit, and the data
//! comes from as far away as the buffer.

use candle_core::{Device, Tensor};

use super::*;
use crate::buffer::{AppendOptions, Buffer, Source};
use crate::clock::Clock;
use crate::model::{Mode, Params, Tft, TftInput};
use crate::progress::Silent;
use crate::site::Site;
use crate::window::{self, WindowRequest};

/// Everything a batch holds, number by number.
fn everything(dataset: &Dataset, keys: &[SampleKey]) -> Vec<Vec<u32>> {
    let batch = dataset.batch_with_strangers(keys, |at| at % 3 == 0, &Device::Cpu).unwrap();
    let Batch { input, targets, weights, units } = batch;
    let fixed =
        [&input.encoder_cont, &input.decoder_cont, &input.encoder_cat, &input.decoder_cat].map(Clone::clone);
    let all = fixed.into_iter().chain(input.target_scale).chain(targets).chain(weights).chain(units);
    all.map(|tensor| numbers(&tensor).into_iter().map(f32::to_bits).collect()).collect()
}

/// The keys of a server in one grid as they are called in another.
fn renamed(keys: Vec<SampleKey>, from: &Grid, to: &Grid) -> Vec<SampleKey> {
    let name = |key: &SampleKey| &from.servers[key.server as usize].name;
    let place = |key: &SampleKey| to.servers.iter().position(|server| server.name == *name(key)).unwrap();
    keys.iter().map(|key| SampleKey { server: place(key) as u32, ..*key }).collect()
}

#[test]
fn a_newcomer_leaves_the_others_samples_as_they_were_to_the_bit() {
    // A server's status follows its name, not its place in the grid.
    let fleet = |names: &[&str]| {
        let mut grid = grid(names);
        for (server, name) in names.iter().enumerate() {
            for step in 0..N_STEPS {
                grid.status[server * N_STEPS + step] = ((step + name.len()) % 3) as u16;
            }
        }
        grid
    };
    let before = dataset(fleet(&["db1", "web1"]));
    let mut short = fleet(&["db1", "db2", "web1"]);
    lose(&mut short, 1, 0..N_STEPS - 15); // too short to be learned
    let mut joining = fleet(&["db1", "db2", "web1"]);
    lose(&mut joining, 1, 0..100); // learned from now on
    for (grown, n_servers) in [(short, 2), (joining, 3)] {
        let lineage = before.preprocessing();
        let fitted = Preprocessing::fit(&grown, &split(), &config(), Some(lineage)).unwrap();
        assert_eq!(fitted.vocabulary.servers.len(), n_servers);
        let after = Dataset::new(grown, fitted, 2).unwrap();
        type Keys = fn(&Dataset) -> Vec<SampleKey>;
        let kinds: [Keys; 3] = [
            |dataset| dataset.train_keys(&split()),
            |dataset| dataset.holdout_keys(&split(), 0),
            Dataset::forecast_keys,
        ];
        for keys in kinds {
            let old = keys(&before);
            let same = renamed(old.clone(), before.grid(), after.grid());
            let mut left = keys(&after);
            left.retain(|key| after.grid().servers[key.server as usize].name != "db2");
            assert_eq!(left, same);
            assert_eq!(everything(&before, &old), everything(&after, &same));
        }
    }
}

#[test]
fn a_gap_is_time_that_passed() {
    let whole = dataset(grid(&["db1", "web1"]));
    let mut holed = grid(&["db1", "web1"]);
    lose(&mut holed, 0, 50..52);
    let holed = Dataset::new(holed, whole.preprocessing().clone(), 2).unwrap();
    let columns = whole.columns;
    for cutoff in [53, 57, 52 + ENCODER as u32] {
        let key = [SampleKey { server: 0, cutoff }];
        let rows = |dataset: &Dataset| {
            dataset.batch(&key, &Device::Cpu).unwrap().input.encoder_cont.to_vec3::<f32>().unwrap()[0].clone()
        };
        for (i, (with, without)) in rows(&whole).iter().zip(rows(&holed)).enumerate() {
            let step = cutoff as usize - ENCODER + i;
            // Static inputs, calendar and relative time go on through the gap; outside it nothing moves up.
            let n_same = if (50..52).contains(&step) { columns.metrics } else { columns.n_reals };
            assert_eq!(with[..n_same], without[..n_same], "step {step} of the sample at {cutoff}");
            assert_eq!(with[columns.relative_time], (step as f32 - cutoff as f32) / ENCODER as f32);
        }
    }
}

/// The tensor with one column of its last axis replaced.
fn with_column(x: &Tensor, column: usize, value: f64) -> Tensor {
    let n = x.dim(2).unwrap();
    let parts: Vec<Tensor> = (0..n)
        .map(|at| {
            let part = x.narrow(2, at, 1).unwrap();
            if at == column { part.affine(0.0, value).unwrap() } else { part }
        })
        .collect();
    Tensor::cat(&parts, 2).unwrap()
}

#[test]
fn what_the_decoder_might_observe_cannot_matter() {
    let dataset = dataset(grid(&["db1", "web1"]));
    let config = dataset.preprocessing().tft_config(&config().model);
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let network = Tft::new(&config, &params).unwrap();
    let input = dataset.batch(&dataset.train_keys(&split())[40..44], &Device::Cpu).unwrap().input;
    let forecasts = |input: &TftInput| -> Vec<f32> {
        let output = network.forward(input, &Mode::Eval).unwrap();
        output.prediction.iter().flat_map(numbers).collect()
    };
    let before = forecasts(&input);
    for (column, name) in config.x_reals.iter().enumerate() {
        let decoder_cont = with_column(&input.decoder_cont, column, 7.5);
        // Known ahead are calendar and relative time; static inputs are read at the encoder's first step.
        let is_read = (dataset.columns.calendar..dataset.columns.metrics).contains(&column);
        assert_eq!(forecasts(&TftInput { decoder_cont, ..input.clone() }) != before, is_read, "{name}");
    }
    let status = config.x_categoricals.iter().position(|name| name == columns::STATUS).unwrap();
    let codes = input.decoder_cat.to_dtype(candle_core::DType::F32).unwrap();
    let decoder_cat = with_column(&codes, status, 2.0).to_dtype(candle_core::DType::U32).unwrap();
    assert_eq!(forecasts(&TftInput { decoder_cat, ..input.clone() }), before);
}

/// Two days of two servers, a row every five minutes; `a` reports zeros as `offline` between `from` and `to`.
fn feed(from: usize, to: usize) -> String {
    let row = |step: usize, server: &str| {
        let time = crate::calendar::to_utc(1_704_067_200_000 + step as i64 * 300_000).to_rfc3339();
        let is_off = server == "a" && (from..to).contains(&step);
        let (value, status) = if is_off { (0, "offline") } else { (40 + step % 7, "healthy") };
        format!(
            "{{\"timestamp\":\"{time}\",\"server_name\":\"{server}\",\"status\":\"{status}\",\
             \"cpu\":{value},\"mem\":{value},\"net\":{value}}}\n"
        )
    };
    (0..2 * 288).flat_map(|step| ["a", "b"].map(|server| row(step, server))).collect()
}

#[test]
fn an_offline_server_is_missing_from_buffer_to_batch_and_never_zero() {
    let (from, to) = (200, 202);
    let mut config = config();
    config.series.sample_secs = 300;
    config.min_training_samples = 1000;
    config.window.holdout_hours = 6;
    let dir = tempfile::tempdir().unwrap();
    let site = Site::of(dir.path(), config.clone());
    let now = "2024-01-03T00:30:00Z".parse().unwrap();
    let rows = Source::reader("feed", std::io::Cursor::new(feed(from, to)));
    let clock = Clock::Fixed(now);
    let appended = Buffer::open(&site).append(rows, &AppendOptions::default(), &clock, &Silent).unwrap();
    assert_eq!(appended.n_good, 4 * 288);
    let request = WindowRequest { end: Some("2024-01-03".parse().unwrap()), ..WindowRequest::default() };
    let built = window::build(&site, &request, now, &Silent).unwrap();
    let grid = built.read_grid().unwrap();
    let fitted = Preprocessing::fit(&grid, &built.manifest.split, &config, None).unwrap();
    let dataset = Dataset::new(grid, fitted, config.window.max_gap_steps).unwrap();
    let columns = dataset.columns;

    // As a truth it counts nothing; as an input it is the last value that was seen, and said to be missing.
    let cutoff = from as u32 - 1;
    let truth = dataset.batch(&[SampleKey { server: 0, cutoff }], &Device::Cpu).unwrap();
    assert_eq!(numbers(&truth.weights[0]), [1.0, 0.0, 0.0, 1.0]);
    let cutoff = to as u32 + 3;
    let seen = dataset.batch(&[SampleKey { server: 0, cutoff }], &Device::Cpu).unwrap();
    let rows = &seen.input.encoder_cont.to_vec3::<f32>().unwrap()[0];
    let at = |step: usize| &rows[step + ENCODER - cutoff as usize];
    for step in from..to {
        assert_eq!(
            at(step)[columns.metrics..columns.missing],
            at(from - 1)[columns.metrics..columns.missing]
        );
        assert_eq!(at(step)[columns.missing], 1.0);
    }
    // Two zeros among values of 40 would have moved the mean.
    let scaler = &dataset.preprocessing().scaler;
    assert!((scaler.servers[0].centre[0] - scaler.servers[1].centre[0]).abs() < 0.05, "{scaler:?}");
}

#[test]
fn no_target_of_the_exam_is_a_target_of_training_whatever_the_window() {
    for n_holdout in [1, 20, 60] {
        let dataset = dataset(grid(&["db1", "web1"]));
        let plan = crate::window::split::plan_split(N_STEPS, ENCODER, HORIZON, n_holdout).unwrap().split;
        let targets = |keys: Vec<SampleKey>| -> std::collections::BTreeSet<(u32, usize)> {
            let steps = |key: SampleKey| (0..HORIZON).map(move |h| (key.server, key.cutoff as usize + h));
            keys.into_iter().flat_map(steps).collect()
        };
        let (train, exam) = (targets(dataset.train_keys(&plan)), targets(dataset.holdout_keys(&plan, 0)));
        assert!(!train.is_empty() && !exam.is_empty());
        let nearest = exam.iter().map(|(_, step)| step).min().unwrap();
        assert!(train.iter().all(|(_, step)| step + HORIZON < *nearest), "an embargo of one horizon");
    }
}
