//! `window build|show|list`: what a training reads.

use chrono::NaiveDate;
use clap::{Args, Subcommand};

use super::context::Context;
use super::text;
use super::train::chosen_window;
use crate::error::Exit;
use crate::window::{self, Manifest, Severity, WindowRequest};

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
        #[arg(long, value_name = "N")]
        days: Option<u32>,
        /// The day after the last one to read [default: today]
        #[arg(long, value_name = "DATE")]
        end: Option<NaiveDate>,
    },
    /// What a window holds and what was found in it
    Show {
        /// [default: the one built last]
        id: Option<String>,
    },
    /// Every window, oldest first
    List,
}

pub fn run(args: WindowArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    match args.command {
        WindowCommand::Build { days, end } => {
            let now = context.clock(site.zone())?.now();
            let request = WindowRequest { days, end, holdout_extra_days: 0 };
            let built = window::build(&site, &request, now, context.progress())?;
            context.output.result(&built.manifest, |manifest| render(manifest, false))?;
        }
        WindowCommand::Show { id } => {
            let shown = chosen_window(&site, id.as_deref())?;
            context.output.result(&shown.manifest, |manifest| render(manifest, true))?;
        }
        WindowCommand::List => {
            let ids: Vec<String> = window::list(&site)?.into_iter().map(|window| window.id).collect();
            context.output.result(&ids, |ids| ids.join("\n"))?;
        }
    }
    Ok(Exit::Done)
}

fn render(manifest: &Manifest, with_servers: bool) -> String {
    let quality = &manifest.quality;
    let split = &manifest.split;
    let mut lines = vec![
        format!("window    {}", manifest.id),
        format!("days      {} .. {} ({})", manifest.first_day, manifest.end_day, manifest.zone),
        format!("steps     {} of {} s", manifest.n_steps, manifest.step_secs),
        format!("servers   {} trained on, {} seen", manifest.servers.len(), quality.n_servers),
        format!("rows      {}", text::count(manifest.n_raw_rows)),
        format!(
            "split     train up to step {}, holdout {}..{}; {} and {} samples",
            split.train_end,
            split.holdout_start,
            split.holdout_end,
            text::count(quality.n_train_samples as u64),
            text::count(quality.n_holdout_samples as u64)
        ),
    ];
    for finding in &quality.findings {
        let severity = if finding.severity == Severity::Hard { "hard" } else { "soft" };
        lines.push(format!("{severity}      {}", finding.message));
    }
    if with_servers {
        let rows = quality.servers.iter().map(|server| {
            vec![
                server.name.clone(),
                server.profile.clone(),
                text::number(Some(server.completeness)),
                server.excluded.as_ref().map_or("trained on".into(), |reason| format!("left out: {reason}")),
            ]
        });
        lines.push(format!("\n{}", text::table(&["server", "profile", "complete", ""], rows)));
    }
    lines.join("\n")
}
