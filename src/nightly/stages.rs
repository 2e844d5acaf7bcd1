//! The stages of a night, each skipped if an earlier start finished it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::start::plan_start;
use super::state::{
    Done, ExamSummary, Night, PromoteSummary, RotateSummary, StageTime, TrainSummary, WindowSummary,
    earlier_nights,
};
use super::{NightRequest, Tools, retention};
use crate::buffer::{Buffer, RotateOptions};
use crate::error::{Exit, Refusal};
use crate::forecast::{self, ForecastRequest, ForecastSummary, LiveScores};
use crate::progress::{Progress, Tee, Tick};
use crate::registry::{By, ModelId, PromoteOptions, Registry};
use crate::site::Site;
use crate::train::{self, IfChanged, Start, TrainRequest};
use crate::validate::{NextStart, Sitting, Verdict, sit};
use crate::window::{self, Window, WindowRequest};

/// Nights before tonight that decide where it starts from.
const NIGHTS_LOOKED_AT: usize = 60;

/// One line of a dry run.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedStage {
    pub stage: &'static str,
    pub is_done: bool,
    pub what: String,
}

/// What a start of `nightly` would do now; touches nothing.
pub fn plan(site: &Site, now: DateTime<Utc>) -> Result<Vec<PlannedStage>> {
    let date = site.logical_date(now);
    let night = Night::begin(site, date, now)?;
    let registry = Registry::open(site);
    let champion = registry.pointer()?;
    let start = plan_start(&earlier_nights(site, date, NIGHTS_LOOKED_AT)?.nights, champion.as_ref());
    let done = &night.done;
    let is_over = night.finish.is_some();
    let days = site.config.training_window_days;
    let from = match start.start {
        NextStart::OwnCheckpoint { .. } => "the lineage's checkpoint",
        NextStart::ChampionCheckpoint => "the champion",
    };
    let deploy = if site.config.enable_auto_deploy {
        "if the verdict allows"
    } else {
        "no: enable_auto_deploy is off"
    };
    let line = |stage, is_done, what: String| PlannedStage { stage, is_done: is_done || is_over, what };
    Ok(vec![
        line(
            "rotate",
            done.rotate.as_ref().is_some_and(RotateSummary::is_complete),
            format!("seal the days before {date}, apply retention"),
        ),
        line("score", done.live.is_some(), "score the last kept forecast against the truth".into()),
        line("window", done.window.is_some(), format!("{days} days up to {date}")),
        line(
            "train",
            done.train.is_some(),
            format!("from {from}, epochs: {}; {}", night.n_epochs, start.reason),
        ),
        line(
            "validate",
            done.exam.is_some(),
            "challenger, champion and naive forecasts on the same holdout".into(),
        ),
        line("promote", done.promote.is_some(), deploy.into()),
        line("predict", done.predict.is_some(), format!("the fleet from {}", now.to_rfc3339())),
        line("tell", is_over, "record, log, channels".into()),
    ])
}

/// A night in progress.
pub(super) struct Run<'a> {
    site: &'a Site,
    request: &'a NightRequest,
    tools: &'a Tools<'a>,
    progress: &'a dyn Progress,
    now: DateTime<Utc>,
    night: &'a mut Night,
    registry: Registry,
    buffer: Buffer,
}

impl<'a> Run<'a> {
    pub fn new(
        site: &'a Site,
        request: &'a NightRequest,
        tools: &'a Tools<'a>,
        progress: &'a dyn Progress,
        now: DateTime<Utc>,
        night: &'a mut Night,
    ) -> Self {
        let (registry, buffer) = (Registry::open(site), Buffer::open(site));
        Self { site, request, tools, progress, now, night, registry, buffer }
    }

    /// Does what is left of the night.
    pub fn finish(mut self) -> Result<Exit> {
        // Days that failed are tried again.
        self.night.done.rotate.take_if(|rotate| !rotate.is_complete());
        self.stage("rotate", |done| &mut done.rotate, Self::rotate)?;
        self.stage("score", |done| &mut done.live, Self::score)?;
        self.stage("window", |done| &mut done.window, Self::window)?;
        self.stage("train", |done| &mut done.train, Self::train)?;
        let exam = self.stage("validate", |done| &mut done.exam, Self::validate)?;
        self.stage("promote", |done| &mut done.promote, Self::promote)?;
        if self.registry.pointer()?.is_some() {
            self.stage("predict", |done| &mut done.predict, Self::predict)?;
        }
        let (today, now) = (self.night.logical_date, self.tools.clock.now());
        for warning in retention::apply(self.site, &self.registry, today, now) {
            self.warn(warning);
        }
        Ok(exam.outcome.exit())
    }

    /// Runs one stage unless its result is there, and stores the night.
    fn stage<T: Clone>(
        &mut self,
        name: &str,
        slot: impl Fn(&mut Done) -> &mut Option<T>,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        if let Some(done) = slot(&mut self.night.done) {
            self.progress.note(&format!("{name}: done by an earlier start"));
            return Ok(done.clone());
        }
        self.progress.stage(name);
        let started = Instant::now();
        let result = work(self).with_context(|| name.to_owned())?;
        *slot(&mut self.night.done) = Some(result.clone());
        let duration_secs = started.elapsed().as_secs_f64();
        self.night.stages.push(StageTime { stage: name.to_owned(), duration_secs });
        self.night.save(self.site)?;
        Ok(result)
    }

