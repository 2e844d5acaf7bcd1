//! The command line: the list of subcommands.

use clap::{Parser, Subcommand};

use super::{
    bench::BenchArgs, buffer::BufferArgs, completions::CompletionsArgs, config::ConfigArgs, context::Global,
    init::InitArgs, models::ModelsArgs, nightly::NightlyArgs, predict::PredictArgs, promote::PromoteArgs,
    quickstart::QuickstartArgs, rollback::RollbackArgs, schedule::ScheduleArgs, simulate::SimulateArgs,
    train::TrainArgs, validate::ValidateArgs, window::WindowArgs,
};

/// Keeps a forecasting model of a server fleet fresh, and never lets a bad one into service
#[derive(Parser)]
#[command(name = "tftctl", version, after_help = exit_code_help(), max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// See it work: a simulated fleet, two nights, a champion and its forecasts
    Quickstart(QuickstartArgs),
    /// Make a site: a folder with a commented tftctl.toml
    Init(InitArgs),
    /// Take in metrics, seal days, see what is there
    Buffer(BufferArgs),
    /// Build and show training windows
    Window(WindowArgs),
    /// Train the next model of the lineage
    Train(TrainArgs),
    /// Put a model through the exam, beside the champion and the naive forecasts
    Validate(ValidateArgs),
    /// Make a model that passed the champion
    Promote(PromoteArgs),
    /// Put the previous champion back into service
    Rollback(RollbackArgs),
    /// Forecast the fleet from the newest rows with the champion
    Predict(PredictArgs),
    /// The whole night: rotate, window, train, validate, promote, predict, tell
    Nightly(NightlyArgs),
    /// List, show, import and export models
    Models(ModelsArgs),
    /// One screen: champion, freshness, nights, buffer
    Status,
    /// Files that start the nightly run from cron, systemd, Windows or Kubernetes
    Schedule(ScheduleArgs),
    /// Show or check the configuration
    Config(ConfigArgs),
    /// Write the metrics of a realistic fleet that does not exist
    Simulate(SimulateArgs),
    /// Measure this machine: training, forecasts, append, window
    Bench(BenchArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
}

/// The exit code table, for the end of `--help`.
fn exit_code_help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in crate::error::Exit::TABLE {
        text.push_str(&format!("  {:>3}  {meaning}\n", exit.code()));
    }
    text
}
