//! JSON that carries its own digest: any bit that flips in it later is noticed, as in the files that it lists.
//!
//! The member `digest` is the sha256 of the text with zeros in its place.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use super::{check_format, is_absence, sha256_bytes};

/// What stands in the place of a digest while it is taken.
pub const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const MEMBER: &str = "digest";

/// Puts the digest into a text in which [`NO_DIGEST`] stands in its place; one without that is as it was.
pub(super) fn seal(text: String) -> String {
    let place = format!("\"{MEMBER}\": \"{NO_DIGEST}\"");
    match text.contains(&place) {
        true => text.replacen(&place, &format!("\"{MEMBER}\": \"{}\"", sha256_bytes(text.as_bytes())), 1),
        false => text,
    }
}

/// [`super::read_versioned`] of JSON that carries a digest since format `sealed_since`.
///
/// - Errors: those of that; a digest that does not fit the text, or is missing.
pub fn read_sealed<T: DeserializeOwned>(path: &Path, newest: u32, sealed_since: u32) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Err(error) if is_absence(&error) => return Ok(None),
        bytes => bytes.with_context(|| format!("read {}", path.display()))?,
    };
    let read = || -> Result<T> {
        let value: serde_json::Value = serde_json::from_slice(&bytes)?;
        let format = check_format(&value, newest)?;
        match value.get(MEMBER).and_then(serde_json::Value::as_str) {
            Some(digest) => {
                ensure!(is_sealed_by(&bytes, digest), "it is not what was published: its digest differs")
            }
            None => ensure!(
                format < u64::from(sealed_since),
                "it is not what was published: its digest is missing"
            ),
        }
        Ok(serde_json::from_value(value)?)
    };
    read().map(Some).with_context(|| format!("parse {}", path.display()))
}

fn is_sealed_by(bytes: &[u8], digest: &str) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    sha256_bytes(text.replacen(digest, NO_DIGEST, 1).as_bytes()) == digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct State {
        format: u32,
        #[serde(default)]
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_older_texts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let state = State { format: 3, name: "x".into(), digest: Some(NO_DIGEST.into()) };
        let whole = seal(serde_json::to_string_pretty(&state).unwrap()).into_bytes();
        std::fs::write(&path, &whole).unwrap();
        let read = || read_sealed::<State>(&path, 3, 3);
        assert_eq!(read().unwrap().unwrap().name, "x");
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, damaged).unwrap();
            assert!(read().is_err(), "bit {bit}");
        }
        std::fs::write(&path, b"{\"format\":2}").unwrap();
        assert_eq!(read().unwrap().unwrap().digest, None);
        std::fs::write(&path, b"{\"format\":4}").unwrap();
        assert!(format!("{:#}", read().unwrap_err()).contains("reads up to 3"));
        assert_eq!(read_sealed::<State>(&dir.path().join("none"), 3, 3).unwrap(), None);
    }
}
