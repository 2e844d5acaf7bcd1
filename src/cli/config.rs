//! `config show|check`: what is in force, where it comes from, and whether it can be.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::text;
use crate::config::{Origin, Setting};
use crate::error::Exit;

#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every setting in force
    Show {
        /// Say where each value comes from: the default, the file or an environment variable
        #[arg(long)]
        origin: bool,
    },
    /// Check the file and the environment; exit 2 if they cannot be used
    Check,
}

#[derive(Serialize)]
struct Checked {
    config: std::path::PathBuf,
    n_settings: usize,
    n_metrics: usize,
    n_targets: usize,
}

pub fn run(args: ConfigArgs, context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    match args.command {
        ConfigCommand::Show { origin } => {
            context.output.result(&site.settings, |settings| render(settings, origin))?;
        }
        ConfigCommand::Check => {
            let checked = Checked {
                config: site.config_path(),
                n_settings: site.settings.len(),
                n_metrics: site.config.metrics.len(),
                n_targets: site.config.model.targets.len(),
            };
            context.output.result(&checked, |checked| {
                let Checked { config, n_metrics, n_targets, .. } = checked;
                format!("{} is fine: {n_metrics} metrics, {n_targets} targets", config.display())
            })?;
        }
    }
    Ok(Exit::Done)
}

fn render(settings: &[Setting], with_origin: bool) -> String {
    let value = |setting: &Setting| match &setting.value {
        toml::Value::Array(entries) if entries.iter().any(toml::Value::is_table) => {
            format!("({} entries)", entries.len())
        }
        value => value.to_string(),
    };
    let origin = |setting: &Setting| match &setting.origin {
        Origin::Default => "default".to_owned(),
        Origin::File => "file".to_owned(),
        Origin::Environment(name) => name.clone(),
    };
    if with_origin {
        let rows = settings.iter().map(|s| vec![s.key.clone(), value(s), origin(s)]);
        text::table(&["key", "value", "origin"], rows)
    } else {
        settings.iter().map(|s| format!("{} = {}\n", s.key, value(s))).collect()
    }
}
