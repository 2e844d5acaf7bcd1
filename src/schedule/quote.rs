//! Paths inside other programs' files: each syntax has its own idea of a quote.

/// One word of a POSIX shell.
pub(super) fn shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A shell command inside a crontab, where cron turns a bare `%` into a line break before the shell sees it.
pub(super) fn cron_command(command: &str) -> String {
    command.replace('%', r"\%")
}

/// One argument of systemd's `Exec...=` lines: quotes, C escapes, `%` specifiers and `$` variables.
pub(super) fn systemd_argument(word: &str) -> String {
    systemd_quoted(word).replace('$', "$$")
}

/// A quoted path in a systemd line that knows no variables, such as the program of `ExecStart=`.
pub(super) fn systemd_quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%"))
}

/// A whole systemd value that is not split into words, such as `WorkingDirectory=`.
pub(super) fn systemd_value(value: &str) -> String {
    value.replace('%', "%%")
}

/// One argument of a Windows command line, by the rules of `CommandLineToArgvW`: backslashes count only before
/// a quote, and there they are doubled.
pub(super) fn windows_argument(word: &str) -> String {
    let mut quoted = String::from("\"");
    let mut n_backslashes = 0;
    for c in word.chars() {
        match c {
            '\\' => n_backslashes += 1,
            '"' => {
                quoted.push_str(&"\\".repeat(n_backslashes + 1));
                n_backslashes = 0;
            }
            _ => n_backslashes = 0,
        }
        quoted.push(c);
    }
    quoted.push_str(&"\\".repeat(n_backslashes));
    quoted.push('"');
    quoted
}

/// Text or an attribute value of an XML file.
pub(super) fn xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
}

/// A YAML scalar: JSON's strings are YAML's double-quoted ones.
pub(super) fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_syntax_keeps_awkward_paths_whole() {
        assert_eq!(shell("/srv/it's & 100%"), r"'/srv/it'\''s & 100%'");
        assert_eq!(cron_command("date +%F"), r"date +\%F");
        assert_eq!(systemd_argument(r#"/a b/$x %i "q" \"#), r#""/a b/$$x %%i \"q\" \\""#);
        assert_eq!(windows_argument(r"C:\Program Files\x"), r#""C:\Program Files\x""#);
        assert_eq!(windows_argument(r"C:\dir\"), r#""C:\dir\\""#);
        assert_eq!(windows_argument(r#"a\"b"#), r#""a\\\"b""#);
        assert_eq!(xml(r#"<R&D> "x" 'y'"#), "&lt;R&amp;D&gt; &quot;x&quot; &apos;y&apos;");
        assert_eq!(yaml("a: \"b\" #c"), r#""a: \"b\" #c""#);
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        let (program, flag) = crate::platform::shell();
        if program != "/bin/sh" {
            return;
        }
        let word = "/srv/it's \"my\" $HOME & `site`\\ 100% \u{e9}";
        let line = format!("printf '%s' {}", shell(word));
        let output = std::process::Command::new(program).args([flag, &line]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
