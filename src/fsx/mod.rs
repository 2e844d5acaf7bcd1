//! The only code that writes state: files and folders that are there whole or not at all.
//!
//! - [`write_durable`] replaces one file. - [`StagedDir`] makes a folder visible only when it is complete.
//! - [`append_durable`] adds one line to a log. - [`Lock`] keeps two runs apart.
//! - [`rename_durable`], [`remove_file`] and [`discard_dir`] move and delete. - [`disk`] is below all of them.
//!
//! What a crash leaves: names that begin with `.staging-` are unfinished work and may be deleted by whoever
//! holds the site lock ([`sweep_staging`]); every other name is complete.

mod digest;
pub mod disk;
mod lock;
mod room;
mod sealed_json;
#[cfg(test)]
pub mod simulated;
mod staged;

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use digest::{FileDigest, MANIFEST, digest_dir, hex, sha256_bytes, sha256_file, verify_digests};
pub use disk::File;
pub use lock::Lock;
pub use room::ensure_room;
pub use sealed_json::{NO_DIGEST, read_sealed};
pub use staged::{STAGING_PREFIX, StagedDir, sweep_staging};

use staged::StagedFile;

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
    let mut staged = StagedFile::new(folder).with_context(|| format!("stage {}", path.display()))?;
    write(&mut staged.file).with_context(|| format!("write {}", path.display()))?;
    staged.file.sync_all().with_context(|| format!("sync {}", path.display()))?;
    staged.rename(path).with_context(|| format!("replace {}", path.display()))?;
    sync_dir(folder)
}

/// [`write_durable`] of `value` as indented JSON with a final newline; a member `digest` that is [`NO_DIGEST`] becomes
/// that of the text.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).with_context(|| format!("encode {}", path.display()))?;
    text.push('\n');
    let text = sealed_json::seal(text);
    write_durable(path, text.as_bytes())
}

/// Reads a whole file.
///
/// - Errors: the file cannot be read; it is named.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Reads a JSON state file.
///
/// - Errors: the file cannot be read or does not have the expected shape; both name the file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).with_context(|| format!("parse {}", path.display()))
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
    check_format(&value, newest).with_context(|| path.display().to_string())?;
    let value = serde_json::from_value(value).with_context(|| format!("parse {}", path.display()))?;
    Ok(Some(value))
}

/// The `format` of a state file; a newer one than `newest` is an error.
fn check_format(value: &serde_json::Value, newest: u32) -> Result<u64> {
    let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    anyhow::ensure!(
        format <= u64::from(newest),
        "it has format {format}, this tftctl reads up to {newest}: a newer one wrote it"
    );
    Ok(format)
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

/// Adds `line` and a newline to the end of `path`, durably; a torn last line of an earlier crash is cut.
pub fn append_durable(path: &Path, line: &str) -> Result<()> {
    let folder = folder_of(path);
    create_dir_durable(folder)?;
    append_synced(path, format!("{line}\n").as_bytes())?;
    // Also where the file was there: whoever made it may have been killed before coming to this.
    sync_dir(folder)
}

/// Adds whole lines to the end of `path` and syncs them, but not the file's name; a torn last line is cut.
pub fn append_synced(path: &Path, lines: &[u8]) -> Result<()> {
    let append = || -> io::Result<()> {
        let mut file = File::open_or_create(path)?;
        let end = end_of_last_line(&mut file)?;
        let write = |file: &mut File| {
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            file.write_all(lines)?;
            file.sync_all()
        };
        // What a failed sync was to write can be read, and may be gone later: nothing must ever stand behind it.
        write(&mut file).inspect_err(|_| drop(file.set_len(end)))
    };
    append().with_context(|| format!("append to {}", path.display()))
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

/// The folder that `path` lies in; `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates `dir` and its missing parents, and makes their names durable.
///
/// A folder that is there is made sure of, too: whoever made it may have been killed before its name was durable. So
/// where a folder is in another, that other's name is durable.
pub fn create_dir_durable(dir: &Path) -> Result<()> {
    let parent = folder_of(dir);
    if is_staged(dir) && dir.is_dir() {
        return Ok(()); // it gets a durable name when it is published
    }
    if dir.is_dir() {
        return match disk::sync_dir(parent) {
            // Whoever may not open a folder has made nothing in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced.with_context(|| format!("sync {}", parent.display())),
        };
    }
    create_dir_durable(parent)?;
    match disk::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("create {}", dir.display()));
        }
        _ => {}
    }
    sync_dir(parent)
}

fn is_staged(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(STAGING_PREFIX))
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    disk::sync_dir(dir).with_context(|| format!("sync {}", dir.display()))
}

/// Renames within a folder, durably: a crash leaves the one name or the other.
pub fn rename_durable(from: &Path, to: &Path) -> Result<()> {
    disk::rename(from, to).with_context(|| format!("rename {} to {}", from.display(), to.display()))?;
    sync_dir(folder_of(to))
}

/// Removes a file; one that is gone already is fine. After a power cut it may be there again.
pub fn remove_file(path: &Path) -> Result<()> {
    match disk::remove_file(path) {
        Err(error) if !is_absence(&error) => Err(error).with_context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// Deletes a folder: first out of sight as a whole, durably, and then for good.
///
/// A crash leaves it whole, or a `.staging-` folder that the next sweep takes.
pub fn discard_dir(dir: &Path) -> Result<()> {
    let aside = folder_of(dir).join(staged::fresh_name());
    rename_durable(dir, &aside).with_context(|| format!("delete {}", dir.display()))?;
    disk::remove_dir_all(&aside).with_context(|| format!("delete {}", dir.display()))
}

/// A number that no other process has: it keeps names apart.
pub fn nonce() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
