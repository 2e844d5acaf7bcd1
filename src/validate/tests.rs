//! Each check tripping and not tripping, and the ratchet over sixty nights.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::testing::{Exam, scores, worsen};
use super::*;
use crate::error::Exit;

fn exam() -> Exam {
    Exam::fine("tft_model_20260102_020000", "abc")
}

/// Spoils an exam that would pass, and expects the outcome and the one check that failed.
#[track_caller]
fn spoiled(spoil: impl FnOnce(&mut Exam), outcome: Outcome, check: &str) {
    let mut exam = exam();
    spoil(&mut exam);
    let verdict = exam.sit();
    assert_eq!(verdict.outcome, outcome, "{:?}", verdict.reasons);
    let failed: Vec<&str> =
        verdict.checks.iter().filter(|check| check.is_against()).map(|check| check.name.as_str()).collect();
    assert!(failed.contains(&check), "{check} should have failed, but it was {failed:?}");
    assert_eq!(verdict.reasons.len(), failed.len());
    assert!(verdict.is_consistent());
}

/// Changes an exam that passes, and expects it to pass still.
#[track_caller]
fn harmless(change: impl FnOnce(&mut Exam)) -> Verdict {
    let mut exam = exam();
    change(&mut exam);
    let verdict = exam.sit();
    assert_eq!(verdict.outcome, Outcome::Passed, "{:?}", verdict.reasons);
    assert!(verdict.reasons.is_empty() && verdict.is_consistent());
    verdict
}

/// The file says what the verdict says (a decimal may differ in its last digit).
#[track_caller]
fn reads_back(verdict: &Verdict) {
    let read: Verdict = serde_json::from_str(&serde_json::to_string(verdict).unwrap()).unwrap();
    assert!(read.is_consistent());
    assert_eq!((read.outcome, &read.reasons), (verdict.outcome, &verdict.reasons));
    assert_eq!((read.checks.len(), read.scores.len()), (verdict.checks.len(), verdict.scores.len()));
    assert_eq!(read.loss, verdict.loss);
}

fn challenger(exam: &mut Exam) -> &mut Scores {
    exam.challenger.as_mut().unwrap()
}

#[test]
fn an_equal_model_passes_with_all_its_numbers() {
    let verdict = harmless(|_| {});
    assert_eq!((verdict.ratio, verdict.ratio_low, verdict.ratio_high), (Some(1.0), Some(1.0), Some(1.0)));
    assert_eq!(
        (verdict.loss, verdict.champion_loss, verdict.persistence_loss),
        (Some(0.3), Some(0.3), Some(0.6))
    );
    assert!(verdict.checks.iter().all(|check| check.passed && check.applicable && !check.waived));
    assert!(verdict.scores.iter().all(|scores| scores.sample_loss.is_empty()));
    reads_back(&verdict);
}

#[test]
fn infrastructure_trips_on_what_does_not_load() {
    let fails = |exam: &mut Exam| {
        exam.probe.loaded = false;
        exam.probe.error = Some("unexpected end of file".into());
        exam.challenger = None;
    };
    spoiled(fails, Outcome::Unfit, "loads");
    spoiled(|exam| exam.probe.weights_sha256 = "abd".into(), Outcome::Unfit, "digest");
    spoiled(|exam| exam.probe.load_ms = MAX_LOAD_MS + 1.0, Outcome::Unfit, "load_time");
    spoiled(|exam| exam.challenger = None, Outcome::Unfit, "scored");
    harmless(|exam| exam.probe.load_ms = MAX_LOAD_MS);
}

#[test]
fn sanity_trips_on_forecasts_that_cannot_be() {
    spoiled(|exam| challenger(exam).n_not_finite = 1, Outcome::Unfit, "finite");
    spoiled(|exam| challenger(exam).loss = f64::NAN, Outcome::Unfit, "loss");
    spoiled(|exam| challenger(exam).crossing_rate = 0.21, Outcome::Unfit, "crossing");
    spoiled(|exam| challenger(exam).crossing_rate = f64::NAN, Outcome::Unfit, "crossing");
    spoiled(|exam| challenger(exam).out_of_range_rate = 0.011, Outcome::Unfit, "range");
    spoiled(|exam| challenger(exam).collapsed_targets = vec!["cpu".into()], Outcome::Unfit, "collapse");
    spoiled(|exam| challenger(exam).n_points = 0, Outcome::Inconclusive, "holdout");
    harmless(|exam| {
        challenger(exam).crossing_rate = 0.2;
        challenger(exam).out_of_range_rate = 0.01;
    });
}

