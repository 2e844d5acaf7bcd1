//! Where tonight's training starts from, decided from what the nights before came to.

use super::state::Night;
use crate::registry::{Act, Champion};
use crate::validate::NextStart;

/// What tonight's training continues, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartPlan {
    pub start: NextStart,
    pub reason: &'static str,
}

/// Decides from the nights before, newest first, and the model in service.
///
/// The exam's own rule ([`crate::validate::Outcome::next_start`]) decides; a rollback since the last night, which
/// the exam cannot know of, leads back to the champion, and without a champion there is nothing to go back to.
pub fn plan_start(earlier: &[Night], champion: Option<&Champion>) -> StartPlan {
    let own = |holdout_extra_days, reason| StartPlan {
        start: NextStart::OwnCheckpoint { holdout_extra_days },
        reason,
    };
    let back = |reason| StartPlan { start: NextStart::ChampionCheckpoint, reason };
    let Some(champion) = champion else { return own(0, "there is no champion yet") };
    let mut examined = earlier.iter().filter(|night| night.done.exam.is_some());
    let Some(last) = examined.next() else { return own(0, "there was no night before") };
    if champion.act == Act::Rollback && champion.promoted_at >= last.started_at {
        return back("the last model was rolled back");
    }
    let n_waiting = earlier
        .iter()
        .filter(|night| night.done.exam.is_some())
        .take_while(|night| !night.has_promoted() && !has_passed(night))
        .count();
    let Some(exam) = &last.done.exam else { return own(0, "there was no night before") };
    let start = exam.outcome.next_start(nights_of_this_try(n_waiting));
    let reason = match (start, exam.outcome.may_promote()) {
        (NextStart::ChampionCheckpoint, _) => {
            "the last model was unfit, or too many nights went by without a promotion"
        }
        (_, true) => "the last model passed",
        (_, false) => "the last model was not promoted; the holdout grows",
    };
    StartPlan { start, reason }
}

/// A model that passed and was left to a person to promote: the holdout after it need not grow, and growing it over
/// those nights would reach into what they were trained on.
fn has_passed(night: &Night) -> bool {
    night.done.exam.as_ref().is_some_and(|exam| exam.outcome.may_promote())
}

/// Nights since the last promotion or return to the champion: after a return the count begins anew.
fn nights_of_this_try(n_waiting: usize) -> u32 {
    let limit = crate::validate::NIGHTS_BEFORE_RESTART;
    match n_waiting as u32 {
        0 => 0,
        n => (n - 1) % limit + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nightly::state::ExamSummary;
    use crate::validate::Outcome;

    fn champion(act: &str, promoted_at: &str) -> Champion {
        let text = serde_json::json!({
            "format": 1, "model_id": "tft_model_20240101_020000", "weights_sha256": "", "previous": null,
            "promoted_at": promoted_at, "reason": "", "act": act, "by": "nightly", "forced": false, "generation": 1,
        });
        serde_json::from_value(text).unwrap()
    }

    fn night(date: &str, outcome: Outcome) -> Night {
        let mut night = Night::new(date.parse().unwrap(), format!("{date}T02:00:00Z").parse().unwrap(), 1);
        night.done.exam = Some(ExamSummary { outcome, ..ExamSummary::default() });
        night.done.promote = Some(crate::nightly::state::PromoteSummary {
            promoted: outcome.may_promote(),
            champion: None,
            reason: String::new(),
        });
        night
    }

    #[track_caller]
    fn case(outcomes: &[Outcome], champion: Option<&Champion>, expected: NextStart) {
        let nights: Vec<Night> = outcomes
            .iter()
            .enumerate()
            .map(|(age, outcome)| night(&format!("2024-01-{:02}", 28 - age), *outcome))
            .collect();
        assert_eq!(plan_start(&nights, champion).start, expected, "{outcomes:?}");
    }

    #[test]
    fn the_start_follows_the_table_of_outcomes() {
        use Outcome::{Inconclusive, Passed, Unfit, Worse};
        let own = |holdout_extra_days| NextStart::OwnCheckpoint { holdout_extra_days };
        let back = NextStart::ChampionCheckpoint;
        let served = champion("promote", "2024-01-02T02:00:00Z");
        case(&[], Some(&served), own(0));
        case(&[Passed], Some(&served), own(0));
        case(&[Inconclusive, Passed], Some(&served), own(1));
        case(&[Worse, Inconclusive, Passed], Some(&served), own(2));
        case(&[Unfit, Passed], Some(&served), back);
        case(&[Worse; 7], Some(&served), back);
        case(&[Worse; 8], Some(&served), own(1));
        case(&[Unfit], None, own(0));
        let mut waiting = [night("2024-01-28", Inconclusive), night("2024-01-27", Passed)];
        waiting[1].done.promote.as_mut().unwrap().promoted = false;
        assert_eq!(plan_start(&waiting, Some(&served)).start, own(1), "passed, left to a person");
        case(&[Passed], Some(&champion("rollback", "2024-01-28T09:00:00Z")), back);
        case(&[Passed], Some(&champion("rollback", "2024-01-27T09:00:00Z")), own(0));
    }
}
