//! Made-up exams for tests: everything passes until a test spoils something.

use chrono::{DateTime, Utc};

use super::*;
use crate::evaluate::scores::{Slice, TargetScores};

const N_SERVERS: u32 = 10;
const N_TIMES: u32 = 30;
/// Where the holdout of every made-up exam begins.
pub const HOLDOUT_START: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Scores of a forecaster whose loss is `loss` at every sample.
pub fn scores(forecaster: &str, loss: f64) -> Scores {
    let slice = |name: &str| Slice { name: name.into(), n_points: 500, loss, coverage: Some(0.8) };
    Scores {
        forecaster: forecaster.into(),
        loss,
        coverage: Some(0.8),
        n_samples: u64::from(N_SERVERS * N_TIMES),
        n_points: 5000,
        targets: vec![TargetScores {
            slice: slice("cpu_user_pct"),
            unit: "%".into(),
            quantile_loss: loss,
            mae: loss,
            q_risk_p50: None,
            mase: None,
            calibration: vec![0.1, 0.5, 0.9],
        }],
        horizons: vec![slice("h001-012")],
        servers: (0..N_SERVERS).map(|server| slice(&format!("server{server}"))).collect(),
        profiles: vec![slice("web_api"), slice("database")],
        crossing_rate: 0.0,
        out_of_range_rate: 0.0,
        n_not_finite: 0,
        collapsed_targets: Vec::new(),
        sample_loss: vec![loss; (N_SERVERS * N_TIMES) as usize],
    }
}

/// Multiplies every loss of `scores` by `factor`.
pub fn worsen(scores: &mut Scores, factor: f64) {
    scores.loss *= factor;
    scores.sample_loss.iter_mut().for_each(|loss| *loss *= factor);
    let slices = scores.servers.iter_mut().chain(&mut scores.profiles).chain(&mut scores.horizons);
    slices.for_each(|slice| slice.loss *= factor);
    scores.targets.iter_mut().for_each(|target| target.slice.loss *= factor);
}

/// The inputs of an exam, owned, to be changed by a test before it is sat.
pub struct Exam {
    pub model_id: String,
    pub weights_sha256: String,
    pub now: DateTime<Utc>,
    pub probe: ProbeReport,
    pub challenger: Option<Scores>,
    pub champion_id: Option<String>,
    pub champion: Option<Scores>,
    pub champion_trouble: Option<String>,
    pub trained_until: DateTime<Utc>,
    pub baselines: Vec<Scores>,
    pub places: Vec<SamplePlace>,
    pub history: Vec<PromotedLoss>,
    pub config: ValidationConfig,
    pub require_validation: bool,
}

impl Exam {
    /// An exam that a model of `weights_sha256` passes against a champion of the same loss.
    pub fn fine(model_id: &str, weights_sha256: &str) -> Self {
        let places = (0..N_SERVERS)
            .flat_map(|server| (0..N_TIMES).map(move |time| SamplePlace { server, cutoff: 288 + 3 * time }));
        Self {
            model_id: model_id.into(),
            weights_sha256: weights_sha256.into(),
            now: DateTime::from_timestamp(1_767_319_200, 0).unwrap(),
            probe: ProbeReport {
                loaded: true,
                error: None,
                load_ms: 20.0,
                weights_sha256: weights_sha256.into(),
            },
            challenger: Some(scores("challenger", 0.3)),
            champion_id: Some("tft_model_20260101_020000".into()),
            champion: Some(scores("champion", 0.3)),
            champion_trouble: None,
            trained_until: HOLDOUT_START,
            baselines: vec![
                scores("persistence", 0.6),
                scores("seasonal_naive_day", 0.5),
                scores("seasonal_naive_week", 0.4),
            ],
            places: places.collect(),
            history: Vec::new(),
            config: ValidationConfig::default(),
            require_validation: true,
        }
    }

    /// Replaces the champion; none makes the challenger the first model.
    pub fn against(mut self, champion_id: Option<&str>) -> Self {
        self.champion_id = champion_id.map(str::to_owned);
        if champion_id.is_none() {
            self.champion = None;
        }
        self
    }

    /// Sits the exam.
    pub fn sit(&self) -> Verdict {
        examine(&ExamInputs {
            model_id: &self.model_id,
            weights_sha256: &self.weights_sha256,
            window_id: "2026-01-02-abcdef",
            now: self.now,
            probe: &self.probe,
            challenger: self.challenger.as_ref(),
            champion_id: self.champion_id.as_deref(),
            champion: self.champion.as_ref(),
            champion_trouble: self.champion_trouble.as_deref(),
            holdout_start: HOLDOUT_START,
            trained_until: self.trained_until,
            baselines: &self.baselines,
            places: &self.places,
            block_steps: 12,
            history: &self.history,
            config: &self.config,
            ceiling: 1.2,
            require_validation: self.require_validation,
        })
    }
}
