//! `buffer verify`: what is damaged, missing or misplaced.

use clap::Args;

use crate::buffer::{Buffer, Finding, VerifyReport};
use crate::cli::context::Context;
use crate::cli::text;
use crate::error::Exit;
use crate::site::Site;

#[derive(Args)]
pub struct VerifyArgs {
    /// Read every value too, not only footers and checksums
    #[arg(long)]
    read_data: bool,
}

pub fn run(args: &VerifyArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let report = Buffer::open(site).verify(args.read_data, context.progress())?;
    context.output.result(&report, render)?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Failed })
}

fn render(report: &VerifyReport) -> String {
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
