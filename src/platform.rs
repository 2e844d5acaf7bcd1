//! What differs between operating systems, behind one small set of functions.
//!
//! This is the only module with `cfg(unix)` or `cfg(windows)`.

use std::io;
use std::path::Path;

/// Makes the names inside `dir` durable, so that a rename survives a power cut.
///
/// On Windows there is no such call: NTFS journals its metadata, and a folder cannot be opened for syncing.
#[cfg(unix)]
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

/// Makes the names inside `dir` durable; see the unix twin.
#[cfg(not(unix))]
pub fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// The shell that runs a user's hook command line, with the flag that takes it.
#[cfg(unix)]
pub fn shell() -> (&'static str, &'static str) {
    ("/bin/sh", "-c")
}

/// The shell that runs a user's hook command line, with the flag that takes it.
#[cfg(not(unix))]
pub fn shell() -> (&'static str, &'static str) {
    ("cmd", "/C")
}

/// Whether a secret file can be read by others than its owner.
#[cfg(unix)]
pub fn is_readable_by_others(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

/// Whether a secret file can be read by others than its owner (Windows access lists are not examined).
#[cfg(not(unix))]
pub fn is_readable_by_others(path: &Path) -> io::Result<bool> {
    std::fs::metadata(path).map(|_| false)
}
