//! What a plan itself gets wrong, before any file is made of it.

use std::path::Path;

use chrono::{NaiveDate, NaiveTime};

use super::Finding;
use crate::schedule::times::{irregular_days, limit_minutes};
use crate::schedule::{RunTimes, SchedulePlan, SchedulerKind};

const MINUTES_OF_A_SHORT_DAY: u32 = 23 * 60;
const WINDOWS_PATH_CHARS: usize = 260;

/// The findings about `plan` under `kind`, for two years from `today` on.
pub fn lint_plan(kind: SchedulerKind, plan: &SchedulePlan, today: NaiveDate) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in [&plan.binary, &plan.site_root, &plan.config_path] {
        lint_path(kind, path, &mut findings);
    }
    if kind == SchedulerKind::Systemd
        && ["/tmp", "/var/tmp"].iter().any(|tmp| plan.site_root.starts_with(tmp))
    {
        let message = "the service has a /tmp of its own (PrivateTmp) and cannot see a site in the machine's";
        findings.push(Finding::error("site-in-tmp", message));
    }
    if kind == SchedulerKind::Systemd && plan.binary.to_string_lossy().contains(['"', '\'', '\\']) {
        let message = "systemd refuses a program whose path holds a quote or a backslash";
        findings.push(Finding::error("program-name", message));
    }
    lint_user(kind, &plan.user, &mut findings);
    lint_times(kind, plan, today, &mut findings);
    findings
}

fn lint_path(kind: SchedulerKind, path: &Path, findings: &mut Vec<Finding>) {
    let text = path.to_string_lossy();
    if !is_absolute(kind, &text) {
        let message = format!("`{text}` is not absolute, and schedulers start us in a folder of their own");
        findings.push(Finding::error("absolute-path", message));
    }
    let is_windows = kind == SchedulerKind::Windows;
    if is_windows && text.contains('%') {
        let message = format!("`{text}` holds a `%`, which Windows takes for a variable");
        findings.push(Finding::error("percent-in-path", message));
    }
    if is_windows && text.chars().count() > WINDOWS_PATH_CHARS {
        findings
            .push(Finding::error("long-path", format!("`{text}` exceeds {WINDOWS_PATH_CHARS} characters")));
    }
    if kind == SchedulerKind::Cron && text.contains('\\') {
        let message = format!("`{text}` holds a backslash, which some crons remove");
        findings.push(Finding::warning("backslash-in-path", message));
    }
}

/// By the rules of the system the files are for, which need not be the one we run on.
fn is_absolute(kind: SchedulerKind, path: &str) -> bool {
    if kind != SchedulerKind::Windows {
        return path.starts_with('/');
    }
    let bytes = path.as_bytes();
    let has_drive = bytes.len() >= 3 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
    path.starts_with(r"\\") || (has_drive && (bytes[2] == b'\\' || bytes[2] == b'/'))
}

fn lint_user(kind: SchedulerKind, user: &str, findings: &mut Vec<Finding>) {
    let is_unix_name = |user: &str| {
        let is_first = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let is_rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        is_first && user.len() <= 32 && user.chars().all(is_rest)
    };
    let fine = match kind {
        SchedulerKind::Cron | SchedulerKind::Systemd => is_unix_name(user),
        SchedulerKind::Windows => !user.trim().is_empty(),
        SchedulerKind::Kubernetes => true,
    };
    if !fine {
        findings.push(Finding::error("user-name", format!("`{user}` is not the name of a user")));
    }
    let is_root =
        kind != SchedulerKind::Kubernetes && ["root", "system"].contains(&user.to_lowercase().as_str());
    if is_root {
        let message = format!("the jobs run as {user}, and so does every command in the config");
        findings.push(Finding::warning("runs-as-root", message));
    }
}

fn lint_times(kind: SchedulerKind, plan: &SchedulePlan, today: NaiveDate, findings: &mut Vec<Finding>) {
    let times = RunTimes::of(plan);
    lint_irregular(kind, plan, "buffer rotate", times.rotate, today, findings);
    lint_irregular(kind, plan, "nightly", times.nightly, today, findings);
    lint_irregular(kind, plan, "the catch-up", times.catch_up, today, findings);
    if times.is_catch_up_tomorrow {
        let catch_up = times.catch_up.format("%H:%M");
        let message = format!(
            "the catch-up at {catch_up} is on the next day and would begin that day's night: train before 22:30"
        );
        findings.push(Finding::warning("catch-up-tomorrow", message));
    }
    if limit_minutes(plan) >= MINUTES_OF_A_SHORT_DAY {
        let message = "max_training_duration_hours leaves no time before the next night";
        findings.push(Finding::warning("longer-than-a-day", message));
    }
}

fn lint_irregular(
    kind: SchedulerKind,
    plan: &SchedulePlan,
    job: &str,
    time: NaiveTime,
    today: NaiveDate,
    findings: &mut Vec<Finding>,
) {
    let days = irregular_days(time, plan.timezone, today);
    let (at, zone) = (time.format("%H:%M"), plan.timezone);
    if !days.vanishes.is_empty() {
        let message = format!(
            "{job} at {at}: this time does not exist in {zone} on {}; {}",
            list(&days.vanishes),
            on_vanished(kind)
        );
        findings.push(Finding::warning("time-vanishes", message));
    }
    if !days.repeats.is_empty() {
        let message = format!(
            "{job} at {at}: this time comes twice in {zone} on {}; {}",
            list(&days.repeats),
            on_repeated(kind)
        );
        findings.push(Finding::warning("time-repeats", message));
    }
}

fn on_vanished(kind: SchedulerKind) -> &'static str {
    match kind {
        SchedulerKind::Cron => "cron runs it right after the jump, or never (cronie with CRON_TZ)",
        SchedulerKind::Systemd => "systemd skips it",
        SchedulerKind::Windows => "Windows does not say what it does then",
        SchedulerKind::Kubernetes => "Kubernetes skips it",
    }
}

fn on_repeated(kind: SchedulerKind) -> &'static str {
    match kind {
        SchedulerKind::Cron => "cron may run it twice, and the second run finds the work done",
        SchedulerKind::Systemd => "systemd runs it in one of the two hours",
        SchedulerKind::Windows => "Windows does not say what it does then; a second run finds the work done",
        SchedulerKind::Kubernetes => "Kubernetes runs it twice, and the second run finds the work done",
    }
}

fn list(days: &[NaiveDate]) -> String {
    days.iter().map(NaiveDate::to_string).collect::<Vec<_>>().join(", ")
}
