//! `training_YYYY-MM-DD.log`: a night told in dated lines, for people.
//!
//! A log that cannot be written must not end a night: the first failure is remembered, the rest is silence.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::NaiveDate;

use crate::clock::Clock;
use crate::fsx::{self, File};
use crate::progress::{Progress, Tick};

const BETWEEN_TICKS: Duration = Duration::from_secs(60);

/// A listener that appends each event to a night's log; ticks at most once a minute.
pub struct TrainingLog {
    path: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    file: File,
    last_tick: Option<Instant>,
    failure: Option<String>,
}

impl TrainingLog {
    /// Opens the log of `logical_date` in `log_dir`, which is made; a night that is resumed goes on below.
    pub fn open(log_dir: &Path, logical_date: NaiveDate, clock: Clock) -> Result<Self> {
        fsx::create_dir_durable(log_dir)?;
        let path = log_dir.join(file_name(logical_date));
        let file = File::open_append(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { path, clock, state: Mutex::new(State { file, last_tick: None, failure: None }) })
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the log is not complete, if it is not.
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// A listener that panicked elsewhere must not silence the log.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self, state: &mut State, text: &str) {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let time = self.clock.now().format("%Y-%m-%dT%H:%M:%SZ");
        let line = format!("{time} {}\n", text.trim_end());
        if let (Err(error), None) = (state.file.write_all(line.as_bytes()), &state.failure) {
            state.failure = Some(format!("write {}: {error}", self.path.display()));
        }
    }
}

impl Progress for TrainingLog {
    fn stage(&self, name: &str) {
        self.write(&mut self.state(), &format!("== {name}"));
    }

    fn note(&self, message: &str) {
        self.write(&mut self.state(), message);
    }

    fn warn(&self, message: &str) {
        self.write(&mut self.state(), &format!("warning: {message}"));
    }

    fn tick(&self, tick: &Tick<'_>) {
        let mut state = self.state();
        if state.last_tick.is_some_and(|last| last.elapsed() < BETWEEN_TICKS) {
            return;
        }
        state.last_tick = Some(Instant::now());
        self.write(&mut state, &tick_words(tick));
    }
}

/// `train 42 % (1200 of 2880 samples) epoch 31 loss 0.2141`.
fn tick_words(tick: &Tick<'_>) -> String {
    let Tick { stage, done, total, unit, detail } = tick;
    let advance = match total {
        0 => format!("{done} {unit}"),
        _ => format!("{} % ({done} of {total} {unit})", (100 * u128::from(*done)) / u128::from(*total)),
    };
    format!("{stage} {advance} {detail}")
}

pub(super) fn file_name(logical_date: NaiveDate) -> String {
    format!("training_{logical_date}.log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Silent, Tee};

    fn open(dir: &Path, now: &str) -> TrainingLog {
        TrainingLog::open(dir, "2026-06-01".parse().unwrap(), Clock::Fixed(now.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_night_is_told_in_dated_lines_and_ticks_are_rare() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("logs/deep");
        let log = open(&log_dir, "2026-06-01T02:00:09Z");
        let tee = Tee(&Silent, &log);
        tee.stage("train");
        for done in [1200, 1300, 1400] {
            let detail = "epoch 31 loss 0.2141".to_owned();
            tee.tick(&Tick { stage: "train", done, total: 2880, unit: "samples", detail });
        }
        tee.warn("server web\n2 is silent");
        tee.note("wrote models/tft_model_20260601_020009");
        drop(log);
        open(&log_dir, "2026-06-01T03:30:00Z").note("resumed");
        let text = std::fs::read_to_string(log_dir.join("training_2026-06-01.log")).unwrap();
        let expected = "2026-06-01T02:00:09Z == train\n\
                        2026-06-01T02:00:09Z train 41 % (1200 of 2880 samples) epoch 31 loss 0.2141\n\
                        2026-06-01T02:00:09Z warning: server web 2 is silent\n\
                        2026-06-01T02:00:09Z wrote models/tft_model_20260601_020009\n\
                        2026-06-01T03:30:00Z resumed\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_total_that_is_unknown_is_not_divided_by() {
        let tick = Tick { stage: "append", done: 7, total: 0, unit: "rows", detail: String::new() };
        assert_eq!(tick_words(&tick), "append 7 rows ");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_remembered_and_harmless() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let mut log = open(tempfile::tempdir().unwrap().path(), "2026-06-01T02:00:09Z");
        log.state.get_mut().unwrap().file = File::open_append(full).unwrap();
        log.note("one");
        log.note("two");
        assert!(log.failure().unwrap().contains("training_2026-06-01.log"));
    }
}
