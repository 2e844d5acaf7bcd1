//! What a night has done so far: one file per logical date, replaced after every stage.
//!
//! A stage is done when its result is in the file; a night killed in any stage and started again skips what is
//! done. A night is over when `finish` is set; failed attempts are not, so that a later start tries again.

use std::path::PathBuf;

use anyhow::Result;
use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::buffer::{DayFailure, RotateReport};
use crate::forecast::{ForecastSummary, LiveScores};
use crate::fsx;
use crate::site::Site;
use crate::train::{TrainOutcome, checkpoint};
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
    /// Days that could not be sealed, each with its error. While there are any, the stage is not done: the night
    /// goes on, and a later start tries them again.
    #[serde(default)]
    pub days_failed: Vec<String>,
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
            days_failed: report.failed.iter().map(DayFailure::line).collect(),
        }
    }

    /// Whether there is nothing left to try again.
    pub fn is_complete(&self) -> bool {
        self.days_failed.is_empty()
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
        let mut night = match fsx::read_versioned(&path(site, logical_date), FORMAT)? {
            Some(night) => night,
            None => Self::new(logical_date, now, epochs(site)?),
        };
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
fn epochs(site: &Site) -> Result<u32> {
    Ok(if has_lineage(site)? { site.config.epochs_per_day } else { site.config.initial_epochs })
}

/// Whether there is a lineage to continue.
pub(super) fn has_lineage(site: &Site) -> Result<bool> {
    checkpoint::has_any(&site.checkpoints_dir())
}

/// Where the nights of a site lie.
pub fn dir(site: &Site) -> PathBuf {
    site.state_dir().join("nights")
}

fn path(site: &Site, logical_date: NaiveDate) -> PathBuf {
    dir(site).join(format!("{logical_date}.json"))
}

/// What is known of the nights before one.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// Newest first.
    pub nights: Vec<Night>,
    /// Files that could not be read: an old night is no reason to stop tonight's.
    pub warnings: Vec<String>,
}

/// The nights before `logical_date`, newest first, at most `limit`; those that cannot be read are passed over.
///
/// - Errors: the folder cannot be listed.
pub fn earlier_nights(site: &Site, logical_date: NaiveDate, limit: usize) -> Result<Earlier> {
    let mut dates: Vec<NaiveDate> = dates(site)?.into_iter().filter(|date| *date < logical_date).collect();
    dates.reverse();
    let mut earlier = Earlier::default();
    for date in dates.into_iter().take(limit) {
        match fsx::read_versioned(&path(site, date), FORMAT) {
            Ok(night) => earlier.nights.extend(night),
            Err(error) => {
                earlier.warnings.push(format!("the night of {date} is passed over: {error:#}"));
            }
        }
    }
    Ok(earlier)
}

/// Deletes the files of nights more than `keep_days` before `today`.
pub fn prune(site: &Site, today: NaiveDate, keep_days: u32) -> Result<()> {
    let Some(oldest) = today.checked_sub_days(Days::new(keep_days.into())) else { return Ok(()) };
    for date in dates(site)?.into_iter().filter(|date| *date < oldest) {
        let path = path(site, date);
        fsx::remove_file(&path)?;
    }
    Ok(())
}

/// The logical dates that have a file, oldest first.
fn dates(site: &Site) -> Result<Vec<NaiveDate>> {
    let date_of = |name: String| name.strip_suffix(".json")?.parse().ok();
    let names = fsx::list_dir(&dir(site))?.into_iter().map(|entry| entry.file_name());
    let mut dates: Vec<NaiveDate> =
        names.filter_map(|name| date_of(name.to_string_lossy().into_owned())).collect();
    dates.sort_unstable();
    Ok(dates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn day(n: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2024, 1, n).unwrap()
    }

    /// A site with the nights of 1 to 4 January 2024.
    fn site_with_nights(root: &std::path::Path) -> Site {
        let site = Site::of(root, Config::default());
        for n in 1..=4 {
            Night::new(day(n), DateTime::UNIX_EPOCH, 1).save(&site).unwrap();
        }
        site
    }

    #[test]
    fn an_unreadable_old_night_is_passed_over_with_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let site = site_with_nights(root.path());
        std::fs::write(path(&site, day(2)), "{").unwrap();
        std::fs::write(path(&site, day(3)), r#"{"format": 99, "moons": 2}"#).unwrap();
        let earlier = earlier_nights(&site, day(5), 60).unwrap();
        let dates: Vec<NaiveDate> = earlier.nights.iter().map(|night| night.logical_date).collect();
        assert_eq!(dates, [day(4), day(1)]);
        assert_eq!(earlier.warnings.len(), 2);
        assert!(earlier.warnings[0].contains("a newer one wrote it"), "{:?}", earlier.warnings);
        let tonight = Night::begin(&site, day(3), DateTime::UNIX_EPOCH).unwrap_err();
        assert!(format!("{tonight:#}").contains("a newer one wrote it"), "{tonight:#}");
    }

    #[test]
    fn old_nights_go() {
        let root = tempfile::tempdir().unwrap();
        let site = site_with_nights(root.path());
        prune(&site, day(5), 2).unwrap();
        assert_eq!(dates(&site).unwrap(), [day(3), day(4)]);
    }

    #[test]
    fn a_rotation_with_failed_days_is_not_done() {
        let summary = |days_failed: &[&str]| RotateSummary {
            n_days_sealed: 1,
            n_days_deleted: 0,
            n_rows: 5,
            days_failed: days_failed.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert!(summary(&[]).is_complete() && !summary(&["2024-01-01: torn"]).is_complete());
        let (error, hint) = ("torn".to_owned(), Some("repair it".to_owned()));
        let report = RotateReport {
            failed: vec![DayFailure { date: day(1), error, hint }],
            ..RotateReport::default()
        };
        assert_eq!(RotateSummary::of(&report).days_failed, [format!("{}: torn (repair it)", day(1))]);
        let old = r#"{"n_days_sealed": 1, "n_days_deleted": 0, "n_rows": 5}"#;
        assert!(serde_json::from_str::<RotateSummary>(old).unwrap().is_complete());
    }
}