#[test]
fn quality_trips_on_a_dishonest_band() {
    spoiled(|exam| challenger(exam).coverage = Some(0.49), Outcome::Worse, "coverage");
    spoiled(|exam| challenger(exam).coverage = Some(0.995), Outcome::Worse, "coverage");
    spoiled(|exam| challenger(exam).coverage = Some(f64::NAN), Outcome::Worse, "coverage");
    harmless(|exam| challenger(exam).coverage = Some(0.5));
    harmless(|exam| challenger(exam).coverage = None);
}

#[test]
fn skill_trips_on_any_naive_forecast_that_is_as_good() {
    spoiled(|exam| exam.baselines[0] = scores("persistence", 0.3), Outcome::Worse, "skill_persistence");
    spoiled(|exam| exam.baselines[2].loss = 0.2, Outcome::Worse, "skill_seasonal_naive_week");
    spoiled(|exam| exam.baselines.clear(), Outcome::Inconclusive, "skill");
    harmless(|exam| exam.baselines[2].n_points = 0);
    harmless(|exam| exam.baselines[2].loss = f64::NAN);
}

#[test]
fn comparison_has_three_answers_and_a_ceiling() {
    let noisy = |exam: &mut Exam, factor: f64| {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        worsen(challenger(exam), factor);
        for loss in &mut challenger(exam).sample_loss {
            *loss *= 0.2 + 1.6 * rng.random::<f64>();
        }
    };
    harmless(|exam| worsen(challenger(exam), 0.5));
    harmless(|exam| worsen(challenger(exam), 1.03));
    spoiled(|exam| worsen(challenger(exam), 1.031), Outcome::Worse, "comparison");
    spoiled(|exam| noisy(exam, 1.03), Outcome::Inconclusive, "comparison");
    spoiled(|exam| worsen(challenger(exam), 1.201), Outcome::Unfit, "ceiling");
    spoiled(|exam| challenger(exam).sample_loss.truncate(299), Outcome::Inconclusive, "comparison");
    harmless(|exam| exam.champion.as_mut().unwrap().loss = f64::NAN);
}

#[test]
fn a_champion_that_cannot_be_compared_leaves_it_to_skill() {
    let verdict = harmless(|exam| {
        exam.champion = None;
        exam.champion_trouble = Some("it forecasts other targets".into());
    });
    let check = verdict.checks.iter().find(|check| check.name == "comparison").unwrap();
    assert!(!check.applicable && check.explain.contains("NOT COMPARED"), "{check:?}");
    assert!(verdict.warnings[0].contains("it forecasts other targets"), "{:?}", verdict.warnings);
    assert!(verdict.champion_id.is_some() && verdict.ratio.is_none());
    let without_skill = |exam: &mut Exam| {
        exam.champion = None;
        exam.baselines[1].loss = 0.1;
    };
    spoiled(without_skill, Outcome::Worse, "skill_seasonal_naive_day");
}

#[test]
fn a_holdout_that_training_saw_decides_nothing_and_is_never_waived() {
    let saw_a_minute = |exam: &mut Exam| exam.trained_until += chrono::TimeDelta::minutes(1);
    spoiled(saw_a_minute, Outcome::Inconclusive, "unseen_holdout");
    let mut waived = exam();
    saw_a_minute(&mut waived);
    waived.require_validation = false;
    assert_eq!(waived.sit().outcome, Outcome::Inconclusive);
}

#[test]
fn few_samples_decide_nothing() {
    let nine = |exam: &mut Exam| {
        exam.places.truncate(9);
        challenger(exam).sample_loss.truncate(9);
        exam.champion.as_mut().unwrap().sample_loss.truncate(9);
    };
    spoiled(nine, Outcome::Inconclusive, "comparison");
    let one_moment = |exam: &mut Exam| exam.places.iter_mut().for_each(|place| place.cutoff = 288);
    spoiled(one_moment, Outcome::Inconclusive, "comparison");
}

