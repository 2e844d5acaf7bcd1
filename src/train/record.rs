//! What a training says about itself: `training.json` beside the weights, and the outcome told to the caller.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::tally::TargetLoss;
use crate::dataset::drift::StaleScales;
use crate::fsx;
use crate::model_manifest::TRAINING_FILE;

/// The newest `training.json` written here.
pub const FORMAT: u32 = 1;

/// How one set of weights came to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    pub format: u32,
    pub program_version: String,
    /// Names the chain of checkpoints.
    pub lineage: String,
    /// The model these weights were continued from.
    pub parent: Option<String>,
    pub window_id: String,
    /// What the caller named the run, usually a logical date.
    pub run_key: Option<String>,
    /// Digest of every setting that changes what is learned.
    pub config_digest: String,
    pub seed: u64,
    /// What it was trained on, such as `cpu: as asked`.
    pub device: String,
    pub started_at: DateTime<Utc>,
    /// End of the newest training target of the lineage.
    pub trained_until: DateTime<Utc>,
    /// Epochs, optimizer steps and batches of the lineage.
    pub total_epochs: u64,
    pub total_steps: u64,
    pub total_batches: u64,
    /// Steps behind the mean that the weights are ([`super::ema`]); 0: they are the trained ones themselves.
    #[serde(default)]
    pub ema_steps: u64,
    /// Whole epochs of this run.
    pub epochs_run: u32,
    /// Optimizer steps of this run.
    pub optimizer_steps: u64,
    /// Steps of this run left out because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Share of the last epoch that was trained, where time ran out in it.
    pub partial_epoch: Option<f64>,
    /// Mean training loss (pinball, scaled units, weighted mean over targets) of each epoch; the partial one last.
    pub losses: Vec<f64>,
    /// The last of `losses`.
    pub loss_train: f64,
    /// Each target's part in the last epoch, scaled and in its own unit; empty where an older program trained it.
    #[serde(default)]
    pub targets: Vec<TargetLoss>,
    /// Series that had left the lineage's frozen scales when the run began.
    #[serde(default)]
    pub stale_scales: StaleScales,
    /// Samples in one epoch.
    pub n_samples: u64,
    /// Servers that joined the vocabulary in this run.
    pub n_new_servers: u64,
    pub n_servers: u64,
    pub n_weights: u64,
    /// Of this process; a run that was interrupted took longer.
    pub samples_per_s: f64,
    /// Of all processes of this run.
    pub duration_secs: f64,
}

impl TrainRecord {
    /// Reads the record of a model folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(TRAINING_FILE);
        fsx::read_versioned(&path, FORMAT)?.with_context(|| format!("find {}", path.display()))
    }
}

/// What [`super::train`] did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainOutcome {
    pub model_id: String,
    pub model_dir: PathBuf,
    pub weights_sha256: String,
    /// Whether the model was there already: this very run had published it before.
    pub reused: bool,
    #[serde(flatten)]
    pub record: TrainRecord,
}
