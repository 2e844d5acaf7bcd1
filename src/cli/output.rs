//! Standard output carries data: a text for people, or one JSON document. Standard error carries talk.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::error::Exit;

/// How results are written.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
}

impl Output {
    /// Writes a result: `value` as JSON with `--json`, else the text that `human` makes of it.
    pub fn result<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value).context("encode the result as JSON")?
        } else {
            human(value)
        };
        self.data(&text)
    }

    /// [`Output::result`] of a command that acts: with `--quiet` a text is left out where all went well, so that
    /// cron mails only what somebody must read.
    pub fn done<T: Serialize>(&self, value: &T, exit: Exit, human: impl FnOnce(&T) -> String) -> Result<()> {
        let is_silent = self.quiet && !self.json && exit == Exit::Done;
        if is_silent { Ok(()) } else { self.result(value, human) }
    }

    /// Writes text to standard output; a reader that has gone away is no error.
    pub fn data(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        let newline = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        match write!(stdout, "{text}{newline}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome.context("write to standard output"),
        }
    }

    /// Writes the final error, as text or (with `--json`) as one JSON object, to standard error.
    pub fn error(&self, message: &str, hint: Option<&str>, exit: Exit) {
        let text = if self.json {
            serde_json::json!({ "error": message, "hint": hint, "exit_code": exit.code() }).to_string()
        } else {
            let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            format!("error: {message}{hint}")
        };
        // Where standard error is closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
