//! Delivery end to end: a real local receiver, a real shell, a real spool.

use std::path::Path;
use std::time::{Duration, Instant};

use super::message::tests::sample;
use super::*;
use crate::http::receiver::{Answer, Receiver, refused_url};

const CANARY: &str = "T0CANARY/B1CANARY/canary-9c1e";

/// A site whose webhook is `url` plus a secret path, in the variable HOOK.
struct Desk {
    dir: tempfile::TempDir,
    config: Config,
    hook: Option<String>,
}

impl Desk {
    fn new() -> Self {
        let mut config = Config::default();
        config.notify.timeout_secs = 20;
        Self { dir: tempfile::tempdir().unwrap(), config, hook: None }
    }

    fn slack(mut self, url: &str) -> Self {
        self.config.slack_webhook = "env:HOOK".into();
        self.hook = Some(format!("{url}/services/{CANARY}"));
        self
    }

    fn command(mut self, line: &str) -> Self {
        self.config.notify.command = line.into();
        self
    }

    fn timeout_secs(mut self, secs: u64) -> Self {
        self.config.notify.timeout_secs = secs;
        self
    }

    fn deliver_at(&self, messages: &[Message], now: &str) -> DeliveryReport {
        let site = Site::of(self.dir.path(), self.config.clone());
        let env = |name: &str| if name == "HOOK" { self.hook.clone() } else { None };
        let report = deliver(messages, &site, &env, now.parse().unwrap());
        let shown = format!("{report:?} {}", serde_json::to_string(&report).unwrap());
        assert!(!shown.to_lowercase().contains("canary"), "{shown}");
        report
    }

