//! `schedule show|check`: the files that start the nightly run, for this site.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::context::Context;
use crate::error::Exit;
use crate::schedule::{Finding, SchedulePlan, SchedulerKind, check, render};

#[derive(Args)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Subcommand)]
enum ScheduleCommand {
    /// Print the files for a scheduler, with absolute paths and how to install them
    Show {
        #[arg(value_enum)]
        scheduler: Scheduler,
        /// Write the files into this folder instead, byte for byte as the scheduler wants them
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The account the run belongs to [default: the one running this]
        #[arg(long)]
        user: Option<String>,
    },
    /// Say what will bite: times that vanish or repeat, names and paths a scheduler ignores; exit 1 if anything
    Check {
        /// [default: those of this machine]
        #[arg(value_enum)]
        scheduler: Option<Scheduler>,
        #[arg(long)]
        user: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Scheduler {
    Cron,
    Systemd,
    Windows,
    Kubernetes,
}

impl Scheduler {
    fn kind(self) -> SchedulerKind {
        match self {
            Scheduler::Cron => SchedulerKind::Cron,
            Scheduler::Systemd => SchedulerKind::Systemd,
            Scheduler::Windows => SchedulerKind::Windows,
            Scheduler::Kubernetes => SchedulerKind::Kubernetes,
        }
    }
}

pub fn run(args: ScheduleArgs, context: &Context) -> anyhow::Result<Exit> {
    match args.command {
        ScheduleCommand::Show { scheduler, out, user } => show(scheduler.kind(), out, user, context),
        ScheduleCommand::Check { scheduler, user } => {
            let site = context.site()?;
            let plan = plan(context, user)?;
            let today = site.logical_date(context.clock(site.zone())?.now());
            let kinds = scheduler.map_or_else(schedulers_of_this_machine, |one| vec![one.kind()]);
            let of_kind = |kind: &SchedulerKind| {
                let scheduler = kind.name();
                check(*kind, &plan, today).into_iter().map(move |finding| Found { scheduler, finding })
            };
            let findings: Vec<Found> = kinds.iter().flat_map(of_kind).collect();
            context.output.result(&findings, |findings| match findings.as_slice() {
                [] => "nothing will bite".to_owned(),
                _ => {
                    findings.iter().map(|found| format!("{}: {}\n", found.scheduler, found.finding)).collect()
                }
            })?;
            Ok(if findings.is_empty() { Exit::Done } else { Exit::Failed })
        }
    }
}

/// A finding, with the scheduler it is about.
#[derive(Serialize)]
struct Found {
    scheduler: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// The schedulers that can start anything where this program runs.
fn schedulers_of_this_machine() -> Vec<SchedulerKind> {
    match std::env::consts::OS {
        "windows" => vec![SchedulerKind::Windows],
        _ => vec![SchedulerKind::Cron, SchedulerKind::Systemd],
    }
}

fn show(
    kind: SchedulerKind,
    out: Option<PathBuf>,
    user: Option<String>,
    context: &Context,
) -> anyhow::Result<Exit> {
    let files = render(kind, &plan(context, user)?)?;
    if let Some(dir) = out {
        let mut written = Vec::new();
        for file in &files {
            let path = dir.join(&file.path_name);
            crate::fsx::write_durable(&path, &file.bytes)?;
            written.push(path.display().to_string());
        }
        context.output.result(&written, |paths| paths.join("\n"))?;
        return Ok(Exit::Done);
    }
    let shown: Vec<_> = files
        .iter()
        .map(|file| serde_json::json!({ "file": file.path_name, "text": file.text(), "how_to_install": file.how_to_install }))
        .collect();
    context.output.result(&shown, |_| {
        files
            .iter()
            .map(|file| {
                let heading = format!("{}\n{}", file.path_name, file.how_to_install).replace('\n', "\n# ");
                format!("# {heading}\n{}\n", file.text())
            })
            .collect()
    })?;
    Ok(Exit::Done)
}

fn plan(context: &Context, user: Option<String>) -> anyhow::Result<SchedulePlan> {
    let site = context.site()?;
    let account =
        || std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_else(|_| "root".into());
    Ok(SchedulePlan {
        binary: std::env::current_exe().context("find this program")?,
        config_path: site.config_path(),
        timezone: site.zone(),
        training_time: site.config.training_time()?,
        user: user.unwrap_or_else(account),
        max_training_duration_hours: site.config.max_training_duration_hours,
        site_root: site.root,
    })
}
