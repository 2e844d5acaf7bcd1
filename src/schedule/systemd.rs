//! systemd: a service and a timer for each of `buffer rotate` and `nightly`.
//!
//! The nightly timer fires twice; a unit that is active is not started again, so the runs cannot overlap.

use chrono::NaiveTime;

use super::quote::{systemd_argument, systemd_quoted, systemd_value};
use super::times::limit_minutes;
use super::{RenderedFile, RunTimes, SchedulePlan, Words};

const ROTATE_LIMIT_MINUTES: u32 = 60;

pub(super) fn render(plan: &SchedulePlan, words: &Words) -> Vec<RenderedFile> {
    let times = RunTimes::of(plan);
    let rotate = Service {
        what: "seal yesterday's metrics",
        arguments: "--quiet buffer rotate",
        limit_minutes: ROTATE_LIMIT_MINUTES,
        nice: 5,
    };
    let nightly = Service {
        what: "train, examine and promote tonight's model",
        arguments: "--quiet nightly",
        limit_minutes: limit_minutes(plan),
        nice: 10,
    };
    let file = |name: &str, text: &str| RenderedFile::new(name, text, HOW_TO);
    vec![
        file("tftctl-rotate.service", &rotate.render(words)),
        file("tftctl-rotate.timer", &timer(plan, "just after midnight", &[times.rotate])),
        file("tftctl-nightly.service", &nightly.render(words)),
        file(
            "tftctl-nightly.timer",
            &timer(plan, "nightly, and a catch-up", &[times.nightly, times.catch_up]),
        ),
    ]
}

const HOW_TO: &str = "sudo install -m 0644 tftctl-*.service tftctl-*.timer /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now tftctl-rotate.timer tftctl-nightly.timer
systemctl list-timers 'tftctl-*'          # when they fire next
journalctl -u tftctl-nightly.service      # what they said
";

fn timer(plan: &SchedulePlan, when: &str, times: &[NaiveTime]) -> String {
    let line = |time: &NaiveTime| format!("OnCalendar=*-*-* {}:00 {}\n", time.format("%H:%M"), plan.timezone);
    let calendar: String = times.iter().map(line).collect();
    format!(
        "# Rendered by `tftctl schedule show systemd`.
[Unit]
Description=tftctl: {when}

[Timer]
{calendar}# A machine that was off catches up when it starts.
Persistent=true
AccuracySec=1min

[Install]
WantedBy=timers.target
"
    )
}

struct Service {
    what: &'static str,
    arguments: &'static str,
    limit_minutes: u32,
    nice: u32,
}

impl Service {
    fn render(&self, words: &Words) -> String {
        format!(
            "# Rendered by `tftctl schedule show systemd`.
[Unit]
Description=tftctl: {what}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User={user}
WorkingDirectory={dir}
ExecStart={binary} --config {config} {arguments}
# 3: the exam refused the model, which is an answer. 130: stopped after a checkpoint. Anything else that is not 0
# fails the unit: 1 failed, 2 config, 4 not enough data, 5 another run holds the site.
SuccessExitStatus=3 130
# tftctl's own limit comes first; then SIGTERM, on which it writes a checkpoint.
TimeoutStartSec={limit}
TimeoutStopSec=5min
{resources}
{hardening}
ReadWritePaths={writable}
",
            what = self.what,
            user = systemd_value(&words.user),
            dir = systemd_value(&words.site_root),
            binary = systemd_quoted(&words.binary),
            config = systemd_argument(&words.config_path),
            arguments = self.arguments,
            limit = format_limit(self.limit_minutes),
            resources = self.resources(),
            hardening = HARDENING,
            writable = systemd_quoted(&words.site_root),
        )
    }

    fn resources(&self) -> String {
        format!("Nice={}\nIOSchedulingClass=idle\n", self.nice)
    }
}

/// What a service gets that writes to one folder only.
const HARDENING: &str =
    "# The webhook's address as a credential: slack_webhook = \"cred:slack_webhook\" in tftctl.toml, and here
#LoadCredential=slack_webhook:/etc/tftctl/slack_webhook

# PrivateDevices= and MemoryDenyWriteExecute= are left out: a GPU is a device, and its driver compiles at run time.
NoNewPrivileges=true
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectControlGroups=true
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
SystemCallArchitectures=native
UMask=0027
# The only place that is written to; add a line for a log_dir outside of the site.";

/// `4h 30min`, as systemd writes spans.
fn format_limit(minutes: u32) -> String {
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes}min"),
        (hours, 0) => format!("{hours}h"),
        (hours, minutes) => format!("{hours}h {minutes}min"),
    }
}
