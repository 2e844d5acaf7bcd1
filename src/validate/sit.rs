//! The whole exam of one model: load it, score it on the holdout beside champion and naive forecasts, judge, keep
//! the verdict in the model's folder.
//!
//! A verdict is about the model. Trouble with the machine (no process, no memory, no device) is an error instead, so
//! that the exam is sat again and no sound model is judged unfit.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use chrono::{DateTime, Utc};

use super::{ExamInputs, ProbeReport, SamplePlace, Verdict, examine};
use crate::config::Config;
use crate::dataset::SampleKey;
use crate::evaluate::{Exam, ExamGrids, Scores, ensure_examinable, score_baselines, score_model};
use crate::model::Tft;
use crate::model_manifest::ModelManifest;
use crate::progress::Progress;
use crate::registry::{By, ModelId, Registry};
use crate::site::Site;
use crate::train::TrainedModel;
use crate::window::Window;

/// Loads a model folder in a fresh process, with the reader production uses.
///
/// - Errors: that process could not be started or did not answer, which says nothing about the model.
pub type Probe<'a> = dyn Fn(&Path) -> Result<ProbeReport> + 'a;

/// What the exam is about and what it needs from outside.
pub struct Sitting<'a> {
    pub model: &'a ModelId,
    /// Its holdout is the exam.
    pub window: &'a Window,
    pub device: &'a Device,
    pub by: By,
    pub probe: &'a Probe<'a>,
}

/// Examines a model and stores its verdict; the caller holds the site lock.
///
/// A model that does not load, or does not fit the config, is no error: its verdict says so. A champion that does
/// not is left out of the comparison, with a warning in the verdict.
///
/// - Errors: there is no such model, or it came without preprocessing; the window or the champion's pointer cannot
///   be read; the verdict cannot be stored; no fresh process could be started; the device failed or ran out of
///   memory.
pub fn sit(
    site: &Site,
    registry: &Registry,
    sitting: &Sitting<'_>,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let dir = registry.model_dir(sitting.model);
    let manifest = ModelManifest::read(&dir)?;
    manifest.ensure_has_preprocessing()?;
    let probe = (sitting.probe)(&dir).context("load the model in a fresh process")?;
    let champion = registry.pointer()?.map(|champion| champion.model_id).filter(|id| id != sitting.model);
    let mut papers = Papers::default();
    if probe.loaded {
        let room = Room { site, registry, sitting, progress };
        papers.mark(&room, champion.as_ref())?;
    } else {
        progress.warn(&format!("{} did not load in a fresh process", sitting.model));
    }
    let verdict = examine(&ExamInputs {
        model_id: sitting.model.as_str(),
        weights_sha256: &manifest.weights_sha256,
        window_id: &sitting.window.id,
        holdout_start: sitting.window.manifest.holdout_start(),
        trained_until: manifest.trained_until,
        now,
        probe: &probe,
        challenger: papers.challenger.as_ref(),
        champion_id: champion.as_ref().map(ModelId::as_str),
        champion: papers.champion.as_ref(),
        champion_trouble: papers.champion_trouble.as_deref(),
        baselines: &papers.baselines,
        places: &papers.places,
        block_steps: site.config.model.horizon as u32,
        history: &registry.promoted()?,
        config: &site.config.validation,
        ceiling: site.config.validation_loss_threshold,
        require_validation: site.config.require_validation,
    });
    for warning in &verdict.warnings {
        progress.warn(warning);
    }
    registry.write_verdict(&verdict, sitting.by).context("keep the verdict")?;
    Ok(verdict)
}

/// A model, or what about its own content keeps it from the exam.
type Candidate = std::result::Result<TrainedModel, String>;

/// Reads a model and checks all of it that can be wrong with it.
///
/// Its content is read to the CPU first, so that a device without memory cannot be mistaken for a damaged model.
///
/// - Errors: a sound model does not get onto the device.
fn read_candidate(dir: &Path, config: &Config, device: &Device) -> Result<Candidate> {
    let read = || -> Result<TrainedModel> {
        let model = TrainedModel::read(dir, &Device::Cpu)?;
        ensure_examinable(&model.preprocessing, config)?;
        Tft::new(&model.config, &model.params.detached()).context("build the network")?;
        Ok(model)
    };
    Ok(match read() {
        Err(error) => Err(format!("{error:#}")),
        Ok(model) if device.is_cpu() => Ok(model),
        Ok(_) => Ok(TrainedModel::read(dir, device)?),
    })
}

/// Where the exam is sat.
struct Room<'a> {
    site: &'a Site,
    registry: &'a Registry,
    sitting: &'a Sitting<'a>,
    progress: &'a dyn Progress,
}

impl Room<'_> {
    fn read(&self, id: &ModelId) -> Result<Candidate> {
        read_candidate(&self.registry.model_dir(id), &self.site.config, self.sitting.device)
            .with_context(|| format!("load {id}"))
    }

    fn score(&self, model: &TrainedModel, exam: &Exam<'_>, forecaster: &str) -> Result<Scores> {
        score_model(model, exam, self.sitting.device, forecaster, self.progress)
    }
}

/// Everyone's scores on the same rows.
#[derive(Default)]
struct Papers {
    challenger: Option<Scores>,
    champion: Option<Scores>,
    champion_trouble: Option<String>,
    baselines: Vec<Scores>,
    places: Vec<SamplePlace>,
}

impl Papers {
    fn mark(&mut self, room: &Room<'_>, champion: Option<&ModelId>) -> Result<()> {
        let model = match room.read(room.sitting.model)? {
            Ok(model) => model,
            Err(why) => {
                room.progress.warn(&format!("{} cannot be scored: {why}", room.sitting.model));
                return Ok(());
            }
        };
        let config = &room.site.config;
        let grids = ExamGrids::read(room.sitting.window, config)?;
        let exam = Exam::new(grids, &model.preprocessing, config)?;
        self.places = exam.keys().iter().map(place).collect();
        self.baselines = score_baselines(&exam)?;
        self.challenger = Some(room.score(&model, &exam, "challenger")?);
        let Some(id) = champion else { return Ok(()) };
        match room.read(id)? {
            Ok(model) => self.champion = Some(room.score(&model, &exam, "champion")?),
            Err(why) => self.champion_trouble = Some(why),
        }
        Ok(())
    }
}

fn place(key: &SampleKey) -> SamplePlace {
    SamplePlace { server: key.server, cutoff: key.cutoff }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_model_is_a_finding_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let candidate = read_candidate(dir.path(), &Config::default(), &Device::Cpu).unwrap();
        assert!(candidate.unwrap_err().contains("manifest.json"));
    }
}
