//! The tables of the config file, each with its defaults and its own check.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::layers::nearest;
use crate::error::Refusal;
use crate::precision::Precision;
use crate::schema::Schema;

/// Limits that no honest setting comes near; beyond them lie slips of the keyboard, and overflows.
const MAX_STEPS: usize = 100_000;
const MAX_SIZE: usize = 16_384;
const MAX_BATCH: usize = 1_000_000;
const MAX_MEMORY_MB: u64 = 1 << 32;
const WEIGHTS: std::ops::RangeInclusive<f64> = 1e-3..=1e3;
const MAX_HOLDOUT_HOURS: u32 = 24 * super::MAX_WINDOW_DAYS;
const DAY_SECS: u64 = 86_400;
const YEAR_SECS: u64 = 366 * DAY_SECS;

pub(super) fn require(fine: bool, message: impl FnOnce() -> String) -> Result<()> {
    if fine { Ok(()) } else { Err(Refusal::usage(message())) }
}

/// Whether `text` says where a secret is, rather than being one.
pub(super) fn is_secret_reference(text: &str) -> bool {
    ["env:", "file:", "cred:"].iter().any(|kind| text.starts_with(kind))
}

/// `[series]`: the clock of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeriesConfig {
    /// Seconds between two raw rows of a server.
    pub sample_secs: u32,
    /// Seconds of the model's time step, into which raw rows are aggregated.
    pub step_secs: u32,
    /// Rows further than this ahead of the clock go to quarantine.
    pub max_future_secs: u32,
}

impl Default for SeriesConfig {
    fn default() -> Self {
        Self { sample_secs: 5, step_secs: 300, max_future_secs: 300 }
    }
}

impl SeriesConfig {
    pub(super) fn ensure_valid(&self) -> Result<()> {
        require(self.sample_secs >= 1, || "series.sample_secs must be at least 1".into())?;
        require(self.step_secs >= self.sample_secs, || {
            "series.step_secs must be at least series.sample_secs".into()
        })?;
        require(86_400 % self.step_secs == 0, || "series.step_secs must divide a day of 86400 s".into())
    }
}

/// `[window]`: what a training window must hold, and how gaps are treated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowConfig {
    /// Gaps of at most this many steps are filled (by the last value) and masked; longer ones end a sample.
    pub max_gap_steps: usize,
    /// Days with data a window needs at least.
    pub min_days: u32,
    /// Smallest share of the expected steps a server needs to be trained on.
    pub min_completeness: f64,
    /// Hours at the end that are held out for the exam, besides one horizon.
    pub holdout_hours: u32,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { max_gap_steps: 6, min_days: 2, min_completeness: 0.5, holdout_hours: 24 }
    }
}

impl WindowConfig {
    pub(super) fn ensure_valid(&self) -> Result<()> {
        require((0.0..=1.0).contains(&self.min_completeness), || {
            "window.min_completeness is a share from 0 to 1".into()
        })?;
        require((1..=MAX_HOLDOUT_HOURS).contains(&self.holdout_hours), || {
            format!("window.holdout_hours must be at least 1 and at most {MAX_HOLDOUT_HOURS}, ten years")
        })?;
        require(self.max_gap_steps <= MAX_STEPS, || {
            format!("window.max_gap_steps must be at most {MAX_STEPS}")
        })
    }
}

/// `[model]`: the network, its inputs and its outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Metrics to forecast.
    pub targets: Vec<String>,
    /// Past steps the network sees.
    pub encoder_length: usize,
    /// Future steps forecast at once.
    pub horizon: usize,
    /// Quantile levels of the forecast, ascending, with 0.5 among them.
    pub quantiles: Vec<f64>,
    pub hidden_size: usize,
    /// Width of each real input.
    pub hidden_continuous_size: usize,
    pub attention_heads: usize,
    pub lstm_layers: usize,
    pub dropout: f64,
    /// How much each target counts in the training loss; 1 where nothing is said. Only their ratios matter.
    pub target_weights: BTreeMap<String, f64>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            targets: Schema::FLEET14_TARGETS.map(str::to_owned).to_vec(),
            encoder_length: 288,
            horizon: 96,
            quantiles: vec![0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98],
            hidden_size: 32,
            hidden_continuous_size: 16,
            attention_heads: 8,
            lstm_layers: 1,
            dropout: 0.1,
            target_weights: BTreeMap::new(),
        }
    }
}

