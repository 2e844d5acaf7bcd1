//! `bench`: how fast this machine does the work of a night, beside what it could do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::context::{Context, parse_duration};
use super::device::DeviceArgs;
use super::text;
use crate::benchmark::{self, AppendBench, DataSizes, Effort, NetworkBench, NetworkSizes, WindowBench};
use crate::config::Config;
use crate::error::Exit;
use crate::precision::Precision;

#[derive(Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Training steps: samples per second, beside a plain sgemm of the same products
    Train(NetworkArgs),
    /// Forecasts: samples per second, beside a plain sgemm of the same products
    Predict(NetworkArgs),
    /// Rows into the buffer, and sealing them: rows per second, beside bare writing
    Append(DataArgs),
    /// A training window of sealed days: rows per second, beside bare decoding
    Window(DataArgs),
}

/// Sizes are the site's, or the defaults outside of one, where nothing else is said.
#[derive(Args)]
struct NetworkArgs {
    /// Steps back
    #[arg(long, value_name = "N")]
    encoder_length: Option<usize>,
    /// Steps ahead
    #[arg(long, value_name = "N")]
    horizon: Option<usize>,
    /// Hidden size
    #[arg(long, value_name = "N")]
    hidden: Option<usize>,
    /// Width of a real input [default: half of --hidden, or the config's]
    #[arg(long, value_name = "N")]
    continuous: Option<usize>,
    /// Attention heads
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Samples in a batch
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Metrics to forecast
    #[arg(long, value_name = "N")]
    targets: Option<usize>,
    /// Metrics in place of the site's
    #[arg(long, value_name = "N")]
    metrics: Option<usize>,
    /// Dropout
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f64>,
    /// Measure at least this long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    time: Duration,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Metrics are the site's, or the defaults outside of one.
#[derive(Args)]
struct DataArgs {
    /// Simulated servers
    #[arg(long, value_name = "N", default_value_t = 20)]
    servers: u32,
    /// Simulated days
    #[arg(long, value_name = "N", default_value_t = 3)]
    days: u32,
    /// Seconds between two rows of a server
    #[arg(long, value_name = "SECS", default_value_t = 15)]
    tick_secs: u32,
    /// Measure the disk of this folder; what is written is deleted [default: the site, or the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: BenchArgs, context: &Context) -> anyhow::Result<Exit> {
    match args.command {
        BenchCommand::Train(args) => {
            let precision = context.config()?.training.precision;
            context.output.result(&network(&args, context, precision, benchmark::train)?, render_network)?
        }
        BenchCommand::Predict(args) => {
            let precision = Precision::Float32;
            context.output.result(&network(&args, context, precision, benchmark::predict)?, render_network)?
        }
        BenchCommand::Append(args) => {
            let folder = args.folder(context)?;
            let found =
                benchmark::append(&context.config()?, args.sizes(), folder.path(), context.progress())?;
            context.output.result(&found, render_append)?
        }
        BenchCommand::Window(args) => {
            let folder = args.folder(context)?;
            let found =
                benchmark::window(&context.config()?, args.sizes(), folder.path(), context.progress())?;
            context.output.result(&found, render_window)?
        }
    }
    Ok(Exit::Done)
}

type Bench = fn(&Config, &NetworkSizes, &candle_core::Device, Effort) -> anyhow::Result<NetworkBench>;

fn network(
    args: &NetworkArgs,
    context: &Context,
    precision: Precision,
    bench: Bench,
) -> anyhow::Result<NetworkBench> {
    let config = context.config()?;
    let sizes = NetworkSizes {
        encoder_length: args.encoder_length,
        horizon: args.horizon,
        hidden: args.hidden,
        continuous: args.continuous,
        heads: args.heads,
        batch: args.batch,
        targets: args.targets,
        metrics: args.metrics,
        dropout: args.dropout,
    };
    let effort = Effort { time: args.time, ..Effort::default() };
    let device = args.device.resolve_for(context, precision)?;
    context.progress().stage("measure");
    bench(&config, &sizes, &device, effort)
}

impl DataArgs {
    fn sizes(&self) -> DataSizes {
        DataSizes { servers: self.servers, days: self.days, tick_secs: self.tick_secs }
    }

