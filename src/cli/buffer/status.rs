//! `buffer status`: every day with its rows.

use crate::buffer::{Buffer, BufferStatus, DayState};
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

fn render(status: &BufferStatus) -> String {
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
