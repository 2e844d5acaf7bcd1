//! `buffer append|rotate|status`: metrics in, days sealed, what is there.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::context::Context;
use super::text;
use crate::buffer::{
    AppendOptions, AppendReport, Buffer, BufferStatus, DayState, Finding, RotateOptions, RotateReport,
    Source, VerifyReport,
};
use crate::clock::Clock;
use crate::error::{Exit, HintExt, Refusal};
use crate::site::Site;

#[derive(Args)]
pub struct BufferArgs {
    #[command(subcommand)]
    command: BufferCommand,
}

#[derive(Subcommand)]
enum BufferCommand {
    /// Add records to the days of their event times; returns when they are on stable storage
    Append(AppendArgs),
    /// Seal the days that are over, aggregate them, apply retention
    Rotate {
        /// Seal today so far too
        #[arg(long)]
        include_open: bool,
        /// Say what would be done and touch nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Every day with its rows, and what waits or is wrong
    Status,
    /// Find what is damaged, missing or misplaced; changes nothing, exit 1 if anything is found
    Verify {
        /// Read every value too, not only footers and checksums
        #[arg(long)]
        read_data: bool,
    },
}

#[derive(Args)]
struct AppendArgs {
    /// Files of records, gzip and zstd too; `-` is standard input
    #[arg(default_value = "-")]
    files: Vec<PathBuf>,
    /// Serve a pipe that stays open: acknowledge in batches, at least every second
    #[arg(long)]
    follow: bool,
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// Exit 4 if any row was bad (the good ones are taken all the same)
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Auto,
    Ndjson,
    Csv,
    Parquet,
}

impl Format {
    fn of_buffer(self) -> crate::buffer::Format {
        match self {
            Format::Auto => crate::buffer::Format::Auto,
            Format::Ndjson => crate::buffer::Format::Ndjson,
            Format::Csv => crate::buffer::Format::Csv,
            Format::Parquet => crate::buffer::Format::Parquet,
        }
    }
}

pub fn run(args: BufferArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    match args.command {
        BufferCommand::Append(args) => append(&args, &site, context),
        BufferCommand::Rotate { include_open, dry_run } => {
            let now = context.clock(site.zone())?.now();
            let options = RotateOptions { include_open, dry_run };
            let report = Buffer::open(&site).rotate(&options, now, context.progress())?;
            let ending = ensure_no_failed_day(&report);
            context.output.done(&report, *ending.as_ref().unwrap_or(&Exit::Failed), render_rotation)?;
            ending
        }
        BufferCommand::Verify { read_data } => {
            let report = Buffer::open(&site).verify(read_data, context.progress())?;
            context.output.result(&report, render_verification)?;
            Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Failed })
        }
        BufferCommand::Status => {
            let now = context.clock(site.zone())?.now();
            let status = Buffer::open(&site).status(now)?;
            context.output.result(&status, render_status)?;
            Ok(Exit::Done)
        }
    }
}

