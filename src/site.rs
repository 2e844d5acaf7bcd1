//! One site: a folder with one `tftctl.toml`, and where everything in it lies.
//!
//! Paths are absolute once a site is open, so the caller's working directory never matters.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::config::{Config, Setting};
use crate::error::{HintExt, Refusal};
use crate::fsx::Lock;
use crate::schema::Schema;

/// The name of the config file.
pub const CONFIG_FILE: &str = "tftctl.toml";

/// An open site.
#[derive(Clone, Debug)]
pub struct Site {
    pub root: PathBuf,
    pub config: Config,
    /// Every setting with its origin.
    pub settings: Vec<Setting>,
}

impl Site {
    /// Opens the site of `config_path` (the file, or the folder that holds it).
    ///
    /// - Errors: no such file (with the hint to `init`), or a config that cannot be.
    pub fn open(config_path: &Path, env: &[(String, String)]) -> Result<Self> {
        let path = if config_path.is_dir() { config_path.join(CONFIG_FILE) } else { config_path.to_owned() };
        if !path.is_file() {
            let missing = Refusal::usage(format!("there is no site at {}", path.display()));
            return Err(missing)
                .hint(|| "`tftctl init` makes one in this folder; `--config FILE` names another".into());
        }
        let loaded = Config::load(&path, env)?;
        let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
        let root = path.parent().context("a config file has a folder")?.to_owned();
        Ok(Self { root, config: loaded.config, settings: loaded.settings })
    }

    /// A site of a config made in code, for tests and examples.
    pub fn of(root: &Path, config: Config) -> Self {
        Self { root: root.to_owned(), config, settings: Vec::new() }
    }

    pub fn zone(&self) -> Tz {
        self.config.timezone
    }

    pub fn schema(&self) -> Schema {
        self.config.schema()
    }

    /// The date a run at `now` is for.
    pub fn logical_date(&self, now: DateTime<Utc>) -> NaiveDate {
        now.with_timezone(&self.zone()).date_naive()
    }

    pub fn config_path(&self) -> PathBuf {
        self.root.join(CONFIG_FILE)
    }

    /// Where sealed days lie: `metrics_YYYY-MM-DD.parquet`.
    pub fn buffer_dir(&self) -> PathBuf {
        self.root.join(&self.config.data_buffer_dir)
    }

    /// Whether the buffer came from elsewhere and must only be read.
    ///
    /// The path decides, not what exists: a folder named inside the site is the site's own, also as a link to
    /// another disk, and one named outside is foreign before it is there, too. A path outside that leads back in
    /// (the site itself was opened through a link) is own.
    pub fn is_buffer_foreign(&self) -> bool {
        let dir = self.buffer_dir();
        let is_named_inside = normalised(&dir).starts_with(normalised(&self.root));
        !is_named_inside && !resolved(&dir).starts_with(resolved(&self.root))
    }

    /// The site's own buffer folder: open days, step aggregates and quarantine, also of a foreign buffer.
    pub fn own_buffer_dir(&self) -> PathBuf {
        if self.is_buffer_foreign() { self.root.join("data_buffer") } else { self.buffer_dir() }
    }

    pub fn open_days_dir(&self) -> PathBuf {
        self.own_buffer_dir().join("open")
    }

    pub fn steps_dir(&self) -> PathBuf {
        self.own_buffer_dir().join("steps")
    }

    pub fn quarantine_dir(&self) -> PathBuf {
        self.own_buffer_dir().join("quarantine")
    }

    /// Who reads which days.
    pub fn readers_dir(&self) -> PathBuf {
        self.own_buffer_dir().join("readers")
    }

    /// What repairs and rotations took away, with the reasons.
    pub fn removed_dir(&self) -> PathBuf {
        self.own_buffer_dir().join("removed")
    }

    /// Where days go that are too old.
    pub fn archive_dir(&self) -> PathBuf {
        self.root.join(&self.config.buffer.archive_dir)
    }

    /// How far imports came.
    pub fn imports_dir(&self) -> PathBuf {
        self.own_buffer_dir().join("imports")
    }

    pub fn windows_dir(&self) -> PathBuf {
        self.root.join("windows")
    }

    pub fn checkpoints_dir(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub fn models_dir(&self) -> PathBuf {
        self.root.join("models")
    }

    pub fn forecasts_dir(&self) -> PathBuf {
        self.root.join("forecasts")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.root.join(&self.config.log_dir)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Takes the one lock of `train`, `promote`, `rollback` and `nightly`.
    ///
    /// - Errors: [`Refusal::LockHeld`] with pid, command and start of the holder.
    pub fn lock(&self, command: &str, now: DateTime<Utc>, wait: std::time::Duration) -> Result<Lock> {
        let holder =
            format!("pid {} `{command}` since {}", std::process::id(), now.format("%Y-%m-%dT%H:%M:%SZ"));
        match Lock::acquire_within(&self.state_dir().join("site.lock"), &holder, wait) {
            Err(error) if error.is::<Refusal>() => {
                Err(error).hint(|| "wait for it, or give `--wait 10m`".into())
            }
            outcome => outcome,
        }
    }
}

/// `path` without `.` and `..`, by its words alone.
fn normalised(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// `path` with links followed as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let path = normalised(path);
    let found = path.ancestors().find_map(|known| Some((known, known.canonicalize().ok()?)));
    let Some((known, real)) = found else { return path };
    path.strip_prefix(known).map_or_else(|_| path.clone(), |rest| real.join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(root: &Path, data_buffer_dir: &str) -> Site {
        Site::of(root, Config { data_buffer_dir: data_buffer_dir.into(), ..Config::default() })
    }

    #[test]
    fn a_folder_outside_is_foreign_whether_or_not_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("site");
        std::fs::create_dir(&root).unwrap();
        let absolute = dir.path().join("elsewhere").display().to_string();
        for place in ["../elsewhere", "data/../../elsewhere", absolute.as_str()] {
            assert!(site(&root, place).is_buffer_foreign(), "{place}");
        }
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        for place in ["../elsewhere", "data/../../elsewhere", absolute.as_str()] {
            assert!(site(&root, place).is_buffer_foreign(), "{place}");
        }
        let beside = root.join("data").display().to_string();
        for place in ["data_buffer", "./data/../buffer", "../site/buffer", beside.as_str()] {
            assert!(!site(&root, place).is_buffer_foreign(), "{place}");
        }
        assert_eq!(site(&root, "../elsewhere").own_buffer_dir(), root.join("data_buffer"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_another_disk_stays_own_and_a_link_to_the_site_leads_in() {
        let dir = tempfile::tempdir().unwrap();
        let (root, disk, way) = (dir.path().join("site"), dir.path().join("disk"), dir.path().join("way"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&disk).unwrap();
        std::os::unix::fs::symlink(&disk, root.join("data_buffer")).unwrap();
        std::os::unix::fs::symlink(&root, &way).unwrap();
        assert!(!site(&root, "data_buffer").is_buffer_foreign());
        assert!(!site(&root, &way.join("later").display().to_string()).is_buffer_foreign());
    }
}
