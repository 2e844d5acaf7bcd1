//! The one bridge: a grid goes in, tensors come out.
//!
//! A [`Survey`] looks at every server of a window once, in parts where it is larger than memory.
//! [`Preprocessing`] is what a lineage knows of its data: [`vocabulary`] names the categories, [`scaler`] sizes
//! the numbers and [`drift`] notices when they no longer fit, `columns` says which input column holds what. A [`Dataset`] puts a grid behind it and
//! answers which [`SampleKey`]s exist and what a [`Batch`] of them holds. The grid's values are never copied:
//! they are scaled, filled and masked while a batch is gathered, on a GPU ([`Resident`]) as on the host.
//!
//! Two promises: nothing at or after a sample's cutoff reaches its inputs, and nothing outside the train part
//! reaches a statistic. Training is left to others.

pub mod batch;
pub mod calendar_features;
mod columns;
pub mod drift;
mod feeding;
pub mod preprocessing;
mod resident;
pub mod samples;
pub mod scaler;
pub mod survey;
#[cfg(test)]
mod tests;
pub mod vocabulary;

use std::sync::Arc;

use anyhow::{Result, ensure};

pub use batch::Batch;
pub use feeding::foreign_inputs;
pub use preprocessing::Preprocessing;
pub use resident::Resident;
pub use samples::SampleKey;
pub use scaler::Scaler;
pub use survey::{Cutoffs, Survey};
pub use vocabulary::Vocabulary;

use crate::window::Grid;
use crate::window::gaps::Gaps;

use columns::Columns;
use vocabulary::UNKNOWN;

/// A grid seen through a lineage's eyes.
#[derive(Clone, Debug)]
pub struct Dataset {
    grid: Arc<Grid>,
    preprocessing: Preprocessing,
    max_gap_steps: usize,
    columns: Columns,
    gaps: Gaps,
    /// Position in the grid's metrics, per metric of the preprocessing.
    metrics: Vec<usize>,
    /// Position in the preprocessing's metrics, per target.
    targets: Vec<usize>,
    /// Server and profile code, per server of the grid.
    codes: Vec<(u32, u32)>,
    /// Status code, per status number of the grid.
    status_codes: Vec<u32>,
    /// `[T + H, calendar columns]`.
    calendar: Vec<f32>,
}

impl Dataset {
    /// Looks at `grid` through `preprocessing`; gaps of up to `max_gap_steps` are filled and masked.
    ///
    /// The grid may know other servers, statuses and further metrics than the lineage, in any order.
    ///
    /// - Errors: the grid's step is not the lineage's, or it lacks a metric.
    pub fn new(
        grid: impl Into<Arc<Grid>>,
        preprocessing: Preprocessing,
        max_gap_steps: usize,
    ) -> Result<Dataset> {
        let grid = grid.into();
        let (of_grid, of_lineage) = (grid.step_secs, preprocessing.step_secs);
        ensure!(of_grid == of_lineage, "the data has steps of {of_grid} s, the model of {of_lineage} s");
        let metrics = preprocessing::positions(&grid.metrics, &preprocessing.metrics)?;
        let targets = preprocessing.target_metrics();
        let target_columns: Vec<usize> = targets.iter().map(|target| metrics[*target]).collect();
        Ok(Dataset {
            gaps: Gaps::find(&grid, &target_columns, max_gap_steps),
            columns: Columns::of(&preprocessing),
            codes: server_codes(&grid, &preprocessing.vocabulary),
            status_codes: status_codes(&grid, &preprocessing.vocabulary),
            calendar: calendar(&grid, &preprocessing),
            grid,
            preprocessing,
            max_gap_steps,
            metrics,
            targets,
        })
    }

    pub fn grid(&self) -> &Arc<Grid> {
        &self.grid
    }

    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Encoder length and horizon, in steps.
    pub fn lengths(&self) -> (usize, usize) {
        (self.preprocessing.encoder_length, self.preprocessing.horizon)
    }

    /// The truth of target `target_idx` at step `h` of the sample's horizon, in its own unit; none where it was
    /// not observed or lies in the future.
    pub fn target_value(&self, key: SampleKey, target_idx: usize, h: usize) -> Option<f32> {
        self.series_value(key.server as usize, target_idx, key.cutoff as usize + h)
    }

    /// The observed value of a target at any step of the grid, in its own unit.
    pub fn series_value(&self, server: usize, target_idx: usize, step: usize) -> Option<f32> {
        let metric = self.metrics[self.targets[target_idx]];
        let value = (step < self.grid.n_steps).then(|| self.grid.row(server, step)[metric]);
        value.filter(|value| value.is_finite())
    }

    /// A forecast of target `target_idx` for a server, from scaled units into its own.
    pub fn unscale(&self, server: usize, target_idx: usize, scaled: f32) -> f32 {
        let (server_id, profile_id) = self.codes[server];
        let stats = self.preprocessing.scaler.stats(server_id, profile_id);
        stats.unscale(self.targets[target_idx], scaled)
    }

    /// Whether the lineage has learned this server of the grid; others are served as their profile.
    pub fn is_known(&self, server: usize) -> bool {
        self.codes[server].0 != UNKNOWN
    }
}

fn server_codes(grid: &Grid, vocabulary: &Vocabulary) -> Vec<(u32, u32)> {
    let servers = vocabulary::codes(&vocabulary.servers);
    let profiles = vocabulary::codes(&vocabulary.profiles);
    let code = |codes: &vocabulary::Codes<'_>, name: &str| codes.get(name).copied().unwrap_or(UNKNOWN);
    let of =
        |server: &crate::window::Server| (code(&servers, &server.name), code(&profiles, &server.profile));
    grid.servers.iter().map(of).collect()
}

fn status_codes(grid: &Grid, vocabulary: &Vocabulary) -> Vec<u32> {
    let known = grid.statuses.iter().map(|status| vocabulary.status_id(status));
    std::iter::once(UNKNOWN).chain(known).collect()
}

/// Calendar inputs of every step of the grid and of one horizon beyond it.
fn calendar(grid: &Grid, preprocessing: &Preprocessing) -> Vec<f32> {
    (0..grid.n_steps + preprocessing.horizon)
        .flat_map(|step| calendar_features::features(grid.time_ms(step), preprocessing.zone))
        .collect()
}
