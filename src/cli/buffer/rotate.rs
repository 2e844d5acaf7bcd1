//! `buffer rotate`: what was sealed, what went.

use clap::Args;

use crate::buffer::{Buffer, RetentionAction, RotateOptions, RotateReport};
use crate::cli::context::Context;
use crate::cli::text;
use crate::error::Exit;
use crate::site::Site;

#[derive(Args)]
pub struct RotateArgs {
    /// Seal today so far too
    #[arg(long)]
    include_open: bool,
    /// Say what would be done and touch nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &RotateArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let now = context.clock(site.zone())?.now();
    let options = RotateOptions { include_open: args.include_open, dry_run: args.dry_run };
    let report = Buffer::open(site).rotate(&options, now, context.progress())?;
    let ending = ending_of(&report);
    context.output.done(&report, *ending.as_ref().unwrap_or(&Exit::Failed), render)?;
    ending
}

/// A day that could not be sealed is a failure, told after the good ones; one that lost rows to damage is bad data.
fn ending_of(report: &RotateReport) -> anyhow::Result<Exit> {
    match report.failed.as_slice() {
        [] if report.has_damage() => Ok(Exit::NotEnoughData),
        [] => Ok(Exit::Done),
        [first, ..] => Err(anyhow::anyhow!(
            "{} of the days failed; {}: {}",
            report.failed.len(),
            first.date,
            first.error
        )),
    }
}

fn render(report: &RotateReport) -> String {
    let mut lines = Vec::new();
    if report.is_dry_run {
        lines.extend(report.planned.iter().map(|plan| {
            let verb = if plan.n_segments > 0 { "would be sealed" } else { "would wait" };
            format!("{} {verb}: {}", plan.date, plan.reason)
        }));
    }
    for day in &report.sealed {
        lines.push(format!(
            "{} sealed: {} of {}, {}, {}",
            day.date,
            text::plural(day.n_rows, "row"),
            text::plural(day.n_servers as u64, "server"),
            text::plural(day.n_duplicates, "duplicate"),
            text::bytes(day.size_bytes)
        ));
    }
    if !report.steps_written.is_empty() {
        let n_days = text::plural(report.steps_written.len() as u64, "day");
        lines.push(format!(
            "{n_days} {}aggregated to steps",
            if report.is_dry_run { "would be " } else { "" }
        ));
    }
    for decision in &report.retention {
        let done = match decision.action {
            RetentionAction::Keep if decision.is_held() => "kept",
            RetentionAction::Keep => continue,
            RetentionAction::Delete => "deleted",
            RetentionAction::Archive => "archived",
        };
        let is_plan = report.is_dry_run && decision.action != RetentionAction::Keep;
        let verb = if is_plan { format!("would be {done}") } else { done.to_owned() };
        lines.push(format!("{} {verb}: {}", decision.date, decision.reason));
    }
    for failure in &report.failed {
        lines.push(format!("{} failed: {}", failure.date, failure.error));
    }
    if lines.is_empty() { "nothing to do".into() } else { lines.join("\n") }
}
