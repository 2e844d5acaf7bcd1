//! Room on the disk, looked for before it is needed: a full disk in the middle of a write is the worst moment to notice.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::error::HintExt;
use crate::platform;

/// Checks that `n_bytes` are free on the disk that holds `dir`, or will hold it; returns how many are free beyond these.
///
/// - Errors: less is free (both are told), or nobody can say how much.
pub fn ensure_room(dir: &Path, n_bytes: u64) -> Result<u64> {
    let mut there = dir;
    while !super::exists(there)? {
        there = there.parent().context("every path has a root")?;
    }
    let free = platform::free_bytes(there)
        .with_context(|| format!("see how much is free at {}", there.display()))?;
    if let Some(beyond) = free.checked_sub(n_bytes) {
        return Ok(beyond);
    }
    // Rounded so that what is told never contradicts the refusal.
    let (free, needed) = (free >> 20, n_bytes.div_ceil(1 << 20));
    Err(anyhow!("the disk of {} has {free} MiB free, {needed} are needed", dir.display())).hint(|| {
        "free some space (`tftctl buffer rotate` lets old days go), or lower `buffer.min_free_disk_mb`".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_told_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("not/yet");
        ensure_room(&missing, 1).unwrap();
        let error = format!("{:#}", ensure_room(&missing, u64::MAX).unwrap_err());
        assert!(
            error.contains("not/yet has ") && error.contains("MiB free, 17592186044416 are needed"),
            "{error}"
        );
    }
}
