//! How a run begins: from nothing, from a checkpoint, or from a model; and what of it must fit together.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use chrono::{DateTime, Utc};

use super::archive;
use super::artifact::{TrainedModel, named_weights, weights_sha256};
use super::checkpoint::{self, Checkpoint, EpochPosition, Run, State};
use super::ema::Ema;
use super::exchange;
use super::grow::grow_tables;
use super::guard::Guard;
use super::head;
use super::publish::Published;
use crate::calendar::to_utc;
use crate::config::{Config, TrainingConfig};
use crate::dataset::drift::StaleScales;
use crate::dataset::{Preprocessing, Survey};
use crate::error::{HintExt, Refusal};
use crate::fsx;
use crate::model::{Params, TftConfig};
use crate::model_manifest::ModelManifest;
use crate::window::{Feed, Split};

/// What is learned from.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    pub window_id: &'a str,
    pub feed: &'a Feed,
    pub split: &'a Split,
}

impl Material<'_> {
    /// End of the newest training target.
    pub fn trained_until(&self) -> DateTime<Utc> {
        to_utc(self.feed.outline().time_ms(self.split.train_end))
    }
}

/// Everything a training session continues from, in memory.
pub struct Footing {
    pub state: State,
    pub config: TftConfig,
    pub preprocessing: Preprocessing,
    pub params: Params,
    /// None: the moments begin at zero.
    pub moments: Option<HashMap<String, Tensor>>,
    /// The mean of the weights, where `training.ema_decay` asks for one.
    pub ema: Option<Ema>,
}

/// What is the same for every way to begin a run.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    pub material: Material<'a>,
    /// With moments.
    pub survey: &'a Survey,
    pub config: &'a Config,
    pub device: &'a Device,
    /// What the device is and why.
    pub device_reason: &'a str,
    pub key: Option<&'a str>,
    pub epochs: u32,
    pub now: DateTime<Utc>,
    /// The lineage in `checkpoints/last`: a new one must not get its name, were it begun in the same second.
    pub left: Option<&'a str>,
}

/// Trained weights a new run can start from.
pub struct Origin {
    lineage: String,
    parent: Option<String>,
    total_epochs: u64,
    total_steps: u64,
    total_batches: u64,
    moment_steps: u64,
    trained_until: DateTime<Utc>,
    config: TftConfig,
    preprocessing: Preprocessing,
    weights: HashMap<String, Tensor>,
    moments: HashMap<String, Tensor>,
    ema: HashMap<String, Tensor>,
    ema_steps: u64,
}

impl Origin {
    /// What of the config differs from what the weights were trained for, if anything does.
    pub fn difference(&self, config: &Config) -> Option<&'static str> {
        let of_data = self.preprocessing.difference(config);
        of_data.or_else(|| network_difference(&self.config, &self.preprocessing.tft_config(&config.model)))
    }

    /// A checkpoint; its parent is the model that was made of it, if one was.
    pub fn of_checkpoint(checkpoint: Checkpoint, published: Option<&Published>) -> Self {
        let state = checkpoint.state;
        let model = published.filter(|note| note.is_of(&state.lineage, &checkpoint.served_sha256));
        Self {
            parent: model.map(|note| note.model_id.clone()).or(state.parent),
            lineage: state.lineage,
            total_epochs: state.total_epochs,
            total_steps: state.total_steps,
            total_batches: state.total_batches,
            moment_steps: state.moment_steps,
            trained_until: state.trained_until,
            config: checkpoint.config,
            preprocessing: checkpoint.preprocessing,
            weights: checkpoint.weights,
            moments: checkpoint.moments,
            ema: checkpoint.ema,
            ema_steps: state.ema_steps,
        }
    }

    /// A model folder. It knows neither moments nor, apart from its weights, their mean: both begin anew.
    ///
    /// - Errors: the folder is no model, or is damaged.
    pub fn of_model(dir: &Path) -> Result<Self> {
        let manifest = ModelManifest::read(dir)?;
        let model = TrainedModel::read(dir, &Device::Cpu)?;
        Ok(Self {
            lineage: manifest.lineage,
            parent: Some(manifest.id),
            total_epochs: manifest.total_epochs,
            total_steps: manifest.total_steps,
            total_batches: exchange::total_batches(dir)?,
            moment_steps: 0,
            trained_until: manifest.trained_until,
            weights: named_weights(&model.params),
            config: model.config,
            preprocessing: model.preprocessing,
            moments: HashMap::new(),
            ema: HashMap::new(),
            ema_steps: 0,
        })
    }
}

