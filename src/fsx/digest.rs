//! What files are, by their bytes: sha256 digests, and the manifest that lists them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::list_dir;

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
    let mut chunk = vec![0u8; 1 << 18];
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

/// Bytes in hexadecimal, in small letters.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
