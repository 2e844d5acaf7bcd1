//! From a model of the site to an exchange folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use serde::Serialize;

use super::{HYPER_PARAMETERS_FILE, HyperParameters, Past, total_batches};
use crate::dataset::Preprocessing;
use crate::error::Refusal;
use crate::fsx;
use crate::model::{Params, QuantileLosses, TftConfig};
use crate::model_manifest::{ModelManifest, PREPROCESSING_FILE, WEIGHTS_FILE};
use crate::train::artifact::{named_weights, read_network, write_tensors};

/// What [`export`] wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    pub model_id: String,
    pub folder: PathBuf,
    /// Of the model; the exported file holds the same values under more names.
    pub weights_sha256: String,
    pub n_weights: u64,
    /// Entries of the state dict, aliases included.
    pub n_tensors: u64,
    pub n_aliases: u64,
    pub has_preprocessing: bool,
}

/// Writes the model in `model_dir` into the folder `target`, which must be empty or not there.
///
/// `hyper_parameters.json` comes last: a folder without it is unfinished. The model is only read.
///
/// - Errors: [`Refusal::Usage`] where there is something in `target`; the model is damaged; the disk refuses.
pub fn export(model_dir: &Path, target: &Path) -> Result<Exported> {
    let manifest = ModelManifest::read(model_dir)?;
    manifest.verify(model_dir)?;
    let (config, params) = read_network(model_dir, &Device::Cpu)?;
    let preprocessing = match manifest.has_preprocessing() {
        true => Some(Preprocessing::read(&model_dir.join(PREPROCESSING_FILE))?),
        false => None,
    };
    let mut hyper = description(model_dir, config, preprocessing.as_ref())?;
    hyper.training =
        Some(serde_json::to_value(past(&manifest, model_dir)?).context("encode the model's past")?);
    ensure_empty(target)?;
    fsx::create_dir_durable(target)?;
    let n_tensors = write_state_dict(&target.join(WEIGHTS_FILE), &params)?;
    if let Some(preprocessing) = &preprocessing {
        fsx::write_json(&target.join(PREPROCESSING_FILE), preprocessing)?;
    }
    fsx::write_json(&target.join(HYPER_PARAMETERS_FILE), &hyper)?;
    Ok(Exported {
        model_id: manifest.id,
        folder: target.canonicalize().with_context(|| format!("find {}", target.display()))?,
        weights_sha256: manifest.weights_sha256,
        n_weights: params.n_weights() as u64,
        n_tensors,
        n_aliases: params.aliases().len() as u64,
        has_preprocessing: preprocessing.is_some(),
    })
}

fn ensure_empty(target: &Path) -> Result<()> {
    if fsx::exists(target)? && (!target.is_dir() || !fsx::list_dir(target)?.is_empty()) {
        return Err(Refusal::usage(format!(
            "{} is there and not empty: nothing is overwritten",
            target.display()
        )));
    }
    Ok(())
}

/// An imported model's own description, or that of a network of ours.
fn description(
    model_dir: &Path,
    config: TftConfig,
    preprocessing: Option<&Preprocessing>,
) -> Result<HyperParameters> {
    let path = model_dir.join(HYPER_PARAMETERS_FILE);
    if fsx::exists(&path)? {
        return HyperParameters::parse(&fsx::read(&path)?)
            .with_context(|| format!("read {}", path.display()));
    }
    let levels = |p: &Preprocessing| vec![p.quantiles.clone(); p.targets.len()];
    let loss = preprocessing.map(|p| QuantileLosses { quantiles: levels(p), target_weights: None });
    Ok(HyperParameters::of(config, loss))
}

fn past(manifest: &ModelManifest, model_dir: &Path) -> Result<Past> {
    Ok(Past {
        total_epochs: manifest.total_epochs,
        total_steps: manifest.total_steps,
        total_batches: total_batches(model_dir)?,
        trained_until: Some(manifest.trained_until),
        loss_train: manifest.loss_train,
        model_id: Some(manifest.id.clone()),
        lineage: Some(manifest.lineage.clone()),
    })
}

/// Every parameter under its name and its aliases, as strict loading demands; returns how many entries that makes.
fn write_state_dict(path: &Path, params: &Params) -> Result<u64> {
    let mut tensors = named_weights(params);
    for (alias, name) in params.aliases() {
        let tensor = tensors.get(name).with_context(|| format!("find parameter {name}"))?.clone();
        tensors.insert(alias.clone(), tensor);
    }
    write_tensors(path, &tensors)?;
    Ok(tensors.len() as u64)
}
