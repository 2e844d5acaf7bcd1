//! `buffer verify`: what is damaged, missing or misplaced, in the buffer and in the windows made of it.

use chrono::NaiveDate;
use clap::Args;
use serde::Serialize;

use super::status::set_aside;
use crate::buffer::{Buffer, Finding, VerifyOptions, VerifyReport};
use crate::cli::context::Context;
use crate::cli::text;
use crate::error::Exit;
use crate::site::Site;
use crate::window::{self, DamagedWindow};

#[derive(Args)]
pub struct VerifyArgs {
    /// Decode every value too, and check the order and the days of the rows; digests are checked in any case
    #[arg(long)]
    read_data: bool,
    /// Only this day, and no windows
    #[arg(long, value_name = "DATE")]
    day: Option<NaiveDate>,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    buffer: VerifyReport,
    n_windows: usize,
    damaged_windows: Vec<DamagedWindow>,
}

pub fn run(args: &VerifyArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let now = context.clock(site.zone())?.now();
    let known_days = window::days_read(site, now)?;
    let options = VerifyOptions { read_data: args.read_data, day: args.day, known_days };
    let buffer = Buffer::open(site).verify(&options, context.progress())?;
    let (n_windows, damaged_windows) = match args.day {
        Some(_) => (0, Vec::new()),
        None => window::verify_all(site)?,
    };
    let report = Report { buffer, n_windows, damaged_windows };
    context.output.result(&report, render)?;
    let is_sound = report.buffer.findings.is_empty() && report.damaged_windows.is_empty();
    Ok(if is_sound { Exit::Done } else { Exit::Failed })
}

fn render(report: &Report) -> String {
    let Report { buffer, n_windows, damaged_windows } = report;
    let told = |found: &Finding| format!("{}: {}: {}", found.date, found.file.display(), found.message);
    let mut lines: Vec<String> = buffer.findings.iter().map(told).collect();
    lines.extend(damaged_windows.iter().map(|damaged| format!("window {}: {}", damaged.id, damaged.error)));
    if !buffer.missing.is_empty() {
        let missing: Vec<String> = buffer.missing.iter().take(10).map(ToString::to_string).collect();
        let n_days = text::plural(buffer.missing.len() as u64, "day");
        lines.push(format!("{n_days} without data (no finding): {}", missing.join(", ")));
    }
    lines.extend(buffer.torn.iter().map(|torn| {
        let n_bytes = text::plural(torn.n_bytes, "byte");
        format!(
            "{}: {}: ends in {n_bytes} that were never completed (no finding)",
            torn.date,
            torn.file.display()
        )
    }));
    lines.extend(set_aside(&buffer.set_aside));
    if let (Some(first), Some(last)) = (buffer.unstamped.first(), buffer.unstamped.last()) {
        let n = buffer.unstamped.len();
        lines.push(format!(
            "{n} day files ({first} to {last}) carry no digest (from elsewhere, or older): a flipped bit may stay unseen"
        ));
    }
    lines.push(format!(
        "{}, {}, {} and {}, {}, {}: {}",
        text::plural(buffer.n_files, "day file"),
        text::plural(buffer.n_segments, "segment"),
        text::plural(buffer.n_aggregates, "aggregate"),
        text::plural(*n_windows as u64, "window"),
        text::plural(buffer.n_rows, "row"),
        if buffer.has_read_data { "every value read" } else { "digests, checksums and footers" },
        text::plural((buffer.findings.len() + damaged_windows.len()) as u64, "finding")
    ));
    lines.join("\n")
}
