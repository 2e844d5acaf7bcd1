//! Training and prediction: the step that [`crate::train`] takes and the forward that a forecast is, on noise.

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use serde::Serialize;

use super::sgemm;
use super::timing::{Effort, Rounds};
use crate::config::Config;
use crate::dataset::{Dataset, Preprocessing, SampleKey};
use crate::error::Refusal;
use crate::model::layout::Layout;
use crate::model::work::{Product, products};
use crate::model::{Mode, Params, Tft, TftConfig};
use crate::ops::cuda;
use crate::ops::random::Key;
use crate::ops::simd::Simd;
use crate::schema::Metric;
use crate::train::step::{Learner, Told};
use crate::window::split::{Split, plan_split};
use crate::window::{Grid, Server};

const MAX_METRICS: usize = 1_000;
/// Servers of the made-up fleet.
const N_SERVERS: usize = 20;
const SEED: u64 = 1;
const LEARNING_RATE: f64 = 1e-3;

/// Sizes that are asked for in place of the config's.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkSizes {
    pub encoder_length: Option<usize>,
    pub horizon: Option<usize>,
    pub hidden: Option<usize>,
    /// Width of a real input; half of `hidden` where only that is given.
    pub continuous: Option<usize>,
    pub heads: Option<usize>,
    pub batch: Option<usize>,
    /// The first so many metrics are forecast.
    pub targets: Option<usize>,
    /// So many metrics without meaning in place of the site's.
    pub metrics: Option<usize>,
    pub dropout: Option<f64>,
}

/// The sizes that were measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub encoder_length: usize,
    pub horizon: usize,
    pub hidden: usize,
    pub continuous: usize,
    pub heads: usize,
    pub lstm_layers: usize,
    pub batch: usize,
    pub targets: usize,
    pub quantiles: usize,
    pub metrics: usize,
    pub encoder_variables: usize,
    pub decoder_variables: usize,
    pub dropout: f64,
    pub weights: usize,
}

/// A rate, the floor and what lies between.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkBench {
    /// `train` or `predict`.
    pub what: &'static str,
    pub device: String,
    pub threads: usize,
    /// The instruction set of the CPU's kernels.
    pub instructions: &'static str,
    pub sizes: Measured,
    /// Of the median batch, with its gathering.
    pub samples_per_s: f64,
    pub best_samples_per_s: f64,
    pub n_batches: usize,
    /// Share of the median batch that gathering it took, in the median.
    pub gather_share: f64,
    /// Millions of floating point operations in the matrix products of one sample.
    pub mflop_per_sample: f64,
    /// Billions of such operations per second.
    pub gflops: f64,
    /// What a plain sgemm does with the same products on this CPU's threads in this call.
    pub sgemm_gflops: f64,
    pub floor_samples_per_s: f64,
    /// Of the floor's rate.
    pub ratio: f64,
}

/// Times training steps: gather, forward, backward, clip and AdamW.
///
/// - Errors: sizes that make no network (a usage error), or the device fails.
pub fn train(config: &Config, sizes: &NetworkSizes, device: &Device, effort: Effort) -> Result<NetworkBench> {
    let bench = Bench::new(config, sizes)?;
    let params = Params::init(&bench.network, SEED, device)?;
    let both = (&bench.config.model, &bench.config.training);
    let mut learner = Learner::new((&bench.network, &params), bench.dataset.preprocessing(), both, device)?;
    bench.measure("train", device, effort, |keys, number, gathered| {
        let batch = bench.dataset.batch(keys, device)?;
        gathered();
        let look = learner.look(&batch, SEED, number)?;
        let taken = learner.step(&look, LEARNING_RATE, None)?;
        let all_finite = learner.read(vec![taken], None)?.iter().all(Told::is_finite);
        ensure!(all_finite, "batch {number} has no finite loss");
        Ok(())
    })
}

