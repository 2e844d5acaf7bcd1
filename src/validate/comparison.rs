//! Check 5: the loss over the champion's, with an interval that says how sure that is, and no slice behind it.
//!
//! With tolerance `d`: *better or equal* if the ratio's upper bound is at most `1 + d`, *worse* if its lower
//! bound is above it, else *inconclusive*. A holdout of fewer than three horizons of cutoffs is always inconclusive:
//! there is no interval to believe. Over the ceiling, the point ratio alone is enough.

use super::ExamInputs;
use super::bootstrap::{self, Interval, MIN_WHOLE_BLOCKS, N_REPLICATES};
use super::checks::{Check, Group, number};
use super::verdict::Outcome;
use crate::evaluate::scores::{Scores, Slice};
use crate::fsx;

/// Pairs below which no interval is believed.
const MIN_SAMPLES: u64 = 10;
/// Points a slice needs to be judged alone.
const MIN_SLICE_POINTS: u64 = 100;
/// A slice the champion forecasts almost perfectly may grow to this share of the champion's overall loss
/// before its ratio counts: doubling next to nothing hurts nobody.
const SLICE_FLOOR: f64 = 0.05;
/// What rounding may add to a ratio that sits exactly on its limit.
const ROUNDING: f64 = 1e-9;

/// The loss ratio on paired samples; none without a champion, or where the two did not sit the same exam.
pub(super) fn interval(challenger: &Scores, exam: &ExamInputs<'_>) -> Option<Interval> {
    let champion = exam.champion?;
    let seed = seed_of(exam.window_id);
    let (new, old) = (&challenger.sample_loss, &champion.sample_loss);
    bootstrap::paired_ratio(new, old, exam.places, exam.block_steps, N_REPLICATES, seed)
}

/// The seed that a window's resampling uses, so that repeating an exam repeats its verdict.
fn seed_of(window_id: &str) -> u64 {
    u64::from_str_radix(&fsx::sha256_bytes(window_id.as_bytes())[..16], 16).expect("a digest is hexadecimal")
}

pub(super) fn checks(challenger: &Scores, interval: Option<&Interval>, exam: &ExamInputs<'_>) -> Vec<Check> {
    let Some(champion_id) = exam.champion_id else {
        return vec![Check::not_applicable(
            Group::Comparison,
            "comparison",
            "there is no other model in service to compare with",
        )];
    };
    let Some(champion) = exam.champion else {
        let why = exam.champion_trouble.unwrap_or("it was not scored");
        let explain = not_compared(champion_id, why);
        return vec![Check::not_applicable(Group::Comparison, "comparison", explain)];
    };
    if !champion.loss.is_finite() || champion.n_not_finite > 0 {
        let explain =
            format!("the champion {champion_id} does not forecast finite numbers; anything fit is better");
        return vec![Check::held(Group::Comparison, "comparison", true, Outcome::Worse, explain)];
    }
    let Some(interval) = interval else {
        return vec![unknown("challenger and champion were not scored on the same samples".into())];
    };
    let mut checks = vec![overall(interval, exam.config.tolerance), ceiling(interval, exam.ceiling)];
    checks.extend(slices(challenger, champion, exam.config.slice_ratio));
    checks
}

/// What a verdict says, and warns of, where there is a champion and no comparison.
pub(super) fn not_compared(champion_id: &str, why: &str) -> String {
    format!(
        "NOT COMPARED with the champion {champion_id} ({why}): skill against the naive forecasts alone decides"
    )
}

fn unknown(explain: String) -> Check {
    Check::held(Group::Comparison, "comparison", false, Outcome::Inconclusive, explain)
}

fn overall(interval: &Interval, tolerance: f64) -> Check {
    let limit = 1.0 + tolerance;
    let is_enough = interval.n_samples >= MIN_SAMPLES && interval.n_whole_blocks >= MIN_WHOLE_BLOCKS;
    let is_equal = interval.high <= limit + ROUNDING && is_enough;
    let is_worse = interval.low > limit + ROUNDING && is_enough;
    let (finding, on_failure) = match (is_equal, is_worse) {
        _ if !is_enough => ("too short a holdout to tell", Outcome::Inconclusive),
        (true, _) => ("better than or equal to it", Outcome::Inconclusive),
        (_, true) => ("worse", Outcome::Worse),
        _ => ("inconclusive", Outcome::Inconclusive),
    };
    let explain = format!(
        "{finding}: the loss is {} times the champion's ({} to {}, {} samples in {} horizons), {} is tolerated",
        number(interval.ratio),
        number(interval.low),
        number(interval.high),
        interval.n_samples,
        interval.n_whole_blocks,
        number(limit)
    );
    Check::held(Group::Comparison, "comparison", is_equal, on_failure, explain).with_numbers(
        interval.high,
        limit,
        "ratio",
    )
}

fn ceiling(interval: &Interval, ceiling: f64) -> Check {
    let what = "the loss over the champion's";
    Check::at_most(Group::Comparison, "ceiling", interval.ratio, ceiling + ROUNDING, Outcome::Unfit, what)
        .with_numbers(interval.ratio, ceiling, "ratio")
}

fn slices(challenger: &Scores, champion: &Scores, limit: f64) -> Vec<Check> {
    let floor = SLICE_FLOOR * champion.loss;
    let targets = |scores: &Scores| scores.targets.iter().map(|target| target.slice.clone()).collect();
    let (new_targets, old_targets): (Vec<Slice>, Vec<Slice>) = (targets(challenger), targets(champion));
    vec![
        slice_check("servers", &challenger.servers, &champion.servers, floor, limit),
        slice_check("profiles", &challenger.profiles, &champion.profiles, floor, limit),
        slice_check("targets", &new_targets, &old_targets, floor, limit),
    ]
}

/// No slice of one kind may be `limit` times as bad as under the champion.
fn slice_check(kind: &str, new: &[Slice], old: &[Slice], floor: f64, limit: f64) -> Check {
    let name = format!("slices_{kind}");
    let mut ratios = slice_ratios(new, old, floor);
    ratios.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some((_, worst)) = ratios.first().copied() else {
        let why = format!("no {kind} with {MIN_SLICE_POINTS} true values in both forecasts");
        return Check::not_applicable(Group::Comparison, &name, why);
    };
    let named: Vec<String> =
        ratios.iter().take(3).map(|(name, ratio)| format!("{name} {}", number(*ratio))).collect();
    let passed = worst <= limit;
    let explain = format!(
        "the worst of {} {kind} by loss over the champion's: {}; {} is tolerated",
        ratios.len(),
        named.join(", "),
        number(limit)
    );
    Check::held(Group::Comparison, &name, passed, Outcome::Worse, explain).with_numbers(worst, limit, "ratio")
}

/// Loss over the champion's of every slice that both know and that has enough points; NaN counts as infinite.
fn slice_ratios<'a>(new: &'a [Slice], old: &[Slice], floor: f64) -> Vec<(&'a str, f64)> {
    let old: std::collections::HashMap<&str, &Slice> =
        old.iter().map(|slice| (slice.name.as_str(), slice)).collect();
    let judged = new.iter().filter(|slice| slice.n_points >= MIN_SLICE_POINTS);
    judged
        .filter_map(|slice| {
            let old = old.get(slice.name.as_str()).filter(|old| old.loss.is_finite())?;
            let ratio = match (slice.loss, old.loss.max(floor)) {
                (loss, _) if !loss.is_finite() => f64::INFINITY,
                (0.0, _) => 0.0,
                (loss, base) => loss / base,
            };
            Some((slice.name.as_str(), ratio))
        })
        .collect()
}
