//! Rules of systemd units that `systemd-analyze verify` does not know: what a nightly job needs.

use super::Finding;

/// The findings about a unit file named `file_name` (`*.service` or `*.timer`) with the content `text`.
pub fn lint_systemd_unit(file_name: &str, text: &str) -> Vec<Finding> {
    match file_name.rsplit_once('.').map(|(_, kind)| kind) {
        Some("service") => lint_service(text),
        Some("timer") => lint_timer(text),
        _ => vec![Finding::error("file-name", format!("`{file_name}` is neither a .service nor a .timer"))],
    }
}

fn lint_timer(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let calendar = values(text, "OnCalendar");
    if calendar.is_empty() {
        findings.push(Finding::error("on-calendar", "the timer has no OnCalendar="));
    }
    if calendar.iter().any(|when| when.ends_with(|c: char| c.is_ascii_digit())) {
        findings.push(Finding::warning("zone", "OnCalendar= names no zone, so the machine's counts"));
    }
    if values(text, "Persistent") != ["true"] {
        let message = "without Persistent=true a machine that was off skips the night";
        findings.push(Finding::warning("persistent", message));
    }
    if values(text, "WantedBy").is_empty() {
        findings.push(Finding::error("wanted-by", "without WantedBy=timers.target `enable` does nothing"));
    }
    findings
}

fn lint_service(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let commands = values(text, "ExecStart");
    if commands.is_empty() {
        findings.push(Finding::error("exec-start", "the service has no ExecStart="));
    }
    if commands.iter().any(|command| !command.trim_start_matches('"').starts_with('/')) {
        findings
            .push(Finding::error("absolute-path", "ExecStart= does not name its program by absolute path"));
    }
    if values(text, "Type") != ["oneshot"] {
        findings.push(Finding::error("oneshot", "a job that ends is Type=oneshot"));
    }
    if values(text, "TimeoutStartSec").is_empty() {
        let message = "a oneshot has no limit unless TimeoutStartSec= sets one (RuntimeMaxSec= does not), and a \
                       hung run stops all later nights";
        findings.push(Finding::error("time-limit", message));
    }
    if !values(text, "User").iter().any(|user| *user != "root") {
        findings.push(Finding::warning("runs-as-root", "no User= other than root is set"));
    }
    if values(text, "ProtectSystem") == ["strict"] && values(text, "ReadWritePaths").is_empty() {
        let message = "ProtectSystem=strict without ReadWritePaths= leaves nowhere to write";
        findings.push(Finding::error("read-write-paths", message));
    }
    findings
}

/// The values of `key` in the order of the file.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER: &str =
        "[Timer]\nOnCalendar=*-*-* 02:00:00 UTC\nPersistent=true\n[Install]\nWantedBy=timers.target\n";
    const SERVICE: &str = "[Service]\nType=oneshot\nUser=tftctl\nExecStart=\"/usr/bin/tftctl\" nightly\n\
                           TimeoutStartSec=4h\nProtectSystem=strict\nReadWritePaths=/srv\n";

    #[track_caller]
    fn case(file_name: &str, text: &str, without: &str, instead: &str, expected: &[&str]) {
        assert!(text.contains(without));
        let findings = lint_systemd_unit(file_name, &text.replace(without, instead));
        assert_eq!(findings.iter().map(|finding| finding.rule).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_rule_has_a_unit_that_breaks_it() {
        case("a.timer", TIMER, "", "", &[]);
        case("a.timer", TIMER, "OnCalendar=", "#", &["on-calendar"]);
        case("a.timer", TIMER, " UTC", "", &["zone"]);
        case("a.timer", TIMER, "Persistent=true", "", &["persistent"]);
        case("a.timer", TIMER, "WantedBy=", "#", &["wanted-by"]);
        case("a.service", SERVICE, "", "", &[]);
        case("a.service", SERVICE, "ExecStart=", "#", &["exec-start"]);
        case("a.service", SERVICE, "\"/usr/bin/tftctl\"", "tftctl", &["absolute-path"]);
        case("a.service", SERVICE, "oneshot", "simple", &["oneshot"]);
        case("a.service", SERVICE, "TimeoutStartSec", "RuntimeMaxSec", &["time-limit"]);
        case("a.service", SERVICE, "User=tftctl", "", &["runs-as-root"]);
        case("a.service", SERVICE, "ReadWritePaths=/srv", "", &["read-write-paths"]);
        case("tftctl", SERVICE, "", "", &["file-name"]);
    }
}
