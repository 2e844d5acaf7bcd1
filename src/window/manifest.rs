//! What `manifest.json` of a window says: where it came from, how it is cut, and what it is worth.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::buffer::{Damage, Trouble};
use crate::fsx::FileDigest;
use crate::schema::Schema;

use super::grid::Server;
use super::quality::QualityReport;
use super::split::Split;

/// The `format` written here.
pub const FORMAT: u32 = 3;
/// The first `format` whose manifest carries its own digest.
pub(super) const SEALED_SINCE: u32 = 3;

/// One file that a window was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub date: NaiveDate,
    pub file: String,
    pub sha256: String,
    pub n_rows: u64,
    /// What of an open segment is damaged, and missing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
}

impl Source {
    /// What whoever reads the day must know of its damage, and what helps.
    pub fn warning(&self) -> Option<String> {
        let (date, file) = (self.date, self.file.clone().into());
        self.damage.map(|damage| Trouble::of_segment(date, file, damage).warning())
    }
}

/// Everything about a window but its values. It holds no wall-clock time: the same inputs give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub id: String,
    pub zone: Tz,
    pub step_secs: u32,
    /// Start of step 0.
    pub start: DateTime<Utc>,
    /// End of the last step.
    pub end: DateTime<Utc>,
    /// First day.
    pub first_day: NaiveDate,
    /// The day after the last one.
    pub end_day: NaiveDate,
    pub n_steps: usize,
    /// Raw rows behind the window's steps, of all servers.
    pub n_raw_rows: u64,
    /// The columns with units, ranges and aggregations, and the profile rules.
    pub schema: Schema,
    pub schema_digest: String,
    /// Digest of the settings that shape a window.
    pub config_digest: String,
    pub metrics: Vec<String>,
    pub statuses: Vec<String>,
    /// The servers that are trained on, ascending; `quality` lists the others too.
    pub servers: Vec<Server>,
    pub split: Split,
    pub sources: Vec<Source>,
    pub quality: QualityReport,
    pub files: Vec<FileDigest>,
    /// Of the manifest itself (see [`crate::fsx::read_sealed`]); older ones have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Manifest {
    /// When the holdout begins.
    pub fn holdout_start(&self) -> DateTime<Utc> {
        self.start + TimeDelta::seconds(self.split.holdout_start as i64 * i64::from(self.step_secs))
    }
}
