//! Windows Task Scheduler: two task definitions in XML, UTF-16LE with BOM and CRLF, as `schtasks /XML` wants.
//!
//! Inside a trigger only `StartBoundary` and `ScheduleByDay` are written: published order and Windows' own
//! exports disagree about the rest. The defaults that would silently skip nights (battery, no catch-up) are
//! all spelled out.

use chrono::NaiveTime;

use super::quote::{windows_argument, xml};
use super::times::limit_minutes;
use super::{RenderedFile, RunTimes, SchedulePlan, Words};

const ROTATE_LIMIT_MINUTES: u32 = 60;
/// A day in the past; only the time of day counts.
const START_DAY: &str = "2024-01-01";
pub(super) const NAMESPACE: &str = "http://schemas.microsoft.com/windows/2004/02/mit/task";

pub(super) fn render(plan: &SchedulePlan, words: &Words) -> Vec<RenderedFile> {
    let times = RunTimes::of(plan);
    let rotate = Task {
        name: "rotate",
        what: "Seals yesterday's metrics.",
        arguments: "--quiet buffer rotate",
        starts: &[times.rotate],
        limit_minutes: ROTATE_LIMIT_MINUTES,
    };
    let nightly = Task {
        name: "nightly",
        what: "Trains, examines and promotes tonight's model; the second start catches up.",
        arguments: "--quiet nightly",
        starts: &[times.nightly, times.catch_up],
        limit_minutes: limit_minutes(plan),
    };
    vec![rotate.file(plan, words), nightly.file(plan, words)]
}

struct Task<'a> {
    name: &'static str,
    what: &'static str,
    arguments: &'static str,
    starts: &'a [NaiveTime],
    limit_minutes: u32,
}

impl Task<'_> {
    fn file(&self, plan: &SchedulePlan, words: &Words) -> RenderedFile {
        let path_name = format!("tftctl-{}.xml", self.name);
        let how_to_install = self.how_to_install(plan, words, &path_name);
        RenderedFile { path_name, bytes: encode(&self.render(plan, words)), how_to_install }
    }

    fn how_to_install(&self, plan: &SchedulePlan, words: &Words, file: &str) -> String {
        let principal = Account::of(&words.user);
        let account = match principal {
            Account::Service { name, .. } => format!("/RU \"{name}\""),
            Account::Named(user) => format!("/RU {} /RP *", windows_argument(user)),
        };
        format!(
            "schtasks /Create /TN \"tftctl\\{name}\" /XML {file} {account}
icacls {dir} /grant {grantee}:(OI)(CI)M
schtasks /Query /TN \"tftctl\\{name}\" /V /FO LIST     (LastTaskResult is tftctl's exit code)
The start times are in the machine's zone, which should be {zone}, the zone of the site.
",
            name = self.name,
            dir = windows_argument(&words.site_root),
            grantee = windows_argument(principal.name()),
            zone = plan.timezone,
        )
    }

    fn render(&self, plan: &SchedulePlan, words: &Words) -> String {
        let arguments = format!("--config {} {}", windows_argument(&words.config_path), self.arguments);
        format!(
            r#"<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="{NAMESPACE}">
  <RegistrationInfo>
    <Author>tftctl schedule show windows</Author>
    <Description>{what} Site: {site}. Times are local; the site's zone is {zone}.</Description>
    <URI>\tftctl\{name}</URI>
  </RegistrationInfo>
  <Triggers>
{triggers}  </Triggers>
  <Principals>
    <Principal id="Runner">
{principal}
    </Principal>
  </Principals>
  <Settings>
{settings}
  </Settings>
  <Actions Context="Runner">
    <Exec>
      <Command>{command}</Command>
      <Arguments>{arguments}</Arguments>
      <WorkingDirectory>{site}</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"#,
            what = xml(self.what),
            zone = plan.timezone,
            name = self.name,
            triggers = self.starts.iter().map(trigger).collect::<String>(),
            principal = Account::of(&words.user).render(),
            settings = settings(self.limit_minutes),
            command = xml(&words.binary),
            arguments = xml(&arguments),
            site = xml(&words.site_root),
        )
    }
}

fn trigger(time: &NaiveTime) -> String {
    format!(
        "    <CalendarTrigger>
      <StartBoundary>{START_DAY}T{}</StartBoundary>
      <ScheduleByDay>
        <DaysInterval>1</DaysInterval>
      </ScheduleByDay>
    </CalendarTrigger>
",
        time.format("%H:%M:%S")
    )
}

fn settings(limit_minutes: u32) -> String {
    format!(
        "    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <StartWhenAvailable>true</StartWhenAvailable>
    <RunOnlyIfNetworkAvailable>false</RunOnlyIfNetworkAvailable>
    <RunOnlyIfIdle>false</RunOnlyIfIdle>
    <IdleSettings>
      <StopOnIdleEnd>false</StopOnIdleEnd>
      <RestartOnIdle>false</RestartOnIdle>
    </IdleSettings>
    <WakeToRun>false</WakeToRun>
    <ExecutionTimeLimit>{}</ExecutionTimeLimit>
    <Priority>7</Priority>",
        format_limit(limit_minutes)
    )
}

/// Who the task runs as.
enum Account<'a> {
    /// A built-in account: known by its SID on every Windows in every language, and without a password.
    Service {
        name: &'static str,
        sid: &'static str,
    },
    Named(&'a str),
}

impl<'a> Account<'a> {
    fn of(user: &'a str) -> Self {
        let upper = user.to_uppercase();
        match upper.strip_prefix("NT AUTHORITY\\").unwrap_or(&upper) {
            "SYSTEM" => Account::Service { name: "NT AUTHORITY\\SYSTEM", sid: "S-1-5-18" },
            "LOCAL SERVICE" => Account::Service { name: "NT AUTHORITY\\LOCAL SERVICE", sid: "S-1-5-19" },
            "NETWORK SERVICE" => Account::Service { name: "NT AUTHORITY\\NETWORK SERVICE", sid: "S-1-5-20" },
            _ => Account::Named(user),
        }
    }

    fn name(&self) -> &str {
        match self {
            Account::Service { name, .. } => name,
            Account::Named(user) => user,
        }
    }

    /// A named account logs on with its password: S4U would need none, but has no network to tell people.
    fn render(&self) -> String {
        let (id, logon) = match self {
            Account::Service { sid, .. } => ((*sid).to_owned(), ""),
            Account::Named(user) => (xml(user), "      <LogonType>Password</LogonType>\n"),
        };
        format!("      <UserId>{id}</UserId>\n{logon}      <RunLevel>LeastPrivilege</RunLevel>")
    }
}

/// `PT4H30M`, as XML Schema writes durations.
fn format_limit(minutes: u32) -> String {
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("PT{minutes}M"),
        (hours, 0) => format!("PT{hours}H"),
        (hours, minutes) => format!("PT{hours}H{minutes}M"),
    }
}

/// UTF-16LE with BOM, lines ended by CRLF.
pub(super) fn encode(text: &str) -> Vec<u8> {
    let text = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The text of [`encode`]d bytes with its line ends as they are; `None` for anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    let body = bytes.strip_prefix(&[0xff, 0xfe])?;
    if body.len() % 2 != 0 {
        return None;
    }
    let units: Vec<u16> = body.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}
