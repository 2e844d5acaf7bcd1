//! Rules of a Task Scheduler definition: its encoding, the schema's few orders, and the defaults that skip nights.

use super::Finding;
use super::xml::{self, Element};
use crate::schedule::windows::{NAMESPACE, decode};

const MAX_COMMAND_CHARS: usize = 260;

/// The order that the schema demands inside a calendar trigger.
const TRIGGER_ORDER: [&str; 10] = [
    "Enabled",
    "StartBoundary",
    "EndBoundary",
    "Repetition",
    "ExecutionTimeLimit",
    "RandomDelay",
    "ScheduleByDay",
    "ScheduleByWeek",
    "ScheduleByMonth",
    "ScheduleByMonthDayOfWeek",
];

/// Settings whose absence or other value makes Windows skip or kill a night, with the reason.
const SETTINGS: [(&str, &str, &str); 5] = [
    ("StartWhenAvailable", "true", "a machine that was off skips the night"),
    ("DisallowStartIfOnBatteries", "false", "the default does not start on battery"),
    ("StopIfGoingOnBatteries", "false", "the default stops a run when the mains fail"),
    ("MultipleInstancesPolicy", "IgnoreNew", "the catch-up must not run beside the night"),
    ("IdleSettings/StopOnIdleEnd", "false", "the default stops a run when someone moves the mouse"),
];

/// The findings about a task definition as it lies on disk.
pub fn lint_windows_task(bytes: &[u8]) -> Vec<Finding> {
    let Some(text) = decode(bytes) else {
        let message = "schtasks wants UTF-16LE with a byte order mark, and the file is something else";
        return vec![Finding::error("encoding", message)];
    };
    let mut findings = Vec::new();
    if text.replace("\r\n", "").contains(['\r', '\n']) {
        findings.push(Finding::error("line-ends", "a line does not end with CRLF"));
    }
    match xml::parse(&text) {
        Err(error) => findings.push(Finding::error("well-formed", format!("{error:#}"))),
        Ok((encoding, task)) => {
            if encoding != "UTF-16" {
                let message = format!("the declaration says encoding \"{encoding}\", the file is UTF-16");
                findings.push(Finding::error("declaration", message));
            }
            lint_task(&task, &mut findings);
        }
    }
    findings
}

fn lint_task(task: &Element, findings: &mut Vec<Finding>) {
    if task.name != "Task" || task.attribute("xmlns") != Some(NAMESPACE) {
        findings.push(Finding::error("namespace", format!("the root is not <Task xmlns=\"{NAMESPACE}\">")));
    }
    if !task.attribute("version").is_some_and(|version| ["1.2", "1.3", "1.4"].contains(&version)) {
        findings.push(Finding::error("version", "the version is none of 1.2, 1.3, 1.4"));
    }
    lint_unique_children(task, findings);
    lint_triggers(task, findings);
    lint_principal(task, findings);
    lint_settings(task, findings);
    lint_action(task, findings);
}

/// Everywhere but among triggers and actions, the schema takes each element once.
fn lint_unique_children(element: &Element, findings: &mut Vec<Finding>) {
    for (i, child) in element.children.iter().enumerate() {
        let is_list = ["Triggers", "Actions"].contains(&element.name.as_str());
        if !is_list && element.children[..i].iter().any(|other| other.name == child.name) {
            findings.push(Finding::error(
                "unique",
                format!("<{}> comes twice in <{}>", child.name, element.name),
            ));
        }
        lint_unique_children(child, findings);
    }
}

fn lint_triggers(task: &Element, findings: &mut Vec<Finding>) {
    let triggers = task.child("Triggers").map_or(&[][..], |triggers| &triggers.children);
    if triggers.is_empty() {
        findings.push(Finding::error("trigger", "no trigger starts the task"));
    }
    for trigger in triggers {
        let places: Vec<Option<usize>> = trigger
            .children
            .iter()
            .map(|child| TRIGGER_ORDER.iter().position(|name| *name == child.name))
            .collect();
        if places.contains(&None) || !places.is_sorted() {
            let message =
                format!("<{}> holds other elements, or in another order, than the schema", trigger.name);
            findings.push(Finding::error("trigger-order", message));
        }
        match trigger.child("StartBoundary").map(|start| start.text.as_str()) {
            None => findings.push(Finding::error("start-boundary", "a trigger has no StartBoundary")),
            Some(start) if has_offset(start) => {
                let message =
                    format!("StartBoundary {start} is a fixed instant: it shifts by an hour twice a year");
                findings.push(Finding::warning("local-start", message));
            }
            Some(_) => {}
        }
    }
}

fn has_offset(start: &str) -> bool {
    start.split_once('T').is_some_and(|(_, time)| time.contains(['Z', '+', '-']))
}

fn lint_principal(task: &Element, findings: &mut Vec<Finding>) {
    let id = task.find("Principals/Principal").and_then(|principal| principal.attribute("id"));
    let context = task.child("Actions").and_then(|actions| actions.attribute("Context"));
    if id.is_none() || id != context {
        let message = format!(
            "the Context of Actions ({}) is not the id of the Principal ({})",
            context.unwrap_or("none"),
            id.unwrap_or("none")
        );
        findings.push(Finding::error("context", message));
    }
    let logon = task.find("Principals/Principal/LogonType").map(|logon| logon.text.as_str());
    if logon == Some("S4U") {
        findings.push(Finding::warning("s4u", "LogonType S4U has no network: nobody would be told"));
    }
}

fn lint_settings(task: &Element, findings: &mut Vec<Finding>) {
    for (path, wanted, reason) in SETTINGS {
        let value = task.find(&format!("Settings/{path}")).map(|setting| setting.text.as_str());
        if value != Some(wanted) {
            findings.push(Finding::error("settings", format!("{path} is not {wanted}: {reason}")));
        }
    }
    let limit = task.find("Settings/ExecutionTimeLimit").map(|limit| limit.text.as_str());
    if limit.is_none_or(|limit| limit == "PT0S") {
        let message =
            "ExecutionTimeLimit is not set: a hung run stops all later nights (for three days by default)";
        findings.push(Finding::error("time-limit", message));
    }
}

fn lint_action(task: &Element, findings: &mut Vec<Finding>) {
    for path in ["Command", "WorkingDirectory"] {
        let value = task.find(&format!("Actions/Exec/{path}")).map_or("", |element| element.text.as_str());
        let is_absolute = value.starts_with(r"\\") || value.get(1..3) == Some(":\\");
        if !is_absolute {
            findings.push(Finding::error("absolute-path", format!("{path} `{value}` is not absolute")));
        }
        if value.chars().count() > MAX_COMMAND_CHARS {
            findings
                .push(Finding::error("long-path", format!("{path} exceeds {MAX_COMMAND_CHARS} characters")));
        }
    }
}
