//! `buffer repair`: what was saved, what is lost, and where the damaged files are.

use chrono::NaiveDate;
use clap::Args;
use serde::Serialize;

use super::rotate::render_failure;
use crate::buffer::{Buffer, Mended, RepairOptions, RepairReport};
use crate::cli::context::Context;
use crate::cli::text;
use crate::error::Exit;
use crate::site::Site;
use crate::window::{self, MendedWindow};

#[derive(Args)]
pub struct RepairArgs {
    /// Only this day, and no windows
    #[arg(long, value_name = "DATE")]
    day: Option<NaiveDate>,
    /// Say what would be done and touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Give a day up that is gone: no command misses it any more
    #[arg(long, requires = "day")]
    forget: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    buffer: RepairReport,
    /// Damaged windows that were set aside.
    windows: Vec<MendedWindow>,
}

pub fn run(args: &RepairArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let now = context.clock(site.zone())?.now();
    let known_days = window::days_read(site, now)?;
    let RepairArgs { day, dry_run, forget } = *args;
    let options = RepairOptions { day, dry_run, forget, known_days };
    let buffer = Buffer::open(site).repair(&options, now, context.progress())?;
    let windows = match args.day {
        Some(_) => Vec::new(),
        None => window::repair(site, args.dry_run, now)?,
    };
    let report = Report { buffer, windows };
    let exit = if report.buffer.is_whole() { Exit::Done } else { Exit::Failed };
    context.output.done(&report, exit, render)?;
    Ok(exit)
}

fn render(report: &Report) -> String {
    let Report { buffer: report, windows } = report;
    let mut lines: Vec<String> = Vec::new();
    for mended in &report.mended {
        lines.push(format!("{}: {}: {}", mended.date, mended.file.display(), mended.problem));
        lines.push(format!("  {}{}", if report.is_dry_run { "would be done: " } else { "" }, mended.action));
        lines.extend(counts(mended).map(|counts| format!("  {counts}")));
        lines.extend(mended.kept.iter().map(|kept| format!("  as it was: {}", kept.display())));
    }
    let verb = if report.is_dry_run { "would be set aside" } else { "was set aside" };
    lines.extend(windows.iter().map(|window| {
        let MendedWindow { id, problem, .. } = window;
        format!("window {id} {verb}: {problem}; `tftctl window build` makes it anew")
    }));
    for day in &report.sealed {
        lines.push(format!("{} sealed: {}", day.date, text::plural(day.n_rows, "row")));
    }
    lines.extend(report.failed.iter().map(render_failure));
    if lines.is_empty() { "nothing to mend".into() } else { lines.join("\n") }
}

/// What was saved and lost, where rows were at stake.
fn counts(mended: &Mended) -> Option<String> {
    let Mended { n_rows_saved, n_rows_lost, n_values_lost, n_labels_lost, .. } = mended;
    let lost = match n_rows_lost {
        Some(n) => text::count(*n),
        None => "an unknown number".into(),
    };
    let is_about_rows = (*n_rows_saved, *n_rows_lost) != (0, Some(0));
    is_about_rows.then(|| {
        let saved = text::plural(*n_rows_saved, "row");
        let values = text::plural(*n_values_lost, "value");
        let labels = match n_labels_lost {
            0 => String::new(),
            n => format!(", profile and status of {} lost", text::plural(*n, "row")),
        };
        format!("{saved} saved, {lost} lost, {values} lost{labels}")
    })
}
