//! Every change of state passes here on its way to the disk: a layer as thin as the calls of the standard library.
//!
//! In the program it is those calls and nothing else. In the crate's own tests a folder can be put on a simulated disk
//! (`simulated::Disk`), which writes down every change, makes any of them fail, and shows what a power cut after
//! each of them could leave. Reading needs no layer: whoever only reads uses `std::fs`.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

#[cfg(test)]
use super::simulated as probe;

use crate::platform;

/// A change that is about to be made.
#[cfg_attr(not(test), expect(dead_code, reason = "only a simulated disk looks at it"))]
pub(super) enum Change<'a> {
    /// Opens a file for writing, and makes it where there is none.
    Open(&'a Path),
    CreateDir(&'a Path),
    SetLen(&'a File, u64),
    Sync(&'a File),
    SyncDir(&'a Path),
    Rename(&'a Path, &'a Path),
    RemoveFile(&'a Path),
    RemoveDir(&'a Path),
}

/// Nothing stands between the program and the disk.
#[cfg(not(test))]
mod probe {
    use std::io;

    use super::{Change, File};

    #[inline(always)]
    pub fn make<T>(_: Change<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        act()
    }

    #[inline(always)]
    pub fn write(_: &File, bytes: &[u8], act: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        act(bytes)
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct File {
    inner: fs::File,
    /// Where it is on a simulated disk.
    #[cfg(test)]
    pub(super) spot: Option<probe::Spot>,
}

impl File {
    /// Makes a file for reading and writing.
    ///
    /// - Errors: there is something of that name already.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().read(true).write(true).create_new(true))
    }

    /// Opens a file for reading and writing, from its beginning, and makes it where there is none.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))
    }

    /// Opens a file for reading, and for writing at its end wherever that is by then; makes it where there is none.
    pub fn open_append(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().read(true).append(true).create(true))
    }

    /// Opens a file that is there for reading and writing.
    pub fn open_existing(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().read(true).write(true))
    }

    fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let inner = probe::make(Change::Open(path), || options.open(path))?;
        Ok(Self {
            inner,
            #[cfg(test)]
            spot: probe::Spot::of(path),
        })
    }

    /// The same open file, to read back what was written; it has the same position.
    pub fn reader(&self) -> io::Result<fs::File> {
        self.inner.try_clone()
    }

    /// Where the last write ended.
    #[cfg(test)]
    pub(super) fn position(&self) -> io::Result<u64> {
        (&self.inner).stream_position()
    }

    pub fn metadata(&self) -> io::Result<fs::Metadata> {
        self.inner.metadata()
    }

    pub fn set_len(&self, n_bytes: u64) -> io::Result<()> {
        probe::make(Change::SetLen(self, n_bytes), || self.inner.set_len(n_bytes))
    }

    /// Makes content and length durable; not the file's name.
    pub fn sync_all(&self) -> io::Result<()> {
        probe::make(Change::Sync(self), || self.inner.sync_all())
    }

    /// [`File::sync_all`] without the times of the file.
    pub fn sync_data(&self) -> io::Result<()> {
        probe::make(Change::Sync(self), || self.inner.sync_data())
    }

    pub fn lock(&self) -> io::Result<()> {
        self.inner.lock()
    }

    pub fn lock_shared(&self) -> io::Result<()> {
        self.inner.lock_shared()
    }

    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.inner.try_lock()
    }
}

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.inner.read(bytes)
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        probe::write(self, bytes, |bytes| (&self.inner).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Makes a folder; its name is durable after [`sync_dir`] of the folder it lies in.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    probe::make(Change::CreateDir(dir), || fs::create_dir(dir))
}

/// Renames, at once for every reader; durable after [`sync_dir`] of the folders that both names lie in.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    probe::make(Change::Rename(from, to), || fs::rename(from, to))
}

/// Removes the name of a file.
pub fn remove_file(path: &Path) -> io::Result<()> {
    probe::make(Change::RemoveFile(path), || fs::remove_file(path))
}

/// Removes an empty folder.
pub fn remove_dir(dir: &Path) -> io::Result<()> {
    probe::make(Change::RemoveDir(dir), || fs::remove_dir(dir))
}

/// Removes a folder with everything in it, in no particular order.
pub fn remove_dir_all(dir: &Path) -> io::Result<()> {
    // What the standard library does in one call has a power cut between any two of its steps.
    #[cfg(test)]
    if probe::is_simulated(dir) {
        return probe::remove_dir_all(dir);
    }
    fs::remove_dir_all(dir)
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    probe::make(Change::SyncDir(dir), || platform::sync_dir(dir))
}
