//! What differs between operating systems, behind one small set of functions.
//!
//! This is the only module with `cfg(unix)` or `cfg(windows)`.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

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

/// Bytes of the disk that holds `path` which this process may still write.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    fs4::available_space(path)
}

/// Hands what was freed back to the system at once. The allocator keeps it for a second otherwise, and takes new memory for
/// what does not fit into a piece of it: right between two training steps, wrong before something as large as what has
/// just been let go.
pub fn release_freed_memory() {
    // SAFETY: it may be called at any time, also where another allocator serves the program (as in tests).
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Has memory come in pages of 4 KiB and not of 2 MiB, which the allocator asks for otherwise: most of a huge page is zeroed
/// and held for nothing where a thread frees and takes a few hundred kilobytes. Call it before anything is allocated.
///
/// Where the system refuses, pages stay as they are: that costs memory, and nothing else. Children inherit it.
#[cfg(target_os = "linux")]
pub fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Has memory come in small pages; other systems do so unasked.
#[cfg(not(target_os = "linux"))]
pub fn use_small_pages() {}

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

/// Makes the child of `command` the head of a group of its own, so that [`kill_group`] reaches what it starts.
#[cfg(unix)]
pub fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

/// Makes the child killable with what it starts; on Windows the process tree serves as it is.
#[cfg(not(unix))]
pub fn own_group(_command: &mut Command) {}

/// Ends a child started under [`own_group`], and everything that child started.
///
/// The standard library kills one process only; the system's own `kill` knows groups.
#[cfg(unix)]
pub fn kill_group(child: &mut Child) {
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", "kill -KILL -\"$1\"", "kill", &child.id().to_string()]);
    run_silently(&mut kill);
    let _ = child.kill();
}

/// Ends a child and everything that child started.
#[cfg(not(unix))]
pub fn kill_group(child: &mut Child) {
    run_silently(Command::new("taskkill").args(["/T", "/F", "/PID", &child.id().to_string()]));
    let _ = child.kill();
}

/// Runs a helper whose failure changes nothing: the child itself is killed in any case.
fn run_silently(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
