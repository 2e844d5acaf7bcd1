//! The models of a site: which there are, which one serves, and how that came to be.
//!
//! Weights are opaque, hashed files here; nothing is loaded. Model folders are immutable but for the verdict
//! (`validation.json`) that an exam writes into them. What changes lies beside them: `models/champion.json`
//! (the pointer, [`Champion`]), `models/pins.json` (what pruning spares) and `audit.jsonl` in the log folder
//! ([`AuditLog`]).
//!
//! Invariants: the pointer only ever moves to a model whose bytes match its manifest; it is moved by one
//! atomic replacement; a crash anywhere leaves the old pointer or the new one, and [`Registry::settle`] writes
//! the audit line that is missing.
//!
//! Whoever calls something that changes state holds the site lock (`Site::lock`): a night takes it once for
//! all its stages, so the registry cannot take it again. Readers need no lock.

mod audit;
mod champion;
mod entry;
mod history;
mod model_id;
mod pins;
mod promote;
mod prune;
mod reserve;
mod rollback;
mod verdicts;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::error::{HintExt, Refusal};
use crate::fsx;
use crate::model_manifest::ModelManifest;
use crate::site::Site;

pub use audit::{Act, AuditEntry, AuditFinding, AuditLog, AuditReport, By, Deed, ExamSummary};
pub use champion::{Champion, PREDECESSORS_KEPT, RolledBack};
pub use entry::{ModelDetails, ModelEntry, VerdictSummary};
pub use model_id::ModelId;
pub use pins::Pin;
pub use promote::{PromoteOptions, Promotion};
pub use prune::{Deletion, Kept, PREDECESSORS_SPARED, PrunePlan, Pruned, plan_prune};
pub use rollback::{Rollback, RollbackOptions, Skipped, Verified};
pub use verdicts::{VERDICT_FILE, VerdictState};

/// The models of one site. Cheap to open, holds no state of its own.
#[derive(Clone, Debug)]
pub struct Registry {
    models_dir: PathBuf,
    /// The log of promotions, rollbacks and other acts.
    pub audit: AuditLog,
}

impl Registry {
    /// Opens the models of `site`; creates nothing.
    pub fn open(site: &Site) -> Self {
        Self { models_dir: site.models_dir(), audit: AuditLog::new(site.log_dir()) }
    }

    /// The folder of a model, whether or not it exists.
    pub fn model_dir(&self, id: &ModelId) -> PathBuf {
        self.models_dir.join(id.as_str())
    }

    fn pointer_path(&self) -> PathBuf {
        self.models_dir.join("champion.json")
    }

    /// Every model folder, newest first, whole or not.
    pub fn ids(&self) -> Result<Vec<ModelId>> {
        let mut ids = Vec::new();
        for entry in fsx::list_dir(&self.models_dir)? {
            let id = ModelId::parse(&entry.file_name().to_string_lossy());
            ids.extend(id.ok().filter(|_| entry.path().is_dir()));
        }
        ids.sort_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// What a person means by `text`: an id, `latest`, `champion` or `previous`.
    ///
    /// - Errors: [`Refusal::Usage`] where there is no such model, with the nearest id.
    pub fn resolve(&self, text: &str) -> Result<ModelId> {
        let none = |what: &str| Refusal::usage(format!("there is no {what} yet"));
        match text {
            "latest" => self.ids()?.into_iter().next().ok_or_else(|| none("model")),
            "champion" => Ok(self.pointer()?.ok_or_else(|| none("champion"))?.model_id),
            "previous" => {
                let previous = self.pointer()?.and_then(|champion| champion.previous);
                previous.ok_or_else(|| none("previous champion"))
            }
            _ => {
                let id = ModelId::parse(text)?;
                self.ensure_exists(&id)?;
                Ok(id)
            }
        }
    }

    /// Checks every byte of a model against its manifest.
    ///
    /// - Errors: the model does not exist ([`Refusal::Usage`]), or a file is missing or differs.
    pub fn verify_model(&self, id: &ModelId) -> Result<ModelManifest> {
        self.ensure_exists(id)?;
        let dir = self.model_dir(id);
        let manifest = ModelManifest::read(&dir)?;
        manifest.verify(&dir)?;
        Ok(manifest)
    }

    /// Verifies the audit log, and that the pointer is where the log says.
    pub fn verify_audit(&self) -> Result<AuditReport> {
        let mut report = self.audit.verify()?;
        report.findings.extend(self.pointer_finding()?);
        Ok(report)
    }

    /// A pointer one move ahead of the log is no finding: the next command writes that line.
    fn pointer_finding(&self) -> Result<Option<AuditFinding>> {
        let moves = self.audit.moves()?;
        let last = champion::last_generation(&moves);
        let subject = moves.last().map(|entry| entry.deed.subject.as_str());
        let problem = match (self.pointer()?, subject) {
            (None, None) => return Ok(None),
            (None, Some(_)) => "models/champion.json is gone".to_owned(),
            (Some(champion), _) if champion.generation < last => format!(
                "models/champion.json is that of move {}, the log's last is {last} (restored from a backup?)",
                champion.generation
            ),
            (Some(champion), _) if champion.generation > last + 1 => format!(
                "models/champion.json is that of move {}, the log ends with {last}: lines are missing",
                champion.generation
            ),
            (Some(champion), Some(subject))
                if champion.generation == last && champion.model_id.as_str() != subject =>
            {
                format!("models/champion.json names {}, the log {subject}", champion.model_id)
            }
            (Some(_), _) => return Ok(None),
        };
        Ok(Some(AuditFinding { line: None, problem }))
    }

    fn ensure_exists(&self, id: &ModelId) -> Result<()> {
        let dir = self.model_dir(id);
        if dir.try_exists().with_context(|| format!("look for {}", dir.display()))? {
            return Ok(());
        }
        let ids = self.ids()?;
        let likeness = |other: &ModelId| strsim::osa_distance(other.as_str(), id.as_str());
        let nearest = ids.iter().min_by_key(|other| likeness(other));
        Err(Refusal::usage(format!("there is no model {id}"))).hint(|| match nearest {
            Some(nearest) => format!("did you mean {nearest}? `tftctl models list` names them all"),
            None => "`tftctl train` makes the first one".into(),
        })
    }
}
