//! One at a time: a lock that outlives no process, and says who holds it.

use std::fs::{self, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::error::Refusal;

use super::disk::{self, File};
use super::{create_dir_durable, folder_of};

/// An exclusive advisory lock on a file; the operating system lets go of it when the holder dies.
///
/// Who holds it stands in a file beside it, `NAME.holder`: where locks are mandatory, nobody else can read the
/// locked file itself.
pub struct Lock {
    holder_path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, writing `holder` (a line for people) beside it.
    ///
    /// - Errors: [`Refusal::LockHeld`] with the holder's own words while another process has it.
    pub fn acquire(path: &Path, holder: &str) -> Result<Self> {
        create_dir_durable(folder_of(path))?;
        let holder_path = holder_path(path);
        let file = File::open_or_create(path).with_context(|| format!("open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(holder_path).unwrap_or_default().trim().to_owned();
                return Err(Refusal::LockHeld { path: path.to_owned(), holder }.into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        write_holder(&holder_path, holder).with_context(|| format!("write {}", holder_path.display()))?;
        Ok(Self { holder_path, _file: file })
    }

    /// [`Lock::acquire`], trying again until `wait` has passed.
    pub fn acquire_within(path: &Path, holder: &str, wait: Duration) -> Result<Self> {
        let started = std::time::Instant::now();
        loop {
            match Self::acquire(path, holder) {
                Err(error) if error.is::<Refusal>() && started.elapsed() < wait => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                outcome => return outcome,
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Tidiness only, and while the lock is still held: the next holder writes its own words.
        let _ = disk::remove_file(&self.holder_path);
    }
}

/// For people, and for as long as the lock is held: it need not survive anything.
fn write_holder(path: &Path, holder: &str) -> io::Result<()> {
    let mut file = File::open_or_create(path)?;
    file.set_len(0)?;
    file.write_all(holder.as_bytes())
}

/// Where the holder of the lock at `path` says who it is.
fn holder_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".holder");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_held_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.lock");
        let held = Lock::acquire(&path, "pid 1 nightly").unwrap();
        let error = Lock::acquire(&path, "pid 2").err().unwrap();
        assert_eq!(Exit::of(&error), Exit::Locked);
        assert!(error.to_string().contains("pid 1 nightly"));
        assert_eq!(fs::read(&path).unwrap(), b"", "its holder stands beside the lock");
        drop(held);
        Lock::acquire(&path, "pid 2").unwrap();
    }
}
