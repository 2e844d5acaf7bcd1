//! `promote`: the one way forward for the pointer, and only on a verdict for those very bytes.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::audit::{Act, By, ExamSummary};
use super::champion::{Champion, FORMAT, PREDECESSORS_KEPT};
use super::verdicts::VerdictState;
use super::{ModelId, Registry};
use crate::error::{HintExt, Refusal};
use crate::validate::Verdict;

/// How to promote.
#[derive(Clone, Debug)]
pub struct PromoteOptions {
    pub by: By,
    /// Overrules the exam, for this logged reason. It never overrules loading, sanity or a changed byte.
    pub force: Option<String>,
}

/// What a promotion did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promotion {
    pub champion: Champion,
    /// Nothing had to be done.
    pub was_champion: bool,
    /// The model that served before.
    pub replaced: Option<ModelId>,
    /// Repairs of earlier crashes, and what could not be written.
    pub notes: Vec<String>,
}

impl Registry {
    /// Makes `id` the champion and remembers the one it replaces.
    ///
    /// Every file is hashed against the manifest first; then a verdict must say that these bytes passed against
    /// the champion of today. Replacing `champion.json` is the only step that changes what serves: a crash
    /// before it leaves the old champion, a crash after it the new one, with the audit line written by the
    /// next command. Promoting the champion again does nothing.
    ///
    /// - Errors: the model is unknown or its bytes differ from its manifest; or [`Refusal::GateRefused`]: no
    ///   verdict, a verdict that does not count or did not pass, or a model that was rolled back from. In each
    ///   case the champion is untouched.
    pub fn promote(&self, id: &ModelId, options: &PromoteOptions, now: DateTime<Utc>) -> Result<Promotion> {
        let manifest = self.verify_model(id).with_context(|| format!("verify model {id}"))?;
        let mut notes = self.settle_or_note();
        let pointer = self.pointer()?;
        if let Some(champion) = pointer
            .clone()
            .filter(|champion| champion.model_id == *id && champion.weights_sha256 == manifest.weights_sha256)
        {
            return Ok(Promotion { champion, was_champion: true, replaced: None, notes });
        }
        let verdict = self.verdict_for(id)?;
        self.ensure_promotable(id, &verdict, pointer.as_ref(), options.force.is_some())?;
        let champion = self.challenger_as_champion(
            id,
            manifest.weights_sha256,
            &verdict,
            options,
            now,
            pointer.as_ref(),
        );
        let replaced = pointer.map(|champion| champion.model_id);
        notes.extend(self.move_pointer(&champion, replaced.as_ref())?);
        Ok(Promotion { champion, was_champion: false, replaced, notes })
    }

    /// Whether `id` could be promoted now; the reasons if not (empty: it could).
    pub fn promotion_obstacles(&self, id: &ModelId) -> Result<Vec<String>> {
        self.verify_model(id).with_context(|| format!("verify model {id}"))?;
        Ok(obstacles(id, &self.verdict_for(id)?, self.pointer()?.as_ref()))
    }

    fn ensure_promotable(
        &self,
        id: &ModelId,
        verdict: &VerdictState,
        pointer: Option<&Champion>,
        is_forced: bool,
    ) -> Result<()> {
        let unfit = verdict.counting().map(Verdict::never_waived_failures).unwrap_or_default();
        if !unfit.is_empty() {
            return refuse(id, unfit).hint(|| "loading and sanity cannot be overruled".into());
        }
        let reasons = obstacles(id, verdict, pointer);
        if is_forced || reasons.is_empty() {
            return Ok(());
        }
        refuse(id, reasons).hint(|| {
            format!(
                "`tftctl validate {id}` examines it; `tftctl promote {id} --force --reason \"...\"` overrules, and is logged"
            )
        })
    }

    fn challenger_as_champion(
        &self,
        id: &ModelId,
        weights_sha256: String,
        verdict: &VerdictState,
        options: &PromoteOptions,
        now: DateTime<Utc>,
        pointer: Option<&Champion>,
    ) -> Champion {
        let verdict = verdict.counting();
        let mut before: Vec<ModelId> = Vec::new();
        if let Some(champion) = pointer {
            before.push(champion.model_id.clone());
            before.extend(champion.predecessors().cloned());
        }
        before.retain(|other| other != id);
        before.truncate(PREDECESSORS_KEPT);
        let mut rolled_back = self.living_marks(pointer);
        rolled_back.retain(|mark| mark.model_id != *id);
        Champion {
            format: FORMAT,
            model_id: id.clone(),
            weights_sha256,
            previous: before.first().cloned(),
            earlier: before.get(1..).unwrap_or_default().to_vec(),
            promoted_at: now,
            reason: options
                .force
                .clone()
                .unwrap_or_else(|| verdict.map_or_else(String::new, Verdict::in_a_line)),
            act: Act::Promote,
            by: options.by,
            forced: options.force.is_some(),
            generation: self.next_generation(pointer),
            exam: verdict.map(exam_summary),
            rolled_back,
        }
    }
}

fn refuse(id: &ModelId, reasons: Vec<String>) -> Result<()> {
    Err(Refusal::GateRefused { model: id.to_string(), reasons }.into())
}

fn exam_summary(verdict: &Verdict) -> ExamSummary {
    ExamSummary { loss: verdict.loss, ratio: verdict.ratio, against: verdict.champion_id.clone() }
}

/// Everything that speaks against a promotion that is not forced.
fn obstacles(id: &ModelId, verdict: &VerdictState, pointer: Option<&Champion>) -> Vec<String> {
    let mut reasons = Vec::new();
    match verdict {
        VerdictState::Missing => reasons.push("it was never examined".into()),
        VerdictState::Void(why) => reasons.push(format!("its verdict does not count: {why}")),
        VerdictState::Counts(verdict) if !verdict.outcome.may_promote() => {
            reasons.push(format!("the exam said {}", verdict.outcome));
            reasons.extend(verdict.reasons.iter().cloned());
        }
        VerdictState::Counts(verdict) => reasons.extend(outdated(verdict, pointer)),
    }
    if let Some(mark) = pointer.and_then(|champion| champion.mark_of(id)) {
        let at = mark.at.format("%Y-%m-%dT%H:%M:%SZ");
        reasons.push(format!("it was rolled back at {at} ({})", mark.reason));
    }
    reasons
}

/// A verdict compares with the champion of its night; another champion needs another exam.
fn outdated(verdict: &Verdict, pointer: Option<&Champion>) -> Option<String> {
    let champion = pointer?.model_id.as_str();
    let against = verdict.champion_id.as_deref();
    (against != Some(champion)).then(|| {
        format!(
            "it was examined against {}, but the champion is {champion}",
            against.unwrap_or("no champion")
        )
    })
}