    /// A new folder on the disk that is measured; it goes with the result, and with a signal.
    fn folder(&self, context: &Context) -> anyhow::Result<tempfile::TempDir> {
        let dir = match (&self.dir, context.site_if_any()?) {
            (Some(dir), _) => dir.clone(),
            (None, Some(site)) => site.root,
            (None, None) => std::env::temp_dir(),
        };
        let folder = tempfile::Builder::new().prefix(".tftctl-bench-").tempdir_in(&dir);
        let folder = folder.with_context(|| format!("make a folder in {}", dir.display()))?;
        context.remove_on_signal(folder.path())?;
        context.progress().note(&format!("measuring the disk of {}", dir.display()));
        Ok(folder)
    }
}

fn render_network(bench: &NetworkBench) -> String {
    let sizes = &bench.sizes;
    let rows = [
        ("samples/s", format!("{:.0} (best batch {:.0})", bench.samples_per_s, bench.best_samples_per_s)),
        (
            "floor",
            format!(
                "{:.0} samples/s: its matrix products alone, by a plain sgemm of the CPU",
                bench.floor_samples_per_s
            ),
        ),
        ("ratio", format!("{:.2} of the floor's rate", bench.ratio)),
        (
            "arithmetic",
            format!(
                "{:.1} MFLOP a sample, {:.0} GFLOP/s; the sgemm {:.0}",
                bench.mflop_per_sample, bench.gflops, bench.sgemm_gflops
            ),
        ),
        ("gathering", format!("{:.1} % of a batch's time", 100.0 * bench.gather_share)),
    ];
    format!(
        "{}, {}, {} threads, {}: {} steps back, {} ahead, hidden {}, continuous {}, {} heads, batch {}, dropout {}\n\
         {} metrics, {} variables back, {} ahead, {} targets of {} quantiles, {} weights; {} batches\n\n{}",
        bench.what,
        bench.device,
        bench.threads,
        bench.instructions,
        sizes.encoder_length,
        sizes.horizon,
        sizes.hidden,
        sizes.continuous,
        sizes.heads,
        sizes.batch,
        sizes.dropout,
        sizes.metrics,
        sizes.encoder_variables,
        sizes.decoder_variables,
        sizes.targets,
        sizes.quantiles,
        text::count(sizes.weights as u64),
        bench.n_batches,
        lines(&rows),
    )
}

fn render_append(bench: &AppendBench) -> String {
    let rows = [
        ("append", format!("{} rows/s, on stable storage", per_s(bench.rows_per_s))),
        (
            "floor",
            format!("{} rows/s: bare writing and syncing of the float32", per_s(bench.floor_rows_per_s)),
        ),
        ("ratio", format!("{:.2} of the floor's rate", bench.ratio)),
        ("rotate", format!("{} rows/s", per_s(bench.rotate_rows_per_s))),
        ("sealed", format!("{:.1} bytes a row", bench.sealed_bytes_per_row)),
        ("written", format!("{:.2} times the float32, segments and sealed days", bench.write_amplification)),
    ];
    let text = format!("{:.0} MB of NDJSON", bench.text_bytes as f64 / 1e6);
    format!("{}, {text}\n\n{}", fleet(bench.what, &bench.sizes, bench.rows, bench.metrics), lines(&rows))
}

fn render_window(bench: &WindowBench) -> String {
    let rows = [
        ("full build", format!("{:.2} s, {} rows/s", bench.full_secs, per_s(bench.full_rows_per_s))),
        ("floor", format!("{} rows/s: bare decoding of the same files", per_s(bench.floor_rows_per_s))),
        ("ratio", format!("{:.2} of the floor's rate", bench.ratio)),
        ("a night's build", format!("{:.2} s, {:.2} of a full one", bench.night_secs, bench.night_share)),
        ("without steps", format!("{:.2} s, the last day not aggregated", bench.night_unaggregated_secs)),
        ("rotate before", format!("{:.2} s, the last day sealed and aggregated", bench.night_rotate_secs)),
    ];
    format!("{}\n\n{}", fleet(bench.what, &bench.sizes, bench.rows, bench.metrics), lines(&rows))
}

fn fleet(what: &str, sizes: &DataSizes, rows: u64, metrics: usize) -> String {
    let DataSizes { servers, days, tick_secs } = sizes;
    format!(
        "{what}: {servers} servers, {days} days, a row every {tick_secs} s, {metrics} metrics, {} rows",
        text::count(rows)
    )
}

fn per_s(rate: f64) -> String {
    text::count(rate as u64)
}

fn lines(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<16}{value}\n")).collect()
}
