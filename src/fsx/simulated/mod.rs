//! A disk whose power can be cut after any change, and which can fail: for tests only.
//!
//! A test puts a folder on a [`Disk`] and runs what it likes there. The work is really done in that folder, and every
//! change is written down ([`Log`]). Afterwards [`Log::after_power_cut`] says, for any number of changes, what
//! could be found at the next start: what was synced is there, and each other change is there, is not there, or is there
//! in part. A [`Fault`] makes the work itself meet an error, a full or a read-only disk, or a sudden end.
//!
//! # The model
//!
//! - A sync of a file makes durable what was written to it, and its length; not its name.
//! - A sync of a folder makes durable the names in it: those that were made, renamed (from here or to here) and removed.
//! - A rename is atomic. Everything else that was not synced may be kept or lost independently of all the rest, in any
//!   order: stricter than any journaling file system is.
//! - After a sync that failed, what it was to make durable may be lost although a later sync succeeds.

mod crash;
mod log;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{self, Change, File};

pub use crash::{Crash, each_crash};
pub use log::{Log, Op, Tree};

/// The folders that lie on simulated disks. Each test has its own, so tests do not meet.
static DISKS: Mutex<BTreeMap<PathBuf, Arc<Mutex<State>>>> = Mutex::new(BTreeMap::new());

/// How the disk fails, at the change with this number (counted from 0 since the fault was set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This one change fails; of a write, half is done.
    Error { at: usize },
    /// From here on there is room for nothing new.
    Full { from: usize },
    /// From here on nothing can be changed.
    ReadOnly { from: usize },
    /// From here on nothing happens any more: what a killed process leaves.
    Dead { from: usize },
}

#[derive(Debug)]
struct State {
    log: Log,
    fault: Option<Fault>,
    n_since_fault: usize,
    was_hit: bool,
}

/// A folder whose changes are written down, until this is dropped.
pub struct Disk {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// Puts `root`, with what is in it as durable content, on a simulated disk.
    pub fn under(root: &Path) -> Self {
        let log = Log::new(Tree::of_folder(root));
        let state = State { log, fault: None, n_since_fault: 0, was_hit: false };
        let state = Arc::new(Mutex::new(state));
        lock(&DISKS).insert(root.to_owned(), state.clone());
        Self { root: root.to_owned(), state }
    }

    /// How many changes were made so far.
    pub fn position(&self) -> usize {
        lock(&self.state).log.n_ops()
    }

    /// From now on the disk fails like this.
    pub fn set_fault(&self, fault: Fault) {
        let mut state = lock(&self.state);
        (state.fault, state.n_since_fault, state.was_hit) = (Some(fault), 0, false);
    }

    /// The disk is well again; says whether the fault was met at all.
    pub fn heal(&self) -> bool {
        let mut state = lock(&self.state);
        state.fault = None;
        state.was_hit
    }

