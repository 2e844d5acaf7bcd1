//! `rollback`: back to a model that served before, in milliseconds, copying nothing.
//!
//! Only the pointer is written, and it carries the mark of the model that was left. Candidates are checked by
//! manifest and lengths; folders of up to [`HASHED_UP_TO_BYTES`] (every usual model) are hashed as well, which
//! takes a few more milliseconds. Larger ones are hashed on request only: the reader that loads them checks
//! every byte anyway.

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::audit::{Act, By};
use super::champion::{Champion, FORMAT, RolledBack};
use super::{ModelId, Registry};
use crate::error::{HintExt, Refusal};
use crate::model_manifest::ModelManifest;

/// Models up to this size are hashed before the pointer goes back to them.
const HASHED_UP_TO_BYTES: u64 = 32 << 20;

/// How to go back.
#[derive(Clone, Debug)]
pub struct RollbackOptions {
    /// The model to go back to; none takes the newest predecessor that is whole and was not left before.
    pub to: Option<ModelId>,
    pub reason: String,
    pub by: By,
    /// Hash the model whatever its size.
    pub verify_bytes: bool,
}

/// What a rollback did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rollback {
    pub champion: Champion,
    /// The model that was left and marked; none where there was no pointer, or it was there already.
    pub left: Option<ModelId>,
    /// The model asked for served already; nothing was done.
    pub was_champion: bool,
    /// Predecessors that could not serve.
    pub skipped: Vec<Skipped>,
    pub verified: Verified,
    /// Repairs of earlier crashes, and what could not be written.
    pub notes: Vec<String>,
}

/// A predecessor that was passed over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skipped {
    pub model_id: ModelId,
    pub reason: String,
}

/// How far the new champion was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// Every byte was hashed.
    Bytes,
    /// Manifest and file lengths.
    Lengths,
}

/// A model the pointer may go back to.
struct Candidate {
    id: ModelId,
    weights_sha256: String,
    verified: Verified,
}

impl Registry {
    /// Puts an earlier champion back into service and marks the one it leaves.
    ///
    /// Going back again walks further back. A marked model is not promoted again unless forced. Works on a full
    /// disk: at most one small file is replaced, from room set aside for it.
    ///
    /// - Errors: there is nothing to go back to; or `to` never served, is damaged, or was itself rolled back
    ///   ([`Refusal::Usage`] where another command is meant). The pointer is then untouched.
    pub fn rollback(&self, options: &RollbackOptions, now: DateTime<Utc>) -> Result<Rollback> {
        let mut notes = self.settle_or_note();
        let pointer = self.pointer()?;
        let mut skipped = Vec::new();
        let candidate = match &options.to {
            Some(id) => self.named_candidate(id, pointer.as_ref(), options.verify_bytes)?,
            None => self.nearest_candidate(pointer.as_ref(), options.verify_bytes, &mut skipped)?,
        };
        let verified = candidate.verified;
        if let Some(champion) = pointer.clone().filter(|champion| champion.model_id == candidate.id) {
            self.sync_pointer()?;
            return Ok(Rollback { champion, left: None, was_champion: true, skipped, verified, notes });
        }
        let champion = self.champion_again(candidate, pointer.as_ref(), options, now);
        let left = pointer.map(|pointer| pointer.model_id);
        notes.extend(self.move_pointer(&champion, left.as_ref())?);
        Ok(Rollback { champion, left, was_champion: false, skipped, verified, notes })
    }

    fn nearest_candidate(
        &self,
        pointer: Option<&Champion>,
        verify_bytes: bool,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Candidate> {
        let Some(pointer) = pointer else {
            return Err(Refusal::usage("there is no champion to leave")).hint(|| {
                "`tftctl rollback --to ID` puts a model that served before back into service".into()
            });
        };
        for id in pointer.predecessors() {
            match self.candidate(id, Some(pointer), verify_bytes) {
                Ok(candidate) => return Ok(candidate),
                Err(error) => skipped.push(Skipped { model_id: id.clone(), reason: format!("{error:#}") }),
            }
        }
        let tried: Vec<String> =
            skipped.iter().map(|one| format!("{}: {}", one.model_id, one.reason)).collect();
        let nothing = format!("there is nothing to go back to from {}", pointer.model_id);
        let message = if tried.is_empty() { nothing } else { format!("{nothing} ({})", tried.join("; ")) };
        Err(anyhow::anyhow!(message))
            .hint(|| {
                "`tftctl validate ID`, then `tftctl promote ID`, puts another model into service (`--force --reason \
                 \"...\"` overrules the exam)"
                    .into()
            })
    }

    fn named_candidate(
        &self,
        id: &ModelId,
        pointer: Option<&Champion>,
        verify_bytes: bool,
    ) -> Result<Candidate> {
        self.ensure_exists(id)?;
        let in_line = pointer.is_some_and(|pointer| {
            pointer.model_id == *id || pointer.predecessors().any(|predecessor| predecessor == id)
        });
        let has_served = in_line || self.audit.moves()?.iter().any(|act| act.deed.subject == id.as_str());
        if !has_served {
            return Err(Refusal::usage(format!("{id} never served, so there is no going back to it")))
                .hint(|| format!("`tftctl promote {id}` puts it into service, on a passing verdict"));
        }
        self.candidate(id, pointer, verify_bytes).hint(|| {
            "`tftctl models list` shows the others; `tftctl promote ID --force --reason \"...\"` overrules a mark"
                .into()
        })
    }

    fn candidate(&self, id: &ModelId, pointer: Option<&Champion>, verify_bytes: bool) -> Result<Candidate> {
        if let Some(mark) = pointer.and_then(|pointer| pointer.mark_of(id)) {
            let at = mark.at.format("%Y-%m-%dT%H:%M:%SZ");
            anyhow::bail!("{id} was itself rolled back at {at} ({})", mark.reason);
        }
        let dir = self.model_dir(id);
        ensure!(dir.is_dir(), "{} was deleted", dir.display());
        let manifest = ModelManifest::read(&dir)?;
        manifest.verify_lengths(&dir)?;
        let is_hashed = verify_bytes || manifest.size_bytes() <= HASHED_UP_TO_BYTES;
        if is_hashed {
            manifest.verify(&dir)?;
        }
        let verified = if is_hashed { Verified::Bytes } else { Verified::Lengths };
        Ok(Candidate { id: id.clone(), weights_sha256: manifest.weights_sha256, verified })
    }

    fn champion_again(
        &self,
        candidate: Candidate,
        pointer: Option<&Champion>,
        options: &RollbackOptions,
        now: DateTime<Utc>,
    ) -> Champion {
        let line: Vec<ModelId> = pointer.iter().flat_map(|pointer| pointer.predecessors()).cloned().collect();
        let at = line.iter().position(|id| *id == candidate.id);
        let before = at.map_or(&line[..], |at| &line[at + 1..]);
        let mut rolled_back = self.living_marks(pointer);
        if let Some(left) = pointer {
            rolled_back.push(RolledBack {
                model_id: left.model_id.clone(),
                at: now,
                reason: options.reason.clone(),
            });
        }
        Champion {
            format: FORMAT,
            model_id: candidate.id,
            weights_sha256: candidate.weights_sha256,
            previous: before.first().cloned(),
            earlier: before.get(1..).unwrap_or_default().to_vec(),
            promoted_at: now,
            reason: options.reason.clone(),
            act: Act::Rollback,
            by: options.by,
            forced: false,
            generation: self.next_generation(pointer),
            exam: None,
            rolled_back,
        }
    }
}
