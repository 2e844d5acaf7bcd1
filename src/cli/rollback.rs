//! `rollback`: puts an earlier champion back into service.

use clap::Args;

use super::context::{Context, WaitArgs};
use crate::error::Exit;
use crate::registry::{By, Registry, Rollback, RollbackOptions};

#[derive(Args)]
pub struct RollbackArgs {
    /// The model to go back to [default: the previous champion]
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "no reason given")]
    reason: String,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(args: RollbackArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
    let registry = Registry::open(&site);
    // What `previous` names is asked under the lock: the run that was waited for may have moved the pointer.
    let _lock = site.lock("rollback", now, args.wait.duration())?;
    let to = args.to.as_deref().map(|text| registry.resolve(text)).transpose()?;
    let options = RollbackOptions { to, reason: args.reason, by: By::Operator, verify_bytes: false };
    let rollback = registry.rollback(&options, now)?;
    for skipped in &rollback.skipped {
        context.progress().warn(&format!("passed over {}: {}", skipped.model_id, skipped.reason));
    }
    for note in &rollback.notes {
        context.progress().note(note);
    }
    context.output.result(&rollback, render)?;
    Ok(Exit::Done)
}

fn render(rollback: &Rollback) -> String {
    let id = &rollback.champion.model_id;
    match &rollback.left {
        _ if rollback.was_champion => format!("{id} is the champion already"),
        Some(left) => format!("{id} is the champion again; {left} will not be promoted again by itself"),
        None => format!("{id} is the champion again"),
    }
}
