//! Windows on disk: `windows/<end date>-<digest>/` with `steps.parquet` and `manifest.json`, immutable.
//!
//! `windows/latest.json` names the window that was asked for last; it is moved after the window is complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::calendar;
use crate::error::{HintExt, Refusal, message_and_hint};
use crate::fsx::{self, StagedDir};
use crate::platform;
use crate::site::Site;

use super::feed::Feed;
use super::grid::Grid;
use super::manifest::{FORMAT, Manifest, SEALED_SINCE};
use super::steps_file::{self, StepsWriter};

const STEPS: &str = "steps.parquet";
const LATEST: &str = "latest.json";

/// A complete window on disk.
#[derive(Clone, Debug)]
pub struct Window {
    pub id: String,
    pub dir: PathBuf,
    pub manifest: Manifest,
}

/// A window that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedWindow {
    pub id: String,
    /// What is wrong with it.
    pub error: String,
}

#[derive(Serialize, Deserialize)]
struct Latest {
    id: String,
}

impl Window {
    /// Checks every byte against the manifest.
    ///
    /// - Errors: a file is missing or differs; it is named.
    pub fn verify(&self) -> Result<()> {
        fsx::verify_digests(&self.dir, &self.manifest.files)
    }

    /// Reads the values of the window's servers back.
    ///
    /// - Errors: the file is not the one that was published (length or sha256), or cannot be read.
    pub fn read_grid(&self) -> Result<Grid> {
        self.read_parts(&[self.outline()]).map(|mut grids| grids.remove(0))
    }

    /// Reads what some outlines ask for (see [`Grid::only_metrics`], [`Grid::from_step`]), a grid for each.
    ///
    /// - Errors: those of [`Window::read_grid`].
    pub fn read_parts(&self, outlines: &[Grid]) -> Result<Vec<Grid>> {
        self.told(|| {
            self.verify()?;
            let read = |outline: &Grid| {
                let mut grid = outline.with_room_for(0..outline.servers.len());
                steps_file::read_into(&self.dir.join(STEPS), &mut grid)?;
                Ok(grid)
            };
            let grids = outlines.iter().map(read).collect();
            platform::release_freed_memory(); // what was decoded lies beside a whole window from here on
            grids
        })
    }

    /// The window's values, of which `memory_bytes` may be in memory at once: all of them, where they fit.
    ///
    /// - Errors: those of [`Window::read_grid`]. The sha256 is taken here, not each time a part is read.
    pub fn feed(&self, memory_bytes: Option<u64>) -> Result<Feed> {
        let outline = self.outline();
        let n_bytes = outline.bytes_a_server() * outline.servers.len() as u64;
        match memory_bytes.filter(|bytes| *bytes < n_bytes) {
            None => Ok(Arc::new(self.read_grid()?).into()),
            Some(bytes) => self.told(|| {
                self.verify()?;
                Feed::of_file(self.dir.join(STEPS), outline, bytes)
            }),
        }
    }

    /// The grid of the window's servers, without their values.
    pub fn outline(&self) -> Grid {
        let manifest = &self.manifest;
        Grid {
            servers: manifest.servers.clone(),
            metrics: manifest.metrics.clone(),
            statuses: manifest.statuses.clone(),
            start_ms: manifest.start.timestamp_millis(),
            step_secs: manifest.step_secs,
            n_steps: manifest.n_steps,
            values: Vec::new(),
            status: Vec::new(),
        }
    }

    fn told<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        read()
            .with_context(|| format!("read window {}", self.id))
            .hint(|| format!("delete {} and run `tftctl window build` again", self.dir.display()))
    }
}

/// Opens the window `id`.
///
/// - Errors: there is no such window, or a newer program wrote it.
pub fn open(site: &Site, id: &str) -> Result<Window> {
    let known = find(site, id)?;
    known
        .ok_or_else(|| Refusal::usage(format!("there is no window `{id}`")))
        .hint(|| "`tftctl window list` names those there are; `tftctl window build` makes one".into())
}

/// The window that was built, or asked for again, last.
///
/// - Errors: what names it, or its manifest, cannot be read.
pub fn latest(site: &Site) -> Result<Option<Window>> {
    let path = site.windows_dir().join(LATEST);
    let named: Option<Latest> = fsx::read_json_if_exists(&path).hint(|| {
        format!("`tftctl window build` writes {} anew; the windows are as they were", path.display())
    })?;
    if let Some(window) = named.map(|latest| find(site, &latest.id)).transpose()?.flatten() {
        return Ok(Some(window));
    }
    Ok(list(site)?.pop())
}