    fn deliver(&self, messages: &[Message]) -> DeliveryReport {
        self.deliver_at(messages, "2026-06-01T02:10:00Z")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn waiting(&self) -> Vec<String> {
        names_in(&self.path("state/undelivered"))
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_webhook_gets_the_message() {
    let receiver = Receiver::start(vec![]);
    let desk = Desk::new().slack(&receiver.url());
    let report = desk.deliver(&[sample()]);
    assert_eq!((report.sent.len(), report.failed.len(), report.n_waiting), (1, 0, 0));
    let requests = receiver.requests();
    assert!(requests[0].head.starts_with(&format!("POST /services/{CANARY} ")));
    let body: serde_json::Value = serde_json::from_str(&requests[0].body).unwrap();
    assert_eq!(body, render_slack(&sample()));
}

#[test]
fn a_stumbling_webhook_is_tried_again() {
    let busy = Answer::status(429, "rate_limited").header("Retry-After: 1");
    let receiver = Receiver::start(vec![Answer::status(500, "oops"), busy]);
    let report = Desk::new().slack(&receiver.url()).deliver(&[sample()]);
    assert_eq!((report.sent.len(), receiver.requests().len()), (1, 3));
}

#[test]
fn the_most_severe_message_goes_first() {
    let receiver = Receiver::start(vec![]);
    let calm = Message { severity: Severity::Info, subject: "calm".into(), ..sample() };
    let report = Desk::new().slack(&receiver.url()).deliver(&[calm, sample()]);
    assert_eq!(report.sent[0].subject, sample().subject);
}

#[test]
fn nobody_listening_is_no_failure() {
    let desk = Desk::new();
    let report = desk.deliver(&[sample()]);
    assert!(report.sent.is_empty() && report.failed.is_empty() && report.warnings.is_empty());
    assert!(!desk.path("state").exists());
}

#[test]
fn an_undelivered_message_waits_and_goes_out_with_the_next_delivery() {
    let mut desk = Desk::new().slack(&refused_url());
    let report = desk.deliver(&[sample()]);
    assert!(report.failed[0].is_spooled, "{report:?}");
    assert!(report.failed[0].error.contains("refused"), "{report:?}");
    assert_eq!(desk.waiting().len(), 1);
    let kept = std::fs::read_to_string(desk.path("state/undelivered").join(&desk.waiting()[0])).unwrap();
    assert!(!kept.to_lowercase().contains("canary"));

    let receiver = Receiver::start(vec![]);
    desk = desk.slack(&receiver.url());
    let report = desk.deliver_at(&[], "2026-06-02T02:10:00Z");
    assert!(report.sent[0].was_waiting);
    assert_eq!((report.n_waiting, desk.waiting().len()), (0, 0));
    assert!(receiver.requests()[0].body.contains("first tried at 2026-06-01T02:10Z"));
}

#[test]
fn what_waits_is_bounded_in_age_and_number() {
    let desk = Desk::new().command("exit 1");
    desk.deliver(&[sample()]);
    let report = desk.deliver_at(&[], "2026-06-20T02:10:00Z");
    assert_eq!(report.n_waiting, 0);
    assert!(report.warnings[0].contains("two weeks"), "{report:?}");

    let desk = Desk::new().command("exit 1").timeout_secs(60);
    let many: Vec<Message> =
        (0..104).map(|i| Message { subject: format!("message {i}"), ..sample() }).collect();
    assert_eq!(desk.deliver(&many).n_waiting, 104);
    let report = desk.deliver(&[]);
    assert_eq!(report.n_waiting, 100);
    assert!(report.warnings[0].contains("dropped 4 undelivered messages"), "{report:?}");
}

#[test]
fn a_damaged_waiting_message_is_set_aside() {
    let desk = Desk::new().command("exit 1");
    desk.deliver(&[sample()]);
    let path = desk.path("state/undelivered").join(&desk.waiting()[0]);
    std::fs::write(&path, "{\"format\": 1, \"chan").unwrap();
    let report = desk.deliver(&[]);
    assert_eq!(report.n_waiting, 0);
    assert_eq!(report.warnings.len(), 1);
    assert!(desk.waiting()[0].ends_with(".damaged"));
}

#[test]
fn a_channel_that_left_the_config_leaves_no_messages_behind() {
    let mut desk = Desk::new().command("exit 1");
    desk.deliver(&[sample()]);
    desk.config.notify.command.clear();
    let report = desk.deliver(&[]);
    assert_eq!((report.n_waiting, desk.waiting().len()), (0, 0));
    assert!(report.warnings[0].contains("no longer in the config"));
}

#[test]
fn a_missing_secret_is_named_and_the_message_waits() {
    let mut desk = Desk::new().slack("http://unused.example");
    desk.hook = None;
    let report = desk.deliver(&[sample()]);
    assert!(report.failed[0].error.contains("HOOK is not set"), "{report:?}");
    assert_eq!(report.n_waiting, 1);
}

#[test]
fn a_dead_webhook_leaves_the_command_its_time() {
    let silent = Receiver::start(vec![Answer::Silence; 9]);
    let desk = Desk::new().slack(&silent.url()).command("exit 0").timeout_secs(2);
    let started = Instant::now();
    let report = desk.deliver(&[sample()]);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!((report.sent[0].channel.as_str(), report.failed[0].channel.as_str()), ("command", "slack"));
}

/// Whether the command lines below mean something here; Windows has another shell.
fn has_posix_shell() -> bool {
    crate::platform::shell().0 == "/bin/sh"
}

#[test]
fn a_command_reads_the_message_as_json() {
    if !has_posix_shell() {
        return;
    }
    let desk = Desk::new().command("cat > 'heard it.json'; echo fine");
    assert_eq!(desk.deliver(&[sample()]).sent.len(), 1);
    let heard = std::fs::read_to_string(desk.path("heard it.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&heard).unwrap(), sample().to_json());
}

#[test]
fn a_failing_command_is_quoted_but_not_its_secrets() {
    if !has_posix_shell() {
        return;
    }
    let receiver = Receiver::start(vec![]);
    let mut desk = Desk::new().slack(&receiver.url());
    let line = format!("echo cannot page >&2; echo {} >&2; exit 3", desk.hook.as_ref().unwrap());
    desk = desk.command(&line);
    let report = desk.deliver(&[sample()]);
    let error = &report.failed[0].error;
    assert!(error.contains("cannot page [secret]") && error.contains('3'), "{error}");
}

#[test]
fn a_command_beyond_its_time_is_killed_with_what_it_started() {
    if !has_posix_shell() {
        return;
    }
    let desk = Desk::new().command("echo began; (sleep 3; echo late > late) & sleep 60").timeout_secs(1);
    let started = Instant::now();
    let report = desk.deliver(&[sample()]);
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(report.failed[0].error.contains("killed"), "{report:?}");
    assert!(report.failed[0].error.contains("began"), "{report:?}");
    std::thread::sleep(Duration::from_secs(4));
    assert!(!desk.path("late").exists(), "what the command started lives on");
}

#[test]
fn a_command_that_leaves_a_child_behind_does_not_hold_us() {
    if !has_posix_shell() {
        return;
    }
    let desk = Desk::new().command("sleep 30 & exit 0");
    let started = Instant::now();
    assert_eq!(desk.deliver(&[sample()]).sent.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_secret_file_that_others_can_read_is_a_warning() {
    if !has_posix_shell() {
        return;
    }
    let receiver = Receiver::start(vec![]);
    let mut desk = Desk::new();
    desk.config.slack_webhook = "file:hook".into();
    std::fs::write(desk.path("hook"), format!("{}/{CANARY}\n", receiver.url())).unwrap();
    for (mode, n_warnings) in [("644", 1), ("600", 0)] {
        let chmod = std::process::Command::new("chmod").arg(mode).arg(desk.path("hook")).status();
        assert!(chmod.unwrap().success());
        let report = desk.deliver(&[sample()]);
        assert_eq!((report.sent.len(), report.warnings.len()), (1, n_warnings), "{report:?}");
    }
}
