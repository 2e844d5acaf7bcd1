//! The whole night: rotate, score old forecasts, window, train, validate, promote, predict, tell, report.
//!
//! Owns `state/nights/YYYY-MM-DD.json` ([`state`]). A night is keyed by its logical date: a repeat of a finished one
//! does nothing; a killed one goes on at the stage it was in; a failed one is tried again. Every stage calls what the
//! subcommand of its name calls. The site lock is held from the first stage to the last.
//!
//! The start's moment decides the logical date, the window and the names of files; what happens later in the night
//! (promotion, forecast, record) carries its own time.

mod record;
mod retention;
mod stages;
mod start;
pub mod state;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde::Serialize;

use crate::clock::Clock;
use crate::error::{Exit, Refusal, message_and_hint};
use crate::fsx;
use crate::notify::{self, Sender};
use crate::progress::{Progress, Tee};
use crate::report::{NightRecord, TrainingLog, append_record, messages_for, render_line};
use crate::secrets::EnvLookup;
use crate::site::Site;
use crate::train::DeviceChoice;
use crate::validate::Probe;
use stages::Run;
use state::{Finish, Night};

pub use stages::{PlannedStage, plan};
pub use start::{StartPlan, plan_start};

/// How a night is to be run.
#[derive(Clone, Debug)]
pub struct NightRequest {
    pub device: DeviceChoice,
    /// Limit on the training; the config's `max_training_duration_hours` by default.
    pub max_duration: Option<Duration>,
    /// How long to wait for another run of this site.
    pub wait: Duration,
}

/// What a night needs from outside.
pub struct Tools<'a> {
    pub clock: Clock,
    pub progress: &'a dyn Progress,
    /// Set when the night is to end after a checkpoint.
    pub stop: &'a AtomicBool,
    pub probe: &'a Probe<'a>,
    /// Looks up the environment, for secrets.
    pub env: &'a EnvLookup<'a>,
}

/// How a start of `nightly` ended.
#[derive(Clone, Debug, Serialize)]
pub struct NightEnd {
    pub logical_date: NaiveDate,
    /// The night was finished by an earlier start; nothing was done.
    pub was_done: bool,
    pub exit_code: u8,
    /// What `metrics.json` holds of it.
    #[serde(flatten)]
    pub record: Option<NightRecord>,
}

impl NightEnd {
    /// The exit code of the process.
    pub fn exit(&self) -> Exit {
        self.record.as_ref().map_or(Exit::Done, |record| record.outcome.exit())
    }
}

/// Runs the night of now's logical date, or what is left of it.
///
/// A refused challenger is no error: see `exit_code`. Whatever goes wrong is told to the channels of the config and
/// recorded before it is returned.
///
/// - Errors: [`Refusal::LockHeld`]; [`Refusal::Interrupted`] after a checkpoint; what a stage fails with.
pub fn run(site: &Site, request: &NightRequest, tools: &Tools<'_>) -> Result<NightEnd> {
    let now = tools.clock.now();
    let logical_date = site.logical_date(now);
    let _lock = site.lock("nightly", now, request.wait)?;
    let mut night = Night::begin(site, logical_date, now)?;
    if let Some(finish) = &night.finish {
        tools.progress.note(&format!("the night of {logical_date} is already done: {}", finish.summary));
        return Ok(NightEnd { logical_date, was_done: true, exit_code: Exit::Done.code(), record: None });
    }
    sweep(site)?;
    night.save(site)?;
    let log =
        TrainingLog::open(&site.log_dir(), logical_date, tools.clock).context("open the night's log")?;
    let both = Tee(tools.progress, &log);
    both.note(&format!("night of {logical_date}, start {}", night.n_attempts));
    let started = std::time::Instant::now();
    let ending = Run::new(site, request, tools, &both, now, &mut night).finish();
    if let Err(error) = &ending
        && matches!(error.downcast_ref(), Some(Refusal::Interrupted { .. }))
    {
        both.warn("interrupted: the next start of this night goes on from the checkpoint");
        return Err(ending.expect_err("it was just seen to be one"));
    }
    let ended_at = tools.clock.now();
    let record = record::of_night(site, &night, &ending, ended_at, started.elapsed());
    log.note(&render_line(&record));
    let recorded = tell(site, tools, &record, &both);
    let exit_code = match ending {
        Ok(exit) => exit.code(),
        Err(error) => {
            log.warn(&message_and_hint(&error).0);
            // The warnings of this start belong to the night, which a later start ends.
            if let Err(unsaved) = night.save(site) {
                both.warn(&format!("the night could not be stored: {unsaved:#}"));
            }
            return Err(error);
        }
    };
    // A night without its record is not over: the next start has only that left to do.
    recorded?;
    night.finish = Some(Finish { at: ended_at, exit_code, summary: render_line(&record) });
    night.save(site)?;
    if let Some(failure) = log.failure() {
        tools.progress.warn(&format!("the night's log is not complete: {failure}"));
    }
    Ok(NightEnd { logical_date, was_done: false, exit_code, record: Some(record) })
}

/// Writes the night down and tells the channels of the config.
///
/// - Errors: the record could not be written; the channels have been told all the same.
fn tell(site: &Site, tools: &Tools<'_>, record: &NightRecord, progress: &dyn Progress) -> Result<()> {
    let appended = append_record(&site.log_dir(), record);
    let (previous, warnings) = match &appended {
        Ok(appended) => (appended.previous.as_slice(), appended.warnings.as_slice()),
        Err(error) => {
            progress.warn(&format!("the night could not be written down: {error:#}"));
            Default::default()
        }
    };
    let messages = messages_for(record, previous, &Sender::of(site), &site.config.notify);
    let delivery = notify::deliver(&messages, site, tools.env, record.timestamp);
    for sent in &delivery.sent {
        progress.note(&format!("{} told: {}", sent.channel, sent.subject));
    }
    for failed in &delivery.failed {
        progress.warn(&format!("{} was not told `{}`: {}", failed.channel, failed.subject, failed.error));
    }
    for warning in warnings.iter().chain(&delivery.warnings) {
        progress.warn(warning);
    }
    appended.map(|_| ())
}

/// Deletes what killed runs left unfinished; the caller holds the site lock.
///
/// Models, checkpoints and nights are written under that lock only. Windows, forecasts, logs and other state are
/// written by others too, none of which takes a day.
fn sweep(site: &Site) -> Result<()> {
    for dir in [site.models_dir(), site.checkpoints_dir(), state::dir(site)] {
        fsx::sweep_staging(&dir, Duration::ZERO)?;
    }
    for dir in [site.windows_dir(), site.forecasts_dir(), site.state_dir(), site.log_dir()] {
        fsx::sweep_staging(&dir, Duration::from_secs(24 * 3600))?;
    }
    Ok(())
}
