//! The few outcomes someone branches on, and the one table of exit codes.
//!
//! Everything else is an [`anyhow::Error`] with context: a lowercase phrase that completes "failed to ...",
//! naming the file or the day. A [`Refusal`] is put into that chain where code (or a scheduler) must tell
//! outcomes apart; [`Hint`] carries the next command to type. Printing is left to the rim.

use std::fmt;
use std::path::PathBuf;

/// What a process tells its caller: the documented exit codes of every subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Did what was asked, or there was nothing to do.
    Done,
    /// Failed; the message names the file or the day.
    Failed,
    /// The command line, the environment or the config is wrong; nothing was touched.
    Usage,
    /// Ran well, and the challenger was refused; the champion stays.
    Refused,
    /// Not enough or not good enough data (also `append --strict` with bad rows).
    NotEnoughData,
    /// Another run holds the site lock.
    Locked,
    /// Stopped by a signal, after a checkpoint.
    Interrupted,
}

impl Exit {
    /// Every exit code with its meaning, in ascending order: the table of the README and of `--help`.
    pub const TABLE: [(Exit, &'static str); 7] = [
        (Exit::Done, "done, or nothing to do"),
        (Exit::Failed, "failed"),
        (Exit::Usage, "usage or configuration error"),
        (Exit::Refused, "ran well, the challenger was refused"),
        (
            Exit::NotEnoughData,
            "not enough or not good enough data (also append --strict with bad rows, rotate and export with damaged ones)",
        ),
        (Exit::Locked, "another run holds the lock"),
        (Exit::Interrupted, "interrupted, after a checkpoint"),
    ];

    /// The number the operating system sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::NotEnoughData => 4,
            Exit::Locked => 5,
            Exit::Interrupted => 130,
        }
    }

    /// The exit code an error stands for: that of the first [`Refusal`] in its chain, else [`Exit::Failed`].
    pub fn of(error: &anyhow::Error) -> Exit {
        error.downcast_ref::<Refusal>().map_or(Exit::Failed, Refusal::exit)
    }
}

/// An outcome that code branches on.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The command line, environment or config cannot be used as it is.
    #[error("{0}")]
    Usage(String),
    /// The challenger did not pass its exam.
    #[error("challenger {model} refused: {}", reasons.join("; "))]
    GateRefused { model: String, reasons: Vec<String> },
    /// The window does not hold what a training needs.
    #[error("not enough or not good enough data: {}", reasons.join("; "))]
    NotEnoughData { reasons: Vec<String> },
    /// `--strict` input held rows that went to quarantine.
    #[error("{n_bad} of {n_rows} input rows were bad")]
    BadRows { n_bad: u64, n_rows: u64 },
    /// Another process works on this site.
    #[error("{} is held by {holder}", path.display())]
    LockHeld { path: PathBuf, holder: String },
    /// A signal asked for an end; the state was saved first.
    #[error("interrupted; the checkpoint holds everything up to step {step}")]
    Interrupted { step: u64 },
}

impl Refusal {
    /// A [`Refusal::Usage`] as an error.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Refusal::Usage(message.into()).into()
    }

    /// The exit code of this outcome.
    pub fn exit(&self) -> Exit {
        match self {
            Refusal::Usage(_) => Exit::Usage,
            Refusal::GateRefused { .. } => Exit::Refused,
            Refusal::NotEnoughData { .. } | Refusal::BadRows { .. } => Exit::NotEnoughData,
            Refusal::LockHeld { .. } => Exit::Locked,
            Refusal::Interrupted { .. } => Exit::Interrupted,
        }
    }
}

/// The next command to type, carried beside an error and printed as `hint: ...` by the rim.
#[derive(Debug)]
pub struct Hint(pub String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Attaches a [`Hint`] to an error.
pub trait HintExt<T> {
    /// Says what the user can do next if this fails.
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> HintExt<T> for Result<T, E> {
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(Hint(hint())))
    }
}

/// Splits an error into its one-line message chain (`a: b: c`) and the outermost hint, if any.
pub fn message_and_hint(error: &anyhow::Error) -> (String, Option<String>) {
    let hint = error.downcast_ref::<Hint>().map(|hint| hint.0.clone());
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let line = text.lines().next().unwrap_or_default().trim_end().to_owned();
        if hint.as_deref() != Some(text.as_str()) && parts.last() != Some(&line) {
            parts.push(line);
        }
    }
    (parts.join(": "), hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn refusals_keep_their_exit_code_through_context_and_hints() {
        let held = Refusal::LockHeld { path: "state/site.lock".into(), holder: "pid 7".into() };
        let error = Err::<(), _>(held).hint(|| "wait".into()).context("start the night").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Locked);
        let (message, hint) = message_and_hint(&error);
        assert_eq!(message, "start the night: state/site.lock is held by pid 7");
        assert_eq!(hint.as_deref(), Some("wait"));
    }

    #[test]
    fn the_table_is_ascending_and_complete() {
        let codes: Vec<u8> = Exit::TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130]);
    }

    #[test]
    fn an_ordinary_error_is_a_failure() {
        assert_eq!(Exit::of(&anyhow::anyhow!("disk on fire")), Exit::Failed);
    }
}
