//! What a model folder says about itself: `manifest.json`, written last by training and read by whoever
//! serves, examines, promotes or prunes.
//!
//! `models/tft_model_YYYYMMDD_HHMMSS[_n]/` holds the files named here. The manifest carries the sha256 of each
//! of them; a folder without a manifest is unfinished work, not a model. It is plain data: neither what the
//! weights mean nor who is champion is known here.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::fsx::{self, FileDigest, MANIFEST};

/// The newest manifest format this program writes, and reads.
pub const FORMAT: u32 = 1;
/// What the names of model folders begin with.
pub const ID_PREFIX: &str = "tft_model_";
/// The network's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The network's shape.
pub const CONFIG_FILE: &str = "config.json";
/// Vocabulary, scalers and lengths: what turns a grid into the network's inputs. An imported network may come without.
pub const PREPROCESSING_FILE: &str = "preprocessing.json";
/// How the weights came to be.
pub const TRAINING_FILE: &str = "training.json";

/// `manifest.json` of a model folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelManifest {
    /// [`FORMAT`] when it was written.
    pub format: u32,
    /// The folder's name.
    pub id: String,
    pub created_at: DateTime<Utc>,
    /// sha256 of [`WEIGHTS_FILE`]: what a verdict and the champion pointer are bound to.
    pub weights_sha256: String,
    /// Every published file but the manifest itself.
    pub files: Vec<FileDigest>,
    /// Epochs of the whole lineage up to this model.
    pub total_epochs: u64,
    /// Optimizer steps of the whole lineage up to this model.
    pub total_steps: u64,
    /// Names the chain of checkpoints this model belongs to.
    pub lineage: String,
    /// The model or checkpoint this one was continued from.
    pub parent: Option<String>,
    /// The window it was trained on; empty for an imported one.
    pub window_id: String,
    /// End of the newest training target of the whole lineage: an exam must lie after it.
    pub trained_until: DateTime<Utc>,
    /// The night it was trained for, if a night did it.
    pub logical_date: Option<NaiveDate>,
    /// Mean training loss of the last epoch, in scaled units; none where an import does not know it.
    pub loss_train: Option<f64>,
    /// Samples of one epoch.
    pub n_samples: u64,
    /// Optimizer steps of this training.
    pub optimizer_steps: u64,
    pub duration_secs: f64,
    /// Share of an epoch that was left unfinished when time ran out; recorded, not counted in `total_epochs`.
    pub partial_epoch: Option<f64>,
}