/// Every complete window that can be read, by end date; [`list_damaged`] names the others.
///
/// One damaged manifest hides one window, not the history.
pub fn list(site: &Site) -> Result<Vec<Window>> {
    Ok(find_all(site)?.into_iter().filter_map(|(_, found)| found.ok()).collect())
}

/// Every window whose manifest cannot be read, with the reason.
pub fn list_damaged(site: &Site) -> Result<Vec<DamagedWindow>> {
    let damaged = |(id, found): (String, Result<Window>)| {
        let error = found.err()?;
        Some(DamagedWindow { id, error: message_and_hint(&error).0 })
    };
    Ok(find_all(site)?.into_iter().filter_map(damaged).collect())
}

/// Every window that is not the one that was published: its manifest cannot be read, or a file has other bytes.
///
/// Also returns how many were looked at.
pub fn verify_all(site: &Site) -> Result<(usize, Vec<DamagedWindow>)> {
    let all = find_all(site)?;
    let n_windows = all.len();
    let damage = |(id, found): (String, Result<Window>)| {
        let error = found.and_then(|window| window.verify()).err()?;
        Some(DamagedWindow { id, error: message_and_hint(&error).0 })
    };
    Ok((n_windows, all.into_iter().filter_map(damage).collect()))
}

/// The names of all windows, damaged ones too.
pub fn ids(site: &Site) -> Result<Vec<String>> {
    Ok(find_all(site)?.into_iter().map(|(id, _)| id).collect())
}

/// Whatever looks like a window, by name.
fn find_all(site: &Site) -> Result<Vec<(String, Result<Window>)>> {
    let mut all = Vec::new();
    for entry in fsx::list_dir(&site.windows_dir())? {
        let id = entry.file_name().to_string_lossy().into_owned();
        if let Some(found) = find(site, &id).transpose() {
            all.push((id, found));
        }
    }
    Ok(all)
}

/// Deletes windows that end more than `keep_days` before `today`, but for those in `in_use`.
///
/// A window is renamed out of sight first, so that it is there whole or not at all. A damaged one is left for a
/// person to look at.
pub fn prune(site: &Site, today: NaiveDate, keep_days: u32, in_use: &[String]) -> Result<usize> {
    let oldest = calendar::days_before(today, keep_days);
    let mut n_deleted = 0;
    for window in list(site)? {
        if window.manifest.end_day >= oldest || in_use.contains(&window.id) {
            continue;
        }
        discard(site, &window.id)?;
        n_deleted += 1;
    }
    Ok(n_deleted)
}

/// Deletes the window `id`, first out of sight and then for good.
pub(super) fn discard(site: &Site, id: &str) -> Result<()> {
    fsx::discard_dir(&site.windows_dir().join(id)).with_context(|| format!("delete window {id}"))
}

/// The window `id`, if there is one.
pub(super) fn find(site: &Site, id: &str) -> Result<Option<Window>> {
    if id.starts_with('.') || Path::new(id).components().count() != 1 {
        return Ok(None);
    }
    let dir = site.windows_dir().join(id);
    let manifest = fsx::read_sealed(&dir.join(fsx::MANIFEST), FORMAT, SEALED_SINCE)
        .hint(|| format!("delete {} and run `tftctl window build` again", dir.display()))?;
    Ok(manifest.map(|manifest| Window { id: id.to_owned(), dir, manifest }))
}

/// A window in the making, invisible until it is published.
pub(super) struct Draft<'a> {
    site: &'a Site,
    staged: StagedDir,
    steps: StepsWriter,
}

impl<'a> Draft<'a> {
    pub fn begin(site: &'a Site, id: &str) -> Result<Self> {
        let staged = StagedDir::new(&site.windows_dir().join(id))?;
        let steps = StepsWriter::new(staged.path().join(STEPS));
        Ok(Self { site, staged, steps })
    }

    /// Adds the values of `servers` (positions in `grid`).
    pub fn write(&mut self, grid: &Grid, servers: &[usize]) -> Result<()> {
        self.steps.add(grid, servers)
    }

    /// Writes the manifest, and makes both files visible at once.
    pub fn publish(self, outline: &Grid, manifest: Manifest) -> Result<Window> {
        let id = manifest.id.clone();
        self.steps.finish(outline)?;
        let published = self.staged.publish(|files| Manifest { files, ..manifest });
        match find(self.site, &id)? {
            Some(window) => Ok(window), // ours, or that of another process that was faster with the same inputs
            None => Err(published.err().unwrap_or_else(|| anyhow::anyhow!("window {id} vanished"))),
        }
    }
}

/// Remembers `id` as the window asked for last.
pub(super) fn point_at(site: &Site, id: &str) -> Result<()> {
    fsx::write_json(&site.windows_dir().join(LATEST), &Latest { id: id.to_owned() })
}
