//! Everything needed to turn a grid into a network's inputs, saved with every model as `preprocessing.json`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ModelConfig};
use crate::error::{HintExt, Refusal};
use crate::fsx;
use crate::model::TftConfig;
use crate::window::{Grid, Split};

use super::columns;
use super::scaler::{Observed, Scaler};
use super::survey::Survey;
use super::vocabulary::{self, Vocabulary};

/// The `format` of `preprocessing.json` written here.
pub const FORMAT: u32 = 1;

/// Widths of the embeddings, fixed when a lineage begins: vocabularies grow, these do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingDims {
    pub server: usize,
    pub profile: usize,
    pub status: usize,
}

/// A lineage's view of its data: names, codes, scales, lengths and the clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    pub format: u32,
    /// In the order of the scaler and of the input columns.
    pub metrics: Vec<String>,
    /// Metrics that are forecast, in the order of the outputs.
    pub targets: Vec<String>,
    /// Ascending.
    pub quantiles: Vec<f64>,
    pub encoder_length: usize,
    pub horizon: usize,
    pub step_secs: u32,
    pub zone: Tz,
    /// Whether `status` is an input: it is if the lineage's first window had any.
    pub has_status: bool,
    pub embedding_dims: EmbeddingDims,
    pub vocabulary: Vocabulary,
    pub scaler: Scaler,
}

impl Preprocessing {
    /// [`Preprocessing::fit_to`] a grid in memory.
    pub fn fit(
        grid: &Grid,
        split: &Split,
        config: &Config,
        prior: Option<&Preprocessing>,
    ) -> Result<Preprocessing> {
        Self::fit_to(&Survey::of_grid(grid, split, config)?, config, prior)
    }

    /// Fits names and scales to the train part of a window.
    ///
    /// With `prior`, the lineage goes on: its vocabulary is extended and its statistics are kept; only servers
    /// and metrics without statistics are fitted. A server joins once it has a whole sample in the train part;
    /// until then it is served as an unknown of its profile. Values outside the train part change nothing.
    ///
    /// - Errors: `config` asks for other metrics, targets, quantiles, lengths, step or zone than `prior` has; no
    ///   server has a whole training sample ([`Refusal::NotEnoughData`]).
    pub fn fit_to(survey: &Survey, config: &Config, prior: Option<&Preprocessing>) -> Result<Preprocessing> {
        let learners: Vec<usize> =
            (0..survey.servers.len()).filter(|server| !survey.servers[*server].cutoffs.is_empty()).collect();
        if learners.is_empty() {
            let reason = "no server has a whole sample in the train part of the window".to_owned();
            return Err(Refusal::NotEnoughData { reasons: vec![reason] }.into());
        }
        let mut fitted = match prior {
            Some(prior) => prior.clone(),
            None => begin(&survey.outline, config, learners.len())?,
        };
        if let Some(what) = fitted.difference(config) {
            return Err(Refusal::usage(format!("{what} differ from those the lineage was trained with")))
                .hint(|| "`tftctl train --fresh` starts a new lineage".into());
        }
        let (of_window, of_lineage) = (survey.outline.step_secs, fitted.step_secs);
        ensure!(
            of_window == of_lineage,
            "the window has steps of {of_window} s, the lineage of {of_lineage} s"
        );
        fitted.learn(survey, &learners)?;
        Ok(fitted)
    }

    /// The network for these inputs, with the sizes of `config`.
    pub fn tft_config(&self, config: &ModelConfig) -> TftConfig {
        columns::tft_config(self, config)
    }

    /// Positions of the targets among the metrics.
    pub fn target_metrics(&self) -> Vec<usize> {
        positions(&self.metrics, &self.targets).expect("checked when fitted and when read")
    }

    /// Reads and checks what was stored with a model.
    ///
    /// - Errors: the file is missing, a newer program wrote it, or its parts do not fit together.
    pub fn read(path: &Path) -> Result<Self> {
        let found: Option<Self> = fsx::read_versioned(path, FORMAT)?;
        let preprocessing = found.with_context(|| format!("find {}", path.display()))?;
        preprocessing.ensure_valid().with_context(|| format!("check {}", path.display()))?;
        Ok(preprocessing)
    }

    /// Checks that the parts fit together.
    ///
    /// - Errors: they do not.
    pub fn ensure_valid(&self) -> Result<()> {
        positions(&self.metrics, &self.targets)?;
        let scaler = &self.scaler;
        let fits = scaler.servers.len() == self.vocabulary.servers.len()
            && scaler.profiles.len() == self.vocabulary.profiles.len()
            && scaler.servers.iter().chain(&scaler.profiles).chain([&scaler.fleet]).all(|stats| {
                [stats.centre.len(), stats.scale.len(), stats.n_observed.len()] == [self.metrics.len(); 3]
            });
        ensure!(fits, "vocabulary, metrics and scaler of the preprocessing do not fit together");
        Ok(())
    }

