//! `buffer rotate`: what was sealed, what went.

use clap::Args;

use crate::buffer::{Buffer, DayFailure, RetentionAction, RotateOptions, RotateReport, SealedDay};
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
    let exit = ending_of(&report);
    context.output.done(&report, exit, render)?;
    Ok(exit)
}

/// A day that failed is a failure, whatever became of the others; rows that are damaged, misplaced or gone are bad data. A
/// dry run ends as the rotation would.
fn ending_of(report: &RotateReport) -> Exit {
    match report.failed.is_empty() {
        false => Exit::Failed,
        true if report.has_damage() => Exit::NotEnoughData,
        true => Exit::Done,
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
    report.sealed.iter().for_each(|day| lines.extend(render_sealed(day)));
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
    lines.extend(report.failed.iter().map(render_failure));
    match (lines.is_empty(), report.has_damage()) {
        (true, false) => "nothing to do".into(),
        // The warnings say what.
        (true, true) => {
            format!("nothing else to do; {} found", text::plural(report.troubles.len() as u64, "trouble"))
        }
        (false, _) => lines.join("\n"),
    }
}

/// What became of the segments of a day.
fn render_sealed(day: &SealedDay) -> Vec<String> {
    let mut lines = vec![match day.n_rows {
        0 => format!("{} has no rows to seal", day.date),
        n_rows => format!(
            "{} sealed: {} of {}, {}, {}",
            day.date,
            text::plural(n_rows, "row"),
            text::plural(day.n_servers as u64, "server"),
            text::plural(day.n_duplicates, "duplicate"),
            text::bytes(day.size_bytes)
        ),
    }];
    if let Some(folder) = day.set_aside.first().and_then(|kept| kept.parent()) {
        let n_files = text::plural(day.set_aside.len() as u64, "damaged or torn segment");
        lines.push(format!("  {n_files} set aside in {}", folder.display()));
    }
    lines
}

/// A day that failed, with what helps.
pub(super) fn render_failure(failure: &DayFailure) -> String {
    let hint = failure.hint.iter().map(|hint| format!("\n  hint: {hint}")).collect::<String>();
    format!("{} failed: {}{hint}", failure.date, failure.error)
}
