//! `[buffer]`: what becomes of days that are too old, and how much of the disk stays free.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;

/// What happens to sealed days older than `data_retention_days`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OldDays {
    Delete,
    /// Copied to `archive_dir`, proven there, and then deleted.
    Archive,
}

/// `[buffer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BufferConfig {
    pub retention_action: OldDays,
    /// Where archived days go; it may lie on another disk.
    pub archive_dir: String,
    /// Appending and window building refuse to go on while less than this is free (MiB), so that the open days can
    /// still be sealed.
    pub min_free_disk_mb: u64,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self { retention_action: OldDays::Delete, archive_dir: "archive".into(), min_free_disk_mb: 256 }
    }
}

impl BufferConfig {
    /// `min_free_disk_mb` in bytes.
    pub fn min_free_bytes(&self) -> u64 {
        self.min_free_disk_mb.saturating_mul(1 << 20)
    }

    pub(super) fn ensure_valid(&self, data_buffer_dir: &str) -> Result<()> {
        let plain = |dir: &str| dir.trim_start_matches("./").trim_end_matches(['/', '\\']).to_owned();
        let is_apart = !self.archive_dir.is_empty() && plain(&self.archive_dir) != plain(data_buffer_dir);
        if is_apart {
            return Ok(());
        }
        Err(Refusal::usage("buffer.archive_dir must be a folder of its own, not the buffer's"))
    }
}
