//! Progress for people: a moving bar on a terminal, dated lines (at most one a minute per stage) otherwise.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::progress::{Progress, Tick};

const LINE_EVERY: Duration = Duration::from_secs(60);

/// The listener of the rim.
pub struct Bars {
    quiet: bool,
    verbose: bool,
    is_terminal: bool,
    state: Mutex<State>,
}

struct State {
    /// What dates the lines.
    clock: Clock,
    bar: Option<(String, ProgressBar)>,
    /// The stage that ticks, and when it began or last had a line.
    last_line: Option<(String, Instant)>,
}

impl Bars {
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let state = State { clock: Clock::Real, bar: None, last_line: None };
        Self { quiet, verbose, is_terminal, state: Mutex::new(state) }
    }

    /// Dates the lines that follow by `clock`.
    pub fn set_clock(&self, clock: Clock) {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clock = clock;
    }

    fn say(&self, text: &str) {
        let state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Talk that nobody can hear any more (a closed pipe, a full disk) must never end the work.
        let say = || writeln!(std::io::stderr(), "{text}").unwrap_or_default();
        match &state.bar {
            Some((_, bar)) => bar.suspend(say),
            None => say(),
        }
    }

    fn dated(&self, text: &str) {
        if self.is_terminal {
            self.say(text);
        } else {
            let clock = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clock;
            self.say(&format!("{} {text}", clock.now().format("%Y-%m-%dT%H:%M:%SZ")));
        }
    }

    fn move_bar(&self, tick: &Tick<'_>) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.bar.as_ref().is_none_or(|(stage, _)| stage != tick.stage) {
            state.bar = Some((tick.stage.to_owned(), new_bar(tick)));
        }
        if let Some((_, bar)) = &state.bar {
            bar.set_length(tick.total.max(tick.done));
            bar.set_position(tick.done);
            bar.set_message(tick.detail.clone());
            if tick.total > 0 && tick.done >= tick.total {
                bar.finish_and_clear();
                state.bar = None;
            }
        }
    }

    /// Whether a dated line is due for this stage: a minute after it began, and every minute from then on.
    fn is_line_due(&self, stage: &str) -> bool {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &state.last_line {
            Some((last, at)) if last == stage && at.elapsed() < LINE_EVERY => false,
            Some((last, _)) if last == stage => {
                state.last_line = Some((stage.to_owned(), Instant::now()));
                true
            }
            _ => {
                state.last_line = Some((stage.to_owned(), Instant::now()));
                false
            }
        }
    }
}

fn new_bar(tick: &Tick<'_>) -> ProgressBar {
    let template = format!("{{prefix:>10}} [{{bar:30}}] {{pos}}/{{len}} {} {{msg}}", tick.unit);
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(tick.total).with_style(style.progress_chars("=> ")).with_prefix(tick.stage.to_owned())
}

impl Progress for Bars {
    fn stage(&self, name: &str) {
        if !self.quiet {
            self.dated(&format!("== {name}"));
        }
    }

    fn note(&self, message: &str) {
        if !self.quiet {
            self.dated(message);
        }
    }

    fn warn(&self, message: &str) {
        self.dated(&format!("warning: {message}"));
    }

    fn detail(&self, message: &str) {
        if self.verbose {
            self.dated(message);
        }
    }

    fn tick(&self, tick: &Tick<'_>) {
        if self.quiet {
            return;
        }
        if self.is_terminal {
            self.move_bar(tick);
        } else if self.is_line_due(tick.stage) || self.verbose && tick.done == tick.total {
            let percent = (100 * tick.done).checked_div(tick.total).unwrap_or(0);
            self.dated(&format!(
                "{} {percent} % {}/{} {} {}",
                tick.stage, tick.done, tick.total, tick.unit, tick.detail
            ));
        }
    }
}
