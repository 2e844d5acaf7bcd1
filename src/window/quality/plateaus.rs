//! Stretches on one value: a sensor that is stuck, a server that got another size.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::frame::Frame;

/// Time on one value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    pub from: DateTime<Utc>,
    /// End of its last step.
    pub to: DateTime<Utc>,
    pub value: f32,
}

/// A metric went from one plateau to another and stayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    pub at: DateTime<Utc>,
    pub from: f32,
    pub to: f32,
}

/// Values within this share of a plateau's first one belong to it.
const PLATEAU_WIDTH: f32 = 0.001;
/// Share of the values of a capacity that lie on plateaus of a day.
const MIN_PLATEAU_SHARE: f64 = 0.9;
/// A metric with more plateaus than this is none that tells a size.
const MAX_SIZES: usize = 10;
/// A metric of which so many values equal the one before is slow by nature: it cannot be told from a stuck one.
const SLOW_SHARE: f64 = 0.5;

/// Observed steps, one after the other, on one value.
struct Run {
    first: usize,
    last: usize,
    n: usize,
    value: f32,
}

/// Passes the observed values to `take` as runs; `is_same` compares with the first value of a run.
fn for_each_run(values: &[f32], is_same: impl Fn(f32, f32) -> bool, mut take: impl FnMut(Run)) {
    let mut open: Option<Run> = None;
    for (step, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
        match &mut open {
            Some(run) if is_same(run.value, *value) => {
                run.last = step;
                run.n += 1;
            }
            _ => {
                if let Some(run) = open.replace(Run { first: step, last: step, n: 1, value: *value }) {
                    take(run);
                }
            }
        }
    }
    open.into_iter().for_each(take);
}

/// The longest stretch on one value other than zero, if it is longer than `hours` and the metric moves otherwise.
///
/// Zero is what an idle metric says. Half a stretch at least has to be observed.
pub(super) fn stuck(values: &[f32], frame: &Frame, hours: f64) -> Option<Stretch> {
    let length = |run: &Run| run.last + 1 - run.first;
    let (mut longest, mut n_runs, mut n_observed): (Option<Run>, usize, usize) = (None, 0, 0);
    for_each_run(
        values,
        |first, value| first == value,
        |run| {
            (n_runs, n_observed) = (n_runs + 1, n_observed + run.n);
            if run.value != 0.0 && longest.as_ref().is_none_or(|longest| length(&run) >= length(longest)) {
                longest = Some(run);
            }
        },
    );
    let longest = longest?;
    let n_outside = n_observed - longest.n;
    let n_repeated_outside = n_outside - (n_runs - 1);
    let moves_otherwise =
        n_outside >= frame.steps_a_day() && (n_repeated_outside as f64) < SLOW_SHARE * n_outside as f64;
    let is_long = length(&longest) >= frame.steps_of(hours) && 2 * longest.n >= length(&longest);
    (is_long && moves_otherwise).then(|| Stretch {
        from: frame.time(longest.first),
        to: frame.time(longest.last + 1),
        value: longest.value,
    })
}

/// The steps from plateau to plateau (each of a day at least) of a metric that knows little else, by a ratio of at
/// least `ratio`. Zero is no size: the server was off.
pub(super) fn resizes(values: &[f32], frame: &Frame, ratio: f64) -> Vec<Resize> {
    let is_same = |first: f32, value: f32| (value - first).abs() <= PLATEAU_WIDTH * first.abs();
    let (mut plateaus, mut n_observed): (Vec<Run>, usize) = (Vec::new(), 0);
    for_each_run(values, is_same, |run| {
        if run.value > 0.0 {
            n_observed += run.n;
            if run.n >= frame.steps_a_day() {
                plateaus.push(run);
            }
        }
    });
    let n_on_plateaus: usize = plateaus.iter().map(|run| run.n).sum();
    if (n_on_plateaus as f64) < MIN_PLATEAU_SHARE * n_observed as f64 || plateaus.len() > MAX_SIZES {
        return Vec::new();
    }
    let change = |pair: &[Run]| {
        let (before, after) = (f64::from(pair[0].value), f64::from(pair[1].value));
        (before.max(after) / before.min(after) >= ratio).then(|| Resize {
            at: frame.time(pair[1].first),
            from: pair[0].value,
            to: pair[1].value,
        })
    };
    plateaus.windows(2).filter_map(change).collect()
}