    fn rotate(&mut self) -> Result<RotateSummary> {
        let options = RotateOptions { include_open: false, dry_run: false };
        let report = self.buffer.rotate(&options, self.now, self.progress)?;
        report.warnings.iter().for_each(|warning| self.remember(warning.clone()));
        let summary = RotateSummary::of(&report);
        for day in &summary.days_failed {
            self.progress.warn(&format!("not sealed: {day}"));
        }
        Ok(summary)
    }

    /// A missing or unreadable old forecast is no reason to stop a night.
    fn score(&mut self) -> Result<Option<LiveScores>> {
        match forecast::score_kept(self.site, &self.buffer, self.now) {
            Ok(live) => Ok(live),
            Err(error) => {
                self.warn(format!("the kept forecast could not be scored: {error:#}"));
                Ok(None)
            }
        }
    }

    fn window(&mut self) -> Result<WindowSummary> {
        let start = self.start_plan()?;
        let holdout_extra_days = match start.start {
            NextStart::OwnCheckpoint { holdout_extra_days } => holdout_extra_days,
            NextStart::ChampionCheckpoint => 0,
        };
        let request = WindowRequest { days: None, end: Some(self.night.logical_date), holdout_extra_days };
        let window = window::build(self.site, &request, self.now, self.progress)?;
        let manifest = &window.manifest;
        for finding in &manifest.quality.findings {
            self.warn(finding.message.clone());
        }
        Ok(WindowSummary {
            window_id: window.id.clone(),
            n_servers: manifest.servers.len(),
            n_raw_rows: manifest.n_raw_rows,
            data_age_hours: self.now.signed_duration_since(manifest.end).num_seconds() as f64 / 3600.0,
        })
    }

    fn start_plan(&mut self) -> Result<super::StartPlan> {
        let champion = self.registry.pointer()?;
        Ok(plan_start(&self.earlier()?, champion.as_ref()))
    }

    fn earlier(&mut self) -> Result<Vec<Night>> {
        let earlier = earlier_nights(self.site, self.night.logical_date, NIGHTS_LOOKED_AT)?;
        for warning in earlier.warnings {
            self.warn(warning);
        }
        Ok(earlier.nights)
    }

    fn train(&mut self) -> Result<TrainSummary> {
        let start = self.training_start()?;
        let initial_epochs = self.site.config.initial_epochs;
        let request = TrainRequest {
            epochs: if start == Start::Fresh { initial_epochs } else { self.night.n_epochs },
            start,
            max_duration: self.training_limit()?,
            device: self.request.device,
            run_key: Some(self.night.logical_date.to_string()),
            if_changed: IfChanged::Fresh { epochs: initial_epochs },
        };
        let window = self.night_window()?;
        let told = Told::default();
        let both = Tee(self.progress, &told);
        let outcome = train::train(self.site, &window, &request, self.tools.stop, self.now, &both);
        self.remember_all(told);
        Ok(TrainSummary::of(&outcome?))
    }

    /// Where the training starts; a champion that cannot be trained from must not stop every night from now on.
    fn training_start(&mut self) -> Result<Start> {
        let plan = self.start_plan()?;
        self.progress.note(&format!("start: {}", plan.reason));
        let Some(champion) = self.registry.pointer()? else { return Ok(Start::Resume) };
        if plan.start != NextStart::ChampionCheckpoint {
            if super::state::has_lineage(self.site)? {
                return Ok(Start::Resume);
            }
            self.warn("checkpoints/ is gone: training starts from the champion's weights".into());
        }
        let dir = self.registry.model_dir(&champion.model_id);
        let Some(why) = train::obstacle_to_start_from(&dir, &self.site.config) else {
            return Ok(Start::From(dir));
        };
        self.warn(format!(
            "training cannot go back to the champion {} ({why}): a new lineage begins",
            champion.model_id
        ));
        Ok(Start::Fresh)
    }

    /// The night's limit less what the exam will need.
    fn training_limit(&mut self) -> Result<Option<Duration>> {
        let hours = self.site.config.max_training_duration_hours;
        let of_config = || Duration::try_from_secs_f64(hours * 3600.0).ok();
        let Some(limit) = self.request.max_duration.or_else(of_config) else { return Ok(None) };
        Ok(Some(limit - exam_reserve(limit, &self.earlier()?)))
    }

    fn night_window(&self) -> Result<Window> {
        let summary = self.night.done.window.as_ref().context("the window stage comes first")?;
        window::open(self.site, &summary.window_id)
    }

    fn challenger(&self) -> Result<ModelId> {
        let summary = self.night.done.train.as_ref().context("the train stage comes first")?;
        ModelId::parse(&summary.model_id)
    }

