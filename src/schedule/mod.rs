//! Files for the schedulers that start us: cron, systemd, Windows Task Scheduler, Kubernetes.
//!
//! We have no scheduler of our own, so each of these must survive its host's habits: machines that sleep, hours
//! that daylight saving skips or repeats, runs that overlap. The answer is the same everywhere: `buffer rotate`
//! just after midnight, `nightly` at the training time, and a catch-up `nightly` 90 minutes later, which is a
//! no-op when the night of that logical date is done.
//!
//! [`render`] makes the files and writes none; [`check`] says what will bite. `cron/` and `windows-task/` hold
//! what [`render`] makes of a sample plan, and a test keeps them equal.

mod cron;
mod kubernetes;
mod lint;
mod quote;
mod systemd;
mod times;
mod windows;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{NaiveDate, NaiveTime};
use chrono_tz::Tz;
use serde::Serialize;

pub use lint::{Finding, FindingSeverity, lint_cron, lint_systemd_unit, lint_windows_task};
pub use times::RunTimes;

/// Who starts us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerKind {
    Cron,
    Systemd,
    Windows,
    Kubernetes,
}

impl SchedulerKind {
    /// All kinds, in the order they are shown.
    pub const ALL: [SchedulerKind; 4] =
        [SchedulerKind::Cron, SchedulerKind::Systemd, SchedulerKind::Windows, SchedulerKind::Kubernetes];

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerKind::Cron => "cron",
            SchedulerKind::Systemd => "systemd",
            SchedulerKind::Windows => "windows",
            SchedulerKind::Kubernetes => "kubernetes",
        }
    }
}

/// What is to be started, where, when and as whom.
#[derive(Clone, Debug)]
pub struct SchedulePlan {
    /// The `tftctl` to start.
    pub binary: PathBuf,
    pub site_root: PathBuf,
    pub config_path: PathBuf,
    /// The site's zone: the times are meant in it.
    pub timezone: Tz,
    pub training_time: NaiveTime,
    /// The account the jobs run as.
    pub user: String,
    /// Our own limit; the scheduler's comes half an hour later.
    pub max_training_duration_hours: f64,
}

/// One file for a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedFile {
    /// The file's name; the name matters to cron and systemd.
    pub path_name: String,
    /// The content, in the encoding the scheduler wants.
    pub bytes: Vec<u8>,
    /// What to type to put it in force.
    pub how_to_install: String,
}

impl RenderedFile {
    fn new(path_name: &str, text: &str, how_to_install: &str) -> Self {
        Self {
            path_name: path_name.to_owned(),
            bytes: text.as_bytes().to_vec(),
            how_to_install: how_to_install.to_owned(),
        }
    }

    /// The content as text, for showing: Windows' UTF-16 is decoded.
    pub fn text(&self) -> String {
        windows::decode(&self.bytes).unwrap_or_else(|| String::from_utf8_lossy(&self.bytes).into_owned())
    }
}

/// The files that make `kind` run the site of `plan`.
///
/// - Errors: a path or name cannot be written into such a file at all (not UTF-8, or it holds a line break).
///   What can be written but will bite is [`check`]'s business.
pub fn render(kind: SchedulerKind, plan: &SchedulePlan) -> Result<Vec<RenderedFile>> {
    let words = Words::of(plan)?;
    Ok(match kind {
        SchedulerKind::Cron => cron::render(plan, &words),
        SchedulerKind::Systemd => systemd::render(plan, &words),
        SchedulerKind::Windows => windows::render(plan, &words),
        SchedulerKind::Kubernetes => kubernetes::render(plan, &words),
    })
}

/// What will bite in `plan` under `kind`, from `today` on: first the plan itself, then the files made of it.
pub fn check(kind: SchedulerKind, plan: &SchedulePlan, today: NaiveDate) -> Vec<Finding> {
    let mut findings = lint::lint_plan(kind, plan, today);
    match render(kind, plan) {
        Ok(files) => findings.extend(files.iter().flat_map(|file| lint_file(kind, file))),
        Err(error) => findings.push(Finding::error("cannot-render", format!("{error:#}"))),
    }
    findings
}

fn lint_file(kind: SchedulerKind, file: &RenderedFile) -> Vec<Finding> {
    match kind {
        SchedulerKind::Cron => lint_cron(&file.path_name, &file.text()),
        SchedulerKind::Systemd => lint_systemd_unit(&file.path_name, &file.text()),
        SchedulerKind::Windows => lint_windows_task(&file.bytes),
        SchedulerKind::Kubernetes => Vec::new(),
    }
}

/// The plan's paths and names as text that fits on one line.
struct Words {
    binary: String,
    site_root: String,
    config_path: String,
    user: String,
}

impl Words {
    fn of(plan: &SchedulePlan) -> Result<Self> {
        Ok(Self {
            binary: one_line(&plan.binary)?,
            site_root: one_line(&plan.site_root)?,
            config_path: one_line(&plan.config_path)?,
            user: one_line(Path::new(&plan.user))?,
        })
    }
}

fn one_line(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    ensure!(!text.chars().any(char::is_control), "{text:?} holds a line break or another control character");
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
