//! The committed samples, the rules a rendering must keep, and what daylight saving does to a plan.

use super::windows::{decode, encode};
use super::*;

fn linux_plan() -> SchedulePlan {
    SchedulePlan {
        binary: "/usr/local/bin/tftctl".into(),
        site_root: "/srv/tftctl".into(),
        config_path: "/srv/tftctl/tftctl.toml".into(),
        timezone: Tz::UTC,
        training_time: NaiveTime::from_hms_opt(2, 0, 0).unwrap(),
        user: "tftctl".into(),
        max_training_duration_hours: 4.0,
    }
}

fn windows_plan() -> SchedulePlan {
    SchedulePlan {
        binary: r"C:\Program Files\tftctl\tftctl.exe".into(),
        site_root: r"C:\ProgramData\tftctl".into(),
        config_path: r"C:\ProgramData\tftctl\tftctl.toml".into(),
        user: "NETWORK SERVICE".into(),
        ..linux_plan()
    }
}

fn plan_for(kind: SchedulerKind) -> SchedulePlan {
    if kind == SchedulerKind::Windows { windows_plan() } else { linux_plan() }
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn rendered(kind: SchedulerKind, plan: &SchedulePlan, name: &str) -> RenderedFile {
    render(kind, plan).unwrap().into_iter().find(|file| file.path_name == name).unwrap()
}

#[track_caller]
fn equals_sample(kind: SchedulerKind, folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    for file in render(kind, &plan_for(kind)).unwrap() {
        let path = folder.join(&file.path_name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &file.bytes).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert!(committed == file.bytes, "{} differs: run with UPDATE_GOLDEN=1", path.display());
    }
}

#[test]
fn the_committed_samples_are_what_is_rendered() {
    equals_sample(SchedulerKind::Cron, "cron");
    equals_sample(SchedulerKind::Systemd, "cron");
    equals_sample(SchedulerKind::Windows, "windows-task");
    equals_sample(SchedulerKind::Kubernetes, "cron");
}

#[test]
fn the_samples_have_no_findings() {
    for kind in SchedulerKind::ALL {
        assert_eq!(check(kind, &plan_for(kind), day("2026-01-01")), [], "{kind:?}");
    }
}

#[track_caller]
fn finds(kind: SchedulerKind, change: impl FnOnce(&mut SchedulePlan), rule: &str, words: &str) {
    let mut plan = plan_for(kind);
    change(&mut plan);
    let findings = check(kind, &plan, day("2026-01-01"));
    let found = findings.iter().any(|finding| finding.rule == rule && finding.message.contains(words));
    assert!(found, "no {rule} with {words:?} in {findings:?}");
}

#[test]
fn every_rule_for_plans_has_a_plan_that_breaks_it() {
    use SchedulerKind::*;
    finds(Cron, |plan| plan.binary = "tftctl".into(), "absolute-path", "`tftctl`");
    finds(Windows, |plan| plan.site_root = r"ProgramData\x".into(), "absolute-path", "ProgramData");
    finds(Windows, |plan| plan.site_root = r"C:\100%\x".into(), "percent-in-path", "100%");
    finds(Windows, |plan| plan.binary = format!(r"C:\{}", "x".repeat(260)).into(), "long-path", "260");
    finds(Cron, |plan| plan.config_path = r"/srv/a\b.toml".into(), "backslash-in-path", "backslash");
    finds(Systemd, |plan| plan.site_root = "/tmp/site".into(), "site-in-tmp", "PrivateTmp");
    finds(Systemd, |plan| plan.binary = "/opt/it's/tftctl".into(), "program-name", "quote");
    finds(Cron, |plan| plan.user = "Domain User".into(), "user-name", "Domain User");
    finds(Systemd, |plan| plan.user = "root".into(), "runs-as-root", "root");
    finds(Cron, |plan| plan.config_path = "/srv/a\nb".into(), "cannot-render", "line break");
    finds(Cron, |plan| plan.training_time = time("23:00"), "catch-up-tomorrow", "00:30");
    finds(Systemd, |plan| plan.max_training_duration_hours = 23.0, "longer-than-a-day", "next night");
}

fn time(text: &str) -> NaiveTime {
    NaiveTime::parse_from_str(text, "%H:%M").unwrap()
}

#[track_caller]
fn irregular(training_time: &str, zone: Tz, expected: &[(&str, &str)]) {
    let plan = SchedulePlan { training_time: time(training_time), timezone: zone, ..linux_plan() };
    let findings = check(SchedulerKind::Systemd, &plan, day("2026-01-01"));
    let got: Vec<(&str, &str)> = findings.iter().map(|f| (f.rule, f.message.as_str())).collect();
    assert_eq!(got.len(), expected.len(), "{got:?}");
    for ((rule, message), (expected_rule, words)) in got.into_iter().zip(expected) {
        assert_eq!(rule, *expected_rule);
        assert!(message.contains(words), "{message:?} should contain {words:?}");
    }
}

#[test]
fn times_that_daylight_saving_skips_or_repeats_are_named_with_their_dates() {
    let new_york = chrono_tz::America::New_York;
    let vanishes =
        "nightly at 02:00: this time does not exist in America/New_York on 2026-03-08, 2027-03-14;";
    irregular("02:00", new_york, &[("time-vanishes", vanishes)]);
    irregular("01:30", new_york, &[("time-repeats", "on 2026-11-01, 2027-11-07;")]);
    irregular("00:45", new_york, &[("time-vanishes", "the catch-up at 02:15")]);
    irregular("03:00", new_york, &[]);
    irregular("02:00", Tz::UTC, &[]);
    irregular("02:00", chrono_tz::Asia::Kolkata, &[]);
    // Havana skips the hour after midnight, and with it the rotation.
    irregular(
        "04:00",
        chrono_tz::America::Havana,
        &[("time-vanishes", "buffer rotate at 00:10"), ("time-repeats", "buffer rotate at 00:10")],
    );
}

#[test]
fn awkward_paths_pass_every_linter() {
    let linux = SchedulePlan {
        binary: "/opt/R&D 5% tools/tftctl".into(),
        site_root: "/srv/it's 100% <ours>".into(),
        config_path: "/srv/it's 100% <ours>/tftctl.toml".into(),
        ..linux_plan()
    };
    let windows = SchedulePlan {
        binary: r"C:\R&D <x>\tftctl.exe".into(),
        site_root: r"C:\Ops & Co's".into(),
        config_path: r"C:\Ops & Co's\tftctl.toml".into(),
        user: r"CORP\svc <tft>".into(),
        ..windows_plan()
    };
    for kind in [SchedulerKind::Cron, SchedulerKind::Systemd] {
        assert_eq!(check(kind, &linux, day("2026-01-01")), [], "{kind:?}");
    }
    assert_eq!(check(SchedulerKind::Windows, &windows, day("2026-01-01")), []);
    let text = rendered(SchedulerKind::Windows, &windows, "tftctl-nightly.xml").text();
    assert!(text.contains(r"<Command>C:\R&amp;D &lt;x&gt;\tftctl.exe</Command>"), "{text}");
    assert!(text.contains(r"<UserId>CORP\svc &lt;tft&gt;</UserId>") && text.contains("Password"), "{text}");
}

#[test]
fn limits_leave_our_own_half_an_hour() {
    let plan = |hours| SchedulePlan { max_training_duration_hours: hours, ..windows_plan() };
    let text = |hours| rendered(SchedulerKind::Windows, &plan(hours), "tftctl-nightly.xml").text();
    assert!(text(4.0).contains("<ExecutionTimeLimit>PT4H30M</ExecutionTimeLimit>"));
    assert!(text(1.5).contains("<ExecutionTimeLimit>PT2H</ExecutionTimeLimit>"));
    assert!(text(0.1).contains("<ExecutionTimeLimit>PT36M</ExecutionTimeLimit>"));
    let service = rendered(SchedulerKind::Systemd, &linux_plan(), "tftctl-nightly.service").text();
    assert!(service.contains("TimeoutStartSec=4h 30min"));
    let jobs = rendered(SchedulerKind::Kubernetes, &linux_plan(), "tftctl-cronjobs.yaml").text();
    assert!(jobs.contains("activeDeadlineSeconds: 16200"));
}

#[test]
fn kubernetes_jobs_say_what_they_must() {
    let plan = SchedulePlan { timezone: chrono_tz::America::New_York, ..linux_plan() };
    let text = rendered(SchedulerKind::Kubernetes, &plan, "tftctl-cronjobs.yaml").text();
    for line in [
        "timeZone: \"America/New_York\"",
        "concurrencyPolicy: Forbid",
        "startingDeadlineSeconds:",
        "backoffLimit: 0",
        "restartPolicy: Never",
    ] {
        assert_eq!(text.matches(line).count(), 3, "{line}");
    }
    assert!(text.contains("schedule: \"30 3 * * *\""));
    let names = text.lines().filter_map(|line| line.strip_prefix("  name: "));
    assert!(names.clone().count() == 3 && names.clone().all(|name| name.len() <= 52));
}

/// Runs the catch-up line of the crontab in a real shell, with a program that ends with `code`.
fn catch_up_says(code: i32) -> Option<String> {
    let (shell, flag) = crate::platform::shell();
    if shell != "/bin/sh" {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("it's a tool");
    std::fs::write(&binary, format!("echo \"called with $*\"; exit {code}")).unwrap();
    let plan = SchedulePlan { binary, ..linux_plan() };
    let text = rendered(SchedulerKind::Cron, &plan, "tftctl").text();
    let line = text.lines().last().unwrap().split_once(" tftctl ").unwrap().1.to_owned();
    // The program is a script without its execute bit.
    let line = line.replace("nice -n 10", "/bin/sh");
    let output = std::process::Command::new(shell).args([flag, &line]).output().unwrap();
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_catch_up_under_cron_speaks_only_of_trouble() {
    let called = "called with --config /srv/tftctl/tftctl.toml --quiet nightly\n";
    for (code, expected) in [(0, ""), (5, ""), (1, called)] {
        assert_eq!(catch_up_says(code).unwrap_or(expected.to_owned()), expected, "exit code {code}");
    }
}

#[track_caller]
fn task_breaks(from: &str, to: &str, rule: &str) {
    let text = rendered(SchedulerKind::Windows, &windows_plan(), "tftctl-nightly.xml").text();
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    assert!(text.contains(from), "{from}");
    let rules: Vec<&str> =
        lint_windows_task(&encode(&text.replace(from, to))).iter().map(|finding| finding.rule).collect();
    assert!(rules.contains(&rule), "{from} -> {to}: {rules:?} lacks {rule}");
}

#[test]
fn every_rule_for_tasks_has_a_task_that_breaks_it() {
    task_breaks("encoding=\"UTF-16\"", "encoding=\"UTF-8\"", "declaration");
    task_breaks("</Exec>", "", "well-formed");
    task_breaks(" xmlns=\"http://schemas.microsoft.com/windows/2004/02/mit/task\"", "", "namespace");
    task_breaks("version=\"1.2\"", "version=\"2\"", "version");
    task_breaks("<WakeToRun>false</WakeToRun>", "<Priority>7</Priority>", "unique");
    task_breaks(
        "CalendarTrigger>\n      <StartBoundary>2024-01-01T02:00:00</StartBoundary>",
        "CalendarTrigger>",
        "start-boundary",
    );
    task_breaks("T02:00:00<", "T02:00:00Z<", "local-start");
    task_breaks("T02:00:00<", "T02:00:00-05:00<", "local-start");
    task_breaks("</StartBoundary>", "</StartBoundary><Enabled>true</Enabled>", "trigger-order");
    task_breaks("Context=\"Runner\"", "Context=\"Author\"", "context");
    task_breaks("<RunLevel>", "<LogonType>S4U</LogonType><RunLevel>", "s4u");
    for setting in ["StartWhenAvailable>true", "IgnoreNew"] {
        task_breaks(setting, "StartWhenAvailable>false", "settings");
    }
    task_breaks("<DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>", "", "settings");
    task_breaks("<StopOnIdleEnd>false", "<StopOnIdleEnd>true", "settings");
    task_breaks("<ExecutionTimeLimit>PT4H30M</ExecutionTimeLimit>", "", "time-limit");
    task_breaks("PT4H30M", "PT0S", "time-limit");
    task_breaks(r"<Command>C:\Program Files\tftctl\", "<Command>", "absolute-path");
}

#[test]
fn a_task_in_the_wrong_encoding_is_told_apart() {
    let file = rendered(SchedulerKind::Windows, &windows_plan(), "tftctl-rotate.xml");
    let rules =
        |bytes: &[u8]| lint_windows_task(bytes).iter().map(|finding| finding.rule).collect::<Vec<_>>();
    assert_eq!(rules(&file.bytes), [""; 0]);
    assert_eq!(rules(file.text().as_bytes()), ["encoding"]);
    assert_eq!(rules(&file.bytes[2..]), ["encoding"]);
    let unix_ends: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(
            file.text()
                .trim_start_matches('\u{feff}')
                .replace('\r', "")
                .encode_utf16()
                .flat_map(u16::to_le_bytes),
        )
        .collect();
    assert_eq!(rules(&unix_ends), ["line-ends"]);
    assert_eq!(decode(&file.bytes[..7]), None);
}
