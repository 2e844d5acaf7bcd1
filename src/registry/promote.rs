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
    /// Overrules the exam's word, for this logged reason. It never overrules loading, sanity or a changed byte:
    /// a model that was never examined has shown neither.
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
    /// - Errors: the model is unknown, came without preprocessing, or its bytes differ from its manifest; or
    ///   [`Refusal::GateRefused`]: no verdict, a verdict that does not count or did not pass, or a model that was
    ///   rolled back from. In each case the champion is untouched.
    pub fn promote(&self, id: &ModelId, options: &PromoteOptions, now: DateTime<Utc>) -> Result<Promotion> {
        let manifest = self.verify_model(id).with_context(|| format!("verify model {id}"))?;
        manifest.ensure_has_preprocessing()?;
        let mut notes = self.settle_or_note();
        let pointer = self.pointer()?;
        if let Some(champion) =
            pointer.clone().filter(|champion| champion.serves(id, &manifest.weights_sha256))
        {
            self.sync_pointer()?;
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

    /// Whether [`Registry::promote`] would do it now; the reasons if not (empty: it would).
    pub fn promotion_obstacles(&self, id: &ModelId, is_forced: bool) -> Result<Vec<String>> {
        let manifest = self.verify_model(id).with_context(|| format!("verify model {id}"))?;
        manifest.ensure_has_preprocessing()?;
        let pointer = self.pointer()?;
        if pointer.as_ref().is_some_and(|champion| champion.serves(id, &manifest.weights_sha256)) {
            return Ok(Vec::new());
        }
        Ok(obstacles(id, &self.verdict_for(id)?, pointer.as_ref(), is_forced))
    }

    fn ensure_promotable(
        &self,
        id: &ModelId,
        verdict: &VerdictState,
        pointer: Option<&Champion>,
        is_forced: bool,
    ) -> Result<()> {
        let reasons = obstacles(id, verdict, pointer, is_forced);
        if reasons.is_empty() {
            return Ok(());
        }
        let is_hard = !hard_obstacles(verdict).is_empty();
        Err(Refusal::GateRefused { model: id.to_string(), reasons }).hint(|| {
            match (verdict.counting(), is_hard, is_forced) {
                (None, _, true) => "`tftctl validate` first: loading and sanity cannot be overruled".into(),
                (None, _, false) => format!("`tftctl validate {id}` examines it"),
                (Some(_), true, _) => "loading and sanity cannot be overruled".into(),
                (Some(_), false, _) => format!(
                    "`tftctl validate {id}` examines it again; `tftctl promote {id} --force --reason \"...\"` overrules, and is logged"
                ),
            }
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

fn exam_summary(verdict: &Verdict) -> ExamSummary {
    ExamSummary { loss: verdict.loss, ratio: verdict.ratio, against: verdict.champion_id.clone() }
}

/// What no force overrules: loading and sanity that failed, or that no verdict which counts has looked at.
fn hard_obstacles(verdict: &VerdictState) -> Vec<String> {
    match verdict {
        VerdictState::Counts(verdict) => verdict.never_waived_failures(),
        VerdictState::Missing => vec!["it was never examined".into()],
        VerdictState::Void(why) => vec![format!("its verdict does not count: {why}")],
    }
}

/// Everything that speaks against a promotion.
fn obstacles(
    id: &ModelId,
    verdict: &VerdictState,
    pointer: Option<&Champion>,
    is_forced: bool,
) -> Vec<String> {
    let hard = hard_obstacles(verdict);
    if is_forced {
        return hard;
    }
    let mut reasons = Vec::new();
    match verdict.counting() {
        None => reasons = hard,
        Some(verdict) if !verdict.outcome.may_promote() => {
            reasons.push(format!("the exam said {}", verdict.outcome));
            reasons.extend(verdict.reasons.iter().cloned());
        }
        Some(verdict) => reasons.extend(outdated(verdict, pointer)),
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
