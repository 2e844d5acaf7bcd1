//! Secrets by reference: `env:NAME`, `file:PATH` (relative to the site) or `cred:NAME` (a systemd credential).
//!
//! A [`Secret`] shows where it came from and never what it is. The environment is handed in by the rim.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::platform;

const MAX_BYTES: u64 = 64 << 10;

/// Looks up one environment variable.
pub type EnvLookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Where secrets are found.
pub struct SecretSource<'a> {
    /// The folder that `file:` paths are relative to.
    pub site_root: &'a Path,
    pub env: &'a EnvLookup<'a>,
}

/// A value that is never printed: `Debug` and `Display` show the reference only.
#[derive(Clone)]
pub struct Secret {
    reference: String,
    value: String,
    warning: Option<String>,
}

impl Secret {
    /// The value, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// What the operator should change about how it is kept.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}

impl SecretSource<'_> {
    /// Finds the value behind `reference`.
    ///
    /// - Errors: the reference is none (it is not quoted: it may be the secret itself), nothing is there, or
    ///   what is there is empty or more than one line.
    pub fn resolve(&self, reference: &str) -> Result<Secret> {
        let not_a_reference = "a secret is written env:NAME, file:PATH or cred:NAME";
        let Some((kind, name)) = reference.split_once(':') else { bail!(not_a_reference) };
        ensure!(!name.is_empty() && !name.contains("://"), not_a_reference);
        let (value, warning) = match kind {
            "env" => (self.env_value(name, not_a_reference)?, None),
            "file" => read_file(&self.site_root.join(name))?,
            "cred" => (self.credential(name, not_a_reference)?, None),
            _ => bail!(not_a_reference),
        };
        let value = value.trim().to_owned();
        ensure!(!value.is_empty(), "{reference} is empty");
        ensure!(!value.contains(|c: char| c.is_control()), "{reference} holds more than one line");
        Ok(Secret { reference: reference.to_owned(), value, warning })
    }

    fn env_value(&self, name: &str, not_a_reference: &'static str) -> Result<String> {
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        ensure!(is_name, not_a_reference);
        (self.env)(name).with_context(|| format!("the environment variable {name} is not set"))
    }

    fn credential(&self, name: &str, not_a_reference: &'static str) -> Result<String> {
        let mut parts = Path::new(name).components();
        let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        ensure!(is_name, not_a_reference);
        let dir = (self.env)("CREDENTIALS_DIRECTORY").context(
            "CREDENTIALS_DIRECTORY is not set: cred: works under systemd, with LoadCredential= in the unit",
        )?;
        read_file(&PathBuf::from(dir).join(name)).map(|(value, _)| value)
    }
}

/// The content of a secret file, and a warning where others than its owner can read it.
fn read_file(path: &Path) -> Result<(String, Option<String>)> {
    let n_bytes = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
    ensure!(n_bytes <= MAX_BYTES, "{} is too large for a secret", path.display());
    let value = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let is_open = platform::is_readable_by_others(path).unwrap_or(false);
    let warning = || format!("{} can be read by others: chmod 600 it", path.display());
    Ok((value, is_open.then(warning)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "https://hooks.example/canary-7f3a";

    #[track_caller]
    fn case(reference: &str, expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hook"), format!("{CANARY}\n")).unwrap();
        std::fs::write(dir.path().join("empty"), "\n").unwrap();
        std::fs::write(dir.path().join("lines"), "canary-7f3a\ncanary-7f3a\n").unwrap();
        let credentials = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            "HOOK" => Some(CANARY.to_owned()),
            "CREDENTIALS_DIRECTORY" => Some(credentials.clone()),
            _ => None,
        };
        let source = SecretSource { site_root: dir.path(), env: &env };
        match (source.resolve(reference), expected) {
            (Ok(secret), Ok(value)) => {
                assert_eq!(secret.expose(), value);
                assert!(!format!("{secret} {secret:?}").contains("canary"));
            }
            (Err(error), Err(words)) => {
                let text = format!("{error:#} {error:?}");
                assert!(text.contains(words), "{text:?} should contain {words:?}");
                assert!(!text.contains("canary"), "{text:?} shows the secret");
            }
            (got, expected) => panic!("{reference}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn references_are_resolved() {
        case("env:HOOK", Ok(CANARY));
        case("file:hook", Ok(CANARY));
        case("cred:hook", Ok(CANARY));
    }

    #[test]
    fn what_is_no_reference_is_refused_without_being_quoted() {
        case(CANARY, Err("env:NAME"));
        case("canary-7f3a", Err("env:NAME"));
        case("env:canary-7f3a", Err("env:NAME"));
        case(&format!("file:{CANARY}"), Err("env:NAME"));
        case("cred:../hook", Err("env:NAME"));
    }

    #[test]
    fn what_is_missing_or_unusable_is_named() {
        case("env:NO_HOOK", Err("NO_HOOK is not set"));
        case("file:nothing", Err("nothing"));
        case("file:empty", Err("file:empty is empty"));
        case("file:lines", Err("more than one line"));
    }
}
