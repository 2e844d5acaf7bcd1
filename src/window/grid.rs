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

    /// The same grid without its values.
    pub fn outline(&self) -> Self {
        Self {
            servers: self.servers.clone(),
            metrics: self.metrics.clone(),
            statuses: self.statuses.clone(),
            values: Vec::new(),
            status: Vec::new(),
            ..*self
        }
    }

    /// An outline with some of the metrics only, in the order given, and without statuses.
    pub fn only_metrics(self, metrics: &[String]) -> Self {
        Self { metrics: metrics.to_vec(), statuses: Vec::new(), ..self }
    }

    /// An outline that begins at step `first`, which becomes its step 0.
    pub fn from_step(self, first: usize) -> Self {
        Self { start_ms: self.time_ms(first), n_steps: self.n_steps.saturating_sub(first), ..self }
    }

    /// The grid of some of the servers, with room for their values and none of them there.
    pub(super) fn with_room_for(&self, servers: impl Iterator<Item = usize>) -> Self {
        let servers: Vec<Server> = servers.map(|server| self.servers[server].clone()).collect();
        let n_cells = servers.len() * self.n_steps;
        Self {
            values: vec![f32::NAN; n_cells * self.metrics.len()],
            status: vec![0; n_cells],
            metrics: self.metrics.clone(),
            statuses: self.statuses.clone(),
            servers,
            ..*self
        }
    }

    /// Bytes that the values and statuses of one server take.
    pub fn bytes_a_server(&self) -> u64 {
        bytes_a_server(self.n_steps, self.metrics.len())
    }
}

/// Bytes that `n_metrics` float32 values and a status take at each of `n_steps` steps.
pub fn bytes_a_server(n_steps: usize, n_metrics: usize) -> u64 {
    let cell = n_metrics * size_of::<f32>() + size_of::<u16>();
    n_steps as u64 * cell as u64
}
