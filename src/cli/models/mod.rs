//! `models list|show|import|export`: what there is to serve, and its ways in and out.

mod exchange;

use clap::{Args, Subcommand};

use super::context::Context;
use super::{probe, text};
use crate::error::Exit;
use crate::model_manifest::ModelManifest;
use crate::registry::{ModelDetails, ModelEntry, Registry, VerdictState};

#[derive(Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Subcommand)]
enum ModelsCommand {
    /// Every model, newest first
    List,
    /// Everything about one model; reads every byte of it
    Show {
        /// A model id, `latest`, `champion` or `previous`
        #[arg(default_value = "latest")]
        model: String,
    },
    /// Take in a network of another library as a model
    Import(exchange::ImportArgs),
    /// Write a model as a network of another library
    Export(exchange::ExportArgs),
    /// What the exam's fresh process runs
    #[command(hide = true)]
    Probe { dir: std::path::PathBuf },
}

pub fn run(args: ModelsArgs, context: &Context) -> anyhow::Result<Exit> {
    if let ModelsCommand::Probe { dir } = &args.command {
        context.output.data(&serde_json::to_string(&probe::load(dir))?)?;
        return Ok(Exit::Done);
    }
    if let ModelsCommand::Import(args) = &args.command {
        return exchange::import(args, context);
    }
    let registry = Registry::open(&context.site()?);
    match args.command {
        ModelsCommand::Probe { .. } | ModelsCommand::Import(_) => {}
        ModelsCommand::Export(args) => return exchange::export(&args, &registry, context),
        ModelsCommand::List => {
            let lines: Vec<ModelLine> = registry.list()?.into_iter().map(ModelLine::of).collect();
            context.output.result(&lines, |lines| render_list(lines))?;
        }
        ModelsCommand::Show { model } => {
            let details = registry.show(&registry.resolve(&model)?)?;
            context.output.result(&details, render_details)?;
        }
    }
    Ok(Exit::Done)
}

/// One entry of `models list --json`: the manifest's counters beside what the registry knows.
#[derive(serde::Serialize)]
struct ModelLine {
    total_epochs: Option<u64>,
    weights_sha256: Option<String>,
    #[serde(flatten)]
    entry: ModelEntry,
}

impl ModelLine {
    fn of(entry: ModelEntry) -> Self {
        let manifest = entry.manifest.as_ref();
        Self {
            total_epochs: manifest.map(|manifest| manifest.total_epochs),
            weights_sha256: manifest.map(|manifest| manifest.weights_sha256.clone()),
            entry,
        }
    }
}

fn render_list(lines: &[ModelLine]) -> String {
    if lines.is_empty() {
        return "no models yet: `tftctl nightly` or `tftctl train` makes one".into();
    }
    let row = |line: &ModelLine| {
        let ModelEntry { id, manifest, damage, verdict, rolled_back, .. } = &line.entry;
        let role =
            match (line.entry.is_champion, line.entry.is_previous, rolled_back.is_some(), damage.is_some()) {
                (_, _, _, true) => "damaged",
                (true, ..) => "champion",
                (_, _, true, _) => "rolled back",
                (_, true, ..) => "previous",
                _ => "",
            };
        // A waived exam must not look like a passed one.
        let waived =
            if verdict.as_ref().is_some_and(|verdict| verdict.waived) { ", checks waived" } else { "" };
        let is_fed = manifest.as_ref().is_none_or(ModelManifest::has_preprocessing);
        let unexamined = if is_fed { "not examined" } else { "no preprocessing" };
        let outcome = verdict.as_ref().map_or(unexamined.into(), |verdict| verdict.outcome.to_string());
        vec![
            id.to_string(),
            role.to_owned(),
            line.total_epochs.map_or("-".into(), |epochs| epochs.to_string()),
            text::number(manifest.as_ref().and_then(|manifest| manifest.loss_train)),
            text::number(verdict.as_ref().and_then(|verdict| verdict.loss)),
            outcome + waived,
        ]
    };
    text::table(&["model", "role", "epochs", "train loss", "exam loss", "verdict"], lines.iter().map(row))
}

fn render_details(details: &ModelDetails) -> String {
    let entry = &details.entry;
    let mut lines = vec![format!("model           {}", entry.id)];
    let mut fact = |name: &str, value: String| lines.push(format!("{name:<15} {value}"));
    if let Some(damage) = &entry.damage {
        fact("damage", damage.clone());
    }
    if let Some(manifest) = &entry.manifest {
        fact("created_at", manifest.created_at.to_rfc3339());
        fact("weights_sha256", manifest.weights_sha256.clone());
        fact("lineage", manifest.lineage.clone());
        fact("parent", manifest.parent.clone().unwrap_or_else(|| "none".into()));
        if let Some(imported) =
            details.training.as_ref().and_then(|training| training["imported_from"].as_str())
        {
            let preprocessing = if manifest.has_preprocessing() { "with" } else { "without" };
            fact("imported", format!("from {imported}, {preprocessing} preprocessing"));
        } else {
            fact("window", manifest.window_id.clone());
        }
        fact("epochs", format!("{} ({} steps) in all", manifest.total_epochs, manifest.total_steps));
        if manifest.n_samples > 0 {
            let (n_samples, n_steps) = (manifest.n_samples, manifest.optimizer_steps);
            fact(
                "training",
                format!("{n_samples} samples, {n_steps} steps, {:.1} s", manifest.duration_secs),
            );
        }
        fact("train loss", text::number(manifest.loss_train));
    }
    fact("size", text::bytes(entry.size_bytes));
    fact("champion", if entry.is_champion { "yes" } else { "no" }.into());
    if let Some(mark) = &entry.rolled_back {
        fact("rolled back", format!("{} ({})", mark.at.to_rfc3339(), mark.reason));
    }
    match &details.verdict {
        VerdictState::Missing => fact("verdict", "not examined".into()),
        VerdictState::Void(reason) => fact("verdict", format!("does not count: {reason}")),
        VerdictState::Counts(verdict) => {
            fact("verdict", verdict.outcome.to_string());
            for reason in &verdict.reasons {
                fact("", reason.clone());
            }
        }
    }
    for act in &details.acts {
        fact("audit", format!("{} {:?}: {}", act.deed.at.to_rfc3339(), act.deed.act, act.deed.reason));
    }
    lines.join("\n")
}
