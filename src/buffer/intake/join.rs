//! Puts records together that are parts of one row: a Telegraf agent sends the fields of each measurement of one
//! server and time as a record of their own.
//!
//! Records that come in one batch become one row here. For those that come later the row is written again with the
//! later parts only, in a segment whose rows *complete* earlier ones (see [`crate::buffer::merge`]), so that neither
//! a restart nor several appenders lose a part.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::record::Candidate;

/// Rows that wait for parts at most; the parts that come after that complete a row that is filed already.
const MAX_ROWS: usize = 4096;

/// Rows in the making, in the order in which they were begun.
#[derive(Default)]
pub(super) struct Joiner {
    rows: Vec<Candidate>,
    by_key: HashMap<(String, i64), usize>,
}

impl Joiner {
    /// Takes a good record; true if it became part of a row that waits already. What it gives replaces what was
    /// given before.
    pub fn add(&mut self, part: &Candidate) -> bool {
        let key = (part.server.clone(), part.time_ms.expect("checked before"));
        let idx = match self.by_key.entry(key) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                place.insert(self.rows.len());
                self.rows.push(part.clone());
                return false;
            }
        };
        let row = &mut self.rows[idx];
        for (value, given) in row.values.iter_mut().zip(&part.values).filter(|(_, given)| !given.is_nan()) {
            *value = *given;
        }
        for (label, given) in [(&mut row.profile, &part.profile), (&mut row.status, &part.status)] {
            if !given.is_empty() {
                label.clone_from(given);
            }
        }
        true
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() >= MAX_ROWS
    }

    /// The rows so far; what comes next begins new ones.
    pub fn take(&mut self) -> Vec<Candidate> {
        self.by_key.clear();
        std::mem::take(&mut self.rows)
    }
}