#[test]
fn no_slice_may_collapse_behind_a_good_mean() {
    spoiled(|exam| challenger(exam).servers[3].loss = 0.61, Outcome::Worse, "slices_servers");
    spoiled(|exam| challenger(exam).profiles[0].loss = 0.61, Outcome::Worse, "slices_profiles");
    spoiled(|exam| challenger(exam).targets[0].slice.loss = 0.61, Outcome::Worse, "slices_targets");
    spoiled(|exam| challenger(exam).servers[3].loss = f64::NAN, Outcome::Worse, "slices_servers");
    harmless(|exam| challenger(exam).servers[3].loss = 0.6);
    harmless(|exam| {
        challenger(exam).servers[3].loss = 0.61;
        challenger(exam).servers[3].n_points = 99;
    });
    harmless(|exam| {
        challenger(exam).servers[3].loss = 0.029; // ten times next to nothing
        exam.champion.as_mut().unwrap().servers[3].loss = 0.0029;
    });
    harmless(|exam| challenger(exam).servers[3].name = "newcomer".into());
}

fn promotions(ratios: &[Option<f64>]) -> Vec<PromotedLoss> {
    let base = |idx: usize| PromotedLoss::base(format!("m{idx}"), DateTime::UNIX_EPOCH);
    ratios.iter().enumerate().map(|(idx, ratio)| PromotedLoss { ratio: *ratio, ..base(idx) }).collect()
}

#[test]
fn the_ratchet_adds_up_small_steps() {
    let after = |ratios: Vec<Option<f64>>| {
        move |exam: &mut Exam| {
            worsen(challenger(exam), 1.03);
            exam.history = promotions(&ratios);
        }
    };
    harmless(after(vec![None, Some(1.03), Some(1.03)]));
    spoiled(after(vec![None, Some(1.03), Some(1.03), Some(1.03)]), Outcome::Worse, "cumulative_budget");
    // Great once, then slipping: within the budget of the stretch, but far from the best.
    spoiled(
        after(vec![None, Some(0.7), Some(1.03), Some(1.03), Some(1.03)]),
        Outcome::Worse,
        "best_promoted",
    );
    // A forced promotion set a new base; long ago is forgiven.
    harmless(after(vec![None, Some(1.03), Some(1.03), Some(1.03), None]));
    let mut long_ago = vec![Some(1.03); 3];
    long_ago.extend([Some(1.0); PROMOTIONS_REMEMBERED]);
    harmless(after(long_ago));
}

#[test]
fn sixty_nights_each_a_little_worse_are_stopped_within_the_budget() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut level, mut history, mut n_stopped) = (1.0_f64, promotions(&[None]), 0);
    for night in 0..60 {
        let mut alone = exam();
        alone.baselines.iter_mut().for_each(|baseline| baseline.loss = f64::MAX);
        worsen(challenger(&mut alone), 1.029);
        let Exam { challenger: Some(new), champion: Some(old), .. } = &mut alone else { unreachable!() };
        for (loss, old) in new.sample_loss.iter_mut().zip(&mut old.sample_loss) {
            let luck = 0.5 + rng.random::<f64>();
            *loss *= luck * (1.0 + 0.005 * (rng.random::<f64>() - 0.5));
            *old *= luck;
        }
        assert_eq!(
            alone.sit().outcome,
            Outcome::Passed,
            "night {night} passes on its own: {:?}",
            alone.sit().reasons
        );
        alone.history = history.clone();
        let verdict = alone.sit();
        if verdict.outcome.may_promote() {
            level *= 1.029;
            history.extend(promotions(&[verdict.ratio]));
        } else {
            assert_eq!(verdict.outcome, Outcome::Worse);
            n_stopped += 1;
        }
    }
    let budget = ValidationConfig::default().cumulative_budget;
    assert!(level.ln() <= budget + 0.01, "sixty nights cost {level}");
    assert_eq!((history.len(), n_stopped), (4, 57));
}

