//! The training state of a lineage on disk: enough to go on as if never stopped.
//!
//! `checkpoints/last/` and, the one before it, `checkpoints/previous/` hold
//!
//! - `model.safetensors`, `config.json`, `preprocessing.json`: as in a model folder,
//! - `optimizer.safetensors`: the moments `m.<parameter>` and `v.<parameter>`,
//! - `ema.safetensors`, where `training.ema_decay` is above 0: the mean of the weights ([`super::ema`]), in the very
//!   bytes that a model published from here has as its weights,
//! - `state.json`: [`State`], counters and positions,
//! - `manifest.json`, written last: the sha256 of each. No manifest, no checkpoint.
//!
//! Sample order and dropout are functions of counters, so the counters are the whole random state.
//! `checkpoints/damaged/` is a `last` that could not be read, kept for whoever wants to know why;
//! `checkpoints/published.json` is [`super::publish`]'s and `checkpoints/lineages/` [`super::archive`]'s.
//!
//! Format 2 added the mean of the weights; a checkpoint of format 1 is read as one without.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::artifact::{read_tensors, write_network, write_tensors};
use super::guard::Guard;
use super::tally::TargetTally;
use crate::dataset::Preprocessing;
use crate::dataset::drift::StaleScales;
use crate::fsx::{self, FileDigest, MANIFEST, StagedDir};
use crate::model::TftConfig;
use crate::model_manifest::{CONFIG_FILE, PREPROCESSING_FILE, WEIGHTS_FILE};
use crate::progress::Progress;

/// The newest checkpoint format this program writes; it reads this one and those before.
///
/// 2 added, per run, each target's part in the loss, the series that left their scales, and the mean of the weights; a
/// run begun under 1 goes on with none of them.
pub const FORMAT: u32 = 2;
/// Folder names below `checkpoints/`.
pub const LAST: &str = "last";
pub const PREVIOUS: &str = "previous";
const DAMAGED: &str = "damaged";
/// The optimizer's moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// The mean of the weights.
pub const EMA_FILE: &str = "ema.safetensors";
/// Counters and positions.
pub const STATE_FILE: &str = "state.json";

/// Counters of the lineage and the position of its latest run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub format: u32,
    /// Names the chain of checkpoints.
    pub lineage: String,
    /// Whole epochs behind the weights. Also the number of the next epoch's sample order.
    pub total_epochs: u64,
    /// Optimizer steps behind the weights.
    pub total_steps: u64,
    /// Batches seen, skipped ones included: the number of the next batch's dropout.
    pub total_batches: u64,
    /// Steps behind the moments; fewer than `total_steps` where a lineage went on from a model without them.
    pub moment_steps: u64,
    /// Steps behind the mean of the weights; 0 without one.
    #[serde(default)]
    pub ema_steps: u64,
    /// Keys the sample order and the dropout of the run.
    pub seed: u64,
    /// The model the run continues from.
    pub parent: Option<String>,
    /// End of the newest training target the weights may have seen, over the whole lineage: an exam on anything
    /// earlier would ask what was taught.
    pub trained_until: DateTime<Utc>,
    pub run: Run,
}

/// One call for N epochs, however many processes it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// What the caller named it, usually a logical date.
    pub key: Option<String>,
    pub window_id: String,
    /// Digest of the settings that decide the bits of the result.
    pub config_digest: String,
    /// What its latest process trained on, such as `cpu: as asked`.
    pub device: String,
    pub started_at: DateTime<Utc>,
    /// sha256 of the weights it began with.
    pub weights_before: String,
    /// sha256 of the mean of the weights it began with, where there is one.
    #[serde(default)]
    pub ema_before: Option<String>,
    /// Epochs the learning-rate schedule spans.
    pub epochs_planned: u32,
    pub epochs_done: u32,
    /// Samples of the epoch that is not done, or of the last one.
    pub n_samples: u64,
    /// Batches of the same.
    pub n_batches: u64,
    /// Position in the epoch that is not done.
    pub epoch: EpochPosition,
    /// Mean loss of each epoch that is done.
    pub losses: Vec<f64>,
    /// Each target's share of the epoch that is not done; absent in older checkpoints, which then begin at nothing.
    #[serde(default)]
    pub epoch_targets: Vec<TargetTally>,
    /// Each target's share of the last epoch that is done.
    #[serde(default)]
    pub targets: Vec<TargetTally>,
    pub guard: Guard,
    pub n_new_servers: u64,
    /// Series that had left their frozen scales when the run began.
    #[serde(default)]
    pub stale_scales: StaleScales,
    /// Training time of all its processes.
    pub duration_secs: f64,
    /// Set once there is nothing more to train.
    pub ended: Option<Ending>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// All epochs are done.
    Complete,
    /// Time ran out; the last epoch may be partial.
    Deadline,
}

