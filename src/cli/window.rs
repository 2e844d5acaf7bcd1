//! `window build|show|verify|list`: what a training reads.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::train::chosen_window;
use super::window_report::{Servers, render};
use crate::error::Exit;
use crate::site::Site;
use crate::window::{self, ChangedDay, WindowCheck, WindowRequest};

#[derive(Args)]
pub struct WindowArgs {
    #[command(subcommand)]
    command: WindowCommand,
}

#[derive(Subcommand)]
enum WindowCommand {
    /// Aggregate, align, check and split the last days; exit 4 if they are not enough
    Build {
        /// Days to read [default: training_window_days]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        days: Option<u32>,
        /// The day after the last one to read [default: today]
        #[arg(long, value_name = "DATE")]
        end: Option<NaiveDate>,
    },
    /// What a window holds, what was found in it, and its servers, the worst first
    Show {
        /// [default: the one built last]
        id: Option<String>,
        /// List every server, not only the worst
        #[arg(long)]
        all: bool,
    },
    /// Check a window's files against its manifest, and tell which of its days have changed since; exit 1 if it is
    /// damaged
    Verify {
        /// [default: the one built last]
        id: Option<String>,
    },
    /// Every window, oldest first, with the damage of those whose bytes are not what was published
    List,
}

pub fn run(args: WindowArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    match args.command {
        WindowCommand::Build { days, end } => {
            let now = context.clock(site.zone())?.now();
            let request = WindowRequest { days, end, holdout_extra_days: 0 };
            let built = window::build(&site, &request, now, context.progress())?;
            context.output.result(&built.manifest, |manifest| render(manifest, Servers::None))?;
        }
        WindowCommand::Show { id, all } => {
            let shown = chosen_window(&site, id.as_deref())?;
            let servers = if all { Servers::All } else { Servers::Worst };
            context.output.result(&shown.manifest, |manifest| render(manifest, servers))?;
        }
        WindowCommand::Verify { id } => {
            let check = window::check(&site, &chosen_window(&site, id.as_deref())?)?;
            context.output.result(&check, render_check)?;
            if check.damage.is_some() {
                return Ok(Exit::Failed);
            }
        }
        WindowCommand::List => context.output.result(&listed(&site)?, |listed| render_list(listed))?,
    }
    Ok(Exit::Done)
}

/// One line of `window list`.
#[derive(Serialize)]
struct Listed {
    id: String,
    /// How it differs from what was published, if it does.
    damage: Option<String>,
}

fn listed(site: &Site) -> anyhow::Result<Vec<Listed>> {
    let (_, damaged) = window::verify_all(site)?;
    let mut damage: BTreeMap<String, String> =
        damaged.into_iter().map(|window| (window.id, window.error)).collect();
    let listed = window::ids(site)?.into_iter().map(|id| Listed { damage: damage.remove(&id), id });
    Ok(listed.collect())
}

fn render_list(listed: &[Listed]) -> String {
    let line = |window: &Listed| match &window.damage {
        None => window.id.clone(),
        Some(damage) => format!("{}  damaged: {damage}", window.id),
    };
    listed.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn render_check(check: &WindowCheck) -> String {
    let first = match &check.damage {
        None => format!("window {} is what was published", check.id),
        Some(damage) => format!("window {} is damaged: {damage}", check.id),
    };
    let changed = |day: &ChangedDay| {
        let what = match (day.n_rows_then, day.n_rows_now) {
            (_, 0) => "is gone from the buffer".to_owned(),
            (0, now) => format!("has come in since, with {now} rows"),
            (then, now) if then == now => format!("has other files now, with {now} rows as before"),
            (then, now) => format!("has changed since: {then} rows then, {now} now"),
        };
        format!("{} {what}", day.date)
    };
    let mut lines = vec![first];
    lines.extend(check.changed_days.iter().map(changed));
    if !check.changed_days.is_empty() {
        lines.push("`tftctl window build` would make another window of these days".into());
    }
    lines.join("\n")
}
