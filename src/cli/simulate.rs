//! `simulate`: the metrics of a fleet that does not exist, as NDJSON.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::context::Context;
use super::text;
use crate::clock::parse_time;
use crate::config::parse_zone;
use crate::error::{Exit, HintExt, Refusal};
use crate::simulate::{Fleet, FleetSpec, OfflineRows, SimulationReport};

#[derive(Args)]
pub struct SimulateArgs {
    /// Number of servers
    #[arg(long, default_value_t = 20, value_name = "N")]
    servers: u32,
    /// First moment [default: --days before the end]
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// First moment no longer in it [default: now]
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
    /// Days, where --start is not given
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "start")]
    days: u32,
    /// Seconds between two rows of a server
    #[arg(long, default_value_t = 5, value_name = "SECS")]
    tick_secs: u32,
    /// Equal seeds give equal bytes
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where its people live: rhythm, weekends and local times of --start and --end
    #[arg(long, default_value = "UTC", value_name = "ZONE", value_parser = parse_zone)]
    timezone: chrono_tz::Tz,
    /// Mean incidents that begin on a server in a week
    #[arg(long, default_value_t = 0.5, value_name = "N")]
    incidents: f64,
    /// Share of rows that never arrive
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    missing: f64,
    /// Share of rows that arrive minutes to hours late
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    late: f64,
    /// Share of rows that arrive twice
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    duplicates: f64,
    /// Write rows of servers that are down, with status `offline`, instead of leaving them out
    #[arg(long)]
    offline_rows: bool,
    /// The file of the rows; `-` is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    out: PathBuf,
    /// The file of the incidents' labels [default: beside --out, none for standard output]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

pub fn run(args: SimulateArgs, context: &Context) -> anyhow::Result<Exit> {
    ensure_ndjson(&args.out)?;
    let fleet = Fleet::new(&spec(&args, context)?)?;
    let to_stdout = args.out.as_os_str() == "-";
    let mut labels: Box<dyn Write> = match labels_path(&args, to_stdout) {
        Some(path) => Box::new(create(&path)?),
        None => Box::new(std::io::sink()),
    };
    let mut rows: Box<dyn Write> = if to_stdout {
        Box::new(BufWriter::with_capacity(1 << 16, std::io::stdout().lock()))
    } else {
        Box::new(create(&args.out)?)
    };
    let report = fleet.write_ndjson(&mut rows, &mut labels, context.progress())?;
    rows.flush().and_then(|()| labels.flush()).context("write the fleet's rows")?;
    drop(rows);
    if to_stdout {
        context.progress().note(&render(&report));
    } else {
        context.output.result(&report, render)?;
    }
    Ok(Exit::Done)
}

/// - Errors: the name promises a form that is not written here.
fn ensure_ndjson(out: &Path) -> anyhow::Result<()> {
    let extension = out.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !["csv", "parquet", "gz", "zst"].contains(&extension) {
        return Ok(());
    }
    Err(Refusal::usage(format!("{}: what is simulated is written as plain NDJSON", out.display())))
        .hint(|| "name it .ndjson; once appended, `tftctl buffer export` writes other forms".into())
}

fn spec(args: &SimulateArgs, context: &Context) -> anyhow::Result<FleetSpec> {
    let zone = args.timezone;
    let end = match &args.end {
        Some(text) => parse_time(text, zone)?,
        None => context.clock(zone)?.now(),
    };
    let start = match &args.start {
        Some(text) => parse_time(text, zone)?,
        None => end - chrono::Duration::days(i64::from(args.days)),
    };
    Ok(FleetSpec {
        n_servers: args.servers,
        start,
        end,
        tick_secs: args.tick_secs,
        zone,
        seed: args.seed,
        incidents_per_server_week: args.incidents,
        offline_rows: if args.offline_rows { OfflineRows::Dense } else { OfflineRows::Missing },
        missing_rate: args.missing,
        late_rate: args.late,
        duplicate_rate: args.duplicates,
        ..FleetSpec::default()
    })
}

/// Labels lie beside the rows unless they are asked for elsewhere.
fn labels_path(args: &SimulateArgs, to_stdout: bool) -> Option<PathBuf> {
    match &args.labels {
        Some(path) => Some(path.clone()),
        None if to_stdout => None,
        None => Some(args.out.with_extension("labels.ndjson")),
    }
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    Ok(BufWriter::with_capacity(1 << 16, file))
}

fn render(report: &SimulationReport) -> String {
    format!(
        "{} rows of {} servers, {} incidents",
        text::count(report.n_rows),
        report.n_servers,
        report.n_incidents
    )
}
