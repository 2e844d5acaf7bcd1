//! The only code that writes state: files and folders that are there whole or not at all.
//!
//! - [`write_durable`] replaces one file. - [`StagedDir`] makes a folder visible only when it is complete.
//! - [`append_durable`] adds one line to a log. - [`Lock`] keeps two runs apart.
//!
//! What a crash leaves: names that begin with `.staging-` are unfinished work and may be deleted by whoever
//! holds the site lock ([`sweep_staging`]); every other name is complete.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::Refusal;
use crate::platform;

const STAGING_PREFIX: &str = ".staging-";

/// Replaces `path` with `bytes`, so that a reader or a crash sees the old content or the new, never a mixture.
///
/// Steps, and what a crash after each leaves: a staged file in the same folder (old content; a stray
/// `.staging-` file), its content synced (the same), renamed over `path` (old or new), folder synced (new).
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<()> {
    write_durable_with(path, |file| Ok(file.write_all(bytes)?))
}

/// [`write_durable`] for content that is produced by writing into a file, such as parquet.
pub fn write_durable_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = folder_of(path);
    create_dir_durable(folder)?;
    let mut staged = staging_builder(platform::file_permissions())
        .tempfile_in(folder)
        .with_context(|| format!("stage {}", path.display()))?;
    write(staged.as_file_mut()).with_context(|| format!("write {}", path.display()))?;
    staged.as_file().sync_all().with_context(|| format!("sync {}", path.display()))?;
    staged.persist(path).with_context(|| format!("replace {}", path.display()))?;
    platform::sync_dir(folder).with_context(|| format!("sync {}", folder.display()))
}

/// [`write_durable`] of `value` as indented JSON with a final newline.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).with_context(|| format!("encode {}", path.display()))?;
    text.push('\n');
    write_durable(path, text.as_bytes())
}

/// Reads a JSON state file.
///
/// - Errors: the file cannot be read or does not have the expected shape; both name the file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

/// [`read_json`], with `None` where there is no such file; any other trouble is an error.
pub fn read_json_if_exists<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Err(error) if is_absence(&error) => Ok(None),
        text => {
            let text = text.with_context(|| format!("read {}", path.display()))?;
            let value = serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
            Ok(Some(value))
        }
    }
}

/// Whether an error says that there is no such file; a path below a plain file names none either.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether there is something at `path`; a folder that does not let us look is an error, not a no.
pub fn exists(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("look for {}", path.display())),
    }
}

/// [`read_json_if_exists`] for files that carry a `format` number: a newer one is refused with a sentence before
/// its unknown fields can confuse anybody.
pub fn read_versioned<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<Option<T>> {
    let Some(value) = read_json_if_exists::<serde_json::Value>(path)? else { return Ok(None) };
    let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    anyhow::ensure!(
        format <= u64::from(newest),
        "{} has format {format}, this tftctl reads up to {newest}: a newer one wrote it",
        path.display()
    );
    let value = serde_json::from_value(value).with_context(|| format!("parse {}", path.display()))?;
    Ok(Some(value))
}

/// The entries of a folder, by name; none where there is no such folder, and any other trouble is an error.
pub fn list_dir(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.collect::<io::Result<Vec<_>>>()),
    };
    let mut entries = entries.with_context(|| format!("list {}", dir.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// Adds `line` and a newline to the end of `path` and syncs it; a torn last line of an earlier crash is cut.
pub fn append_durable(path: &Path, line: &str) -> Result<()> {
    let folder = folder_of(path);
    create_dir_durable(folder)?;
    let is_new = !path.exists();
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let write = |file: &mut File| -> io::Result<()> {
        let end = end_of_last_line(file)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    };
    write(&mut file).with_context(|| format!("append to {}", path.display()))?;
    if is_new {
        platform::sync_dir(folder).with_context(|| format!("sync {}", folder.display()))?;
    }
    Ok(())
}

/// The length of `file` up to and including its last newline.
fn end_of_last_line(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut chunk = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Makes staged files and folders that end up with the permissions anybody's would: other tools read our parquet.
fn staging_builder(permissions: Option<fs::Permissions>) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(STAGING_PREFIX);
    if let Some(permissions) = permissions {
        builder.permissions(permissions);
    }
    builder
}

/// The folder that `path` lies in; `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates `dir` and its missing parents, and makes their names durable.
pub fn create_dir_durable(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = folder_of(dir);
    create_dir_durable(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("create {}", dir.display()));
        }
        _ => {}
    }
    platform::sync_dir(parent).with_context(|| format!("sync {}", parent.display()))
}