/// How far an epoch has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochPosition {
    pub batches_done: u64,
    /// Samples behind `loss_sum`; those of skipped batches are not among them.
    pub n_samples: u64,
    /// Sum of the samples' losses in billionths: a whole number, so that JSON gives it back to the bit.
    pub loss_billionths: u64,
}

impl EpochPosition {
    /// Counts the mean loss of a batch that was applied.
    pub fn take_in(&mut self, n_samples: usize, loss: f64) {
        self.n_samples += n_samples as u64;
        let billionths = (loss.max(0.0) * n_samples as f64 * 1e9).round() as u64;
        self.loss_billionths = self.loss_billionths.saturating_add(billionths);
    }

    /// Mean loss per sample so far; 0 before the first.
    pub fn loss(&self) -> f64 {
        self.loss_billionths as f64 / 1e9 / self.n_samples.max(1) as f64
    }
}

/// A checkpoint in memory; tensors on the CPU.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub state: State,
    pub config: TftConfig,
    pub preprocessing: Preprocessing,
    pub weights: HashMap<String, Tensor>,
    /// Empty where there are none.
    pub moments: HashMap<String, Tensor>,
    /// Empty where there is none.
    pub ema: HashMap<String, Tensor>,
    /// sha256 of the weights' file.
    pub weights_sha256: String,
    /// sha256 that the weights of a model published from here have.
    pub served_sha256: String,
}

/// What a checkpoint is written from; the files of the same names.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub state: &'a State,
    pub config: &'a TftConfig,
    pub preprocessing: &'a Preprocessing,
    pub weights: &'a HashMap<String, Tensor>,
    pub moments: &'a HashMap<String, Tensor>,
    /// Empty: no file.
    pub ema: &'a HashMap<String, Tensor>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: Vec<FileDigest>,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Checkpoint {
    /// Reads the checkpoint folder `dir`.
    ///
    /// - Errors: it has no manifest, a file differs from its digest, or a newer program wrote it.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        // The format comes first: a newer program's manifest may not even parse, and must not look damaged.
        ensure_format(fsx::read_json::<FormatOnly>(&path)?.format, &path)?;
        let manifest: Manifest = fsx::read_json(&path)?;
        fsx::verify_digests(dir, &manifest.files)?;
        let sha256_of = |name: &str| {
            let file = manifest.files.iter().find(|file| file.name == name);
            file.map(|file| file.sha256.clone())
        };
        let weights_sha256 = sha256_of(WEIGHTS_FILE).context("find the weights in the manifest")?;
        let ema_sha256 = sha256_of(EMA_FILE);
        let ema = match &ema_sha256 {
            Some(_) => read_tensors(&dir.join(EMA_FILE))?,
            None => HashMap::new(),
        };
        let preprocessing = Preprocessing::read(&dir.join(PREPROCESSING_FILE))?;
        Ok(Self {
            state: fsx::read_json(&dir.join(STATE_FILE))?,
            config: fsx::read_json(&dir.join(CONFIG_FILE))?,
            preprocessing,
            weights: read_tensors(&dir.join(WEIGHTS_FILE))?,
            moments: read_tensors(&dir.join(OPTIMIZER_FILE))?,
            ema,
            served_sha256: ema_sha256.unwrap_or_else(|| weights_sha256.clone()),
            weights_sha256,
        })
    }

    /// What it is written from.
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            state: &self.state,
            config: &self.config,
            preprocessing: &self.preprocessing,
            weights: &self.weights,
            moments: &self.moments,
            ema: &self.ema,
        }
    }

    /// Reads `last`, or `previous` where a crash or a bad disk left no good `last`, with a warning. Call it only
    /// while holding the site lock: a damaged `last` is set aside as `damaged`, so that it never becomes
    /// `previous` in the place of the good one.
    ///
    /// - Errors: there are checkpoints, and none can be read, or a newer program wrote them; or whether there are
    ///   any cannot be told (a folder without permission is not an empty one).
    pub fn open_latest(checkpoints_dir: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        let (last, previous) = (checkpoints_dir.join(LAST), checkpoints_dir.join(PREVIOUS));
        let has_previous = exists(&previous)?;
        if exists(&last)? {
            let error = match Self::read(&last) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => error.context("read the last checkpoint"),
            };
            if error.is::<NewerFormat>() || is_denied(&error) || !has_previous {
                return Err(error);
            }
            progress.warn(&format!("{error:#}; going on from checkpoints/{PREVIOUS}"));
            let checkpoint = Self::read(&previous).context("read the previous checkpoint")?;
            set_aside(&last, &checkpoints_dir.join(DAMAGED))?;
            return Ok(Some(checkpoint));
        }
        if !has_previous {
            return Ok(None);
        }
        progress.warn(&format!("checkpoints/{LAST} is missing; going on from checkpoints/{PREVIOUS}"));
        Self::read(&previous).context("read the previous checkpoint").map(Some)
    }
}

