//! Day partitions of raw rows: append, rotate, read, retention.
//!
//! Owns `data_buffer/`: a sealed day is one parquet file `metrics_YYYY-MM-DD.parquet` ([`sealed`]); before that
//! a day is a folder of checksummed segments under `open/` ([`open`]). Rows belong to the day of their
//! *event* time in the site's zone. [`intake`] reads records, judges them, and leaves bad ones in `quarantine/`;
//! [`import`] fetches them from a Prometheus server and remembers in `imports/` how far it came. [`steps`] aggregates
//! (derived) lie in `steps/`. [`rotate`] moves a day from one form to the other ([`seal`]), [`days`] reads both, [`retain`] lets old ones
//! go, [`verify`] and [`repair`] look after what lies there.
//!
//! Invariants: a row that was acknowledged is on stable storage and is read exactly once, whatever is killed
//! when; a file under its final name is complete; segments are dropped only after the day file that holds their
//! rows was read back and synced. A buffer from elsewhere is never written: it only gets step aggregates, in this
//! site's own folder.
//!
//! Leaves gaps, splits and quality to `window`, tensors to `dataset`.

mod days;
mod export;
mod filing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gone;
mod import;
mod intake;
mod leases;
mod looks;
mod merge;
mod newest;
mod open;
mod removed;
mod repair;
mod retain;
mod rotate;
mod rows;
mod seal;
mod sealed;
mod status;
mod steps;
#[cfg(test)]
mod tests;
mod trouble;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::config::{ColumnRule, InputConfig};
use crate::schema::Schema;
use crate::site::Site;

pub use days::Day;
pub use export::{ExportFormat, ExportOptions, ExportReport};
pub use import::{ImportPlan, ImportReport, PrometheusImport};
pub use intake::{
    AppendOptions, AppendReport, Derived, Format, MAX_LABEL_BYTES, MAX_SERVER_NAME_BYTES, MAX_TARGETS,
    OFFLINE, QuarantineStatus, Reason, Source, derive,
};
use open::frame::Header;

pub use leases::Lease;
pub use open::flaws::Damage;
pub use removed::SetAside;
pub use repair::{Mended, RepairOptions, RepairReport};
pub use rotate::{DayFailure, RotateOptions, RotateReport};
pub use seal::{SealPlan, SealedDay};
pub use sealed::{RetentionAction, RetentionDecision, RetentionPolicy, RetentionReason, plan_retention};
pub use status::{BufferStatus, DayState, DayStatus};
pub use steps::{SourceDigest, step_table};
pub use trouble::{Trouble, TroubleKind};
pub use verify::{Finding, TornSegment, VerifyOptions, VerifyReport};

/// The buffer of one site: where its days lie and what their rows mean.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Where sealed days lie.
    dir: PathBuf,
    /// Where open days lie, each a folder of segments.
    open_dir: PathBuf,
    steps_dir: PathBuf,
    quarantine_dir: PathBuf,
    imports_dir: PathBuf,
    /// Whether `dir` came from elsewhere and is only read.
    is_foreign: bool,
    zone: Tz,
    schema: Schema,
    /// What sources call things.
    input: InputConfig,
    columns: Vec<ColumnRule>,
    step_secs: u32,
    readers_dir: PathBuf,
    removed_dir: PathBuf,
    archive_dir: PathBuf,
    retention: RetentionPolicy,
    min_free_bytes: u64,
    max_future_secs: u32,
    /// Footers of day files: a window of days asks for each of them many times.
    looks: Arc<Mutex<looks::Looks>>,
    /// Aggregates of days whose every byte was looked at: a window asks for each of them many times, too.
    checked: Arc<Mutex<days::Checked>>,
}

impl Buffer {
    /// The buffer of `site`; creates nothing.
    pub fn open(site: &Site) -> Self {
        Self {
            dir: site.buffer_dir(),
            open_dir: site.open_days_dir(),
            steps_dir: site.steps_dir(),
            quarantine_dir: site.quarantine_dir(),
            imports_dir: site.imports_dir(),
            is_foreign: site.is_buffer_foreign(),
            zone: site.zone(),
            schema: site.schema(),
            input: site.config.input.clone(),
            columns: site.config.columns.clone(),
            step_secs: site.config.series.step_secs,
            readers_dir: site.readers_dir(),
            removed_dir: site.removed_dir(),
            archive_dir: site.archive_dir(),
            retention: RetentionPolicy {
                kept_days: site.config.data_retention_days,
                window_days: site.config.training_window_days,
                old_days: site.config.buffer.retention_action,
            },
            min_free_bytes: site.config.buffer.min_free_bytes(),
            max_future_secs: site.config.series.max_future_secs,
            looks: Arc::default(),
            checked: Arc::default(),
        }
    }

    /// What the header of a segment that is begun now says, and in all likelihood that of one that is lost said.
    fn segment_header(&self) -> Header {
        Header::new(&self.metric_names(), &self.schema.digest(), false)
    }

    /// Copies a damaged file to what repairs took away, under `date`, with its `problem`; the file itself stays.
    ///
    /// - Errors: the disk refuses, or the copy is not the original.
    pub fn set_aside(
        &self,
        date: NaiveDate,
        path: &Path,
        problem: &str,
        now: DateTime<Utc>,
    ) -> anyhow::Result<PathBuf> {
        removed::keep(&self.removed_dir, date, path, problem, now)
    }

    fn metric_names(&self) -> Vec<String> {
        self.schema.metrics.iter().map(|metric| metric.name.clone()).collect()
    }
}
