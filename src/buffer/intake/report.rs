//! What an append is asked, and what it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chrono::NaiveDate;
use serde::Serialize;

use super::source::Format;

/// How to append.
#[derive(Clone, Debug)]
pub struct AppendOptions {
    pub format: Format,
    /// The source uses the site's own names and units, as `buffer export` writes them: nothing is mapped.
    pub is_plain: bool,
    /// Serves a pipe that stays open: acknowledges at least every `flush_every`, also while nothing comes.
    pub follow: bool,
    /// Longest time a row waits for its acknowledgement with `follow`.
    pub flush_every: Duration,
    /// Good rows after which a batch is acknowledged with `follow`.
    pub batch_rows: u64,
    /// Set from elsewhere (a signal handler), it ends a followed pipe as if it were closed.
    pub stop: Option<Arc<AtomicBool>>,
    /// Records older than the retention are counted and left out instead of quarantined: a backfill may begin where
    /// its source begins.
    pub leave_out_old: bool,
}

impl Default for AppendOptions {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            is_plain: false,
            follow: false,
            flush_every: Duration::from_secs(1),
            batch_rows: 50_000,
            stop: None,
            leave_out_old: false,
        }
    }
}

/// What became of the rows of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AppendReport {
    /// The file, or the name of the pipe.
    pub source: String,
    /// Records found, good and bad.
    pub n_rows: u64,
    /// Records in the buffer, on stable storage.
    pub n_good: u64,
    /// Records in quarantine.
    pub n_bad: u64,
    /// Good Telegraf records that became part of the row of another.
    pub n_joined: u64,
    /// Telegraf records none of whose fields is a metric here, dropped.
    pub n_unmapped: u64,
    /// Records older than the retention that an import left out; in none of the other counts.
    pub n_too_old: u64,
    /// Bad records by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Fields that the schema does not know, dropped, by name.
    pub n_unknown_fields: BTreeMap<String, u64>,
    /// Rows by day.
    pub n_per_day: BTreeMap<NaiveDate, u64>,
    /// Rows for days that are sealed already; the next rotation merges them.
    pub n_late: u64,
    /// Values outside of their metric's range that were kept, as the config says.
    pub n_out_of_range_kept: u64,
    /// Bytes read, after decompression.
    pub n_bytes: u64,
    /// The file that the bad records were added to.
    pub quarantine: Option<PathBuf>,
    pub duration_secs: f64,
}
