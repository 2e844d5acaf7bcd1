//! From a finished checkpoint to an immutable model, once.
//!
//! `checkpoints/published.json` names the model that was made last, and of what; it saves a look through all models.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::artifact::{named_weights, weights_sha256, write_network};
use super::checkpoint::{Checkpoint, Ending, State};
use super::lineage::Footing;
use super::record::{self, TrainOutcome, TrainRecord};
use super::tally::{TargetLoss, TargetTally};
use crate::config::Config;
use crate::fsx::{self, FileDigest, StagedDir};
use crate::model_manifest::{self, ID_PREFIX, ModelManifest, TRAINING_FILE};
use crate::site::Site;

const PUBLISHED_FILE: &str = "published.json";

/// Which model was made of which checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub model_id: String,
    pub lineage: String,
    pub weights_sha256: String,
}

impl Published {
    /// The latest note, if there is one.
    pub fn read(checkpoints_dir: &Path) -> Result<Option<Self>> {
        fsx::read_json_if_exists(&checkpoints_dir.join(PUBLISHED_FILE))
    }

    /// Replaces the note.
    pub fn write(&self, checkpoints_dir: &Path) -> Result<()> {
        fsx::write_json(&checkpoints_dir.join(PUBLISHED_FILE), self)
    }

    /// Whether it is about these weights of this lineage.
    pub fn is_of(&self, lineage: &str, weights_sha256: &str) -> bool {
        self.lineage == lineage && self.weights_sha256 == weights_sha256
    }
}

/// Publishes the model of a finished run, or finds it published already.
///
/// Its weights are the mean of the run's weights where there is one ([`super::ema`]), else the weights themselves.
/// The model folder appears whole (staged, manifest last, renamed), then `checkpoints/published.json` names it.
/// A crash in between leaves a model without a note; it is found again by the sha256 of its weights.
pub fn publish(site: &Site, footing: &Footing, now: DateTime<Utc>) -> Result<TrainOutcome> {
    let sha256 = weights_sha256(footing.served())?;
    let lineage = &footing.state.lineage;
    if let Some(dir) = find_published(site, lineage, &sha256)? {
        let outcome = outcome_of(&dir, true)?;
        note(site, &outcome)?;
        return Ok(outcome);
    }
    let record = record_of(footing, &site.config);
    let dir = next_model_dir(&site.models_dir(), now)?;
    let staged = StagedDir::new(&dir)?;
    let weights = named_weights(footing.served());
    write_network(staged.path(), &footing.config, &footing.preprocessing, &weights)?;
    fsx::write_json(&staged.path().join(TRAINING_FILE), &record)?;
    staged
        .publish(|files| manifest_of(&dir, &record, &sha256, files, now))
        .with_context(|| format!("publish {}", dir.display()))?;
    let outcome = outcome_of(&dir, false)?;
    note(site, &outcome)?;
    Ok(outcome)
}

/// The model that was made of `checkpoint`, if one was.
pub fn published(site: &Site, checkpoint: &Checkpoint) -> Result<Option<Published>> {
    let (lineage, sha256) = (&checkpoint.state.lineage, &checkpoint.served_sha256);
    let note = Published::read(&site.checkpoints_dir())?.filter(|note| note.is_of(lineage, sha256));
    Ok(match note {
        Some(note) => Some(note),
        None => match find_published(site, lineage, sha256)? {
            Some(dir) => Some(note_of(&outcome_of(&dir, true)?)),
            None => None,
        },
    })
}

fn note_of(outcome: &TrainOutcome) -> Published {
    Published {
        model_id: outcome.model_id.clone(),
        lineage: outcome.record.lineage.clone(),
        weights_sha256: outcome.weights_sha256.clone(),
    }
}

fn note(site: &Site, outcome: &TrainOutcome) -> Result<()> {
    note_of(outcome).write(&site.checkpoints_dir()).context("note the published model")
}