    fn learn(&mut self, survey: &Survey, learners: &[usize]) -> Result<()> {
        let outline = &survey.outline;
        let names = learners.iter().map(|server| outline.servers[*server].name.as_str());
        vocabulary::extend(&mut self.vocabulary.servers, names);
        let profiles = learners.iter().map(|server| outline.servers[*server].profile.as_str());
        vocabulary::extend(&mut self.vocabulary.profiles, profiles);
        if self.has_status {
            vocabulary::extend(&mut self.vocabulary.statuses, outline.statuses.iter().map(String::as_str));
        }
        let metrics = positions(&outline.metrics, &self.metrics)?;
        let servers = vocabulary::codes(&self.vocabulary.servers);
        let profiles = vocabulary::codes(&self.vocabulary.profiles);
        let observed: Vec<Observed> = learners
            .iter()
            .map(|server| Observed {
                server: servers[outline.servers[*server].name.as_str()] as usize - 1,
                profile: profiles[outline.servers[*server].profile.as_str()] as usize - 1,
                moments: metrics.iter().map(|metric| survey.servers[*server].moments[*metric]).collect(),
            })
            .collect();
        let (n_servers, n_profiles) = (self.vocabulary.servers.len(), self.vocabulary.profiles.len());
        self.scaler = Scaler::fit(Some(&self.scaler), &observed, n_servers, n_profiles, self.metrics.len());
        Ok(())
    }

    /// What of the config is not as it was when the lineage began, if anything is not: its data can then no longer
    /// feed these weights.
    pub fn difference(&self, config: &Config) -> Option<&'static str> {
        let model = &config.model;
        let metrics: Vec<String> = config.metrics.iter().map(|metric| metric.name.clone()).collect();
        let differs = [
            ("the metrics", self.metrics != metrics),
            ("model.targets", self.targets != model.targets),
            ("model.quantiles", self.quantiles != model.quantiles),
            ("model.encoder_length", self.encoder_length != model.encoder_length),
            ("model.horizon", self.horizon != model.horizon),
            ("series.step_secs", self.step_secs != config.series.step_secs),
            ("timezone", self.zone != config.timezone),
        ];
        differs.iter().find(|(_, differs)| *differs).map(|(what, _)| *what)
    }
}

/// The first preprocessing of a lineage, without names and scales yet.
fn begin(grid: &Grid, config: &Config, n_servers: usize) -> Result<Preprocessing> {
    let model = &config.model;
    let metrics: Vec<String> = config.metrics.iter().map(|metric| metric.name.clone()).collect();
    ensure_no_clash(&model.targets, &metrics)?;
    let has_status = !grid.statuses.is_empty();
    let n_profiles = config.profiles.len() + 1;
    Ok(Preprocessing {
        format: FORMAT,
        targets: model.targets.clone(),
        quantiles: model.quantiles.clone(),
        encoder_length: model.encoder_length,
        horizon: model.horizon,
        step_secs: grid.step_secs,
        zone: config.timezone,
        has_status,
        embedding_dims: EmbeddingDims {
            server: embedding_dim((2 * n_servers).max(16), model.hidden_size),
            profile: embedding_dim(n_profiles.max(8), model.hidden_size),
            status: embedding_dim(grid.statuses.len().max(8), model.hidden_size),
        },
        vocabulary: Vocabulary::default(),
        scaler: Scaler::fit(None, &[], 0, 0, metrics.len()),
        metrics,
    })
}

/// pytorch-forecasting's width for `n_classes` codes, at most `hidden_size`.
fn embedding_dim(n_classes: usize, hidden_size: usize) -> usize {
    let rule = (1.6 * (n_classes as f64).powf(0.56)).round() as usize;
    rule.clamp(1, 100).min(hidden_size)
}

fn ensure_no_clash(targets: &[String], metrics: &[String]) -> Result<()> {
    let [statics, known, mut observed] = columns::real_names(targets, metrics);
    observed.extend([columns::SERVER, columns::PROFILE, columns::STATUS].map(str::to_owned));
    let mut names = [statics, known, observed].concat();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Refusal::usage(format!(
            "`{}` is the name of a calendar or scale input, not of a metric",
            pair[0]
        ))),
        None => Ok(()),
    }
}

/// Positions of `names` among `metrics`.
pub(super) fn positions(metrics: &[String], names: &[String]) -> Result<Vec<usize>> {
    names
        .iter()
        .map(|name| {
            let position = metrics.iter().position(|metric| metric == name);
            position.with_context(|| format!("metric `{name}` is not among those of the data"))
        })
        .collect()
}
