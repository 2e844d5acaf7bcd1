//! Which models to delete, and deleting them: the plan is pure, the deed two-phased.
//!
//! A folder is first renamed to a `.pruned-` name (it is gone for every reader), then its audit line is
//! written, then it is deleted. A crash in between leaves a folder set aside, never half a model: the next
//! pruning writes the line that is missing and deletes it. The name is not a `.staging-` one: whoever sweeps
//! those would delete the folder before its line is written.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::audit::{Act, By, Deed};
use super::champion::Champion;
use super::entry::ModelEntry;
use super::{ModelId, Registry};
use crate::fsx::{self, disk};

/// Predecessors of the champion that are never pruned.
pub const PREDECESSORS_SPARED: usize = 5;

/// What the name of a folder begins with once it is set aside.
const SET_ASIDE: &str = ".pruned-";

/// What would be kept and deleted, with reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrunePlan {
    pub keep: Vec<Kept>,
    pub delete: Vec<Deletion>,
}

/// A model that stays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kept {
    pub model_id: ModelId,
    pub reasons: Vec<String>,
}

/// A model that goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deletion {
    pub model_id: ModelId,
    pub reason: String,
    pub size_bytes: u64,
}

/// What a pruning did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pruned {
    pub deleted: Vec<Deletion>,
    pub freed_bytes: u64,
    /// Repairs of earlier crashes, and what could not be deleted.
    pub notes: Vec<String>,
}

/// Decides which of `entries` (newest first, as listed) to delete; touches nothing.
///
/// Kept are the champion, its nearest [`PREDECESSORS_SPARED`] predecessors, pinned models, models dated after
/// `now` (a clock went wrong), and the newest `n_newest` whole ones, at least one. A damaged model is kept for
/// inspection as long as fewer than that many whole ones are newer.
pub fn plan_prune(
    entries: &[ModelEntry],
    champion: Option<&Champion>,
    n_newest: usize,
    now: DateTime<Utc>,
) -> PrunePlan {
    let n_newest = n_newest.max(1);
    let mut plan = PrunePlan { keep: Vec::new(), delete: Vec::new() };
    let mut n_whole = 0;
    for entry in entries {
        let is_recent = n_whole < n_newest;
        n_whole += usize::from(entry.damage.is_none());
        let mut reasons = merits(entry, champion, now);
        if is_recent {
            reasons.push(match &entry.damage {
                None => format!("one of the newest {n_newest}"),
                Some(damage) => format!("damaged, and recent enough to look into: {damage}"),
            });
        }
        let model_id = entry.id.clone();
        if reasons.is_empty() {
            let reason = format!("{n_newest} newer models are kept");
            plan.delete.push(Deletion { model_id, reason, size_bytes: entry.size_bytes });
        } else {
            plan.keep.push(Kept { model_id, reasons });
        }
    }
    plan
}

/// Why a model is kept whatever its age.
fn merits(entry: &ModelEntry, champion: Option<&Champion>, now: DateTime<Utc>) -> Vec<String> {
    let mut reasons = Vec::new();
    if entry.is_champion {
        reasons.push("champion".to_owned());
    }
    let mut predecessors = champion.iter().flat_map(|champion| champion.predecessors());
    if let Some(at) = predecessors.position(|id| *id == entry.id).filter(|at| *at < PREDECESSORS_SPARED) {
        reasons.push(format!("predecessor {} of the champion", at + 1));
    }
    if let Some(pin) = &entry.pin {
        reasons.push(if pin.reason.is_empty() { "pinned".into() } else { format!("pinned: {}", pin.reason) });
    }
    if entry.id.stamp() > now.naive_utc() {
        reasons.push("dated in the future: is the clock right?".into());
    }
    reasons
}

impl Registry {
    /// [`plan_prune`] of what is there.
    pub fn plan_prune(&self, n_newest: usize, now: DateTime<Utc>) -> Result<PrunePlan> {
        Ok(plan_prune(&self.list()?, self.pointer()?.as_ref(), n_newest, now))
    }

    /// Deletes what `plan` says, each with its line in the audit log, and what earlier crashes left over.
    ///
    /// A folder that cannot be deleted (another program holds a file open) is noted and stays for the next time.
    ///
    /// - Errors: the plan is out of date and would delete the champion or a pinned model; nothing is deleted.
    pub fn apply_prune(&self, plan: &PrunePlan, by: By, now: DateTime<Utc>) -> Result<Pruned> {
        let mut notes = self.settle()?;
        self.ensure_current(plan)?;
        let mut deleted = Vec::new();
        for deletion in &plan.delete {
            let id = &deletion.model_id;
            match fsx::rename_durable(&self.model_dir(id), &self.models_dir.join(format!("{SET_ASIDE}{id}")))
            {
                Ok(()) => deleted.push(deletion.clone()),
                Err(error) => notes.push(format!("{id} stays for now: {error:#}")),
            }
        }
        self.log_set_aside(&deleted, by, now)?;
        for id in self.set_aside()? {
            if let Err(error) = disk::remove_dir_all(&self.models_dir.join(format!("{SET_ASIDE}{id}"))) {
                notes.push(format!("what is left of {id} stays for now: {error}"));
            }
        }
        let freed_bytes = deleted.iter().map(|deletion| deletion.size_bytes).sum();
        Ok(Pruned { deleted, freed_bytes, notes })
    }

    /// Writes the audit line of every folder that is set aside, unless it was written before a crash.
    fn log_set_aside(&self, deleted: &[Deletion], by: By, now: DateTime<Utc>) -> Result<()> {
        let logged = self.audit.entries()?;
        let is_logged =
            |id: &str| logged.iter().any(|entry| entry.deed.act == Act::Prune && entry.deed.subject == id);
        for id in self.set_aside()?.iter().filter(|id| !is_logged(id)) {
            let deletion = deleted.iter().find(|deletion| deletion.model_id.as_str() == id);
            let reason = deletion.map_or("set aside by a pruning that was stopped", |one| &one.reason);
            let deed = Deed::new(Act::Prune, id, by, reason, now);
            self.audit.append(Deed { recovered: deletion.is_none(), ..deed })?;
        }
        Ok(())
    }

    /// Ids of the models that a pruning has set aside.
    fn set_aside(&self) -> Result<Vec<String>> {
        let entries = fsx::list_dir(&self.models_dir)?;
        let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter_map(|name| name.strip_prefix(SET_ASIDE).map(str::to_owned)).collect())
    }

    fn ensure_current(&self, plan: &PrunePlan) -> Result<()> {
        let entries = self.list().context("list the models anew")?;
        for deletion in &plan.delete {
            let entry = entries.iter().find(|entry| entry.id == deletion.model_id);
            let is_spared =
                entry.is_some_and(|entry| entry.is_champion || entry.is_previous || entry.pin.is_some());
            ensure!(!is_spared, "{} is in use by now: plan again", deletion.model_id);
        }
        Ok(())
    }
}