    /// Everything that was written down.
    pub fn log(&self) -> Log {
        lock(&self.state).log.clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        lock(&DISKS).remove(&self.root);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The simulated disk that `path` lies on, with the path from its root.
fn disk_of(path: &Path) -> Option<(Arc<Mutex<State>>, PathBuf)> {
    let disks = lock(&DISKS);
    let (root, state) = disks.iter().find(|(root, _)| path.starts_with(root))?;
    Some((state.clone(), path.strip_prefix(root).expect("it starts with it").to_owned()))
}

pub(super) fn is_simulated(path: &Path) -> bool {
    disk_of(path).is_some()
}

/// The file on a simulated disk that a [`File`] is.
#[derive(Clone, Debug)]
pub struct Spot {
    state: Arc<Mutex<State>>,
    node: usize,
}

impl Spot {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let (state, relative) = disk_of(path)?;
        let node = lock(&state).log.node(&relative)?;
        Some(Self { state, node })
    }
}

/// Makes a change, unless the simulated disk it is for refuses; writes it down once it is made.
pub(super) fn make<T>(change: Change<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some((state, ops)) = ops_of(&change) else { return act() };
    if let Err(error) = lock(&state).admit(&change) {
        if let Change::Sync(File { spot: Some(spot), .. }) = change {
            lock(&state).log.push(Op::FailedSync { node: spot.node });
        }
        return Err(error);
    }
    let made = act()?;
    lock(&state).log.extend(ops);
    Ok(made)
}

/// [`make`] for a write, of which a failing disk may do a part.
pub(super) fn write(
    file: &File,
    bytes: &[u8],
    act: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let Some(Spot { state, node }) = &file.spot else { return act(bytes) };
    let (allowed, error) = lock(state).admit_write(bytes.len());
    if allowed > 0 {
        let n_written = act(&bytes[..allowed])?;
        assert_eq!(n_written, allowed, "the disk below the simulated one is not full");
        let offset = file.position()? - n_written as u64;
        lock(state).log.push(Op::Write { node: *node, offset, bytes: bytes[..n_written].to_vec() });
    }
    error.map_or(Ok(allowed), Err)
}

/// The disk of a change, and what is to be written down of it.
fn ops_of(change: &Change<'_>) -> Option<(Arc<Mutex<State>>, Vec<Op>)> {
    let on_disk = |path: &Path, op: &dyn Fn(&Log, &Path) -> Option<Op>| {
        let (state, relative) = disk_of(path)?;
        let op = op(&lock(&state).log, &relative);
        Some((state, op.into_iter().collect()))
    };
    match change {
        Change::Open(path) => on_disk(path, &|log, path| log.link(path, false)),
        Change::CreateDir(path) => on_disk(path, &|log, path| log.link(path, true)),
        Change::RemoveFile(path) | Change::RemoveDir(path) => on_disk(path, &Log::unlink),
        Change::SyncDir(path) => on_disk(path, &|log, path| Some(Op::Sync { node: log.node(path)? })),
        Change::Rename(from, to) => {
            let (_, to) = disk_of(to)?;
            on_disk(from, &|log, from| log.rename(from, &to))
        }
        Change::Sync(file) => of_file(file, |node| Op::Sync { node }),
        Change::SetLen(file, n_bytes) => of_file(file, |node| Op::SetLen { node, n_bytes: *n_bytes }),
    }
}

fn of_file(file: &File, op: impl Fn(usize) -> Op) -> Option<(Arc<Mutex<State>>, Vec<Op>)> {
    let Spot { state, node } = file.spot.as_ref()?;
    Some((state.clone(), vec![op(*node)]))
}

impl State {
    /// What the fault says to the next change: nothing, or how it fails.
    fn next_error(&mut self, takes_room: bool, changes: bool) -> Option<io::Error> {
        let number = self.n_since_fault;
        self.n_since_fault += 1;
        let error = match self.fault? {
            Fault::Error { at } if number == at => io::Error::other("simulated input/output error"),
            Fault::Full { from } if number >= from && takes_room => io::ErrorKind::StorageFull.into(),
            Fault::ReadOnly { from } if number >= from && changes => io::ErrorKind::ReadOnlyFilesystem.into(),
            Fault::Dead { from } if number >= from => io::Error::other("the simulated process is dead"),
            _ => return None,
        };
        self.was_hit = true;
        Some(error)
    }

    fn admit(&mut self, change: &Change<'_>) -> io::Result<()> {
        let is_sync = matches!(change, Change::Sync(_) | Change::SyncDir(_));
        let takes_room = match change {
            Change::Open(path) => !path.exists(),
            Change::CreateDir(_) => true,
            _ => false,
        };
        self.next_error(takes_room, !is_sync).map_or(Ok(()), Err)
    }

    /// How many of `n_bytes` may be written, and the error to tell (which some systems tell with the next write).
    fn admit_write(&mut self, n_bytes: usize) -> (usize, Option<io::Error>) {
        let was_full = self.was_hit;
        match (self.next_error(true, true), self.fault) {
            (None, _) => (n_bytes, None),
            (error, Some(Fault::Error { .. })) => (n_bytes / 2, error),
            // The last room is used up by a short write, and the next one is refused.
            (_, Some(Fault::Full { .. })) if !was_full && n_bytes > 1 => (n_bytes / 2, None),
            (error, _) => (0, error),
        }
    }
}

/// Removes a folder one name after the other.
pub(super) fn remove_dir_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() { remove_dir_all(&path)? } else { disk::remove_file(&path)? }
    }
    disk::remove_dir(dir)
}