/// Whether a folder is a checkpoint, and not a model.
pub fn is_checkpoint(dir: &Path) -> bool {
    dir.join(STATE_FILE).is_file()
}

/// Whether there is a checkpoint of any kind to go on from.
///
/// - Errors: that cannot be told.
pub fn has_any(checkpoints_dir: &Path) -> Result<bool> {
    Ok(exists(&checkpoints_dir.join(LAST))? || exists(&checkpoints_dir.join(PREVIOUS))?)
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().with_context(|| format!("look for {}", path.display()))
}

/// Whether a file could not be opened for want of permission: that says nothing about what is in it.
fn is_denied(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.map(std::io::Error::kind).any(|kind| kind == std::io::ErrorKind::PermissionDenied)
}

/// Sets aside, as `damaged`, a `last` that cannot be read: what comes next must not push it out.
pub fn set_last_aside(checkpoints_dir: &Path) -> Result<()> {
    let last = checkpoints_dir.join(LAST);
    if exists(&last)? { set_aside(&last, &checkpoints_dir.join(DAMAGED)) } else { Ok(()) }
}

/// Renames a damaged checkpoint, in the place of an earlier damaged one.
fn set_aside(damaged: &Path, aside: &Path) -> Result<()> {
    if exists(aside)? {
        fsx::discard_dir(aside)?;
    }
    fsx::rename_durable(damaged, aside).with_context(|| format!("set {} aside", damaged.display()))
}

/// Writes a checkpoint as `last`; the one before becomes `previous`.
///
/// A crash leaves the old `last`, or (between two renames) the old one as `previous` only, or the new one.
pub fn write(checkpoints_dir: &Path, parts: &Parts<'_>) -> Result<()> {
    let staged = StagedDir::new(&checkpoints_dir.join(LAST))?;
    write_files(staged.path(), parts)?;
    staged.publish_over(&checkpoints_dir.join(PREVIOUS), manifest).context("write checkpoints/last")
}

/// Writes the files of a checkpoint that is still being made: no manifest.
pub(super) fn write_files(dir: &Path, parts: &Parts<'_>) -> Result<()> {
    write_network(dir, parts.config, parts.preprocessing, parts.weights)?;
    write_tensors(&dir.join(OPTIMIZER_FILE), parts.moments)?;
    if !parts.ema.is_empty() {
        write_tensors(&dir.join(EMA_FILE), parts.ema)?;
    }
    fsx::write_json(&dir.join(STATE_FILE), parts.state)
}

/// The manifest that completes a checkpoint of these files.
pub(super) fn manifest(files: Vec<FileDigest>) -> impl Serialize {
    Manifest { format: FORMAT, files }
}

/// A checkpoint of a newer program: there is no falling back from it.
#[derive(Debug, thiserror::Error)]
#[error("{path} has format {format}, written by a newer tftctl; this one reads up to {FORMAT}")]
struct NewerFormat {
    path: String,
    format: u32,
}

