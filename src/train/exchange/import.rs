//! From an exchange folder to a model of the site.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{HYPER_PARAMETERS_FILE, HyperParameters, Past};
use crate::config::Config;
use crate::dataset::{Preprocessing, foreign_inputs};
use crate::error::Refusal;
use crate::fsx::{self, FileDigest, StagedDir};
use crate::model::{Params, QuantileLosses};
use crate::model_manifest::{self, ModelManifest, PREPROCESSING_FILE, TRAINING_FILE, WEIGHTS_FILE};
use crate::site::Site;
use crate::train::archive;
use crate::train::artifact::{self, read_tensors, weights_sha256};
use crate::train::lineage::network_difference;
use crate::train::publish::next_model_dir;

/// The `format` of the `training.json` of an imported model.
const FORMAT: u32 = 1;

/// `training.json` of an imported model: where it comes from, in place of how it was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportRecord {
    pub format: u32,
    pub program_version: String,
    /// The library whose network it is.
    pub imported_from: String,
    pub folder: PathBuf,
    pub imported_at: DateTime<Utc>,
    /// The model it was exported from, and its lineage, where the folder says.
    pub source_model: Option<String>,
    pub source_lineage: Option<String>,
    pub lineage: String,
    pub total_epochs: u64,
    pub total_steps: u64,
    pub total_batches: u64,
    pub trained_until: DateTime<Utc>,
    /// Whether the folder said so; else it is the moment of the import.
    pub is_trained_until_known: bool,
    pub n_weights: u64,
}

/// What [`import`] made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Imported {
    pub model_id: String,
    pub model_dir: PathBuf,
    pub weights_sha256: String,
    pub has_preprocessing: bool,
    /// Inputs of the network that this site has no column for.
    pub foreign_inputs: Vec<String>,
    /// What somebody should know, as sentences.
    pub warnings: Vec<String>,
    #[serde(flatten)]
    pub record: ImportRecord,
}

/// Publishes the network in the exchange folder `dir` as a model of the site; the caller holds the site lock.
///
/// Its lineage is its own (`import-<start of the weights' sha256>`), without a parent. `trained_until` is what the
/// folder says, else `now`: whatever happened before the import may have been in its training, so that no exam on
/// it counts.
///
/// - Errors: [`Refusal::Usage`] without such a folder; a description with something that has no equivalent; a
///   tensor that is missing, extra, misshapen, not finite or contradicts its alias; a preprocessing that does not
///   feed this network. Each is named, and nothing is published.
pub fn import(site: &Site, dir: &Path, now: DateTime<Utc>) -> Result<Imported> {
    if !dir.is_dir() {
        return Err(Refusal::usage(format!("there is no folder {}", dir.display())));
    }
    let network = Network::read(dir, now).with_context(|| format!("import {}", dir.display()))?;
    let weights_sha256 = weights_sha256(&network.params)?;
    let record = network.record(dir, &weights_sha256, now)?;
    let target = next_model_dir(&site.models_dir(), now)?;
    let staged = StagedDir::new(&target)?;
    network.write_into(staged.path())?;
    fsx::write_json(&staged.path().join(TRAINING_FILE), &record)?;
    let loss_train = network.past.loss_train;
    staged
        .publish(|files| manifest_of(&target, &record, loss_train, &weights_sha256, files, now))
        .with_context(|| format!("publish {}", target.display()))?;
    let name = target.file_name().unwrap_or_default();
    Ok(Imported {
        model_id: name.to_string_lossy().into_owned(),
        weights_sha256,
        has_preprocessing: network.preprocessing.is_some(),
        foreign_inputs: foreign_inputs(&network.hyper.config, &site.config),
        warnings: network.warnings(&site.config, &record),
        model_dir: target,
        record,
    })
}

/// An exchange folder, read and checked.
struct Network {
    hyper: HyperParameters,
    params: Params,
    preprocessing: Option<Preprocessing>,
    past: Past,
}

impl Network {
    fn read(dir: &Path, now: DateTime<Utc>) -> Result<Self> {
        let path = dir.join(HYPER_PARAMETERS_FILE);
        let hyper =
            HyperParameters::parse(&fsx::read(&path)?).with_context(|| format!("read {}", path.display()))?;
        let past: Option<Past> = hyper
            .training
            .clone()
            .map(serde_json::from_value)
            .transpose()
            .with_context(|| format!("read `training` of {}", path.display()))?;
        if let Some(past) = &past {
            past.ensure_possible(now).with_context(|| format!("read `training` of {}", path.display()))?;
        }
        let path = dir.join(WEIGHTS_FILE);
        let tensors = read_tensors(&path)?;
        ensure_numbers(&tensors).with_context(|| format!("load {}", path.display()))?;
        let params = Params::from_tensors(&hyper.config, &tensors, &Device::Cpu)
            .and_then(ensure_finite)
            .with_context(|| format!("load {}", path.display()))?;
        let path = dir.join(PREPROCESSING_FILE);
        let preprocessing = if fsx::exists(&path)? { Some(Preprocessing::read(&path)?) } else { None };
        if let Some(preprocessing) = &preprocessing {
            preprocessing
                .ensure_feeds(&hyper.config)
                .and_then(|()| ensure_same_levels(preprocessing, hyper.loss.as_ref()))
                .with_context(|| format!("check {} against the network", path.display()))?;
        }
        Ok(Self { hyper, params, preprocessing, past: past.unwrap_or_default() })
    }

