//! `buffer status`: every day with its rows.

use std::path::Path;

use crate::buffer::{Buffer, BufferStatus, DayState, SetAside};
use crate::cli::context::Context;
use crate::cli::text;
use crate::error::Exit;
use crate::site::Site;

pub fn run(site: &Site, context: &Context) -> anyhow::Result<Exit> {
    let now = context.clock(site.zone())?.now();
    let status = Buffer::open(site).status(now)?;
    context.output.result(&status, render)?;
    Ok(Exit::Done)
}

/// One line on what lies in `removed/`, where anything does.
pub(super) fn set_aside(files: &[SetAside]) -> Option<String> {
    let last = files.last()?;
    let folder = last.kept.parent().and_then(Path::parent).unwrap_or(Path::new("data_buffer/removed"));
    let n_files = text::plural(files.len() as u64, "damaged or torn file");
    let why = last.problem.as_deref().unwrap_or("the note beside it is gone");
    Some(format!("{n_files} set aside in {}, the last of {}: {why}", folder.display(), last.date))
}

fn render(status: &BufferStatus) -> String {
    if status.days.is_empty() && status.troubles.is_empty() {
        return "the buffer is empty: `tftctl buffer append` adds rows".into();
    }
    let rows = status.days.iter().map(|day| {
        let state = match day.state {
            DayState::Open => "open",
            DayState::Sealed => "sealed",
            DayState::Late => "sealed, late rows wait",
            DayState::Damaged => "DAMAGED",
            DayState::Unreadable => "UNREADABLE",
        };
        vec![day.date.to_string(), text::count(day.n_rows), text::bytes(day.size_bytes), state.to_owned()]
    });
    let mut lines = vec![text::table(&["day", "rows", "size", "state"], rows)];
    lines.push(format!(
        "{}, {}, {}; quarantine {}{}",
        text::plural(status.days.len() as u64, "day"),
        text::plural(status.n_rows, "row"),
        text::bytes(status.size_bytes),
        text::plural(status.quarantine.n_rows, "row"),
        if status.is_foreign { "; from elsewhere, only read" } else { "" }
    ));
    if !status.missing.is_empty() {
        let missing: Vec<String> = status.missing.iter().take(10).map(ToString::to_string).collect();
        let n_days = text::plural(status.missing.len() as u64, "day");
        lines.push(format!("{n_days} without data: {}", missing.join(", ")));
    }
    lines.extend(status.troubles.iter().map(|trouble| format!("warning: {}", trouble.warning())));
    lines.extend(set_aside(&status.set_aside));
    lines.join("\n")
}
