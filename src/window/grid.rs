//! All servers of a window on one time grid.

/// One series of the window.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub name: String,
    pub profile: String,
}

/// Aligned step values of every server: index is time, so a gap is a gap.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Ascending by name. S of them.
    pub servers: Vec<Server>,
    /// Metric names in schema order. M of them.
    pub metrics: Vec<String>,
    /// Distinct status texts, ascending.
    pub statuses: Vec<String>,
    /// Start of step 0 in epoch milliseconds.
    pub start_ms: i64,
    pub step_secs: u32,
    /// Steps T.
    pub n_steps: usize,
    /// `[S, T, M]` row-major, in the metrics' own units, NaN where missing (nothing is filled here).
    pub values: Vec<f32>,
    /// `[S, T]`: 0 where no status is known, else 1 + position in `statuses`.
    pub status: Vec<u16>,
}

impl Grid {
    /// Start of step `step` in epoch milliseconds.
    pub fn time_ms(&self, step: usize) -> i64 {
        self.start_ms + step as i64 * i64::from(self.step_secs) * 1000
    }

    /// The metrics of one server at one step, `[M]`.
    pub fn row(&self, server: usize, step: usize) -> &[f32] {
        let n_metrics = self.metrics.len();
        let start = (server * self.n_steps + step) * n_metrics;
        &self.values[start..start + n_metrics]
    }
}
