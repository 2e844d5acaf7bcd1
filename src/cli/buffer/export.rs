//! `buffer export`: raw rows back out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use clap::{Args, ValueEnum};
use flate2::write::GzEncoder;

use crate::buffer::{Buffer, ExportFormat, ExportOptions, ExportReport, Trouble};
use crate::cli::context::{Context, ensure_folder_of};
use crate::cli::text;
use crate::error::{Exit, HintExt, Refusal};
use crate::fsx;
use crate::site::Site;

/// As strong as day files are compressed.
const ZSTD_LEVEL: i32 = 3;

#[derive(Args)]
pub struct ExportArgs {
    /// [default: by the extension of --output, else ndjson]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// First day, in the site's zone
    #[arg(long, value_name = "DATE")]
    from: Option<NaiveDate>,
    /// Last day, itself included
    #[arg(long, value_name = "DATE")]
    to: Option<NaiveDate>,
    /// Only these servers
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// Where to write, compressed where the name ends in .gz or .zst; appears when it is complete [default: standard
    /// output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Ndjson,
    Csv,
    Parquet,
}

pub fn run(args: &ExportArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    ensure_possible(args, site)?;
    let options =
        ExportOptions { format: format_of(args), from: args.from, to: args.to, servers: args.server.clone() };
    let buffer = Buffer::open(site);
    buffer.ensure_servers(&options)?;
    let report = match &args.output {
        None => {
            let outcome = buffer.export(&options, &mut io::stdout(), context.progress());
            if outcome.as_ref().is_err_and(is_reader_gone) {
                return Ok(Exit::Done);
            }
            let report = outcome?;
            context.progress().note(&render(&report));
            report
        }
        Some(path) => {
            let mut report = ExportReport::default();
            fsx::write_durable_with(path, |file| {
                let export = |out: &mut (dyn Write + Send)| buffer.export(&options, out, context.progress());
                report = match Packing::of(path) {
                    Packing::None => export(file)?,
                    Packing::Gzip => {
                        let mut packed = GzEncoder::new(file, flate2::Compression::default());
                        let report = export(&mut packed)?;
                        packed.finish()?;
                        report
                    }
                    Packing::Zstd => {
                        let mut packed = zstd::Encoder::new(file, ZSTD_LEVEL)?;
                        let report = export(&mut packed)?;
                        packed.finish()?;
                        report
                    }
                };
                Ok(())
            })?;
            context.output.result(&report, |report| format!("{} in {}", render(report), path.display()))?;
            report
        }
    };
    let is_all = !report.troubles.iter().any(Trouble::hides_rows);
    Ok(if is_all { Exit::Done } else { Exit::NotEnoughData })
}

/// - Errors: the days run backwards, or the file would lie among the site's own days, or in a folder that is not there.
fn ensure_possible(args: &ExportArgs, site: &Site) -> anyhow::Result<()> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(Refusal::usage(format!("--from {from} is after --to {to}")));
    }
    let Some(path) = &args.output else { return Ok(()) };
    if format_of(args) == ExportFormat::Parquet && Packing::of(path) != Packing::None {
        let problem = format!("{}: parquet is compressed inside, and not once more", path.display());
        return Err(Refusal::usage(problem)).hint(|| "name it .parquet".into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure_folder_of(path)?;
    if let (Ok(folder), Ok(buffer)) = (folder.canonicalize(), site.buffer_dir().canonicalize())
        && folder.starts_with(&buffer)
    {
        let problem = format!("{} lies in the buffer itself", path.display());
        return Err(Refusal::usage(problem)).hint(|| "name a file outside of it".into());
    }
    Ok(())
}

/// What the name of a file says of its compression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::None,
        }
    }
}

fn format_of(args: &ExportArgs) -> ExportFormat {
    let unpacked = args.output.as_ref().map(|path| match Packing::of(path) {
        Packing::None => path.clone(),
        _ => path.with_extension(""),
    });
    let extension = unpacked.as_ref().and_then(|path| path.extension()?.to_str());
    match (args.format, extension) {
        (Some(Format::Ndjson), _) => ExportFormat::Ndjson,
        (Some(Format::Csv), _) | (None, Some("csv")) => ExportFormat::Csv,
        (Some(Format::Parquet), _) | (None, Some("parquet")) => ExportFormat::Parquet,
        (None, _) => ExportFormat::Ndjson,
    }
}

/// Whether whoever read standard output has seen enough.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn render(report: &ExportReport) -> String {
    match (report.first, report.last) {
        (Some(first), Some(last)) => {
            let (n_rows, n_days) = (text::plural(report.n_rows, "row"), text::plural(report.n_days, "day"));
            format!("{n_rows} of {n_days}, {first} .. {last}")
        }
        _ => "no rows".into(),
    }
}