    fn validate(&mut self) -> Result<ExamSummary> {
        let (device, _) = self.request.device.resolve()?;
        let (model, window) = (self.challenger()?, self.night_window()?);
        let sitting = Sitting {
            model: &model,
            window: &window,
            device: &device,
            by: By::Nightly,
            probe: self.tools.probe,
        };
        let told = Told::default();
        let both = Tee(self.progress, &told);
        let verdict = sit(self.site, &self.registry, &sitting, self.tools.clock.now(), &both);
        self.remember_all(told);
        let verdict = verdict?;
        self.tell_verdict(&verdict);
        if verdict.waived {
            self.warn("require_validation is off: the exam's quality checks were waived".into());
        }
        Ok(ExamSummary::of(&verdict))
    }

    fn tell_verdict(&self, verdict: &Verdict) {
        self.progress.note(&verdict.in_a_line());
        for reason in &verdict.reasons {
            self.progress.note(&format!("  {reason}"));
        }
    }

    fn promote(&mut self) -> Result<PromoteSummary> {
        let exam = self.night.done.exam.as_ref().context("the validate stage comes first")?;
        let champion = self.registry.pointer()?.map(|champion| champion.model_id.to_string());
        let stays = |reason: &str| PromoteSummary {
            promoted: false,
            champion: champion.clone(),
            reason: reason.into(),
        };
        if !exam.outcome.may_promote() {
            return Ok(stays("the exam refused it"));
        }
        if !self.site.config.enable_auto_deploy {
            self.progress.note("enable_auto_deploy is off: `tftctl promote` moves the pointer");
            return Ok(stays("enable_auto_deploy is off"));
        }
        let id = self.challenger()?;
        let options = PromoteOptions { by: By::Nightly, force: None };
        match self.registry.promote(&id, &options, self.tools.clock.now()) {
            Ok(promotion) => {
                for note in &promotion.notes {
                    self.progress.note(note);
                }
                Ok(PromoteSummary {
                    promoted: true,
                    champion: Some(id.to_string()),
                    reason: "passed the exam".into(),
                })
            }
            Err(error) if matches!(error.downcast_ref(), Some(Refusal::GateRefused { .. })) => {
                self.warn(format!("{error:#}"));
                Ok(stays(&format!("{error:#}")))
            }
            Err(error) => Err(error),
        }
    }

    /// The night's work is done by now: a forecast that fails is told, and the night still counts.
    fn predict(&mut self) -> Result<Option<ForecastSummary>> {
        match self.forecast() {
            Ok(summary) => Ok(Some(summary)),
            Err(error) => {
                self.warn(format!("no forecast was made: {error:#}"));
                Ok(None)
            }
        }
    }

    fn forecast(&mut self) -> Result<ForecastSummary> {
        let (device, _) = self.request.device.resolve()?;
        // Hours may have passed since the night began: the forecast is made from the rows of now.
        let at = self.tools.clock.now();
        let request = ForecastRequest { model: None, servers: Vec::new(), at, device: &device };
        let forecast = forecast::make(self.site, &request, self.progress)?;
        let path = forecast::keep(self.site, self.night.logical_date, &forecast)?;
        let n_servers = forecast.n_servers();
        Ok(ForecastSummary {
            model_id: forecast.model_id,
            cutoff: forecast.cutoff,
            n_servers,
            n_skipped: forecast.skipped.len(),
            path: path.display().to_string(),
        })
    }

    /// Tells a warning and keeps it for the night's record.
    fn warn(&mut self, message: String) {
        self.progress.warn(&message);
        self.remember(message);
    }

    /// Keeps a warning that was told already; once, however many starts it takes.
    fn remember(&mut self, message: String) {
        if !self.night.warnings.contains(&message) {
            self.night.warnings.push(message);
        }
    }

    fn remember_all(&mut self, told: Told) {
        for message in told.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.remember(message);
        }
    }
}

/// Time kept for the exam: a tenth of the limit, or what the last exam took, but never more than half.
fn exam_reserve(limit: Duration, earlier: &[Night]) -> Duration {
    let stages = earlier.iter().flat_map(|night| &night.stages);
    let last_exam = stages.into_iter().find(|stage| stage.stage == "validate");
    let secs = last_exam.map_or(0.0, |exam| exam.duration_secs);
    let last = Duration::try_from_secs_f64(secs).unwrap_or_default();
    (limit / 10).max(last).min(limit / 2)
}

/// The warnings a stage gave.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn stage(&self, _name: &str) {}
    fn note(&self, _message: &str) {}
    fn tick(&self, _tick: &Tick<'_>) {}
    fn warn(&self, message: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exam_gets_its_time() {
        let mut night = Night::new("2024-01-01".parse().unwrap(), DateTime::UNIX_EPOCH, 1);
        let hour = Duration::from_secs(3600);
        assert_eq!(exam_reserve(hour, &[night.clone()]), hour / 10);
        let mut case = |secs, expected| {
            night.stages = vec![StageTime { stage: "validate".into(), duration_secs: secs }];
            assert_eq!(exam_reserve(hour, &[night.clone()]).as_secs(), expected);
        };
        case(60.0, 360);
        case(1000.0, 1000);
        case(9000.0, 1800);
        case(-1.0, 360);
    }
}