impl ModelManifest {
    /// Reads the manifest of the model folder `dir`.
    ///
    /// - Errors: it is missing (an unfinished model), was written by a newer program, names files outside its
    ///   folder, or contradicts itself. Files are not opened: see [`ModelManifest::verify`].
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let found: Option<Self> = fsx::read_versioned(&path, FORMAT)?;
        let manifest = found.with_context(|| format!("find {}", path.display()))?;
        manifest.ensure_consistent(dir).with_context(|| format!("check {}", path.display()))?;
        Ok(manifest)
    }

    /// Writes the manifest into `dir`, where no staged folder does it (an import, a test).
    pub fn write(&self, dir: &Path) -> Result<()> {
        fsx::write_json(&dir.join(MANIFEST), self)
    }

    /// The sha256 of the weights among `files`.
    ///
    /// - Errors: there are no weights among them.
    pub fn weights_digest(files: &[FileDigest]) -> Result<String> {
        let weights = files.iter().find(|file| file.name == WEIGHTS_FILE);
        Ok(weights.with_context(|| format!("find {WEIGHTS_FILE} among the published files"))?.sha256.clone())
    }

    /// Checks every byte of the folder against the manifest.
    ///
    /// - Errors: a file is missing or differs; it is named.
    pub fn verify(&self, dir: &Path) -> Result<()> {
        fsx::verify_digests(dir, &self.files)
    }

    /// Checks presence and length of every file: milliseconds however large the weights are.
    ///
    /// - Errors: a file is missing or has another length; it is named. A changed byte goes unnoticed.
    pub fn verify_lengths(&self, dir: &Path) -> Result<()> {
        for file in &self.files {
            let path = dir.join(&file.name);
            let bytes = path.metadata().with_context(|| format!("read {}", path.display()))?.len();
            ensure!(
                bytes == file.bytes,
                "{} has {bytes} bytes, published were {}",
                path.display(),
                file.bytes
            );
        }
        Ok(())
    }

    /// Whether the model knows how to make its inputs from metrics.
    pub fn has_preprocessing(&self) -> bool {
        self.files.iter().any(|file| file.name == PREPROCESSING_FILE)
    }

    /// Checks that the model can be fed.
    ///
    /// - Errors: [`Refusal::Usage`]: it was imported without vocabulary and scalers.
    pub fn ensure_has_preprocessing(&self) -> Result<()> {
        if self.has_preprocessing() {
            return Ok(());
        }
        Err(Refusal::usage(format!(
            "{} was imported without vocabulary and scalers ({PREPROCESSING_FILE}): it can be shown and exported, but \
             not examined, promoted, forecast with or trained from",
            self.id
        )))
    }

    /// Bytes of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn ensure_consistent(&self, dir: &Path) -> Result<()> {
        let folder = dir.file_name().unwrap_or_default().to_string_lossy();
        ensure!(self.id == folder, "it is the manifest of {}, not of {folder}", self.id);
        for file in &self.files {
            let mut parts = Path::new(&file.name).components();
            let is_plain = matches!(parts.next(), Some(std::path::Component::Normal(_)));
            ensure!(is_plain && parts.next().is_none(), "`{}` is no plain file name", file.name);
        }
        let listed = Self::weights_digest(&self.files)?;
        ensure!(listed == self.weights_sha256, "weights_sha256 is not that of its {WEIGHTS_FILE}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn published(root: &Path) -> (std::path::PathBuf, ModelManifest) {
        let dir = root.join("tft_model_20260102_020000");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(WEIGHTS_FILE), b"weights").unwrap();
        let files = fsx::digest_dir(&dir).unwrap();
        let manifest = ModelManifest {
            format: FORMAT,
            id: "tft_model_20260102_020000".into(),
            created_at: DateTime::from_timestamp(1_767_319_200, 0).unwrap(),
            weights_sha256: ModelManifest::weights_digest(&files).unwrap(),
            files,
            total_epochs: 3,
            total_steps: 300,
            lineage: "l".into(),
            parent: None,
            window_id: "w".into(),
            trained_until: DateTime::UNIX_EPOCH,
            logical_date: None,
            loss_train: Some(0.25),
            n_samples: 10,
            optimizer_steps: 100,
            duration_secs: 1.5,
            partial_epoch: None,
        };
        (dir, manifest)
    }

    #[test]
    fn a_manifest_reads_back_and_notices_a_changed_byte() {
        let root = tempfile::tempdir().unwrap();
        let (dir, manifest) = published(root.path());
        manifest.write(&dir).unwrap();
        assert_eq!(ModelManifest::read(&dir).unwrap(), manifest);
        manifest.verify(&dir).unwrap();
        fs::write(dir.join(WEIGHTS_FILE), b"weightz").unwrap();
        manifest.verify_lengths(&dir).unwrap();
        assert!(manifest.verify(&dir).is_err());
        fs::write(dir.join(WEIGHTS_FILE), b"weight").unwrap();
        assert!(manifest.verify_lengths(&dir).is_err());
    }

    #[test]
    fn a_model_that_cannot_be_fed_says_so() {
        let root = tempfile::tempdir().unwrap();
        let (dir, mut manifest) = published(root.path());
        let error = manifest.ensure_has_preprocessing().unwrap_err();
        assert_eq!(crate::error::Exit::of(&error), crate::error::Exit::Usage);
        assert!(error.to_string().starts_with("tft_model_20260102_020000 was imported without vocabulary"));
        fs::write(dir.join(PREPROCESSING_FILE), b"{}").unwrap();
        manifest.files = fsx::digest_dir(&dir).unwrap();
        manifest.ensure_has_preprocessing().unwrap();
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut ModelManifest), expected: &str) {
        let root = tempfile::tempdir().unwrap();
        let (dir, mut manifest) = published(root.path());
        change(&mut manifest);
        manifest.write(&dir).unwrap();
        let message = format!("{:#}", ModelManifest::read(&dir).unwrap_err());
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
    }

    #[test]
    fn a_manifest_that_cannot_be_is_refused() {
        refused(|manifest| manifest.format = FORMAT + 1, "a newer one wrote it");
        refused(|manifest| manifest.id = "tft_model_20260103_020000".into(), "not of tft_model_20260102");
        refused(|manifest| manifest.weights_sha256 = "00".into(), "weights_sha256");
        refused(|manifest| manifest.files[0].name = "../model.safetensors".into(), "no plain file name");
        refused(|manifest| manifest.files.clear(), WEIGHTS_FILE);
    }
}
