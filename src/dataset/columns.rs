//! Which column of the input tensors holds what: one list, for the network's config and for the batches.
//!
//! Order is pytorch-forecasting's: static, known, observed. For K targets and M metrics the reals are
//! `<target>_center`, `<target>_scale` (2 K), the calendar, `relative_time_idx`, the M metrics, `missing_share`;
//! the categoricals are `server_name`, `profile` and, if the lineage has it, `status`.

use crate::config::ModelConfig;
use crate::model::{EmbeddingSize, TftConfig, Transformation};

use super::calendar_features;
use super::preprocessing::Preprocessing;

pub(super) const SERVER: &str = "server_name";
pub(super) const PROFILE: &str = "profile";
pub(super) const STATUS: &str = "status";
const RELATIVE_TIME: &str = "relative_time_idx";
const MISSING: &str = "missing_share";

/// Places of the groups of real columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Static reals: `[0, n_static)`.
    pub n_static: usize,
    /// First calendar column; the relative time follows the calendar.
    pub calendar: usize,
    pub relative_time: usize,
    /// First metric; the share of missing metrics follows the last.
    pub metrics: usize,
    pub missing: usize,
    /// All real columns R.
    pub n_reals: usize,
    /// All categorical columns C.
    pub n_categoricals: usize,
}

impl Columns {
    pub fn of(preprocessing: &Preprocessing) -> Self {
        let calendar = 2 * preprocessing.targets.len();
        let relative_time = calendar + calendar_features::NAMES.len();
        let metrics = relative_time + 1;
        let missing = metrics + preprocessing.metrics.len();
        Self {
            n_static: calendar,
            calendar,
            relative_time,
            metrics,
            missing,
            n_reals: missing + 1,
            n_categoricals: if preprocessing.has_status { 3 } else { 2 },
        }
    }
}

/// Names of the real inputs by role: static, known, observed.
pub(super) fn real_names(targets: &[String], metrics: &[String]) -> [Vec<String>; 3] {
    let statics = targets.iter().flat_map(|t| [format!("{t}_center"), format!("{t}_scale")]).collect();
    let known = calendar_features::NAMES.into_iter().chain([RELATIVE_TIME]).map(str::to_owned).collect();
    let observed = metrics.iter().cloned().chain([MISSING.to_owned()]).collect();
    [statics, known, observed]
}

/// The network for inputs prepared by `preprocessing`, with the sizes of `model`.
pub(super) fn tft_config(preprocessing: &Preprocessing, model: &ModelConfig) -> TftConfig {
    let [static_reals, known, observed] = real_names(&preprocessing.targets, &preprocessing.metrics);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let statuses = if preprocessing.has_status { names(&[STATUS]) } else { Vec::new() };
    let static_categoricals = names(&[SERVER, PROFILE]);
    TftConfig {
        hidden_size: model.hidden_size,
        lstm_layers: model.lstm_layers,
        dropout: model.dropout,
        attention_head_size: model.attention_heads,
        max_encoder_length: preprocessing.encoder_length,
        hidden_continuous_size: model.hidden_continuous_size,
        embedding_sizes: embedding_sizes(preprocessing),
        embedding_paddings: [static_categoricals.clone(), statuses.clone()].concat(),
        x_reals: [static_reals.clone(), known.clone(), observed.clone()].concat(),
        x_categoricals: [static_categoricals.clone(), statuses.clone()].concat(),
        time_varying_reals_encoder: [known.clone(), observed].concat(),
        time_varying_reals_decoder: known,
        time_varying_categoricals_encoder: statuses,
        time_varying_categoricals_decoder: Vec::new(),
        static_categoricals,
        static_reals,
        output_sizes: vec![preprocessing.quantiles.len(); preprocessing.targets.len()],
        output_transformations: vec![Transformation::Identity; preprocessing.targets.len()],
        ..TftConfig::default()
    }
}

fn embedding_sizes(preprocessing: &Preprocessing) -> Vec<EmbeddingSize> {
    let (vocabulary, dims) = (&preprocessing.vocabulary, &preprocessing.embedding_dims);
    let table = |name: &str, names: &[String], dim: usize| EmbeddingSize {
        name: name.to_owned(),
        classes: names.len() + 1,
        dim,
    };
    let mut sizes = vec![
        table(SERVER, &vocabulary.servers, dims.server),
        table(PROFILE, &vocabulary.profiles, dims.profile),
    ];
    if preprocessing.has_status {
        sizes.push(table(STATUS, &vocabulary.statuses, dims.status));
    }
    sizes
}
