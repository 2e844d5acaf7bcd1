//! `buffer ...`: metrics in, days sealed, what is there; one file per subcommand.

mod append;
mod export;
mod import;
mod repair;
mod rotate;
mod status;
mod verify;

use clap::{Args, Subcommand};

use super::context::Context;
use crate::error::Exit;

#[derive(Args)]
pub struct BufferArgs {
    #[command(subcommand)]
    command: BufferCommand,
}

#[derive(Subcommand)]
enum BufferCommand {
    /// Add records to the days of their event times; returns when they are on stable storage
    Append(append::AppendArgs),
    /// Add old files, or the history of a Prometheus server
    Import(Box<import::ImportArgs>),
    /// Seal the days that are over, aggregate them, apply retention
    Rotate(rotate::RotateArgs),
    /// Write raw rows as NDJSON, CSV or parquet, each key once; `append --plain` takes them in again
    Export(export::ExportArgs),
    /// Every day with its rows, and what waits or is wrong
    Status,
    /// Find what is damaged, missing or misplaced; changes nothing, exit 1 if anything is found
    Verify(verify::VerifyArgs),
    /// Mend what is damaged; what is taken away is kept, with the reason, in data_buffer/removed
    Repair(repair::RepairArgs),
}

pub fn run(args: BufferArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    match args.command {
        BufferCommand::Append(args) => append::run(&args, &site, context),
        BufferCommand::Import(args) => import::run(*args, &site, context),
        BufferCommand::Rotate(args) => rotate::run(&args, &site, context),
        BufferCommand::Export(args) => export::run(&args, &site, context),
        BufferCommand::Status => status::run(&site, context),
        BufferCommand::Verify(args) => verify::run(&args, &site, context),
        BufferCommand::Repair(args) => repair::run(&args, &site, context),
    }
}
