//! What can be told about each model without loading it; a damaged one is told as damaged.

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::audit::AuditEntry;
use super::champion::{Champion, RolledBack};
use super::pins::Pin;
use super::verdicts::VerdictState;
use super::{ModelId, Registry};
use crate::fsx;
use crate::model_manifest::{ModelManifest, TRAINING_FILE};
use crate::validate::{Outcome, Verdict};

/// One line of `models list`.
#[derive(Clone, Debug, Serialize)]
pub struct ModelEntry {
    pub id: ModelId,
    /// None where it cannot be read: see `damage`.
    pub manifest: Option<ModelManifest>,
    /// What is wrong with the folder, as far as manifest and lengths tell (`models verify` reads every byte).
    pub damage: Option<String>,
    /// What the exam said of the bytes in the manifest.
    pub verdict: Option<VerdictSummary>,
    pub is_champion: bool,
    /// Whether `rollback` goes here.
    pub is_previous: bool,
    pub pin: Option<Pin>,
    /// Set if a rollback left this model.
    pub rolled_back: Option<RolledBack>,
    pub size_bytes: u64,
}

/// A verdict in a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerdictSummary {
    pub outcome: Outcome,
    pub judged_at: DateTime<Utc>,
    pub loss: Option<f64>,
    pub ratio: Option<f64>,
    /// Whether its quality checks were waived.
    pub waived: bool,
}

impl From<&Verdict> for VerdictSummary {
    fn from(verdict: &Verdict) -> Self {
        Self {
            outcome: verdict.outcome,
            judged_at: verdict.judged_at,
            loss: verdict.loss,
            ratio: verdict.ratio,
            waived: verdict.waived,
        }
    }
}

/// Everything `models show` tells.
#[derive(Clone, Debug, Serialize)]
pub struct ModelDetails {
    pub entry: ModelEntry,
    /// The verdict, if it counts for the bytes that are there now, else why not.
    pub verdict: VerdictState,
    /// `training.json` as training wrote it.
    pub training: Option<serde_json::Value>,
    /// Its lines in the audit log.
    pub acts: Vec<AuditEntry>,
}

impl Registry {
    /// Every model, newest first. A damaged folder is listed as damaged and hides no other.
    ///
    /// - Errors: the folder, the pointer or the pins cannot be read.
    pub fn list(&self) -> Result<Vec<ModelEntry>> {
        let champion = self.pointer()?;
        let pins = self.pins()?;
        Ok(self.ids()?.into_iter().map(|id| self.entry(id, champion.as_ref(), &pins)).collect())
    }

    /// Everything about one model; reads every byte of it.
    ///
    /// - Errors: there is no such model.
    pub fn show(&self, id: &ModelId) -> Result<ModelDetails> {
        self.ensure_exists(id)?;
        let mut entry = self.entry(id.clone(), self.pointer()?.as_ref(), &self.pins()?);
        if entry.damage.is_none() {
            entry.damage = self.verify_model(id).err().map(|error| format!("{error:#}"));
        }
        let mut acts = self.audit.entries()?;
        acts.retain(|act| {
            act.deed.subject == id.as_str() || act.deed.previous.as_deref() == Some(id.as_str())
        });
        let training = fsx::read_json_if_exists(&self.model_dir(id).join(TRAINING_FILE)).unwrap_or_default();
        Ok(ModelDetails { entry, verdict: self.verdict_for(id)?, training, acts })
    }

    fn entry(&self, id: ModelId, champion: Option<&Champion>, pins: &[Pin]) -> ModelEntry {
        let dir = self.model_dir(&id);
        let manifest = ModelManifest::read(&dir);
        let damage = match &manifest {
            Ok(manifest) => manifest.verify_lengths(&dir).err(),
            Err(_) => None,
        };
        let (manifest, damage) = match manifest {
            Ok(manifest) => (Some(manifest), damage.map(|error| format!("{error:#}"))),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        ModelEntry {
            verdict: manifest.as_ref().and_then(|manifest| self.summary(&id, manifest)),
            is_champion: champion.is_some_and(|champion| champion.model_id == id),
            is_previous: champion.is_some_and(|champion| champion.previous.as_ref() == Some(&id)),
            pin: pins.iter().find(|pin| pin.model_id == id).cloned(),
            rolled_back: champion.and_then(|champion| champion.mark_of(&id)).cloned(),
            size_bytes: manifest.as_ref().map_or(0, ModelManifest::size_bytes),
            manifest,
            damage,
            id,
        }
    }

    /// The stored verdict, if it is about the weights the manifest names.
    fn summary(&self, id: &ModelId, manifest: &ModelManifest) -> Option<VerdictSummary> {
        let verdict = self.read_verdict(id).ok()??;
        (verdict.weights_sha256 == manifest.weights_sha256).then(|| VerdictSummary::from(&verdict))
    }
}