fn append(args: &AppendArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let clock = context.clock(site.zone())?;
    let buffer = Buffer::open(site);
    let stop = if args.follow { Some(context.stop_on_signal()?) } else { None };
    let options = AppendOptions {
        format: args.format.of_buffer(),
        follow: args.follow,
        stop,
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
    if n_bad > 0 && n_bad == n_rows {
        return Err(Refusal::BadRows { n_bad, n_rows }).hint(|| {
            let dir = site.quarantine_dir();
            format!(
                "{} holds them with the reasons; for old data give `--now`, a time at its end",
                dir.display()
            )
        });
    }
    if args.strict && n_bad > 0 {
        return Err(Refusal::BadRows { n_bad, n_rows })
            .hint(|| format!("{} holds them, with line and reason", site.quarantine_dir().display()));
    }
    Ok(Exit::Done)
}

/// Appends one file after the other; `reports` holds those that were finished. Texts and acknowledgements are told as
/// they come.
fn append_each(
    args: &AppendArgs,
    buffer: &Buffer,
    options: &AppendOptions,
    clock: Clock,
    context: &Context,
    reports: &mut Vec<AppendReport>,
) -> anyhow::Result<()> {
    for path in &args.files {
        let source = match path.as_os_str() == "-" {
            true => Source::reader("stdin", std::io::stdin()),
            false => Source::File(path.clone()),
        };
        // Each acknowledgement is one line, so that a producer can wait for it.
        let mut acknowledged = Ok(());
        let mut on_ack = |report: &AppendReport| {
            if args.follow && acknowledged.is_ok() {
                acknowledged = acknowledge(report, context);
            }
        };
        let report = buffer.append_with(source, options, &clock, context.progress(), &mut on_ack)?;
        acknowledged?;
        match (args.follow, context.output.json) {
            (true, true) => acknowledge(&report, context)?,
            (false, true) => {}
            (_, false) => context.output.data(&render_append(&report))?,
        }
        reports.push(report);
    }
    Ok(())
}

fn acknowledge(report: &AppendReport, context: &Context) -> anyhow::Result<()> {
    if context.output.json {
        context.output.data(&serde_json::to_string(report)?)
    } else {
        context.output.data(&format!("{} rows are safe, {} were bad", report.n_good, report.n_bad))
    }
}

fn render_append(report: &AppendReport) -> String {
    let rate = report.n_rows as f64 / report.duration_secs.max(1e-9);
    let mut lines = vec![format!(
        "{}: {} rows taken, {} bad, {} day(s), {:.0} rows/s",
        report.source,
        text::count(report.n_good),
        report.n_bad,
        report.n_per_day.len(),
        rate
    )];
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
    if report.n_late > 0 {
        lines.push(format!("  {} rows are late; the next rotation merges them", report.n_late));
    }
    if report.n_out_of_range_kept > 0 {
        lines.push(format!("  {} values are out of range and kept", report.n_out_of_range_kept));
    }
    lines.join("\n")
}

fn render_rotation(report: &RotateReport) -> String {
    let mut lines = Vec::new();
    if report.is_dry_run {
        lines.extend(
            report.planned.iter().map(|plan| format!("{} would be sealed: {}", plan.date, plan.reason)),
        );
    }
    for day in &report.sealed {
        lines.push(format!(
            "{} sealed: {} rows of {} servers, {} duplicates, {}",
            day.date,
            text::count(day.n_rows),
            day.n_servers,
            day.n_duplicates,
            text::bytes(day.size_bytes)
        ));
    }
    if !report.steps_written.is_empty() {
        lines.push(format!("{} day(s) aggregated to steps", report.steps_written.len()));
    }
    for decision in report.retention.iter().filter(|decision| decision.delete) {
        let verb = if report.is_dry_run { "would be deleted" } else { "deleted" };
        lines.push(format!("{} {verb}: {}", decision.date, decision.reason));
    }
    for failure in &report.failed {
        lines.push(format!("{} failed: {}", failure.date, failure.error));
    }
    if lines.is_empty() { "nothing to do".into() } else { lines.join("\n") }
}

fn render_verification(report: &VerifyReport) -> String {
    let file = |finding: &Finding| {
        finding.file.as_ref().map_or(String::new(), |file| format!("{}: ", file.display()))
    };
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("{}: {}{}", finding.date, file(finding), finding.message))
        .collect();
    lines.push(format!(
        "{} day files and {} segments, {} rows, {}: {} findings",
        report.n_files,
        report.n_segments,
        text::count(report.n_rows),
        if report.has_read_data { "every value read" } else { "footers and checksums" },
        report.findings.len()
    ));
    lines.join("\n")
}

/// A day that could not be sealed is a failure, told after the good ones.
fn ensure_no_failed_day(report: &RotateReport) -> anyhow::Result<Exit> {
    match report.failed.as_slice() {
        [] => Ok(Exit::Done),
        [first, ..] => Err(anyhow::anyhow!(
            "{} of the days failed; {}: {}",
            report.failed.len(),
            first.date,
            first.error
        )),
    }
}

fn render_status(status: &BufferStatus) -> String {
    if status.days.is_empty() {
        return "the buffer is empty: `tftctl buffer append` adds rows".into();
    }
    let rows = status.days.iter().map(|day| {
        let state = match day.state {
            DayState::Open => "open",
            DayState::Sealed => "sealed",
            DayState::Late => "sealed, late rows wait",
            DayState::Unreadable => "UNREADABLE",
        };
        vec![day.date.to_string(), text::count(day.n_rows), text::bytes(day.size_bytes), state.to_owned()]
    });
    let mut lines = vec![text::table(&["day", "rows", "size", "state"], rows)];
    lines.push(format!(
        "{} days, {} rows, {}; quarantine {} rows{}",
        status.days.len(),
        text::count(status.n_rows),
        text::bytes(status.size_bytes),
        status.quarantine.n_rows,
        if status.is_foreign { "; from elsewhere, only read" } else { "" }
    ));
    if !status.missing.is_empty() {
        let missing: Vec<String> = status.missing.iter().take(10).map(ToString::to_string).collect();
        lines.push(format!("{} days without data: {}", status.missing.len(), missing.join(", ")));
    }
    lines.join("\n")
}
