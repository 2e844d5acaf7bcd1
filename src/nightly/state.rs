//! What a night has done so far: one file per logical date, replaced after every stage.
//!
//! A stage is done when its result is in the file; a night killed in any stage and started again skips what is
//! done. A night is over when `finish` is set; failed attempts are not, so that a later start tries again.

use std::path::PathBuf;

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::buffer::RotateReport;
use crate::forecast::{ForecastSummary, LiveScores};
use crate::fsx;
use crate::site::Site;
use crate::train::TrainOutcome;
use crate::validate::{Outcome, Verdict};

const FORMAT: u32 = 1;

/// One night of a site, by logical date.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Night {
    pub format: u32,
    pub logical_date: NaiveDate,
    pub started_at: DateTime<Utc>,
    /// Starts of this night, this one included.
    pub n_attempts: u32,
    /// Epochs this night trains, decided by its first start: a checkpoint of tonight must not change the plan.
    pub n_epochs: u32,
    #[serde(default)]
    pub done: Done,
    /// Wall-clock seconds of each finished stage, in order.
    #[serde(default)]
    pub stages: Vec<StageTime>,
    /// Things the operator should look at, of all attempts.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub finish: Option<Finish>,
}

/// Results of the finished stages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Done {
    /// Days sealed and deleted.
    pub rotate: Option<RotateSummary>,
    /// How yesterday's forecasts did against the truth.
    pub live: Option<Option<LiveScores>>,
    pub window: Option<WindowSummary>,
    pub train: Option<TrainSummary>,
    pub exam: Option<ExamSummary>,
    /// Whether the pointer moved.
    pub promote: Option<PromoteSummary>,
    pub predict: Option<Option<ForecastSummary>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateSummary {
    pub n_days_sealed: usize,
    pub n_days_deleted: usize,
    pub n_rows: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSummary {
    pub window_id: String,
    pub n_servers: usize,
    pub n_raw_rows: u64,
    /// Hours from the newest row of the window to the night.
    pub data_age_hours: f64,
}

/// What training brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSummary {
    pub model_id: String,
    pub total_epochs: u64,
    pub optimizer_steps: u64,
    pub loss_train: f64,
    pub samples_per_s: f64,
    pub duration_secs: f64,
    /// Share of an epoch that was trained when time ran out.
    pub partial_epoch: Option<f64>,
}

/// The verdict of the exam, without its details.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExamSummary {
    pub outcome: Outcome,
    pub loss: Option<f64>,
    pub champion_loss: Option<f64>,
    pub loss_ratio: Option<f64>,
    pub persistence_loss: Option<f64>,
    pub seasonal_naive_day_loss: Option<f64>,
    pub seasonal_naive_week_loss: Option<f64>,
    pub coverage: Option<f64>,
    pub reasons: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteSummary {
    pub promoted: bool,
    pub champion: Option<String>,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTime {
    pub stage: String,
    pub duration_secs: f64,
}

/// How a night ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    pub at: DateTime<Utc>,
    pub exit_code: u8,
    pub summary: String,
}

impl RotateSummary {
    pub fn of(report: &RotateReport) -> Self {
        Self {
            n_days_sealed: report.sealed.len(),
            n_days_deleted: report.n_days_deleted,
            n_rows: report.sealed.iter().map(|day| day.n_rows).sum(),
        }
    }
}

impl TrainSummary {
    pub fn of(outcome: &TrainOutcome) -> Self {
        let record = &outcome.record;
        Self {
            model_id: outcome.model_id.clone(),
            total_epochs: record.total_epochs,
            optimizer_steps: record.optimizer_steps,
            loss_train: record.loss_train,
            samples_per_s: record.samples_per_s,
            duration_secs: record.duration_secs,
            partial_epoch: record.partial_epoch,
        }
    }
}

impl ExamSummary {
    pub fn of(verdict: &Verdict) -> Self {
        let challenger = verdict.scores.iter().find(|scores| scores.forecaster == "challenger");
        Self {
            outcome: verdict.outcome,
            loss: verdict.loss,
            champion_loss: verdict.champion_loss,
            loss_ratio: verdict.ratio,
            persistence_loss: verdict.persistence_loss,
            seasonal_naive_day_loss: verdict.seasonal_naive_day_loss,
            seasonal_naive_week_loss: verdict.seasonal_naive_week_loss,
            coverage: challenger.and_then(|scores| scores.coverage),
            reasons: verdict.reasons.clone(),
        }
    }
}

impl Default for ExamSummary {
    fn default() -> Self {
        Self {
            outcome: Outcome::Inconclusive,
            loss: None,
            champion_loss: None,
            loss_ratio: None,
            persistence_loss: None,
            seasonal_naive_day_loss: None,
            seasonal_naive_week_loss: None,
            coverage: None,
            reasons: Vec::new(),
        }
    }
}

impl Night {
    /// The night of `logical_date` as it was left, or a new one; counts this start.
    pub fn begin(site: &Site, logical_date: NaiveDate, now: DateTime<Utc>) -> Result<Self> {
        let found: Option<Self> = fsx::read_json_if_exists(&path(site, logical_date))?;
        let mut night = found.unwrap_or_else(|| Self::new(logical_date, now, epochs(site)));
        anyhow::ensure!(night.format <= FORMAT, "the night of {logical_date} was written by a newer tftctl");
        night.n_attempts += 1;
        Ok(night)
    }

    /// A night in which nothing has happened yet.
    pub fn new(logical_date: NaiveDate, started_at: DateTime<Utc>, n_epochs: u32) -> Self {
        Self {
            format: FORMAT,
            logical_date,
            started_at,
            n_attempts: 0,
            n_epochs,
            done: Done::default(),
            stages: Vec::new(),
            warnings: Vec::new(),
            finish: None,
        }
    }

    /// Whether the pointer moved this night.
    pub fn has_promoted(&self) -> bool {
        self.done.promote.as_ref().is_some_and(|promote| promote.promoted)
    }

    /// Stores the night.
    pub fn save(&self, site: &Site) -> Result<()> {
        fsx::write_json(&path(site, self.logical_date), self)
    }
}

/// Epochs a night that begins now adds: the first of a lineage trains `initial_epochs`.
fn epochs(site: &Site) -> u32 {
    let has_lineage = ["last", "previous"].iter().any(|name| site.checkpoints_dir().join(name).exists());
    if has_lineage { site.config.epochs_per_day } else { site.config.initial_epochs }
}

fn dir(site: &Site) -> PathBuf {
    site.state_dir().join("nights")
}

fn path(site: &Site, logical_date: NaiveDate) -> PathBuf {
    dir(site).join(format!("{logical_date}.json"))
}

/// The nights before `logical_date`, newest first, at most `limit`.
pub fn earlier_nights(site: &Site, logical_date: NaiveDate, limit: usize) -> Result<Vec<Night>> {
    let dir = dir(site);
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut dates: Vec<NaiveDate> = entries
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str()?.parse().ok())
        .filter(|date| *date < logical_date)
        .collect();
    dates.sort_unstable_by(|a, b| b.cmp(a));
    dates.iter().take(limit).map(|date| fsx::read_json(&path(site, *date))).collect()
}
