//! Lineages that were left: their training state, kept whole.
//!
//! `checkpoints/last` and `previous` hold one lineage. Before the first checkpoint of another one can push it out
//! (`--fresh`, `--from` a model of another lineage, a config that calls for a new one), its newest checkpoint is
//! copied to
//!
//! ```text
//! checkpoints/lineages/<lineage>_<optimizer steps>[_<n>]/
//! ```
//!
//! an ordinary checkpoint folder that appears whole and is never edited. `train --from <that name>` goes on from it
//! with its moments, its mean of the weights, its counters and its scalers. The copy comes first and the other lineage
//! writes later: a crash at any moment leaves the old state in `last`, here, or in both.
//!
//! The newest `retention.lineages` of them are kept; older ones go once the run that left one is on disk. Models are not this module's: they are kept and pruned by the
//! registry, whatever lineage they come from.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::checkpoint::{Checkpoint, STATE_FILE, State, manifest, write_files};
use crate::error::{HintExt, Refusal};
use crate::fsx::{self, StagedDir};

/// Folder name below `checkpoints/`.
pub const LINEAGES: &str = "lineages";
/// What the names of lineages that begin here begin with.
pub const PREFIX: &str = "lineage_";
/// And those of imported networks.
pub const IMPORT_PREFIX: &str = "import-";

/// Whether `name` looks like that of a lineage, and not like a model's.
pub fn is_lineage_name(name: &str) -> bool {
    [PREFIX, IMPORT_PREFIX].iter().any(|prefix| name.starts_with(prefix))
}

/// A kept lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub name: String,
    /// When its newest run began; `None` where its state cannot be read.
    pub started_at: Option<DateTime<Utc>>,
}

/// Where the lineages lie.
pub fn dir(checkpoints_dir: &Path) -> PathBuf {
    checkpoints_dir.join(LINEAGES)
}

/// Keeps `checkpoint` and returns the name of its folder; the one that is there already, if there is one.
pub fn keep(checkpoints_dir: &Path, checkpoint: &Checkpoint) -> Result<String> {
    let folder = dir(checkpoints_dir);
    let State { lineage, total_steps, .. } = &checkpoint.state;
    let plain = format!("{lineage}_{total_steps}");
    let numbered = (1u32..).map(|n| format!("{plain}_{n}"));
    for name in std::iter::once(plain.clone()).chain(numbered) {
        let target = folder.join(&name);
        if !fsx::exists(&target)? {
            let staged = StagedDir::new(&target)?;
            write_files(staged.path(), &checkpoint.parts())?;
            staged.publish(manifest).with_context(|| format!("keep the lineage as {}", target.display()))?;
            return Ok(name);
        }
        // A damaged one is not the same, and not ours to judge here.
        if Checkpoint::read(&target).is_ok_and(|there| is_same(&there, checkpoint)) {
            return Ok(name);
        }
    }
    unreachable!("numbers do not run out")
}

fn is_same(a: &Checkpoint, b: &Checkpoint) -> bool {
    a.state == b.state && a.weights_sha256 == b.weights_sha256 && a.served_sha256 == b.served_sha256
}

/// The kept lineages, newest first; those that cannot be read last.
pub fn list(checkpoints_dir: &Path) -> Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for entry in fsx::list_dir(&dir(checkpoints_dir))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_lineage_name(&name) {
            let state = fsx::read_json::<State>(&entry.path().join(STATE_FILE)).ok();
            kept.push(Kept { name, started_at: state.map(|state| state.run.started_at) });
        }
    }
    kept.sort_by_key(|kept| Reverse(kept.started_at));
    Ok(kept)
}

/// The folder of a kept lineage.
///
/// - Errors: [`Refusal::Usage`] with the names there are. Only a name that is listed is ever a folder.
pub fn find(checkpoints_dir: &Path, name: &str) -> Result<PathBuf> {
    let names: Vec<String> = list(checkpoints_dir)?.into_iter().map(|kept| kept.name).collect();
    if names.iter().any(|listed| listed == name) {
        return Ok(dir(checkpoints_dir).join(name));
    }
    let known = match names.as_slice() {
        [] => "there is none yet".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    Err(Refusal::usage(format!("no lineage is kept as `{}`", name.escape_default()))).hint(|| known)
}

/// Which of `kept` (newest first) to delete, so that `n_newest` stay, and `spared` in any case.
pub fn plan_prune(kept: &[Kept], n_newest: usize, spared: &str) -> Vec<String> {
    let others = kept.iter().filter(|kept| kept.name != spared);
    others.skip(n_newest.max(1) - 1).map(|kept| kept.name.clone()).collect()
}

/// Deletes the kept lineages `names`, each gone for every reader before its first file goes.
pub fn apply_prune(checkpoints_dir: &Path, names: &[String]) -> Result<()> {
    let folder = dir(checkpoints_dir);
    for name in names {
        fsx::discard_dir(&folder.join(name)).with_context(|| format!("delete the kept lineage {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Exit, message_and_hint};
    use std::fs;

    fn kept(name: &str, started_secs: Option<i64>) -> Kept {
        let started_at = started_secs.map(|secs| DateTime::from_timestamp(secs, 0).unwrap());
        Kept { name: name.into(), started_at }
    }

    #[track_caller]
    fn case(n_newest: usize, spared: &str, expected: &[&str]) {
        let all = [kept("c", Some(9)), kept("b", Some(5)), kept("a", Some(1)), kept("torn", None)];
        assert_eq!(plan_prune(&all, n_newest, spared), expected, "{n_newest} newest, {spared} spared");
    }

    #[test]
    fn the_newest_stay_and_the_one_just_kept_always() {
        case(9, "c", &[]);
        case(2, "c", &["a", "torn"]);
        case(1, "c", &["b", "a", "torn"]);
        case(0, "c", &["b", "a", "torn"]);
        case(2, "a", &["b", "torn"]);
    }

    #[test]
    fn only_a_listed_name_is_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = dir(root.path());
        for name in ["import-c_9", "lineage_a_3", ".staging-x"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        assert_eq!(find(root.path(), "lineage_a_3").unwrap(), folder.join("lineage_a_3"));
        assert_eq!(find(root.path(), "import-c_9").unwrap(), folder.join("import-c_9"));
        for name in ["lineage_c", "import-c_9/../lineage_a_3", ".staging-x", ""] {
            let error = find(root.path(), name).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            let hint = message_and_hint(&error).1.unwrap();
            assert!(hint.contains("lineage_a_3") && hint.contains("import-c_9"), "{hint}");
        }
        apply_prune(root.path(), &["lineage_a_3".into()]).unwrap();
        assert_eq!(list(root.path()).unwrap(), [kept("import-c_9", None)]);
    }
}