fn ensure_format(format: u32, path: &Path) -> Result<()> {
    ensure!(format <= FORMAT, NewerFormat { path: path.display().to_string(), format });
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::progress::Silent;
    use candle_core::Device;
    use std::fs;

    /// The state of a lineage that did nothing yet.
    pub fn state_of(lineage: &str) -> State {
        State {
            format: FORMAT,
            lineage: lineage.into(),
            total_epochs: 0,
            total_steps: 0,
            total_batches: 0,
            moment_steps: 0,
            ema_steps: 0,
            seed: 1,
            parent: None,
            trained_until: DateTime::UNIX_EPOCH,
            run: Run {
                key: None,
                window_id: "w".into(),
                config_digest: "c".into(),
                device: "cpu".into(),
                started_at: DateTime::UNIX_EPOCH,
                weights_before: String::new(),
                ema_before: None,
                epochs_planned: 1,
                epochs_done: 0,
                n_samples: 100,
                n_batches: 10,
                epoch: EpochPosition::default(),
                losses: vec![],
                epoch_targets: vec![],
                targets: vec![],
                guard: Guard::default(),
                n_new_servers: 0,
                stale_scales: StaleScales::default(),
                duration_secs: 0.0,
                ended: None,
            },
        }
    }

    #[test]
    fn the_running_loss_is_a_mean_over_samples_and_survives_json() {
        let mut position = EpochPosition::default();
        position.take_in(64, 0.1 + 0.2);
        position.take_in(32, 0.6);
        assert!((position.loss() - 0.4).abs() < 1e-9, "{}", position.loss());
        assert_eq!(position.n_samples, 96);
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<EpochPosition>(&json).unwrap(), position);
    }

    #[test]
    fn a_state_of_the_first_format_reads_with_nothing_told_per_target() {
        let mut state = serde_json::to_value(state_of("old")).unwrap();
        let run = state["run"].as_object_mut().unwrap();
        for added in ["epoch_targets", "targets", "stale_scales"] {
            assert!(run.remove(added).is_some(), "{added}");
        }
        assert_eq!(serde_json::from_value::<State>(state).unwrap(), state_of("old"));
        let dir = tempfile::tempdir().unwrap();
        write_manifest(dir.path(), 1);
        let error = Checkpoint::read(dir.path()).unwrap_err();
        assert!(!format!("{error:#}").contains("newer"), "{error:#}");
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_taken_for_absent() {
        let dir = tempfile::tempdir().unwrap();
        let no_folder = dir.path().join("file");
        fs::write(&no_folder, "x").unwrap();
        // Looking below a file fails with another error than `NotFound`, also for the superuser.
        let looked = Checkpoint::open_latest(&no_folder, &Silent);
        assert!(looked.is_err() && has_any(&no_folder).is_err());
        assert!(!has_any(&dir.path().join("none")).unwrap());
    }

    fn write_manifest(dir: &Path, format: u32) {
        fs::create_dir_all(dir).unwrap();
        fsx::write_json(&dir.join(MANIFEST), &Manifest { format, files: vec![] }).unwrap();
    }

    #[test]
    fn none_is_no_checkpoint_and_a_torn_one_alone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Checkpoint::open_latest(dir.path(), &Silent).unwrap().is_none());
        fs::create_dir_all(dir.path().join(LAST)).unwrap();
        let error = Checkpoint::open_latest(dir.path(), &Silent).unwrap_err();
        assert!(format!("{error:#}").contains("manifest.json"), "{error:#}");
    }

    #[test]
    fn a_newer_format_is_refused_and_never_fallen_back_from() {
        let dir = tempfile::tempdir().unwrap();
        write_manifest(&dir.path().join(LAST), FORMAT + 1);
        write_manifest(&dir.path().join(PREVIOUS), FORMAT);
        let error = Checkpoint::open_latest(dir.path(), &Silent).unwrap_err();
        assert!(format!("{error:#}").contains("newer tftctl"), "{error:#}");
    }

    #[test]
    fn a_changed_byte_in_a_checkpoint_is_found_before_it_is_parsed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(OPTIMIZER_FILE);
        let zeros = Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap();
        write_tensors(&path, &HashMap::from([("m.a".to_owned(), zeros)])).unwrap();
        let files = fsx::digest_dir(dir.path()).unwrap();
        fsx::write_json(&dir.path().join(MANIFEST), &Manifest { format: FORMAT, files }).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = Checkpoint::read(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("sha256 differs"), "{error:#}");
    }
}