    fn write_into(&self, dir: &Path) -> Result<()> {
        artifact::write_weights(dir, &self.hyper.config, &artifact::named_weights(&self.params))?;
        if let Some(preprocessing) = &self.preprocessing {
            fsx::write_json(&dir.join(PREPROCESSING_FILE), preprocessing)?;
        }
        fsx::write_json(&dir.join(HYPER_PARAMETERS_FILE), &self.hyper)
    }

    fn record(&self, dir: &Path, weights_sha256: &str, now: DateTime<Utc>) -> Result<ImportRecord> {
        let past = &self.past;
        Ok(ImportRecord {
            format: FORMAT,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            imported_from: "pytorch-forecasting".into(),
            folder: dir.canonicalize().with_context(|| format!("find {}", dir.display()))?,
            imported_at: now,
            source_model: past.model_id.clone(),
            source_lineage: past.lineage.clone(),
            lineage: format!("{}{}", archive::IMPORT_PREFIX, &weights_sha256[..12]),
            total_epochs: past.total_epochs,
            total_steps: past.total_steps,
            total_batches: past.total_batches,
            trained_until: past.trained_until.unwrap_or(now),
            is_trained_until_known: past.trained_until.is_some(),
            n_weights: self.params.n_weights() as u64,
        })
    }

    fn warnings(&self, config: &Config, record: &ImportRecord) -> Vec<String> {
        let mut warnings = self.hyper.assumed.clone();
        if !record.is_trained_until_known {
            warnings.push(format!(
                "the folder does not say until when the network was trained: it is taken as {}, and an exam must lie \
                 after it",
                record.trained_until.format("%Y-%m-%dT%H:%MZ")
            ));
        }
        let Some(preprocessing) = &self.preprocessing else {
            let foreign = foreign_inputs(&self.hyper.config, config);
            let inputs = match foreign.as_slice() {
                [] => String::new(),
                names => format!(", and this site has no columns for {}", names.join(", ")),
            };
            warnings.push(format!(
                "the network comes without vocabulary and scalers ({PREPROCESSING_FILE}){inputs}: it can be shown and \
                 exported, but not examined, promoted, forecast with or trained from"
            ));
            return warnings;
        };
        let made = preprocessing.tft_config(&config.model);
        let difference =
            preprocessing.difference(config).or_else(|| network_difference(&self.hyper.config, &made));
        warnings.extend(difference.map(|what| {
            format!(
                "{what} differ from this site's config: training does not go on from it here, and no exam is sat with \
                 other targets, quantiles or lengths"
            )
        }));
        warnings
    }
}

/// Codes or counts are no weights: whole numbers would lose nothing on the way in and mean nothing there.
fn ensure_numbers(tensors: &HashMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors.iter().collect::<BTreeMap<_, _>>() {
        ensure!(tensor.dtype().is_float(), "parameter {name} is {:?}, not floating point", tensor.dtype());
    }
    Ok(())
}

/// A forecast of a broken weight is broken everywhere; an import is the moment to say which.
fn ensure_finite(params: Params) -> Result<Params> {
    for (name, values) in params.iter() {
        let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "parameter {name} holds a value that is not finite"
        );
    }
    Ok(params)
}

fn ensure_same_levels(preprocessing: &Preprocessing, loss: Option<&QuantileLosses>) -> Result<()> {
    for levels in loss.iter().flat_map(|loss| &loss.quantiles) {
        let expected = &preprocessing.quantiles;
        ensure!(levels == expected, "the loss has the quantiles {levels:?}, the preprocessing {expected:?}");
    }
    Ok(())
}

fn manifest_of(
    dir: &Path,
    record: &ImportRecord,
    loss_train: Option<f64>,
    weights_sha256: &str,
    files: Vec<FileDigest>,
    now: DateTime<Utc>,
) -> ModelManifest {
    ModelManifest {
        format: model_manifest::FORMAT,
        id: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        created_at: now,
        weights_sha256: weights_sha256.to_owned(),
        files,
        total_epochs: record.total_epochs,
        total_steps: record.total_steps,
        lineage: record.lineage.clone(),
        parent: None,
        window_id: String::new(),
        trained_until: record.trained_until,
        logical_date: None,
        loss_train,
        n_samples: 0,
        optimizer_steps: 0,
        duration_secs: 0.0,
        partial_epoch: None,
    }
}
