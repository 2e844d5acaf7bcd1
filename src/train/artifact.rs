//! A trained model as a value: network, weights and everything needed to feed it; and as files.
//!
//! Files of a model folder: `model.safetensors`, `config.json` ([`TftConfig`]), `preprocessing.json`, and
//! `training.json` ([`super::record::TrainRecord`]). An imported model ([`super::exchange`]) may lack the third,
//! and then is no [`TrainedModel`]. `manifest.json` with their digests comes last, see [`crate::model_manifest`]. Reading checks the digests first: a byte that changed is found before anything is
//! parsed.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use crate::dataset::Preprocessing;
use crate::fsx;
use crate::model::{Params, TftConfig};
use crate::model_manifest::{CONFIG_FILE, ModelManifest, PREPROCESSING_FILE, WEIGHTS_FILE};

/// What forecasting needs.
#[derive(Clone, Debug)]
pub struct TrainedModel {
    pub config: TftConfig,
    pub preprocessing: Preprocessing,
    pub params: Params,
}

impl TrainedModel {
    /// Writes weights, config and preprocessing into `dir`, which is still being made: no manifest.
    pub fn write_into(&self, dir: &Path) -> Result<()> {
        write_network(dir, &self.config, &self.preprocessing, &named_weights(&self.params))
    }

    /// Reads the published model folder `dir`, with its weights on `device`.
    ///
    /// - Errors: no manifest, a file that differs from its digest, parts that do not fit together, or
    ///   [`crate::error::Refusal::Usage`]: it was imported without preprocessing.
    pub fn read(dir: &Path, device: &Device) -> Result<Self> {
        let manifest = ModelManifest::read(dir)?;
        manifest.verify(dir)?;
        manifest.ensure_has_preprocessing()?;
        Self::read_files(dir, device)
    }

    /// [`TrainedModel::read`] without a model manifest, for a folder whose digests were checked in another way.
    pub(super) fn read_files(dir: &Path, device: &Device) -> Result<Self> {
        let preprocessing = Preprocessing::read(&dir.join(PREPROCESSING_FILE))?;
        let (config, params) = read_network(dir, device)?;
        Ok(Self { config, preprocessing, params })
    }
}

/// The network alone, without what would feed it.
pub(super) fn read_network(dir: &Path, device: &Device) -> Result<(TftConfig, Params)> {
    let config: TftConfig = fsx::read_json(&dir.join(CONFIG_FILE))?;
    let path = dir.join(WEIGHTS_FILE);
    let params = Params::from_tensors(&config, &read_tensors(&path)?, device)
        .with_context(|| format!("load {}", path.display()))?;
    Ok((config, params))
}

/// The three files that are the same in models and checkpoints.
pub(super) fn write_network(
    dir: &Path,
    config: &TftConfig,
    preprocessing: &Preprocessing,
    weights: &HashMap<String, Tensor>,
) -> Result<()> {
    write_weights(dir, config, weights)?;
    fsx::write_json(&dir.join(PREPROCESSING_FILE), preprocessing)
}

/// The two files of a network alone.
pub(super) fn write_weights(dir: &Path, config: &TftConfig, weights: &HashMap<String, Tensor>) -> Result<()> {
    write_tensors(&dir.join(WEIGHTS_FILE), weights)?;
    fsx::write_json(&dir.join(CONFIG_FILE), config)
}

/// The weights by name, sharing their values.
pub(super) fn named_weights(params: &Params) -> HashMap<String, Tensor> {
    params.iter().map(|(name, values)| (name.to_owned(), values.clone())).collect()
}

/// The sha256 that `model.safetensors` would have.
pub(super) fn weights_sha256(params: &Params) -> Result<String> {
    let bytes = safetensors::serialize(named_weights(params).iter(), None).context("encode the weights")?;
    Ok(fsx::sha256_bytes(&bytes))
}

/// Writes named tensors as safetensors. The same tensors always give the same bytes: there is no metadata, and
/// the format sorts by name.
pub(super) fn write_tensors(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<()> {
    let bytes = safetensors::serialize(tensors.iter(), None).context("encode the tensors")?;
    fsx::write_durable(path, &bytes)
}

/// Reads named tensors to the CPU.
pub(super) fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu).with_context(|| format!("read {}", path.display()))
}
