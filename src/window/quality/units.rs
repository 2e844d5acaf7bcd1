//! Days on which a metric came in another unit.
//!
//! A change of unit multiplies everything by one known factor: the quiet hours, the middle and the busy ones alike.
//! More work does not: it moves the quartiles of a day by different ratios.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use crate::stats;

/// Some days whose values differ from the others' by the factor between two units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitJump {
    /// 8, 100, 1000, 1024 or 1048576.
    pub factor: f64,
    /// Whether the odd days are the larger ones.
    pub is_up: bool,
    /// The first odd day: of the two kinds of days the one with fewer, or else the one that came later.
    pub from: NaiveDate,
    pub n_days: usize,
}

/// Bits, percent, kilo, kibi, mebi.
const FACTORS: [f64; 5] = [8.0, 100.0, 1000.0, 1024.0, 1_048_576.0];
/// The two kinds of days are at least this far apart, and neither spans as much itself.
const APART: f64 = 4.0;
/// Share of a day's steps that need a value, and days needed of the ordinary kind.
const MIN_DAY_SHARE: f64 = 0.25;
const MIN_ORDINARY_DAYS: usize = 2;

/// The quartiles of a day's magnitudes.
struct DayLevel {
    date: NaiveDate,
    is_weekend: bool,
    quartiles: [f64; 3],
}

/// Looks for days in another unit; `tolerance` is how far the ratios may be from a factor, as a share of it.
pub(super) fn examine(values: &[f32], frame: &Frame, tolerance: f64) -> Option<UnitJump> {
    let levels = levels(values, frame);
    let threshold = threshold(&levels)?;
    let (high, low): (Vec<&DayLevel>, Vec<&DayLevel>) =
        levels.iter().partition(|day| day.quartiles[1] > threshold);
    let is_up = high.len() < low.len() || (high.len() == low.len() && high[0].date > low[0].date);
    let (odd, ordinary) = if is_up { (&high, &low) } else { (&low, &high) };
    if ordinary.len() < MIN_ORDINARY_DAYS || spans(&high) >= APART || spans(&low) >= APART {
        return None;
    }
    let ratio = |quartile: usize| {
        let ratio = ratio_of(odd, ordinary, quartile);
        if is_up { ratio } else { 1.0 / ratio }
    };
    let ratios = [ratio(0), ratio(1), ratio(2)];
    let distance = |factor: f64| ratios.iter().map(|r| (r / factor - 1.0).abs()).fold(0.0, f64::max);
    let factor = FACTORS.into_iter().min_by(|a, b| distance(*a).total_cmp(&distance(*b)))?;
    // Eight is a ratio that work can reach, too: it has to be met twice as well.
    let allowed = if factor < 10.0 { tolerance / 2.0 } else { tolerance };
    (distance(factor) <= allowed).then(|| UnitJump { factor, is_up, from: odd[0].date, n_days: odd.len() })
}

fn levels(values: &[f32], frame: &Frame) -> Vec<DayLevel> {
    let level = |day: &super::frame::Day| {
        let of_day = values[day.steps.clone()].iter();
        let mut found: Vec<f32> = of_day.filter(|value| value.is_finite()).map(|value| value.abs()).collect();
        if found.is_empty() || (found.len() as f64) < MIN_DAY_SHARE * day.steps.len() as f64 {
            return None;
        }
        let quartiles = stats::quartiles_nearest(&mut found).map(f64::from);
        let is_usable = quartiles[0] > 0.0;
        is_usable.then_some(DayLevel { date: day.date, is_weekend: day.is_weekend, quartiles })
    };
    frame.days.iter().filter_map(level).collect()
}

/// A level between the two kinds of days, if there are two kinds.
fn threshold(levels: &[DayLevel]) -> Option<f64> {
    let mut sorted: Vec<f64> = levels.iter().map(|day| day.quartiles[1]).collect();
    sorted.sort_by(f64::total_cmp);
    let widest = sorted.windows(2).max_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])))?;
    (widest[1] / widest[0] > APART).then(|| (widest[0] * widest[1]).sqrt())
}

/// Largest over smallest median of some days.
fn spans(days: &[&DayLevel]) -> f64 {
    let medians = || days.iter().map(|day| day.quartiles[1]);
    medians().fold(0.0, f64::max) / medians().fold(f64::INFINITY, f64::min)
}

/// What the odd days are to the ordinary ones of their kind (weekend or not), in the middle.
fn ratio_of(odd: &[&DayLevel], ordinary: &[&DayLevel], quartile: usize) -> f64 {
    let middle = |days: &mut dyn Iterator<Item = &&DayLevel>| {
        stats::median(&days.map(|day| day.quartiles[quartile]).collect::<Vec<_>>())
    };
    let ratios: Vec<f64> = odd
        .iter()
        .filter_map(|day| {
            let alike = middle(&mut ordinary.iter().filter(|other| other.is_weekend == day.is_weekend));
            Some(day.quartiles[quartile] / alike.or_else(|| middle(&mut ordinary.iter()))?)
        })
        .collect();
    stats::median(&ratios).unwrap_or(1.0)
}
