//! `buffer append`: records in, and what became of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::buffer::{AppendOptions, AppendReport, Buffer, Source};
use crate::cli::context::Context;
use crate::cli::text;
use crate::clock::Clock;
use crate::error::{Exit, HintExt, Refusal};
use crate::site::Site;

#[derive(Args)]
pub struct AppendArgs {
    /// Files of records, gzip and zstd too; `-` is standard input
    #[arg(default_value = "-")]
    files: Vec<PathBuf>,
    /// Serve a pipe that stays open: acknowledge in batches, at least every second
    #[arg(long)]
    follow: bool,
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// Names and units are the site's own, as `buffer export` writes them: map nothing
    #[arg(long)]
    plain: bool,
    /// Exit 4 if any row was bad (the good ones are taken all the same)
    #[arg(long)]
    strict: bool,
    /// Set by `import`: records older than the retention are left out.
    #[arg(skip)]
    leave_out_old: bool,
}

impl AppendArgs {
    /// What `buffer import FILE...` does.
    pub fn of_import(files: Vec<PathBuf>, format: Format, plain: bool, strict: bool) -> Self {
        Self { files, follow: false, format, plain, strict, leave_out_old: true }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    Auto,
    Ndjson,
    Telegraf,
    Csv,
    Parquet,
}

impl Format {
    fn of_buffer(self) -> crate::buffer::Format {
        match self {
            Format::Auto => crate::buffer::Format::Auto,
            Format::Ndjson => crate::buffer::Format::Ndjson,
            Format::Telegraf => crate::buffer::Format::Telegraf,
            Format::Csv => crate::buffer::Format::Csv,
            Format::Parquet => crate::buffer::Format::Parquet,
        }
    }
}

pub fn run(args: &AppendArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let clock = context.clock(site.zone())?;
    let buffer = Buffer::open(site);
    let stop = if args.follow { Some(context.stop_on_signal()?) } else { None };
    let options = AppendOptions {
        format: args.format.of_buffer(),
        is_plain: args.plain,
        follow: args.follow,
        stop,
        leave_out_old: args.leave_out_old,
        ..AppendOptions::default()
    };
    let mut reports = Vec::new();
    let appended = append_each(args, &buffer, &options, clock, context, &mut reports);
    // What is safe is told also where a later file failed; several files are still one document.
    if !args.follow && context.output.json {
        match (args.files.len(), reports.first()) {
            (1, None) => {}
            (1, Some(report)) => context.output.result(report, render_append)?,
            _ => context.output.result(&reports, |_| String::new())?,
        }
    }
    appended?;
    let n_bad: u64 = reports.iter().map(|report| report.n_bad).sum();
    let n_rows: u64 = reports.iter().map(|report| report.n_rows).sum();
    let n_too_old: u64 = reports.iter().map(|report| report.n_too_old).sum();
    if n_rows == 0 && n_too_old > 0 {
        let days = site.config.data_retention_days;
        let rows = text::plural(n_too_old, "row");
        let reason = format!("{rows} older than data_retention_days = {days} keeps, and no other");
        return Err(Refusal::NotEnoughData { reasons: vec![reason] })
            .hint(|| "raise data_retention_days, or give `--now`, a time at the end of the data".into());
    }
    // One source of which nothing is good is a mistake, however good the others are.
    if reports.iter().any(|report| report.n_bad > 0 && report.n_bad == report.n_rows) {
        return Err(Refusal::BadRows { n_bad, n_rows }).hint(|| {
            let dir = site.quarantine_dir();
            format!("{} holds them with the reasons{}", dir.display(), remedy(&reports))
        });
    }
    let n_unmapped: u64 = reports.iter().map(|report| report.n_unmapped).sum();
    if n_rows == 0 && n_unmapped > 0 {
        let problem = format!("none of the {n_unmapped} Telegraf records holds a metric of this site");
        return Err(Refusal::usage(problem))
            .hint(|| format!("map fields to metrics by [[column]] in {}", site.config_path().display()));
    }
    if args.strict && n_bad > 0 {
        return Err(Refusal::BadRows { n_bad, n_rows })
            .hint(|| format!("{} holds them, with line and reason", site.quarantine_dir().display()));
    }
    Ok(Exit::Done)
}

/// What helps against the reason that most rows were bad for, where anything does.
fn remedy(reports: &[AppendReport]) -> &'static str {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, n) in reports.iter().flat_map(|report| &report.reasons) {
        *counts.entry(reason).or_default() += n;
    }
    let most = counts.into_iter().max_by_key(|(_, n)| *n);
    match most.map(|(reason, _)| reason) {
        Some("timestamp_too_old") => "; for old data give `--now`, a time at its end",
        Some("timestamp_in_future") => {
            "; look at the clocks, or at input.timestamp_unit and input.timestamp_zone"
        }
        Some("missing_timestamp" | "missing_server_name") => {
            "; where the columns have other names, [input] maps them"
        }
        Some("no_metrics") => "; where the metrics have other names, [[column]] maps them",
        Some("not_a_number") => "; numbers must not be in quotes",
        _ => "",
    }
}

