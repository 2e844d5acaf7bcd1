//! `models/<id>/validation.json`: what the exam said, bound to the bytes it examined.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::audit::{Act, By, Deed};
use super::{ModelId, Registry};
use crate::fsx;
use crate::model_manifest::WEIGHTS_FILE;
use crate::validate::{VERDICT_FORMAT, Verdict};

/// The verdict's name in a model folder.
pub const VERDICT_FILE: &str = "validation.json";

/// Whether a model has a verdict that counts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictState {
    /// It is about these very bytes.
    Counts(Box<Verdict>),
    /// It was never examined.
    Missing,
    /// There is one, but it does not count, and why.
    Void(String),
}

impl VerdictState {
    /// The verdict, if it counts.
    pub fn counting(&self) -> Option<&Verdict> {
        match self {
            VerdictState::Counts(verdict) => Some(verdict),
            _ => None,
        }
    }
}

impl Registry {
    /// Stores `verdict` in its model's folder, replacing an older one; waived checks are logged.
    ///
    /// - Errors: there is no such model, or its weights are not those that were examined.
    pub fn write_verdict(&self, verdict: &Verdict, by: By) -> Result<()> {
        let id = ModelId::parse(&verdict.model_id)?;
        self.ensure_exists(&id)?;
        let dir = self.model_dir(&id);
        ensure!(
            fsx::sha256_file(&dir.join(WEIGHTS_FILE))? == verdict.weights_sha256,
            "the weights of {id} changed during the exam"
        );
        fsx::write_json(&dir.join(VERDICT_FILE), verdict)?;
        if verdict.waived {
            let reason = "require_validation = false: checks 3 to 6 were waived";
            self.audit.append(Deed::new(Act::Waive, id.as_str(), by, reason, verdict.judged_at))?;
        }
        Ok(())
    }

    /// The stored verdict as it is; whether it still counts is [`Registry::verdict_for`]'s business.
    pub fn read_verdict(&self, id: &ModelId) -> Result<Option<Verdict>> {
        fsx::read_versioned(&self.model_dir(id).join(VERDICT_FILE), VERDICT_FORMAT)
    }

    /// The verdict on the bytes that are there now: they are hashed, and one changed byte voids it.
    ///
    /// - Errors: there is no such model.
    pub fn verdict_for(&self, id: &ModelId) -> Result<VerdictState> {
        self.ensure_exists(id)?;
        let verdict = match self.read_verdict(id) {
            Ok(Some(verdict)) => verdict,
            Ok(None) => return Ok(VerdictState::Missing),
            Err(error) => return Ok(VerdictState::Void(format!("{error:#}"))),
        };
        let weights = fsx::sha256_file(&self.model_dir(id).join(WEIGHTS_FILE));
        Ok(match weights {
            Err(error) => VerdictState::Void(format!("{error:#}")),
            Ok(sha256) if sha256 != verdict.weights_sha256 => VerdictState::Void(format!(
                "{WEIGHTS_FILE} is not the file that was examined: sha256 differs"
            )),
            Ok(_) if verdict.model_id != id.as_str() => {
                VerdictState::Void(format!("it is the verdict on {}", verdict.model_id))
            }
            Ok(_) if !verdict.is_consistent() => {
                VerdictState::Void("its outcome contradicts its own checks".into())
            }
            Ok(_) => VerdictState::Counts(Box::new(verdict)),
        })
    }
}
