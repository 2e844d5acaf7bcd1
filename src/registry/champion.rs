//! `models/champion.json`: the one small file that says which model serves.
//!
//! It is replaced whole, last, and atomically: a reader sees the old model or the new one. Everything a
//! rollback needs is in it (the line of predecessors, the models that were left), so that going back neither
//! reads the audit log nor writes into model folders.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::audit::{Act, AuditEntry, By, Deed, ExamSummary};
use super::model_id::ModelId;
use super::{Registry, reserve};
use crate::error::HintExt;
use crate::fsx;
use crate::model_manifest::ModelManifest;

/// The newest pointer format this program writes, and reads.
pub const FORMAT: u32 = 1;
/// Predecessors remembered in the pointer.
pub const PREDECESSORS_KEPT: usize = 30;

/// The model in service, and the way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Champion {
    pub format: u32,
    pub model_id: ModelId,
    /// The very bytes that serve.
    pub weights_sha256: String,
    /// Where `rollback` goes.
    pub previous: Option<ModelId>,
    /// The champions before `previous`, newest first.
    #[serde(default)]
    pub earlier: Vec<ModelId>,
    /// When the pointer moved here.
    pub promoted_at: DateTime<Utc>,
    pub reason: String,
    /// [`Act::Promote`] or [`Act::Rollback`].
    pub act: Act,
    pub by: By,
    /// Whether it serves against the exam's word.
    pub forced: bool,
    /// Counts the pointer's moves.
    pub generation: u64,
    /// What the exam said, if it was promoted on an exam.
    #[serde(default)]
    pub exam: Option<ExamSummary>,
    /// Models that a rollback left: never promoted again by themselves.
    #[serde(default)]
    pub rolled_back: Vec<RolledBack>,
}

/// A model that was in service and was left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolledBack {
    pub model_id: ModelId,
    pub at: DateTime<Utc>,
    pub reason: String,
}

impl Champion {
    /// Whether it is this model, with these very bytes.
    pub fn serves(&self, id: &ModelId, weights_sha256: &str) -> bool {
        self.model_id == *id && self.weights_sha256 == weights_sha256
    }

    /// The champions before this one, newest first.
    pub fn predecessors(&self) -> impl Iterator<Item = &ModelId> {
        self.previous.iter().chain(&self.earlier)
    }

    /// The mark of a model that was rolled back from, if it bears one.
    pub fn mark_of(&self, id: &ModelId) -> Option<&RolledBack> {
        self.rolled_back.iter().find(|mark| mark.model_id == *id)
    }

    /// The audit line of the move that made this pointer.
    pub(super) fn deed(&self, left: Option<&ModelId>) -> Deed {
        Deed {
            forced: self.forced,
            generation: Some(self.generation),
            previous: left.map(ModelId::to_string),
            weights_sha256: Some(self.weights_sha256.clone()),
            exam: self.exam.clone(),
            ..Deed::new(self.act, self.model_id.as_str(), self.by, &self.reason, self.promoted_at)
        }
    }
}

impl Registry {
    /// The model in service, checked to be there with the bytes the pointer names (by manifest and lengths:
    /// the reader that loads it checks every byte).
    ///
    /// - Errors: the pointer cannot be read, or names a model that is missing or damaged; the hint says how
    ///   to put another into service.
    pub fn champion(&self) -> Result<Option<Champion>> {
        let Some(champion) = self.pointer()? else { return Ok(None) };
        self.ensure_serves(&champion)
            .with_context(|| format!("read the champion {}", champion.model_id))
            .hint(|| match &champion.previous {
                Some(previous) => format!("`tftctl rollback` goes back to {previous}"),
                None => {
                    "`tftctl models list` shows what else could serve; `tftctl promote ID` does it".into()
                }
            })?;
        Ok(Some(champion))
    }

