//! The whole exam of one model: load it, score it on the holdout beside champion and naive forecasts, judge, keep
//! the verdict in the model's folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use chrono::{DateTime, Utc};

use super::{ExamInputs, ProbeReport, SamplePlace, Verdict, examine};
use crate::dataset::{Dataset, SampleKey};
use crate::evaluate::{Exam, Scores, score_baselines, score_model};
use crate::progress::Progress;
use crate::registry::{By, ModelId, Registry};
use crate::site::Site;
use crate::train::TrainedModel;
use crate::window::{Grid, Window};

/// What the exam is about and what it needs from outside.
pub struct Sitting<'a> {
    pub model: &'a ModelId,
    /// Its holdout is the exam.
    pub window: &'a Window,
    pub device: &'a Device,
    pub by: By,
    /// Loads a model folder in a fresh process, with the reader production uses.
    pub probe: &'a dyn Fn(&Path) -> ProbeReport,
}

/// Examines a model and stores its verdict.
///
/// A model that does not load, or cannot be scored, is no error: its verdict says so.
///
/// - Errors: there is no such model, the window or the champion's pointer cannot be read, the verdict cannot be
///   stored.
pub fn sit(
    site: &Site,
    registry: &Registry,
    sitting: &Sitting<'_>,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let dir = registry.model_dir(sitting.model);
    let manifest = crate::model_manifest::ModelManifest::read(&dir)?;
    let probe = (sitting.probe)(&dir);
    let grid = Arc::new(sitting.window.read_grid()?);
    let champion = registry.pointer()?.map(|champion| champion.model_id).filter(|id| id != sitting.model);
    let mut papers = Papers::default();
    match read_if_probed(&dir, &probe, sitting.device) {
        Ok(challenger) => {
            papers.mark(site, registry, sitting, &grid, &challenger, champion.as_ref(), progress)?
        }
        Err(error) => progress.warn(&format!("{} cannot be scored: {error:#}", sitting.model)),
    }
    let verdict = examine(&ExamInputs {
        model_id: sitting.model.as_str(),
        weights_sha256: &manifest.weights_sha256,
        window_id: &sitting.window.id,
        now,
        probe: &probe,
        challenger: papers.challenger.as_ref(),
        champion_id: champion.as_ref().map(ModelId::as_str),
        champion: papers.champion.as_ref(),
        baselines: &papers.baselines,
        places: &papers.places,
        block_steps: site.config.model.horizon as u32,
        history: &registry.promoted()?,
        config: &site.config.validation,
        ceiling: site.config.validation_loss_threshold,
        require_validation: site.config.require_validation,
    });
    registry.write_verdict(&verdict, sitting.by).context("keep the verdict")?;
    Ok(verdict)
}

fn read_if_probed(dir: &Path, probe: &ProbeReport, device: &Device) -> Result<TrainedModel> {
    anyhow::ensure!(probe.loaded, "it did not load in a fresh process");
    TrainedModel::read(dir, device)
}

/// Everyone's scores on the same rows.
#[derive(Default)]
struct Papers {
    challenger: Option<Scores>,
    champion: Option<Scores>,
    baselines: Vec<Scores>,
    places: Vec<SamplePlace>,
}

impl Papers {
    #[expect(clippy::too_many_arguments, reason = "what the exam is about, each used once")]
    fn mark(
        &mut self,
        site: &Site,
        registry: &Registry,
        sitting: &Sitting<'_>,
        grid: &Arc<Grid>,
        challenger: &TrainedModel,
        champion: Option<&ModelId>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let config = &site.config;
        let split = &sitting.window.manifest.split;
        let dataset =
            Dataset::new(grid.clone(), challenger.preprocessing.clone(), config.window.max_gap_steps)?;
        let keys = dataset.holdout_keys(split, config.validation.max_samples);
        self.places = keys.iter().map(place).collect();
        let exam = Exam::new(grid, split, keys, config)?;
        self.baselines = score_baselines(&exam)?;
        match score_model(challenger, &exam, sitting.device, "challenger", progress) {
            Ok(scores) => self.challenger = Some(scores),
            Err(error) => progress.warn(&format!("{} cannot be scored: {error:#}", sitting.model)),
        }
        let Some(id) = champion else { return Ok(()) };
        let scored = TrainedModel::read(&registry.model_dir(id), sitting.device)
            .and_then(|model| score_model(&model, &exam, sitting.device, "champion", progress));
        match scored {
            Ok(scores) => self.champion = Some(scores),
            Err(error) => progress.warn(&format!("the champion {id} cannot be scored: {error:#}")),
        }
        Ok(())
    }
}

fn place(key: &SampleKey) -> SamplePlace {
    SamplePlace { server: key.server, cutoff: key.cutoff }
}
