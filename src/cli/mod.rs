//! The rim: parse, resolve, call the library, render. Only here are there terminals, the environment, the real
//! clock and exit codes.
//!
//! Each subcommand is one file with its arguments and a `run` of four moves: parse (clap has done it), resolve
//! (site, clock, device), call the library, render.

mod args;
mod bars;
mod bench;
mod buffer;
mod completions;
mod config;
mod context;
mod device;
mod init;
mod models;
mod nightly;
mod output;
mod predict;
mod probe;
mod promote;
mod quickstart;
mod rollback;
mod sampling;
mod schedule;
mod simulate;
mod status;
mod text;
mod train;
mod validate;
mod window;
mod window_report;

use std::ffi::OsString;

use clap::Parser;

use crate::error::{Exit, message_and_hint};
use args::{Cli, Command};
use context::Context;
use output::Output;

/// Runs the program on a command line (with the program's name first) and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, &args),
    };
    let context = Context::new(&cli.global);
    match dispatch(cli.command, &context) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = Exit::of(&error);
            let (message, hint) = message_and_hint(&error);
            context.output.error(&message, hint.as_deref(), exit);
            exit
        }
    }
}

/// Tells what is wrong with a command line (or the help that it asks for).
fn misused(error: &clap::Error, args: &[OsString]) -> Exit {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
    if exit == Exit::Usage && args.iter().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let hint = Some(rest.trim()).filter(|rest| !rest.is_empty());
        Output { json: true, quiet: false, verbose: false }.error(message, hint, exit);
    } else {
        // Nothing can be done where even the help text cannot be printed.
        let _ = error.print();
    }
    exit
}

fn dispatch(command: Command, context: &Context) -> anyhow::Result<Exit> {
    match command {
        Command::Quickstart(args) => quickstart::run(args, context),
        Command::Init(args) => init::run(args, context),
        Command::Buffer(args) => buffer::run(args, context),
        Command::Window(args) => window::run(args, context),
        Command::Train(args) => train::run(args, context),
        Command::Validate(args) => validate::run(args, context),
        Command::Promote(args) => promote::run(args, context),
        Command::Rollback(args) => rollback::run(args, context),
        Command::Predict(args) => predict::run(args, context),
        Command::Nightly(args) => nightly::run(args, context),
        Command::Models(args) => models::run(args, context),
        Command::Status => status::run(context),
        Command::Schedule(args) => schedule::run(args, context),
        Command::Config(args) => config::run(args, context),
        Command::Simulate(args) => simulate::run(args, context),
        Command::Bench(args) => bench::run(args, context),
        Command::Completions(args) => completions::run(args, context),
    }
}