impl Footing {
    /// A new lineage on a window: everything is fitted, the weights are drawn from the seed.
    pub fn fresh(setting: &Setting<'_>) -> Result<Self> {
        let window_id = setting.material.window_id;
        let preprocessing =
            Preprocessing::fit_to(setting.survey, setting.config, None).context("fit the preprocessing")?;
        let config = preprocessing.tft_config(&setting.config.model);
        let seed = setting.config.training.seed;
        let params = Params::init(&config, seed, setting.device).context("make the network")?;
        head::order_quantiles(&params, &preprocessing.quantiles)?;
        let stamp = setting.now.format("%Y%m%d_%H%M%S");
        let left = setting.left.unwrap_or_default();
        let named = format!("{window_id} {seed} {} {} {left}", config_digest(setting.config), setting.now);
        let digest = fsx::sha256_bytes(named.as_bytes());
        let ema = begin_ema(setting, &config, &params)?;
        let state = State {
            format: checkpoint::FORMAT,
            lineage: format!("{}{stamp}_{}", archive::PREFIX, &digest[..6]),
            total_epochs: 0,
            total_steps: 0,
            total_batches: 0,
            moment_steps: 0,
            ema_steps: 0,
            seed,
            parent: None,
            trained_until: setting.material.trained_until(),
            run: new_run(setting, &params, ema.as_ref(), preprocessing.vocabulary.servers.len())?,
        };
        Ok(Self { state, config, preprocessing, params, moments: None, ema })
    }

    /// A new run from trained weights: the vocabulary is extended by the window's newcomers, known statistics
    /// stay as they are.
    ///
    /// - Errors: the config asks for another network or other data than the weights were trained for: a usage
    ///   error that names the difference.
    pub fn next(mut origin: Origin, setting: &Setting<'_>) -> Result<Self> {
        let survey = setting.survey;
        let prior = origin.preprocessing;
        let preprocessing = Preprocessing::fit_to(survey, setting.config, Some(&prior))
            .context("extend the preprocessing")?;
        let config = with_makeup_of(&origin.config, preprocessing.tft_config(&setting.config.model));
        if let Some(what) = network_difference(&origin.config, &config) {
            let message = format!("{what} differ from those the lineage was trained with");
            return Err(Refusal::usage(message)).hint(|| FRESH_HINT.into());
        }
        let servers = &survey.outline.servers;
        grow_tables(&mut origin.weights, &config, &prior.vocabulary, &preprocessing, servers)?;
        let params = Params::from_tensors(&config, &origin.weights, setting.device)
            .context("take over the weights")
            .hint(|| FRESH_HINT.into())?;
        let stale_scales = StaleScales::find(&prior, survey).context("compare the scales")?;
        let ema = if setting.config.training.ema_decay > 0.0 && !origin.ema.is_empty() {
            grow_tables(&mut origin.ema, &config, &prior.vocabulary, &preprocessing, servers)?;
            Some(Ema::restore(&config, &origin.ema, origin.ema_steps, setting.device)?)
        } else {
            begin_ema(setting, &config, &params)?
        };
        let n_new_servers = preprocessing.vocabulary.servers.len() - prior.vocabulary.servers.len();
        let state = State {
            format: checkpoint::FORMAT,
            lineage: origin.lineage,
            total_epochs: origin.total_epochs,
            total_steps: origin.total_steps,
            total_batches: origin.total_batches,
            moment_steps: origin.moment_steps,
            ema_steps: ema.as_ref().map_or(0, Ema::n_steps),
            seed: setting.config.training.seed,
            parent: origin.parent,
            trained_until: origin.trained_until.max(setting.material.trained_until()),
            run: Run { stale_scales, ..new_run(setting, &params, ema.as_ref(), n_new_servers)? },
        };
        let moments = (!origin.moments.is_empty()).then_some(origin.moments);
        Ok(Self { state, config, preprocessing, params, moments, ema })
    }

    /// The checkpoint exactly as it is.
    pub fn unchanged(checkpoint: Checkpoint, device: &Device) -> Result<Self> {
        let params = Params::from_tensors(&checkpoint.config, &checkpoint.weights, device)
            .context("load the checkpoint's weights")?;
        // What is written next has this program's fields, whichever program wrote the last.
        let state = State { format: checkpoint::FORMAT, ..checkpoint.state };
        let ema = if checkpoint.ema.is_empty() {
            None
        } else {
            Some(Ema::restore(&checkpoint.config, &checkpoint.ema, checkpoint.state.ema_steps, device)?)
        };
        Ok(Self {
            state,
            config: checkpoint.config,
            preprocessing: checkpoint.preprocessing,
            params,
            moments: Some(checkpoint.moments),
            ema,
        })
    }