/// Appends one file after the other; `reports` holds those that were finished. Texts and acknowledgements are told as
/// they come. A file that cannot be read does not keep the others waiting.
///
/// - Errors: the first file that failed; further ones are warnings.
fn append_each(
    args: &AppendArgs,
    buffer: &Buffer,
    options: &AppendOptions,
    clock: Clock,
    context: &Context,
    reports: &mut Vec<AppendReport>,
) -> anyhow::Result<()> {
    let mut failed = Ok(());
    for path in &args.files {
        let source = match path.as_os_str() == "-" {
            true => Source::reader("stdin", std::io::stdin()),
            false => Source::File(path.clone()),
        };
        // Each acknowledgement is one line, so that a producer can wait for it.
        let (mut acknowledged, mut n_told) = (Ok(()), 0);
        let mut on_ack = |report: &AppendReport| {
            if args.follow && acknowledged.is_ok() {
                acknowledged = acknowledge(report, context);
                n_told = report.n_rows;
            }
        };
        let report = match buffer.append_with(source, options, &clock, context.progress(), &mut on_ack) {
            Ok(report) => report,
            Err(error) if failed.is_ok() => {
                failed = Err(error);
                continue;
            }
            Err(error) => {
                context.progress().warn(&format!("{error:#}"));
                continue;
            }
        };
        let told = acknowledged.and_then(|()| match (args.follow, context.output.json) {
            // A pipe without a row was never acknowledged.
            (true, true) if n_told == 0 => acknowledge(&report, context),
            (_, true) => Ok(()),
            (_, false) => context.output.data(&render_append(&report)),
        });
        reports.push(report);
        if told.is_err() {
            // Nobody hears what becomes of the others; what failed before is the older reason.
            return failed.and(told);
        }
    }
    failed
}

fn acknowledge(report: &AppendReport, context: &Context) -> anyhow::Result<()> {
    if context.output.json {
        context.output.data(&serde_json::to_string(report)?)
    } else {
        context.output.data(&format!("{} safe, {} bad", text::plural(report.n_good, "row"), report.n_bad))
    }
}

pub fn render_append(report: &AppendReport) -> String {
    let rate = report.n_rows as f64 / report.duration_secs.max(1e-9);
    let mut lines = vec![format!(
        "{}: {} taken, {} bad, {}, {:.0} rows/s",
        report.source,
        text::plural(report.n_good, "row"),
        report.n_bad,
        text::plural(report.n_per_day.len() as u64, "day"),
        rate
    )];
    if report.n_too_old > 0 {
        let n = text::plural(report.n_too_old, "row");
        lines.push(format!("  older than data_retention_days and left out: {n}"));
    }
    for (reason, n) in &report.reasons {
        lines.push(format!("  bad: {n} x {reason}"));
    }
    if let Some(path) = &report.quarantine {
        lines.push(format!("  bad rows are in {}", path.display()));
    }
    for (name, n) in report.n_unknown_fields.iter().take(10) {
        // Names come from the data: control characters must not reach a terminal.
        lines.push(format!("  unknown field {}: dropped {n} times", name.escape_debug()));
    }
    if report.n_joined > 0 {
        lines.push(format!("  parts of the rows of others: {}", text::plural(report.n_joined, "record")));
    }
    if report.n_unmapped > 0 {
        lines.push(format!(
            "  dropped, for they hold no metric of this site: {}",
            text::plural(report.n_unmapped, "record")
        ));
    }
    if report.n_late > 0 {
        lines.push(format!("  late, merged by the next rotation: {}", text::plural(report.n_late, "row")));
    }
    if report.n_out_of_range_kept > 0 {
        lines.push(format!("  out of range and kept: {}", text::plural(report.n_out_of_range_kept, "value")));
    }
    lines.join("\n")
}