    /// What the pointer says, whether or not that model is still whole.
    ///
    /// - Errors: the file cannot be read, or a newer program wrote it.
    pub fn pointer(&self) -> Result<Option<Champion>> {
        fsx::read_versioned(&self.pointer_path(), FORMAT).hint(|| {
            "move models/champion.json aside; `tftctl rollback --to ID` writes it anew (the last lines of \
             audit.jsonl in the log folder name the champions)"
                .into()
        })
    }

    fn ensure_serves(&self, champion: &Champion) -> Result<()> {
        let dir = self.model_dir(&champion.model_id);
        let manifest = ModelManifest::read(&dir)?;
        manifest.verify_lengths(&dir)?;
        ensure!(
            manifest.weights_sha256 == champion.weights_sha256,
            "{} now holds other weights than those that were promoted",
            dir.display()
        );
        Ok(())
    }

    /// Moves the pointer (the one step that changes what serves), then writes the audit line.
    ///
    /// Returns what is worth telling: a line that could not be written does not undo the move; the next
    /// command writes it.
    pub(super) fn move_pointer(&self, champion: &Champion, left: Option<&ModelId>) -> Result<Vec<String>> {
        reserve::write_pointer(&self.models_dir, &self.pointer_path(), champion)?;
        let mut notes = Vec::new();
        if let Err(error) = self.audit.append(champion.deed(left)) {
            notes
                .push(format!("the audit line is still to be written (the next command does it): {error:#}"));
        }
        reserve::replenish(&self.models_dir);
        Ok(notes)
    }

    /// Makes the pointer durable that is there: whoever replaced it may have died before that.
    pub(super) fn sync_pointer(&self) -> Result<()> {
        fsx::sync_dir(&self.models_dir)
    }

    /// Finishes what a stopped command left undone, and says what that was.
    ///
    /// A pointer that is one or more moves ahead of the audit log gets its line, marked `recovered`.
    /// Idempotent; `promote`, `rollback`, `pin` and `prune` call it first.
    pub fn settle(&self) -> Result<Vec<String>> {
        let Some(champion) = self.pointer()? else { return Ok(Vec::new()) };
        let moves = self.audit.moves()?;
        let last = last_generation(&moves);
        if last >= champion.generation {
            return Ok(Vec::new());
        }
        self.sync_pointer()?;
        let left = match champion.act {
            Act::Rollback => champion.rolled_back.last().map(|mark| &mark.model_id),
            _ => champion.previous.as_ref(),
        };
        self.audit.append(Deed { recovered: true, ..champion.deed(left) })?;
        Ok(vec![format!(
            "wrote the audit line of the move to {}, which a stopped command had left out",
            champion.model_id
        )])
    }

    /// [`Registry::settle`] for commands that must not fail over it.
    pub(super) fn settle_or_note(&self) -> Vec<String> {
        self.settle().unwrap_or_else(|error| vec![format!("the audit log is behind: {error:#}")])
    }

    /// The number of the pointer's next move; a log that cannot be read does not stop a move.
    pub(super) fn next_generation(&self, pointer: Option<&Champion>) -> u64 {
        let logged = self.audit.moves().map_or(0, |moves| last_generation(&moves));
        pointer.map_or(0, |champion| champion.generation).max(logged) + 1
    }

    /// Marks that still matter: those of models that still exist.
    pub(super) fn living_marks(&self, pointer: Option<&Champion>) -> Vec<RolledBack> {
        let marks = pointer.map(|champion| champion.rolled_back.as_slice()).unwrap_or_default();
        // A folder that cannot be looked at may be there: its mark stays.
        let lives = |mark: &&RolledBack| self.model_dir(&mark.model_id).try_exists().unwrap_or(true);
        marks.iter().filter(lives).cloned().collect()
    }
}

pub(super) fn last_generation(moves: &[AuditEntry]) -> u64 {
    moves.iter().filter_map(|entry| entry.deed.generation).max().unwrap_or(0)
}