/// A folder in the making, invisible under its own name until [`StagedDir::publish`].
///
/// Dropped unpublished, it is deleted.
pub struct StagedDir {
    staging: tempfile::TempDir,
    target: PathBuf,
}

impl StagedDir {
    /// Starts a folder that will become `target`.
    pub fn new(target: &Path) -> Result<Self> {
        let folder = folder_of(target);
        create_dir_durable(folder)?;
        let staging = staging_builder(platform::dir_permissions())
            .tempdir_in(folder)
            .with_context(|| format!("stage {}", target.display()))?;
        Ok(Self { staging, target: target.to_owned() })
    }

    /// Where to write the files meanwhile.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Syncs every file, writes `manifest.json` last, and renames the folder to its target.
    ///
    /// `manifest` is given the sha256 of every file and returns what to store. A crash before the rename
    /// leaves a `.staging-` folder, after it the complete target.
    ///
    /// - Errors: `target` exists already, or the disk refuses.
    pub fn publish<M: Serialize>(self, manifest: impl FnOnce(Vec<FileDigest>) -> M) -> Result<PathBuf> {
        self.seal(manifest)?;
        anyhow::ensure!(!self.target.exists(), "{} exists already", self.target.display());
        let target = self.target.clone();
        let folder = folder_of(&target);
        let staging = self.staging.keep();
        fs::rename(&staging, &target).with_context(|| format!("publish {}", target.display()))?;
        platform::sync_dir(folder).with_context(|| format!("sync {}", folder.display()))?;
        Ok(target)
    }

    /// [`StagedDir::publish`] over an existing `target`, which is kept as `previous`.
    ///
    /// The old `previous` is set aside and deleted last. A crash in between can leave `target` missing while
    /// `previous` holds the older state: readers fall back to `previous`.
    pub fn publish_over<M: Serialize>(
        self,
        previous: &Path,
        manifest: impl FnOnce(Vec<FileDigest>) -> M,
    ) -> Result<()> {
        self.seal(manifest)?;
        let folder = folder_of(&self.target).to_owned();
        let aside = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(&folder)?;
        if self.target.exists() {
            if previous.exists() {
                fs::rename(previous, aside.path().join("previous"))
                    .with_context(|| format!("set {} aside", previous.display()))?;
            }
            fs::rename(&self.target, previous).with_context(|| format!("keep {}", previous.display()))?;
        }
        let target = self.target.clone();
        let staging = self.staging.keep();
        fs::rename(&staging, &target).with_context(|| format!("publish {}", target.display()))?;
        platform::sync_dir(&folder).with_context(|| format!("sync {}", folder.display()))
    }

    fn seal<M: Serialize>(&self, manifest: impl FnOnce(Vec<FileDigest>) -> M) -> Result<()> {
        let digests = digest_dir(self.path())?;
        for digest in &digests {
            let path = self.path().join(&digest.name);
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("sync {}", path.display()))?;
        }
        write_json(&self.path().join(MANIFEST), &manifest(digests))
    }
}

/// The name of the file that makes a folder complete.
pub const MANIFEST: &str = "manifest.json";

/// Name, length and sha256 of one file of a published folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Digests of the files in `dir` (not its manifest), by name.
pub fn digest_dir(dir: &Path) -> Result<Vec<FileDigest>> {
    let mut digests = Vec::new();
    for entry in list_dir(dir)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != MANIFEST && entry.file_type()?.is_file() {
            digests.push(FileDigest {
                name,
                bytes: entry.metadata()?.len(),
                sha256: sha256_file(&entry.path())?,
            });
        }
    }
    Ok(digests)
}