impl ModelConfig {
    /// The weights of `targets` in their order, scaled to a mean of 1, so that the size of the loss does not depend on
    /// how they were written.
    pub fn target_weights_of(&self, targets: &[String]) -> Vec<f64> {
        let stated = |name: &String| self.target_weights.get(name).copied().unwrap_or(1.0);
        let sum: f64 = targets.iter().map(stated).sum();
        targets.iter().map(|name| stated(name) * targets.len() as f64 / sum).collect()
    }

    pub(super) fn ensure_valid(&self, schema: &Schema) -> Result<()> {
        require(!self.targets.is_empty(), || "model.targets is empty".into())?;
        for target in &self.targets {
            require(schema.metric_idx(target).is_some(), || {
                format!("model.targets names `{target}`, which is no [[metric]]")
            })?;
        }
        let ascending = self.quantiles.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = self.quantiles.iter().all(|q| *q > 0.0 && *q < 1.0);
        require(ascending && inside, || "model.quantiles must be ascending, between 0 and 1".into())?;
        require(self.quantiles.contains(&0.5), || {
            "model.quantiles must contain 0.5, the point forecast".into()
        })?;
        let lengths = [self.encoder_length, self.horizon];
        require(lengths.iter().all(|length| (1..=MAX_STEPS).contains(length)), || {
            format!("model.encoder_length and model.horizon must be at least 1 and at most {MAX_STEPS}")
        })?;
        let sizes = [self.hidden_size, self.hidden_continuous_size, self.attention_heads, self.lstm_layers];
        require(sizes.iter().all(|size| (1..=MAX_SIZE).contains(size)), || {
            format!("the sizes in [model] must be at least 1 and at most {MAX_SIZE}")
        })?;
        require(self.attention_heads <= self.hidden_size, || {
            "model.attention_heads exceeds model.hidden_size".into()
        })?;
        require((0.0..1.0).contains(&self.dropout), || "model.dropout is a probability below 1".into())?;
        self.ensure_valid_weights()
    }

    fn ensure_valid_weights(&self) -> Result<()> {
        for (name, weight) in &self.target_weights {
            require(self.targets.contains(name), || {
                let near = nearest(name, self.targets.iter().map(String::as_str));
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                format!("model.target_weights names `{name}`, which is none of model.targets{hint}")
            })?;
            require(WEIGHTS.contains(weight), || {
                format!("model.target_weights.{name} must be at least 0.001 and at most 1000")
            })?;
        }
        Ok(())
    }
}

/// `[training]`: how an epoch is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    pub batch_size: usize,
    /// Peak learning rate; it warms up and decays inside one night.
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// Largest global 2-norm of the gradient.
    pub gradient_clip: f64,
    /// Samples drawn (without replacement, anew each epoch) for one epoch; 0 takes all.
    pub samples_per_epoch: usize,
    /// An epoch takes one cutoff of a server in so many; which, is drawn anew each epoch. 1 takes all.
    pub sample_stride: usize,
    /// Largest part of a window's values that is in memory at once, in MiB; 0: no limit. A larger window is built and
    /// trained on a part of its servers at a time.
    pub memory_mb: u64,
    /// Share of the mean of the weights that each step keeps, such as 0.999; the mean is what is served. 0: no mean,
    /// the weights themselves are served.
    pub ema_decay: f64,
    /// On a GPU, start a whole step as one recorded launch (a CUDA graph), where the window fits onto the device. The CPU
    /// knows nothing of it.
    pub cuda_graph: bool,
    /// What the matrix products of a training multiply on a GPU. The CPU knows nothing of it.
    pub precision: Precision,
    /// Seconds between two checkpoints inside an epoch; 0 writes one after every batch.
    pub checkpoint_secs: u64,
    pub seed: u64,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            batch_size: 64,
            learning_rate: 3e-3,
            weight_decay: 1e-4,
            gradient_clip: 1.0,
            samples_per_epoch: 0,
            sample_stride: 1,
            memory_mb: 4096,
            ema_decay: 0.0,
            cuda_graph: false,
            precision: Precision::Float32,
            checkpoint_secs: 300,
            seed: 42,
        }
    }
}