/// Times forecasts: gather, forward, and the quantiles in host memory.
///
/// - Errors: as in [`train`].
pub fn predict(
    config: &Config,
    sizes: &NetworkSizes,
    device: &Device,
    effort: Effort,
) -> Result<NetworkBench> {
    let bench = Bench::new(config, sizes)?;
    let params = Params::init(&bench.network, SEED, device)?.detached();
    let network = Tft::new(&bench.network, &params)?;
    bench.measure("predict", device, effort, |keys, _, gathered| {
        let batch = bench.dataset.batch(keys, device)?;
        gathered();
        let output = network.forward(&batch.input, &Mode::Eval)?;
        for prediction in &output.prediction {
            std::hint::black_box(prediction.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(())
    })
}

/// What is measured, on made-up data.
struct Bench {
    config: Config,
    network: TftConfig,
    dataset: Dataset,
    keys: Vec<SampleKey>,
}

impl Bench {
    fn new(config: &Config, sizes: &NetworkSizes) -> Result<Self> {
        let config = sized(config, sizes)?;
        let (grid, split) = made_up(&config)?;
        let preprocessing = Preprocessing::fit(&grid, &split, &config, None)?;
        let network = preprocessing.tft_config(&config.model);
        let dataset = Dataset::new(grid, preprocessing, config.window.max_gap_steps)?;
        let keys = dataset.train_keys(&split);
        Ok(Self { config, network, dataset, keys })
    }

    /// Times `round`, which gets the keys of a batch and its number, and says when the batch is gathered.
    fn measure(
        &self,
        what: &'static str,
        device: &Device,
        effort: Effort,
        mut round: impl FnMut(&[SampleKey], u64, &mut dyn FnMut()) -> Result<()>,
    ) -> Result<NetworkBench> {
        let batch = self.config.training.batch_size;
        let mut gathering = Vec::new();
        let rounds = Rounds::time(effort, |number| {
            let dice = Key::new(SEED).name("batch").number(number);
            let place = |i| (dice.uniform(i) * self.keys.len() as f64) as usize;
            let keys: Vec<SampleKey> = (0..batch as u64).map(|i| self.keys[place(i)]).collect();
            let begun = std::time::Instant::now();
            round(&keys, number, &mut || gathering.push(begun.elapsed().as_secs_f64()))?;
            device.synchronize().context("wait for the device")
        })?;
        let gathering = &mut gathering[Rounds::N_WARM..];
        gathering.sort_by(f64::total_cmp);
        let products = self.products()?;
        let floor = sgemm::floor(&products, batch, what == "train");
        let (samples, median) = (batch as f64, rounds.median());
        let samples_per_s = samples / median;
        let floor_samples_per_s = samples / floor.secs;
        Ok(NetworkBench {
            what,
            device: device_name(device),
            threads: rayon::current_num_threads(),
            instructions: Simd::best().name(),
            sizes: self.sizes()?,
            samples_per_s,
            best_samples_per_s: samples / rounds.best(),
            n_batches: rounds.n(),
            gather_share: gathering[gathering.len() / 2] / median,
            mflop_per_sample: floor.flops as f64 / samples / 1e6,
            gflops: floor.flops as f64 / median / 1e9,
            sgemm_gflops: floor.gflops(),
            floor_samples_per_s,
            ratio: samples_per_s / floor_samples_per_s,
        })
    }

    fn products(&self) -> Result<Vec<Product>> {
        products(&self.network, self.config.model.encoder_length, self.config.model.horizon)
    }

    fn sizes(&self) -> Result<Measured> {
        let (model, network) = (&self.config.model, &self.network);
        Ok(Measured {
            encoder_length: model.encoder_length,
            horizon: model.horizon,
            hidden: model.hidden_size,
            continuous: model.hidden_continuous_size,
            heads: model.attention_heads,
            lstm_layers: model.lstm_layers,
            batch: self.config.training.batch_size,
            targets: model.targets.len(),
            quantiles: model.quantiles.len(),
            metrics: self.config.metrics.len(),
            encoder_variables: network.encoder_variables().len(),
            decoder_variables: network.decoder_variables().len(),
            dropout: model.dropout,
            weights: Layout::of(network)?.n_weights(),
        })
    }
}

/// The config with the sizes that were asked for.
fn sized(config: &Config, sizes: &NetworkSizes) -> Result<Config> {
    let mut config = config.clone();
    let model = &mut config.model;
    if let Some(n) = sizes.metrics {
        if !(1..=MAX_METRICS).contains(&n) {
            return Err(Refusal::usage(format!("there can be 1 to {MAX_METRICS} metrics, not {n}")));
        }
        config.metrics = (0..n).map(|i| Metric::new(&format!("metric_{i}"), "1")).collect();
        model.targets = config.metrics.iter().take(model.targets.len()).map(|m| m.name.clone()).collect();
    }
    if let Some(n) = sizes.targets {
        let usable = config.metrics.len();
        if !(1..=usable).contains(&n) {
            return Err(Refusal::usage(format!("{n} targets of {usable} metrics cannot be forecast")));
        }
        model.targets = config.metrics[..n].iter().map(|metric| metric.name.clone()).collect();
    }
    let half = sizes.hidden.map(|hidden| hidden.div_ceil(2));
    model.encoder_length = sizes.encoder_length.unwrap_or(model.encoder_length);
    model.horizon = sizes.horizon.unwrap_or(model.horizon);
    model.hidden_size = sizes.hidden.unwrap_or(model.hidden_size);
    model.hidden_continuous_size = sizes.continuous.or(half).unwrap_or(model.hidden_continuous_size);
    model.attention_heads = sizes.heads.unwrap_or(model.attention_heads);
    model.dropout = sizes.dropout.unwrap_or(model.dropout);
    config.training.batch_size = sizes.batch.unwrap_or(config.training.batch_size);
    config.ensure_valid()?;
    Ok(config)
}

/// A fleet whose metrics rise and fall with the hours, noise on top, just long enough for some hundred samples a server.
fn made_up(config: &Config) -> Result<(Grid, Split)> {
    let (model, step_secs) = (&config.model, config.series.step_secs);
    let n_steps = model.encoder_length + 4 * model.horizon + 256;
    let planned = plan_split(n_steps, model.encoder_length, model.horizon, 0);
    let n_metrics = config.metrics.len();
    let dice = Key::new(SEED).name("values");
    let value = |i: usize| {
        let (metric, step, server) = (i % n_metrics, i / n_metrics % n_steps, i / n_metrics / n_steps);
        let phase = (step as f32 * step_secs as f32 / 86_400.0 + server as f32 * 0.1) * std::f32::consts::TAU;
        50.0 + 20.0 * phase.sin() + metric as f32 + 10.0 * dice.uniform(i as u64) as f32
    };
    let server = |i: usize| Server { name: format!("server{i:03}"), profile: format!("profile{}", i % 7) };
    let grid = Grid {
        servers: (0..N_SERVERS).map(server).collect(),
        metrics: config.metrics.iter().map(|metric| metric.name.clone()).collect(),
        statuses: Vec::new(),
        start_ms: 1_704_067_200_000,
        step_secs,
        n_steps,
        values: (0..N_SERVERS * n_steps * n_metrics).map(value).collect(),
        status: vec![0; N_SERVERS * n_steps],
    };
    Ok((grid, planned.context("plan the split of the made-up fleet")?.split))
}

fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => {
            format!("cuda:{gpu_id}, products in {}", cuda::precision(device))
        }
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Exit;

    fn small() -> NetworkSizes {
        NetworkSizes {
            encoder_length: Some(12),
            horizon: Some(4),
            hidden: Some(8),
            heads: Some(2),
            batch: Some(3),
            targets: Some(2),
            metrics: Some(5),
            ..NetworkSizes::default()
        }
    }

    #[test]
    fn both_measure_what_was_asked_for() {
        let effort = Effort { time: Duration::ZERO, min_rounds: 2 };
        for bench in [train, predict] {
            let found = bench(&Config::default(), &small(), &Device::Cpu, effort).unwrap();
            let sizes = found.sizes;
            assert_eq!((sizes.encoder_length, sizes.horizon, sizes.batch, sizes.targets), (12, 4, 3, 2));
            assert_eq!((sizes.hidden, sizes.continuous, sizes.heads, sizes.metrics), (8, 4, 2, 5));
            assert_eq!(found.n_batches, 2);
            assert!(found.samples_per_s > 0.0 && found.ratio > 0.0 && found.gather_share < 1.0, "{found:?}");
        }
    }

    #[test]
    fn sizes_that_make_no_network_are_refused() {
        let refused = |sizes: NetworkSizes| {
            let effort = Effort { time: Duration::ZERO, min_rounds: 1 };
            let error = train(&Config::default(), &sizes, &Device::Cpu, effort).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage, "{error}");
            error.to_string()
        };
        assert!(refused(NetworkSizes { targets: Some(9), ..small() }).contains("9 targets of 5 metrics"));
        assert!(refused(NetworkSizes { batch: Some(0), ..small() }).contains("batch_size"));
        assert!(refused(NetworkSizes { heads: Some(9), ..small() }).contains("heads"));
        assert!(refused(NetworkSizes { hidden: Some(100_000), ..small() }).contains("[model]"));
        assert!(refused(NetworkSizes { horizon: Some(usize::MAX), ..small() }).contains("horizon"));
        assert!(refused(NetworkSizes { dropout: Some(1.5), ..small() }).contains("dropout"));
        assert!(refused(NetworkSizes { metrics: Some(0), ..small() }).contains("metrics"));
    }
}