/// Checks that each of `files` in `dir` has the length and sha256 it was published with.
///
/// - Errors: a file is missing or differs; it is named.
pub fn verify_digests(dir: &Path, files: &[FileDigest]) -> Result<()> {
    for file in files {
        let path = dir.join(&file.name);
        let sha256 = sha256_file(&path)?;
        anyhow::ensure!(
            sha256 == file.sha256,
            "{} is not the file that was published: sha256 differs",
            path.display()
        );
    }
    Ok(())
}

/// The sha256 of a file, in hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0u8; 1 << 16];
    loop {
        let n_read = file.read(&mut chunk).with_context(|| format!("read {}", path.display()))?;
        if n_read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&chunk[..n_read]);
    }
}

/// The sha256 of some bytes, in hexadecimal.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Deletes unfinished work in `dir` that nobody has touched for `untouched_for`.
///
/// Where every writer holds the site lock, and so does the caller, that can be zero; elsewhere it must be longer
/// than any write takes, or the work of a living process is deleted.
pub fn sweep_staging(dir: &Path, untouched_for: Duration) -> Result<()> {
    for entry in list_dir(dir)? {
        if !entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
            continue;
        }
        let path = entry.path();
        let sweep = || -> io::Result<()> {
            let metadata = entry.metadata()?;
            // A time in the future is no reason to keep it for ever, nor to delete it now.
            if metadata.modified()?.elapsed().unwrap_or_default() < untouched_for {
                return Ok(());
            }
            if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
        };
        match sweep() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

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
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
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
        fs::write(&holder_path, holder).with_context(|| format!("write {}", holder_path.display()))?;
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
        let _ = fs::remove_file(&self.holder_path);
    }
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
    fn a_durable_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/state.json");
        write_durable(&path, b"one").unwrap();
        write_durable(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_durable(&path, b"old").unwrap();
        let failed = write_durable_with(&path, |file| {
            file.write_all(b"half")?;
            anyhow::bail!("disk full")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_append_cuts_a_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append_durable(&path, "one").unwrap();
        fs::write(&path, "one\ntw").unwrap();
        append_durable(&path, "three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nthree\n");
    }

    #[test]
    fn a_folder_appears_whole_with_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let staged = StagedDir::new(&target).unwrap();
        fs::write(staged.path().join("weights"), b"abc").unwrap();
        assert!(!target.exists());
        staged.publish(|files| files).unwrap();
        let files: Vec<FileDigest> = read_json(&target.join(MANIFEST)).unwrap();
        assert_eq!(files[0].sha256, sha256_bytes(b"abc"));
        verify_digests(&target, &files).unwrap();
        fs::write(target.join("weights"), b"abd").unwrap();
        assert!(verify_digests(&target, &files).is_err());
    }

    #[test]
    fn publishing_over_keeps_one_previous() {
        let dir = tempfile::tempdir().unwrap();
        let (last, previous) = (dir.path().join("last"), dir.path().join("previous"));
        for content in ["1", "2", "3"] {
            let staged = StagedDir::new(&last).unwrap();
            fs::write(staged.path().join("state"), content).unwrap();
            staged.publish_over(&previous, |files| files).unwrap();
        }
        assert_eq!(fs::read_to_string(last.join("state")).unwrap(), "3");
        assert_eq!(fs::read_to_string(previous.join("state")).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_sweep_takes_unfinished_work_only_and_spares_what_is_fresh() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".staging-file"), b"half").unwrap();
        fs::create_dir(dir.path().join(".staging-dir")).unwrap();
        fs::write(dir.path().join("kept"), b"whole").unwrap();
        sweep_staging(dir.path(), Duration::from_secs(3600)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        sweep_staging(dir.path(), Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        sweep_staging(&dir.path().join("nowhere"), Duration::ZERO).unwrap();
    }

    #[test]
    fn only_what_is_not_there_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "{").unwrap();
        assert_eq!(read_json_if_exists::<u8>(&dir.path().join("none")).unwrap(), None);
        assert_eq!(read_json_if_exists::<u8>(&file.join("below")).unwrap(), None);
        assert!(read_json_if_exists::<u8>(&file).is_err() && read_json_if_exists::<u8>(dir.path()).is_err());
        assert!(exists(&file).unwrap() && !exists(&file.join("below")).unwrap());
        assert_eq!(list_dir(&dir.path().join("none")).unwrap().len(), 0);
        assert!(list_dir(&file).is_err());
    }

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
