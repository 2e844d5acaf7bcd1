//! `promote`: moves the pointer to a model that passed.

use clap::Args;

use super::context::{Context, WaitArgs};
use crate::error::{Exit, Refusal};
use crate::registry::{By, PromoteOptions, Promotion, Registry};

#[derive(Args)]
pub struct PromoteArgs {
    /// A model id or `latest`
    #[arg(default_value = "latest")]
    model: String,
    /// Overrule the exam (never loading and sanity); needs a reason, which is logged
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would happen and touch nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(args: PromoteArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
    let registry = Registry::open(&site);
    let force = if args.force { args.reason.clone() } else { None };
    if force.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
        return Err(Refusal::usage("--reason is empty"));
    }
    if args.dry_run {
        return dry_run(&registry, &args, context);
    }
    // What `latest` names is asked under the lock: the run that was waited for may have made another model.
    let _lock = site.lock("promote", now, args.wait.duration())?;
    let id = registry.resolve(&args.model)?;
    let promotion = registry.promote(&id, &PromoteOptions { by: By::Operator, force }, now)?;
    for note in &promotion.notes {
        context.progress().note(note);
    }
    context.output.result(&promotion, render)?;
    Ok(Exit::Done)
}

fn dry_run(registry: &Registry, args: &PromoteArgs, context: &Context) -> anyhow::Result<Exit> {
    let id = registry.resolve(&args.model)?;
    let obstacles = registry.promotion_obstacles(&id, args.force)?;
    context.output.result(&obstacles, |obstacles| match obstacles.as_slice() {
        [] => format!("{id} would become the champion"),
        _ => format!("{id} would be refused: {}", obstacles.join("; ")),
    })?;
    Ok(if obstacles.is_empty() { Exit::Done } else { Exit::Refused })
}

fn render(promotion: &Promotion) -> String {
    let id = &promotion.champion.model_id;
    match (&promotion.replaced, promotion.was_champion) {
        (_, true) => format!("{id} is the champion already"),
        (Some(replaced), _) => format!("{id} is the champion; it replaces {replaced}"),
        (None, _) => format!("{id} is the champion, the first one"),
    }
}
