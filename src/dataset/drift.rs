//! When a lineage's frozen scales no longer fit the data: a server got eight times the memory, a job moved in.
//!
//! Scales are frozen so that tonight's network means by 1.3 what last night's meant. The price is that a series may
//! leave them: its values then reach the network far from anything it was trained on, and beyond
//! [`SCALED_LIMIT`] they are cut. This module says which targets of which servers have
//! done so in a window's train part. It changes nothing: only a new lineage is fitted anew, and that a person decides.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::preprocessing::{self, Preprocessing};
use super::scaler::{FLOOR_SHARE, SCALED_LIMIT, Scaler};
use super::survey::Survey;
use super::vocabulary;
use crate::stats::Moments;

/// Scales between the frozen centre and tonight's mean from which a series has gone stale.
pub const MAX_SHIFT: f64 = 4.0;
/// Tonight's standard deviation in scales from which it has: five of these reach the limit, so that what is ordinary
/// there begins to be cut. A series that has become quieter is not stale: nothing of it is lost, and it may wake up.
pub const MAX_SPREAD: f64 = SCALED_LIMIT as f64 / 5.0;
/// Series told by name at most.
pub const MAX_TOLD: usize = 20;
/// Servers named for one target in a message at most.
const MAX_NAMES: usize = 5;

/// The series that have left their scales.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaleScales {
    pub n_series: u64,
    /// The worst of them, worst first.
    pub worst: Vec<StaleSeries>,
}

/// One target of one server beside its frozen scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaleSeries {
    pub server: String,
    pub target: String,
    /// Frozen centre and scale, in the target's unit.
    pub centre: f64,
    pub scale: f64,
    /// Mean and standard deviation in the window's train part, in the target's unit.
    pub mean: f64,
    pub std: f64,
    /// Distance of the mean from the centre, in scales.
    pub shift: f64,
    /// Standard deviation in scales.
    pub spread: f64,
}

impl StaleSeries {
    /// How many times over its limit the series is: the larger of the two; above 1 where it is stale.
    fn excess(&self) -> f64 {
        (self.shift.abs() / MAX_SHIFT).max(self.spread / MAX_SPREAD)
    }
}

impl StaleScales {
    /// Compares the train part of a window with the scales `lineage` has frozen; only targets with statistics of
    /// their own and at least a sample's worth of values tonight are compared.
    ///
    /// - Errors: the window lacks a target.
    pub fn find(lineage: &Preprocessing, survey: &Survey) -> Result<Self> {
        let outline = &survey.outline;
        let columns = preprocessing::positions(&outline.metrics, &lineage.targets)?;
        let codes = vocabulary::codes(&lineage.vocabulary.servers);
        let n_needed = lineage.encoder_length + lineage.horizon;
        let of_server = |server: usize| -> Vec<StaleSeries> {
            let name = &outline.servers[server].name;
            let Some(code) = codes.get(name.as_str()) else { return Vec::new() };
            let seen = columns.iter().map(|column| survey.servers[server].moments[*column]);
            let metrics = lineage.target_metrics();
            let compared = metrics.iter().zip(&lineage.targets).zip(seen).filter(|(_, m)| m.n >= n_needed);
            let series = compared.filter_map(|((metric, target), moments)| {
                let scaler = &lineage.scaler;
                compare(scaler, *code as usize - 1, *metric, &moments, (name.as_str(), target.as_str()))
            });
            series.collect()
        };
        let mut stale: Vec<StaleSeries> = (0..outline.servers.len()).flat_map(of_server).collect();
        let n_series = stale.len() as u64;
        stale.sort_by(|a, b| b.excess().total_cmp(&a.excess()).then_with(|| a.server.cmp(&b.server)));
        stale.truncate(MAX_TOLD);
        Ok(Self { n_series, worst: stale })
    }

    /// One sentence for the operator, with the way out; none where nothing is stale.
    pub fn message(&self) -> Option<String> {
        let first = self.worst.first()?;
        let mut targets: Vec<&str> = self.worst.iter().map(|series| series.target.as_str()).collect();
        targets.sort_unstable();
        targets.dedup();
        let of_target = |target: &&str| {
            let servers = self.worst.iter().filter(|series| series.target == *target);
            let names: Vec<&str> = servers.map(|series| series.server.as_str()).collect();
            let more = if names.len() > MAX_NAMES { ", ..." } else { "" };
            format!("{target} on {}{more}", names[..names.len().min(MAX_NAMES)].join(", "))
        };
        let list: Vec<String> = targets.iter().map(of_target).collect();
        Some(format!(
            "{} series have left the scales the lineage froze: {} (worst: {} of {} has mean {:.4}, frozen at {:.4} \
             with scale {:.4}); `tftctl train --fresh` begins a lineage with new scales",
            self.n_series,
            list.join("; "),
            first.target,
            first.server,
            first.mean,
            first.centre,
            first.scale,
        ))
    }
}

/// The series beside its frozen statistics, if it has any and has left them.
fn compare(
    scaler: &Scaler,
    server: usize,
    metric: usize,
    moments: &Moments,
    (name, target): (&str, &str),
) -> Option<StaleSeries> {
    let frozen = scaler.servers.get(server)?;
    if frozen.n_observed[metric] == 0 {
        return None;
    }
    let (centre, scale) = (f64::from(frozen.centre[metric]), f64::from(frozen.scale[metric]));
    // A series that stood still when it was fitted is held by its floor, a tenth of what is typical: its first
    // modest move is no reason for alarm.
    let is_held = frozen.scale[metric] <= scaler.floor[metric];
    let unit = if is_held { scale / FLOOR_SHARE } else { scale };
    let series = StaleSeries {
        server: name.to_owned(),
        target: target.to_owned(),
        centre,
        scale,
        mean: moments.mean,
        std: moments.std,
        shift: (moments.mean - centre) / unit,
        spread: moments.std / scale,
    };
    (series.excess() > 1.0).then_some(series)
}
