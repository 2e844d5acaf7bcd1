//! `buffer verify`: what is damaged, missing or misplaced, in the buffer and in the windows made of it.

use chrono::NaiveDate;
use clap::Args;
use serde::Serialize;

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
    let options = VerifyOptions { read_data: args.read_data, day: args.day };
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
    let file = |finding: &Finding| {
        finding.file.as_ref().map_or(String::new(), |file| format!("{}: ", file.display()))
    };
    let findings = buffer.findings.iter();
    let mut lines: Vec<String> =
        findings.map(|finding| format!("{}: {}{}", finding.date, file(finding), finding.message)).collect();
    lines.extend(damaged_windows.iter().map(|damaged| format!("window {}: {}", damaged.id, damaged.error)));
    if let (Some(first), Some(last)) = (buffer.unstamped.first(), buffer.unstamped.last()) {
        let n = buffer.unstamped.len();
        lines.push(format!(
            "{n} day files ({first} to {last}) carry no digest (from elsewhere, or older): a flipped bit may stay unseen"
        ));
    }
    lines.push(format!(
        "{} day files, {} segments, {} aggregates and {n_windows} windows, {} rows, {}: {} findings",
        buffer.n_files,
        buffer.n_segments,
        buffer.n_aggregates,
        text::count(buffer.n_rows),
        if buffer.has_read_data { "every value read" } else { "digests, checksums and footers" },
        buffer.findings.len() + damaged_windows.len()
    ));
    lines.join("\n")
}
