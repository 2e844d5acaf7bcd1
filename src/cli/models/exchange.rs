//! `models import` and `models export`: networks from and to another library.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::context::{Context, WaitArgs};
use crate::cli::text;
use crate::error::Exit;
use crate::registry::Registry;
use crate::train::exchange::{self, Exported, Imported};

/// Whose networks are understood.
#[derive(Clone, Copy, ValueEnum)]
enum Library {
    /// TemporalFusionTransformer of pytorch-forecasting
    PytorchForecasting,
}

#[derive(Args)]
pub struct ImportArgs {
    /// The library the network comes from
    #[arg(long, value_enum, value_name = "LIBRARY")]
    from: Library,
    /// A folder with model.safetensors, hyper_parameters.json and perhaps preprocessing.json
    dir: PathBuf,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args)]
#[command(allow_missing_positional = true)]
pub struct ExportArgs {
    /// The library the network goes to
    #[arg(long, value_enum, value_name = "LIBRARY")]
    to: Library,
    /// A model id, `latest`, `champion` or `previous` [default: latest]
    model: Option<String>,
    /// The folder to write: an empty one, or one that is not there yet
    dir: PathBuf,
}

pub fn import(args: &ImportArgs, context: &Context) -> anyhow::Result<Exit> {
    let Library::PytorchForecasting = args.from;
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
    let _lock = site.lock("models import", now, args.wait.duration())?;
    let imported = exchange::import(&site, &args.dir, now)?;
    for warning in &imported.warnings {
        context.progress().warn(warning);
    }
    context.output.result(&imported, render_imported)?;
    Ok(Exit::Done)
}

pub fn export(args: &ExportArgs, registry: &Registry, context: &Context) -> anyhow::Result<Exit> {
    let Library::PytorchForecasting = args.to;
    let model = registry.resolve(args.model.as_deref().unwrap_or("latest"))?;
    let exported = exchange::export(&registry.model_dir(&model), &args.dir)?;
    context.output.result(&exported, render_exported)?;
    Ok(Exit::Done)
}

fn render_imported(imported: &Imported) -> String {
    let record = &imported.record;
    let preprocessing = if imported.has_preprocessing { "with" } else { "without" };
    format!(
        "{}: {} weights imported {preprocessing} preprocessing, {}, trained until {}\n{}",
        imported.model_id,
        text::count(record.n_weights),
        text::plural(record.total_epochs, "epoch"),
        record.trained_until.format("%Y-%m-%dT%H:%MZ"),
        imported.model_dir.display(),
    )
}

fn render_exported(exported: &Exported) -> String {
    let preprocessing = if exported.has_preprocessing { "with" } else { "without" };
    format!(
        "{}: {} weights in {} tensors ({} of them aliases), {preprocessing} preprocessing\n{}",
        exported.model_id,
        text::count(exported.n_weights),
        exported.n_tensors,
        exported.n_aliases,
        exported.folder.display(),
    )
}
