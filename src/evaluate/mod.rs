//! How good a forecaster is: models and baselines on the same rows, scored by the same code.
//!
//! [`exam_grids`] reads what an exam needs of a window; [`exam`] sets the rows and scores models and [`baselines`]; [`forecast`] runs a network without recording;
//! [`score`] turns forecasts and truth into [`scores`], in units of [`divisor`]. Which score is good enough is
//! not decided here.

pub mod baselines;
pub mod divisor;
pub mod exam;
pub mod exam_grids;
pub mod forecast;
pub mod score;
pub mod scores;

pub use exam::{Exam, ensure_examinable, score_baselines, score_model};
pub use exam_grids::{ExamGrids, WindowEnd};
pub use forecast::{Forecasts, predict};
pub use scores::{Scores, Slice, TargetScores};

#[cfg(test)]
pub(crate) mod tests {
    use crate::window::grid::{Grid, Server};

    /// A grid of one metric with a value per server and step.
    pub fn grid_of(
        step_secs: u32,
        n_steps: usize,
        n_servers: usize,
        value: impl Fn(usize, usize) -> f32,
    ) -> Grid {
        let cells = (0..n_servers).flat_map(|server| (0..n_steps).map(move |step| (server, step)));
        Grid {
            servers: (0..n_servers)
                .map(|i| Server { name: format!("s{i:03}"), profile: "generic".into() })
                .collect(),
            metrics: vec!["load".into()],
            statuses: vec![],
            start_ms: 1_704_067_200_000,
            step_secs,
            n_steps,
            values: cells.map(|(server, step)| value(server, step)).collect(),
            status: vec![0; n_servers * n_steps],
        }
    }
}