impl TrainingConfig {
    pub(super) fn ensure_valid(&self) -> Result<()> {
        require((1..=MAX_BATCH).contains(&self.batch_size), || {
            format!("training.batch_size must be at least 1 and at most {MAX_BATCH}")
        })?;
        let positive = self.learning_rate > 0.0 && self.gradient_clip > 0.0 && self.weight_decay >= 0.0;
        require(positive, || "training.learning_rate and training.gradient_clip must be positive".into())?;
        require(self.learning_rate.is_finite() && self.weight_decay.is_finite(), || {
            "training.learning_rate and training.weight_decay must be finite".into()
        })?;
        require((0.0..1.0).contains(&self.ema_decay), || {
            "training.ema_decay is a share below 1, such as 0.999; 0 switches it off".into()
        })?;
        require((1..=MAX_STEPS).contains(&self.sample_stride), || {
            format!("training.sample_stride must be at least 1 and at most {MAX_STEPS}")
        })?;
        require(self.memory_mb <= MAX_MEMORY_MB, || {
            format!("training.memory_mb must be at most {MAX_MEMORY_MB}; 0 sets no limit")
        })?;
        require(self.checkpoint_secs <= YEAR_SECS, || {
            format!("training.checkpoint_secs must be at most {YEAR_SECS}, a year")
        })
    }

    /// [`TrainingConfig::memory_mb`] in bytes; none: no limit.
    pub fn memory_bytes(&self) -> Option<u64> {
        (self.memory_mb > 0).then_some(self.memory_mb << 20)
    }
}

/// `[validation]`: the thresholds of the exam.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Share by which the loss may exceed the champion's and still count as equal.
    pub tolerance: f64,
    /// Share of forecasts that may lie outside the metric's range (with one range width of slack: none).
    pub max_out_of_range: f64,
    /// Share of raw forecasts whose quantiles may cross.
    pub max_crossing: f64,
    /// Limits on the share of truths between P10 and P90.
    pub coverage_min: f64,
    pub coverage_max: f64,
    /// Loss of any one server or profile over its champion's, at most.
    pub slice_ratio: f64,
    /// Sum of log loss ratios over the last 30 promotions, at most.
    pub cumulative_budget: f64,
    /// Samples scored at most (evenly spread); 0 scores all.
    pub max_samples: usize,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            tolerance: 0.03,
            max_out_of_range: 0.01,
            max_crossing: 0.2,
            coverage_min: 0.5,
            coverage_max: 0.99,
            slice_ratio: 2.0,
            cumulative_budget: 0.1,
            max_samples: 4096,
        }
    }
}

impl ValidationConfig {
    pub(super) fn ensure_valid(&self) -> Result<()> {
        require(self.tolerance >= 0.0, || "validation.tolerance must not be negative".into())?;
        require(self.coverage_min < self.coverage_max, || {
            "validation.coverage_min must be below coverage_max".into()
        })?;
        require(self.slice_ratio >= 1.0, || "validation.slice_ratio is a ratio of at least 1".into())
    }
}

/// `[notify]`: who hears of a night.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// A command line that gets each message as JSON on standard input.
    pub command: String,
    /// Seconds all telling together may take.
    pub timeout_secs: u64,
    /// Whether a good night is told too.
    pub on_success: bool,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { command: String::new(), timeout_secs: 30, on_success: true }
    }
}

impl NotifyConfig {
    pub(super) fn ensure_valid(&self, slack_webhook: &str) -> Result<()> {
        require(slack_webhook.is_empty() || is_secret_reference(slack_webhook), || {
            "slack_webhook is a secret: write env:NAME, file:PATH or cred:NAME, never the address itself"
                .into()
        })?;
        require((1..=DAY_SECS).contains(&self.timeout_secs), || {
            format!("notify.timeout_secs must be at least 1 and at most {DAY_SECS}, a day")
        })
    }
}

/// `[retention]`: what is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Models kept besides the champion and its predecessors.
    pub models: usize,
    /// Training states kept of lineages that were left (`train --fresh`), at least one.
    pub lineages: usize,
    pub windows_days: u32,
    pub forecasts_days: u32,
    pub logs_days: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { models: 30, lineages: 3, windows_days: 7, forecasts_days: 60, logs_days: 365 }
    }
}
