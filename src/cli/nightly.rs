//! `nightly`: the whole sequence, once per date.

use std::time::Duration;

use clap::Args;

use super::context::{Context, WaitArgs, parse_duration};
use super::device::DeviceArgs;
use super::probe;
use super::sampling::SamplingArgs;
use crate::error::Exit;
use crate::nightly::{self, NightEnd, NightRequest, PlannedStage, Tools};
use crate::report::render_line;

#[derive(Args)]
pub struct NightlyArgs {
    /// Say what would be done and touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Stop training cleanly before this has passed, such as 4h [default: max_training_duration_hours]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_duration: Option<Duration>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(args: NightlyArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut site = context.site()?;
    args.sampling.apply(&mut site.config)?;
    let clock = context.clock(site.zone())?;
    if args.dry_run {
        let stages = nightly::plan(&site, clock.now())?;
        context.output.result(&stages, |stages| render_plan(stages))?;
        return Ok(Exit::Done);
    }
    let request = NightRequest {
        device: args.device.choice()?,
        max_duration: args.max_duration,
        wait: args.wait.duration(),
    };
    let stop = context.stop_on_signal()?;
    let tools = Tools {
        clock,
        progress: context.progress(),
        stop: &stop,
        probe: &probe::probe,
        env: &|name| std::env::var(name).ok(),
    };
    let end = nightly::run(&site, &request, &tools)?;
    context.output.done(&end, end.exit(), render)?;
    Ok(end.exit())
}

fn render_plan(stages: &[PlannedStage]) -> String {
    let row = |stage: &PlannedStage| {
        format!("{:<9} {} {}\n", stage.stage, if stage.is_done { "done  " } else { "to do " }, stage.what)
    };
    stages.iter().map(row).collect()
}

fn render(end: &NightEnd) -> String {
    match &end.record {
        None => String::new(),
        Some(record) => render_line(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_says_what_is_left() {
        let stage = |stage, is_done| PlannedStage { stage, is_done, what: "x".into() };
        let text = render_plan(&[stage("rotate", true), stage("train", false)]);
        assert_eq!(text, "rotate    done   x\ntrain     to do  x\n");
    }
}