#[test]
fn the_first_model_needs_no_champion_but_all_else() {
    let first = || exam().against(None);
    let verdict = first().sit();
    assert_eq!(
        (verdict.outcome, verdict.ratio, verdict.champion_id.as_deref()),
        (Outcome::Passed, None, None)
    );
    let idle: Vec<&str> =
        verdict.checks.iter().filter(|check| !check.applicable).map(|check| check.name.as_str()).collect();
    assert_eq!(idle, ["comparison", "ratchet"]);
    let mut no_skill = first();
    no_skill.baselines[1].loss = 0.1;
    assert_eq!(no_skill.sit().outcome, Outcome::Worse);
}

#[test]
fn waiving_spares_quality_but_never_loading_and_sanity() {
    let waived = |spoil: fn(&mut Exam)| {
        let mut exam = exam();
        exam.require_validation = false;
        spoil(&mut exam);
        exam.sit()
    };
    let verdict = waived(|exam| {
        worsen(challenger(exam), 5.0);
        challenger(exam).coverage = Some(0.1);
    });
    assert_eq!((verdict.outcome, verdict.waived), (Outcome::Passed, true));
    let ceiling = verdict.checks.iter().find(|check| check.name == "ceiling").unwrap();
    assert!(!ceiling.passed && ceiling.waived && ceiling.measured.unwrap() > 4.9);
    assert!(verdict.is_consistent());
    assert_eq!(waived(|exam| challenger(exam).n_not_finite = 1).outcome, Outcome::Unfit);
    assert_eq!(waived(|exam| exam.probe.loaded = false).outcome, Outcome::Unfit);
    assert_eq!(waived(|exam| challenger(exam).out_of_range_rate = 0.5).outcome, Outcome::Unfit);
}

#[test]
fn a_doctored_verdict_is_inconsistent() {
    let mut bad = exam();
    challenger(&mut bad).n_not_finite = 1;
    let verdict = bad.sit();
    assert!(!Verdict { outcome: Outcome::Passed, ..verdict.clone() }.is_consistent());
    let mut waived = Verdict { outcome: Outcome::Passed, waived: true, ..verdict.clone() };
    waived.checks.iter_mut().for_each(|check| check.waived = true);
    assert!(!waived.is_consistent());
    assert!(!Verdict { outcome: Outcome::Passed, checks: Vec::new(), ..verdict }.is_consistent());
}

#[test]
fn scores_that_json_cannot_hold_do_not_spoil_the_file() {
    let mut exam = exam();
    challenger(&mut exam).loss = f64::NAN;
    challenger(&mut exam).servers[0].loss = f64::INFINITY;
    let verdict = exam.sit();
    assert_eq!((verdict.loss, verdict.scores.len()), (None, 4));
    reads_back(&verdict);
}

#[track_caller]
fn follows(outcome: Outcome, nights: u32, exit: Exit, next: NextStart) {
    assert_eq!((outcome.exit(), outcome.next_start(nights)), (exit, next));
    assert_eq!(outcome.may_promote(), exit == Exit::Done);
}

#[test]
fn the_table_of_outcomes() {
    let own = |holdout_extra_days| NextStart::OwnCheckpoint { holdout_extra_days };
    follows(Outcome::Passed, 0, Exit::Done, own(0));
    follows(Outcome::Inconclusive, 1, Exit::Refused, own(1));
    follows(Outcome::Inconclusive, 6, Exit::Refused, own(6));
    follows(Outcome::Inconclusive, 7, Exit::Refused, NextStart::ChampionCheckpoint);
    follows(Outcome::Worse, 1, Exit::Refused, own(1));
    follows(Outcome::Worse, 7, Exit::Refused, NextStart::ChampionCheckpoint);
    follows(Outcome::Unfit, 1, Exit::Refused, NextStart::ChampionCheckpoint);
}

#[test]
fn an_exam_repeated_is_the_same_to_the_last_bit() {
    let mut exam = exam();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    challenger(&mut exam).sample_loss.iter_mut().for_each(|loss| *loss *= rng.random::<f64>());
    assert_eq!(exam.sit(), exam.sit());
}