    /// The weights that a model published from here has.
    pub fn served(&self) -> &Params {
        self.ema.as_ref().map_or(&self.params, Ema::means)
    }
}

const FRESH_HINT: &str = "`tftctl train --fresh` starts a new lineage";

/// A digest of every setting that decides the bits of a result.
pub fn config_digest(config: &Config) -> String {
    let t = &config.training;
    let training = (
        t.batch_size,
        t.learning_rate,
        t.weight_decay,
        t.gradient_clip,
        t.samples_per_epoch,
        t.seed,
        t.ema_decay,
    );
    let mut text =
        serde_json::to_vec(&(config.learning_digest(), training)).expect("plain data always encodes");
    // Settings that came later count where they are not at their defaults: a run begun before them goes on.
    let defaults = TrainingConfig::default();
    for (name, value, default) in [
        ("sample_stride", t.sample_stride as u64, defaults.sample_stride as u64),
        ("memory_mb", t.memory_mb, defaults.memory_mb),
    ] {
        if value != default {
            text.extend(format!("{name} {value}").into_bytes());
        }
    }
    if t.precision != defaults.precision {
        text.extend(format!("precision {}", t.precision).into_bytes());
    }
    fsx::sha256_bytes(&text)[..16].to_owned()
}

/// A mean that begins at `params`, where the config asks for one.
fn begin_ema(setting: &Setting<'_>, config: &TftConfig, params: &Params) -> Result<Option<Ema>> {
    let wanted = setting.config.training.ema_decay > 0.0;
    wanted.then(|| Ema::begin(config, params, setting.device)).transpose()
}

/// Sizes are filled in by the session, which knows the samples.
fn new_run(setting: &Setting<'_>, params: &Params, ema: Option<&Ema>, n_new_servers: usize) -> Result<Run> {
    Ok(Run {
        key: setting.key.map(str::to_owned),
        window_id: setting.material.window_id.to_owned(),
        config_digest: config_digest(setting.config),
        device: setting.device_reason.to_owned(),
        started_at: setting.now,
        weights_before: weights_sha256(params)?,
        ema_before: ema.map(|ema| weights_sha256(ema.means())).transpose()?,
        epochs_planned: setting.epochs,
        epochs_done: 0,
        n_samples: 0,
        n_batches: 0,
        epoch: EpochPosition::default(),
        losses: Vec::new(),
        epoch_targets: Vec::new(),
        targets: Vec::new(),
        guard: Guard::default(),
        n_new_servers: n_new_servers as u64,
        stale_scales: StaleScales::default(),
        duration_secs: 0.0,
        ended: None,
    })
}

/// `new` with what no setting of ours decides as it is in `old`: an imported network goes on as the network it is.
fn with_makeup_of(old: &TftConfig, new: TftConfig) -> TftConfig {
    TftConfig {
        hidden_continuous_sizes: old.hidden_continuous_sizes.clone(),
        embedding_paddings: old.embedding_paddings.clone(),
        share_single_variable_networks: old.share_single_variable_networks,
        causal_attention: old.causal_attention,
        mask_bias: old.mask_bias,
        ..new
    }
}

/// What keeps weights trained for `old` from fitting `new`; the rows of tables may differ.
pub(super) fn network_difference(old: &TftConfig, new: &TftConfig) -> Option<&'static str> {
    // By name: their order is that of a description, and weights are found by their names.
    let tables = |config: &TftConfig| -> BTreeMap<String, usize> {
        let width = |t: &crate::model::EmbeddingSize| (t.name.clone(), config.embedding_size(t));
        config.embedding_sizes.iter().map(width).collect()
    };
    let differs = [
        ("model.hidden_size", old.hidden_size != new.hidden_size),
        ("model.hidden_continuous_size", old.hidden_continuous_size != new.hidden_continuous_size),
        ("model.attention_heads", old.attention_head_size != new.attention_head_size),
        ("model.lstm_layers", old.lstm_layers != new.lstm_layers),
        ("the inputs", old.x_reals != new.x_reals || old.x_categoricals != new.x_categoricals),
        ("the outputs", old.output_sizes != new.output_sizes),
        ("the embedding tables", tables(old) != tables(new)),
    ];
    differs.iter().find(|(_, differs)| *differs).map(|(what, _)| *what)
}
