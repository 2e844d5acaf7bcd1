//! Messages that wait for their receiver: one JSON file per message and channel in `state/undelivered/`.
//!
//! Bounded: the oldest go when there are more than 100, and every one after two weeks. A file that cannot be
//! read is renamed to `.damaged` and left for a person. Losing a message here never stops anything; it becomes
//! a warning.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Message;
use crate::fsx::{self, Lock};

const MAX_FILES: usize = 100;
const MAX_AGE: TimeDelta = TimeDelta::days(14);
const FORMAT: u32 = 1;

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    format: u32,
    channel: String,
    first_tried_at: DateTime<Utc>,
    error: String,
    message: Message,
}

/// A message that an earlier delivery left.
#[derive(Clone)]
pub(super) struct Waiting {
    path: PathBuf,
    channel: String,
    first_tried_at: DateTime<Utc>,
    pub message: Message,
}

impl Waiting {
    /// The message with a line that says since when it waits.
    pub fn marked_as_late(&self) -> Message {
        let mut message = self.message.clone();
        message
            .text
            .push(format!("(Late: first tried at {}.)", self.first_tried_at.format("%Y-%m-%dT%H:%MZ")));
        message
    }
}

/// The folder of waiting messages, held by one delivery at a time.
pub(super) struct Spool {
    dir: PathBuf,
    now: DateTime<Utc>,
    earlier: Vec<Waiting>,
    n_kept: usize,
    _lock: Option<Lock>,
}

impl Spool {
    /// Takes over what earlier deliveries left in `state_dir`, and drops what is too old or too much.
    ///
    /// While another process delivers, what waits is its business: then this one sees nothing waiting.
    pub fn open(state_dir: &Path, now: DateTime<Utc>, warnings: &mut Vec<String>) -> Self {
        let dir = state_dir.join("undelivered");
        let mut spool = Self { dir, now, earlier: Vec::new(), n_kept: 0, _lock: None };
        if !spool.dir.is_dir() {
            return spool;
        }
        spool._lock = Lock::acquire(&state_dir.join("undelivered.lock"), "delivering messages").ok();
        if spool._lock.is_some() {
            spool.earlier = read_all(&spool.dir, warnings);
            spool.prune(warnings);
        }
        spool
    }

    /// Messages in the folder: of earlier deliveries and of this one.
    pub fn len(&self) -> usize {
        self.earlier.len() + self.n_kept
    }

    /// What earlier deliveries left for `channel`, oldest first.
    pub fn left_by_earlier(&self, channel: &str) -> Vec<Waiting> {
        self.earlier.iter().filter(|waiting| waiting.channel == channel).cloned().collect()
    }

    /// Drops what waits for channels that the config no longer names.
    pub fn forget_channels_except(&mut self, names: &[&str], warnings: &mut Vec<String>) {
        let (known, unknown) = self.earlier.drain(..).partition(|w| names.contains(&w.channel.as_str()));
        self.earlier = known;
        drop_all(unknown, "their channel is no longer in the config", warnings);
    }

    /// Stores `message` for the next delivery; false (and a warning) if that cannot be.
    pub fn keep(
        &mut self,
        channel: &str,
        message: &Message,
        error: &str,
        warnings: &mut Vec<String>,
    ) -> bool {
        let record = Record {
            format: FORMAT,
            channel: channel.to_owned(),
            first_tried_at: self.now,
            error: error.to_owned(),
            message: message.clone(),
        };
        let path = self.dir.join(file_name(&record));
        match fsx::write_json(&path, &record) {
            Ok(()) => self.n_kept += 1,
            Err(error) => warnings.push(format!("keep an undelivered message: {error:#}")),
        }
        path.is_file()
    }

    /// Drops a message that was delivered.
    pub fn remove(&mut self, waiting: &Waiting, warnings: &mut Vec<String>) {
        if let Err(error) = fsx::remove_file(&waiting.path) {
            warnings.push(format!("{error:#}"));
        }
        self.earlier.retain(|other| other.path != waiting.path);
    }

    fn prune(&mut self, warnings: &mut Vec<String>) {
        let (old, fresh) =
            self.earlier.drain(..).partition(|waiting| self.now - waiting.first_tried_at > MAX_AGE);
        self.earlier = fresh;
        drop_all(old, "they waited for two weeks", warnings);
        let n_over = self.earlier.len().saturating_sub(MAX_FILES);
        drop_all(self.earlier.drain(..n_over).collect(), "too many wait", warnings);
    }
}

/// Begins with the time, so that names sort by age; the same message of the same moment has the same name.
fn file_name(record: &Record) -> String {
    let digest = fsx::sha256_bytes(record.message.to_json().to_string().as_bytes());
    format!("{}-{}-{}.json", record.first_tried_at.format("%Y%m%dT%H%M%SZ"), record.channel, &digest[..8])
}

fn read_all(dir: &Path, warnings: &mut Vec<String>) -> Vec<Waiting> {
    let entries = fsx::list_dir(dir).unwrap_or_else(|error| {
        warnings.push(format!("look for undelivered messages: {error:#}"));
        Vec::new()
    });
    let paths = entries.into_iter().map(|entry| entry.path());
    let records = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    records.filter_map(|path| read_one(path, warnings)).collect()
}

fn read_one(path: PathBuf, warnings: &mut Vec<String>) -> Option<Waiting> {
    match fsx::read_versioned::<Record>(&path, FORMAT) {
        Ok(record) => {
            let Record { channel, first_tried_at, message, .. } = record?;
            Some(Waiting { path, channel, first_tried_at, message })
        }
        Err(error) if error.is::<serde_json::Error>() => {
            warnings.push(format!("set an undelivered message aside: {error:#}"));
            let _ = fsx::rename_durable(&path, &path.with_extension("damaged"));
            None
        }
        // Of a newer program, or out of reach for now: it waits.
        Err(error) => {
            warnings.push(format!("leave an undelivered message: {error:#}"));
            None
        }
    }
}

fn drop_all(dropped: Vec<Waiting>, reason: &str, warnings: &mut Vec<String>) {
    for waiting in &dropped {
        let _ = fsx::remove_file(&waiting.path);
    }
    if !dropped.is_empty() {
        warnings.push(format!("dropped {} undelivered messages: {reason}", dropped.len()));
    }
}