/// The folder of the model with these weights; folders that are no readable models are passed over.
fn find_published(site: &Site, lineage: &str, sha256: &str) -> Result<Option<PathBuf>> {
    for entry in fsx::list_dir(&site.models_dir())? {
        if !entry.file_name().to_string_lossy().starts_with(ID_PREFIX) {
            continue;
        }
        let dir = entry.path();
        let is_it = |model: ModelManifest| model.lineage == lineage && model.weights_sha256 == sha256;
        if ModelManifest::read(&dir).is_ok_and(is_it) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

/// `tft_model_YYYYMMDD_HHMMSS` in UTC, with `_1`, `_2`, ... where that is taken.
pub(super) fn next_model_dir(models_dir: &Path, now: DateTime<Utc>) -> Result<PathBuf> {
    let stamp = now.format("%Y%m%d_%H%M%S");
    let plain = models_dir.join(format!("{ID_PREFIX}{stamp}"));
    let numbered = (1u32..).map(|n| models_dir.join(format!("{ID_PREFIX}{stamp}_{n}")));
    for dir in std::iter::once(plain).chain(numbered) {
        if !dir.try_exists().with_context(|| format!("look for {}", dir.display()))? {
            return Ok(dir);
        }
    }
    unreachable!("numbers do not run out")
}

fn outcome_of(dir: &Path, reused: bool) -> Result<TrainOutcome> {
    let manifest = ModelManifest::read(dir)?;
    Ok(TrainOutcome {
        model_id: manifest.id,
        model_dir: dir.to_owned(),
        weights_sha256: manifest.weights_sha256,
        reused,
        record: TrainRecord::read(dir)?,
    })
}

fn record_of(footing: &Footing, config: &Config) -> TrainRecord {
    let State { lineage, total_epochs, total_steps, total_batches, ema_steps, seed, parent, .. } =
        &footing.state;
    let State { trained_until, run, .. } = &footing.state;
    let is_partial = run.ended == Some(Ending::Deadline) && run.epoch.batches_done > 0;
    let mut losses = run.losses.clone();
    if is_partial {
        losses.push(run.epoch.loss());
    }
    let n_seen = u64::from(run.epochs_done) * run.n_samples + run.epoch.n_samples;
    TrainRecord {
        format: record::FORMAT,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        lineage: lineage.clone(),
        parent: parent.clone(),
        window_id: run.window_id.clone(),
        run_key: run.key.clone(),
        config_digest: run.config_digest.clone(),
        seed: *seed,
        device: run.device.clone(),
        started_at: run.started_at,
        trained_until: *trained_until,
        total_epochs: *total_epochs,
        total_steps: *total_steps,
        total_batches: *total_batches,
        ema_steps: *ema_steps,
        epochs_run: run.epochs_done,
        optimizer_steps: run.guard.n_applied,
        skipped_steps: run.guard.n_skipped,
        partial_epoch: is_partial.then(|| run.epoch.batches_done as f64 / run.n_batches.max(1) as f64),
        loss_train: losses.last().copied().unwrap_or(0.0),
        losses,
        targets: target_losses(if is_partial { &run.epoch_targets } else { &run.targets }, config),
        stale_scales: run.stale_scales.clone(),
        n_samples: run.n_samples,
        n_new_servers: run.n_new_servers,
        n_servers: footing.preprocessing.vocabulary.servers.len() as u64,
        n_weights: footing.params.n_weights() as u64,
        samples_per_s: n_seen as f64 / run.duration_secs.max(1e-9),
        duration_secs: run.duration_secs,
    }
}

fn target_losses(tallies: &[TargetTally], config: &Config) -> Vec<TargetLoss> {
    let unit = |name: &str| {
        let metric = config.metrics.iter().find(|metric| metric.name == name);
        metric.map(|metric| metric.unit.clone()).unwrap_or_default()
    };
    tallies.iter().map(|tally| tally.losses(unit(&tally.name))).collect()
}

fn manifest_of(
    dir: &Path,
    record: &TrainRecord,
    sha256: &str,
    files: Vec<FileDigest>,
    now: DateTime<Utc>,
) -> ModelManifest {
    let name = dir.file_name().unwrap_or_default();
    ModelManifest {
        format: model_manifest::FORMAT,
        id: name.to_string_lossy().into_owned(),
        created_at: now,
        weights_sha256: sha256.to_owned(),
        files,
        total_epochs: record.total_epochs,
        total_steps: record.total_steps,
        lineage: record.lineage.clone(),
        parent: record.parent.clone(),
        window_id: record.window_id.clone(),
        trained_until: record.trained_until,
        logical_date: record.run_key.as_deref().and_then(|key| key.parse::<NaiveDate>().ok()),
        loss_train: Some(record.loss_train),
        n_samples: record.n_samples,
        optimizer_steps: record.optimizer_steps,
        duration_secs: record.duration_secs,
        partial_epoch: record.partial_epoch,
    }
}
