//! Networks from and to pytorch-forecasting, as a folder.
//!
//! | file of the folder | what it holds |
//! |---|---|
//! | `model.safetensors` | the library's state dict: every parameter under its name and under its aliases |
//! | `hyper_parameters.json` | the constructor's arguments ([`HyperParameters`]) and [`Past`]; written last |
//! | `preprocessing.json` | vocabulary, scalers and lengths ([`Preprocessing`]), where there are any |
//!
//! [`import`] makes an ordinary, immutable model of such a folder and [`export`] writes one from a model. Weights
//! go both ways bit for bit. A network that comes without preprocessing cannot be fed here: it can be shown and
//! exported, and everything else refuses it (`ModelManifest::ensure_has_preprocessing`). How a Lightning checkpoint becomes
//! such a folder is left to `scripts/lightning-checkpoint`.
//!
//! [`Preprocessing`]: crate::dataset::Preprocessing

mod export;
mod import;

use std::path::Path;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::fsx;
use crate::model_manifest::TRAINING_FILE;

pub use crate::model::HyperParameters;
pub use export::{Exported, export};
pub use import::{ImportRecord, Imported, import};

/// The description of the network, in an exchange folder and beside the weights of an imported model.
pub const HYPER_PARAMETERS_FILE: &str = "hyper_parameters.json";

/// The `training` entry of `hyper_parameters.json`: what is known of a network's past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    pub total_epochs: u64,
    pub total_steps: u64,
    pub total_batches: u64,
    /// End of the newest training target.
    pub trained_until: Option<DateTime<Utc>>,
    /// Mean training loss of the last epoch, in scaled units.
    pub loss_train: Option<f64>,
    /// The model it was exported from, and its lineage.
    pub model_id: Option<String>,
    pub lineage: Option<String>,
}

impl Past {
    /// - Errors: counters that no training reaches, or a training on data from after `now`.
    fn ensure_possible(&self, now: DateTime<Utc>) -> Result<()> {
        const MOST: u64 = 1 << 53;
        let largest = self.total_epochs.max(self.total_steps).max(self.total_batches);
        ensure!(largest <= MOST, "{largest} epochs, steps or batches are more than any training makes");
        let is_past = self.trained_until.is_none_or(|until| until <= now);
        ensure!(is_past, "`trained_until` lies in the future");
        Ok(())
    }
}

/// The batches that went into a model's lineage: the one counter that the manifest lacks.
///
/// - Errors: the model's training record cannot be read.
pub(super) fn total_batches(model_dir: &Path) -> Result<u64> {
    #[derive(Deserialize)]
    struct Counter {
        total_batches: u64,
    }
    let counter: Counter = fsx::read_json(&model_dir.join(TRAINING_FILE))?;
    Ok(counter.total_batches)
}
