//! Rules of a table in `/etc/cron.d`. cron reports most breaches in a line of syslog, if at all.

use super::Finding;

const DEBIAN_COMMAND_CHARS: usize = 998;
const TIME_FIELDS: usize = 5;

/// The findings about a file named `file_name` with the content `text`.
pub fn lint_cron(file_name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if file_name.is_empty() || !file_name.chars().all(is_name_char) {
        let message =
            format!("Debian's cron ignores a file named `{file_name}`: only letters, digits, _ and -");
        findings.push(Finding::error("file-name", message));
    }
    if !text.ends_with('\n') {
        findings.push(Finding::error("final-newline", "the last line has no newline, and cron drops it"));
    }
    if text.contains('\r') {
        findings
            .push(Finding::error("line-ends", "lines end with CRLF, and the CR becomes part of the command"));
    }
    for name in ["SHELL", "PATH", "MAILTO"] {
        if !text.lines().filter_map(assignment).any(|(variable, _)| variable == name) {
            findings.push(Finding::warning(
                "variables",
                format!("{name} is not set, and cron's own is a surprise"),
            ));
        }
    }
    for (i, line) in text.lines().enumerate() {
        lint_line(i + 1, line.trim(), &mut findings);
    }
    findings
}

fn lint_line(number: usize, line: &str, findings: &mut Vec<Finding>) {
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    match assignment(line) {
        Some((name, value)) if value.contains('$') => {
            let message = format!("line {number}: cron does not expand variables in the value of {name}");
            findings.push(Finding::error("no-expansion", message));
        }
        Some(_) => {}
        None => lint_entry(number, line, findings),
    }
}

/// `NAME=value`, which an entry never is: it begins with a time.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name && name.starts_with(|c: char| !c.is_ascii_digit())).then_some((name, value.trim()))
}

fn lint_entry(number: usize, line: &str, findings: &mut Vec<Finding>) {
    let mut error =
        |rule, message: String| findings.push(Finding::error(rule, format!("line {number}: {message}")));
    let Some((fields, command)) = split_entry(line) else {
        error("fields", "an entry has five time fields, a user and a command".to_owned());
        return;
    };
    if !fields[..TIME_FIELDS].iter().all(|field| is_time_field(field)) {
        error("fields", format!("`{}` are not five time fields", fields[..TIME_FIELDS].join(" ")));
    }
    let user = fields[TIME_FIELDS];
    if user.contains(['/', '\'', '"', '$', '=']) {
        error("user-field", format!("`{user}` stands where a file in /etc/cron.d names the user"));
    }
    if has_bare_percent(command) {
        error("bare-percent", "a `%` without a backslash becomes a line break".to_owned());
    }
    if command.contains(" #") {
        error("trailing-comment", "cron takes a comment after a command for part of it".to_owned());
    }
    if command.chars().count() > DEBIAN_COMMAND_CHARS {
        error("command-length", format!("Debian's cron takes at most {DEBIAN_COMMAND_CHARS} characters"));
    }
    if !names_absolute_program(command) {
        error("absolute-path", "no program in the command is named by its absolute path".to_owned());
    }
}

/// The five time fields with the user, and the command.
fn split_entry(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut fields = Vec::new();
    let mut rest = line;
    for _ in 0..=TIME_FIELDS {
        let (field, after) = rest.split_once([' ', '\t'])?;
        fields.push(field);
        rest = after.trim_start();
    }
    (!rest.is_empty()).then_some((fields, rest))
}

fn is_time_field(field: &str) -> bool {
    field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-~".contains(c))
        && field.starts_with(|c: char| c.is_ascii_digit() || c == '*' || c.is_ascii_alphabetic())
}

fn has_bare_percent(command: &str) -> bool {
    let mut is_escaped = false;
    for c in command.chars() {
        if c == '%' && !is_escaped {
            return true;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    false
}

fn names_absolute_program(command: &str) -> bool {
    command.split([' ', '(', '\t']).any(|word| word.trim_start_matches(['\'', '"']).starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "SHELL=/bin/sh\nPATH=/usr/bin:/bin\nMAILTO=root\n";

    #[track_caller]
    fn case(file_name: &str, text: &str, expected: &[&str]) {
        let rules: Vec<&str> = lint_cron(file_name, text).iter().map(|finding| finding.rule).collect();
        assert_eq!(rules, expected, "{text}");
    }

    #[track_caller]
    fn entry(line: &str, expected: &[&str]) {
        case("tftctl", &format!("{HEAD}{line}\n"), expected);
    }

    #[test]
    fn every_rule_has_a_file_that_breaks_it() {
        entry("0 2 * * * tftctl /usr/bin/tftctl nightly", &[]);
        entry("*/5 1-3 * jan mon tftctl '/opt/a b/tftctl' nightly", &[]);
        case("tftctl.cron", &format!("{HEAD}0 2 * * * a /b c\n"), &["file-name"]);
        case("tftctl", &format!("{HEAD}0 2 * * * tftctl /usr/bin/tftctl nightly"), &["final-newline"]);
        case("tftctl", "MAILTO=root\nSHELL=/bin/sh\n0 2 * * * a /b c\n", &["variables"]);
        case("tftctl", &format!("{HEAD}0 2 * * * a /b c\r\n"), &["line-ends"]);
        entry("PATH=$PATH:/opt", &["no-expansion"]);
        entry("0 2 * * * /usr/bin/tftctl --config /srv/x nightly", &["user-field"]);
        entry("0 2 * * * /usr/bin/tftctl", &["fields"]);
        entry("0 2 * * tftctl /usr/bin/tftctl nightly --quiet", &["user-field", "absolute-path"]);
        entry("0 2 ? * * tftctl /usr/bin/tftctl nightly", &["fields"]);
        entry("0 2 * * * tftctl /usr/bin/tftctl nightly --end $(date +%F)", &["bare-percent"]);
        entry(r"0 2 * * * tftctl /usr/bin/tftctl nightly --end $(date +\%F)", &[]);
        entry("0 2 * * * tftctl /usr/bin/tftctl nightly # at two", &["trailing-comment"]);
        entry("0 2 * * * tftctl tftctl nightly", &["absolute-path"]);
        entry(&format!("0 2 * * * tftctl /usr/bin/tftctl {}", "x".repeat(999)), &["command-length"]);
    }
}
