//! The simulated disk forgets what a disk may forget, and nothing else.

use std::io::Write;
use std::path::PathBuf;

use super::super::{StagedDir, append_durable, write_durable};
use super::*;

struct Bench {
    _dir: tempfile::TempDir,
    root: PathBuf,
    disk: Disk,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::write(root.join("old"), "old").unwrap();
        Self { disk: Disk::under(&root), root, _dir: dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Names and contents after a power cut now.
    fn left(&self, crash: Crash) -> Vec<(String, String)> {
        let tree = self.disk.log().after_power_cut(self.disk.position(), crash);
        let text =
            |bytes: Option<&[u8]>| bytes.map_or("/".into(), |b| String::from_utf8_lossy(b).into_owned());
        tree.listing().into_iter().map(|(path, bytes)| (path, text(bytes))).collect()
    }
}

fn files(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_file_needs_its_own_sync_and_that_of_its_folder() {
    let bench = Bench::new();
    let mut file = File::create_new(&bench.path("new")).unwrap();
    file.write_all(b"abcd").unwrap();
    assert_eq!(bench.left(Crash::AllLost), files(&[("/old", "old")]));
    assert_eq!(bench.left(Crash::AllKept), files(&[("/new", "abcd"), ("/old", "old")]));
    assert_eq!(bench.left(Crash::LastWriteTorn), files(&[("/new", "ab"), ("/old", "old")]));
    assert_eq!(bench.left(Crash::NamesOnly), files(&[("/new", ""), ("/old", "old")]));
    assert_eq!(bench.left(Crash::NamesAndLengths), files(&[("/new", "\0\0\0\0"), ("/old", "old")]));
    file.sync_data().unwrap();
    assert_eq!(bench.left(Crash::AllLost), files(&[("/old", "old")]));
    disk::sync_dir(&bench.root).unwrap();
    assert_eq!(bench.left(Crash::AllLost), files(&[("/new", "abcd"), ("/old", "old")]));
    file.write_all(b"ef").unwrap();
    assert_eq!(bench.left(Crash::AllLost)[0].1, "abcd");
    assert_eq!(bench.left(Crash::LastWriteTorn)[0].1, "abcde");
}

#[test]
fn a_rename_or_a_removal_is_undone_until_its_folder_is_synced() {
    let bench = Bench::new();
    disk::rename(&bench.path("old"), &bench.path("new")).unwrap();
    assert_eq!(bench.left(Crash::AllLost), files(&[("/old", "old")]));
    assert_eq!(bench.left(Crash::NamesOnly), files(&[("/new", "old")]));
    disk::sync_dir(&bench.root).unwrap();
    disk::remove_file(&bench.path("new")).unwrap();
    assert_eq!(bench.left(Crash::AllLost), files(&[("/new", "old")]));
    assert_eq!(bench.left(Crash::AllKept), []);
}

#[test]
fn a_rename_can_come_before_the_data_that_was_written_before_it() {
    let bench = Bench::new();
    let mut file = File::create_new(&bench.path("aside")).unwrap();
    file.write_all(b"new").unwrap();
    disk::rename(&bench.path("aside"), &bench.path("old")).unwrap();
    assert_eq!(bench.left(Crash::NamesOnly), files(&[("/old", "")]));
    assert_eq!(bench.left(Crash::DataOnly), files(&[("/old", "old")]));
}

#[test]
fn what_a_sync_failed_to_write_is_not_made_good_by_the_next() {
    let bench = Bench::new();
    let mut file = File::create_new(&bench.path("new")).unwrap();
    disk::sync_dir(&bench.root).unwrap();
    file.write_all(b"ab").unwrap();
    bench.disk.set_fault(Fault::Error { at: 0 });
    file.sync_data().unwrap_err();
    assert!(bench.disk.heal());
    file.write_all(b"cd").unwrap();
    file.sync_data().unwrap();
    assert_eq!(bench.left(Crash::AllLost)[0].1, "\0\0cd");
}

#[test]
fn a_full_disk_takes_a_part_of_a_write_and_lets_things_be_removed() {
    let bench = Bench::new();
    let mut file = File::create_new(&bench.path("new")).unwrap();
    file.write_all(b"ab").unwrap();
    file.sync_all().unwrap();
    bench.disk.set_fault(Fault::Full { from: 0 });
    let error = file.write_all(b"cdef").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(fs::read(bench.path("new")).unwrap(), b"abcd");
    assert!(File::create_new(&bench.path("more")).is_err());
    disk::remove_file(&bench.path("old")).unwrap();
    bench.disk.set_fault(Fault::ReadOnly { from: 0 });
    assert!(disk::remove_file(&bench.path("new")).is_err());
}

/// The sign of life of the whole: a save that forgets one sync does not pass.
#[test]
fn a_trial_finds_the_sync_that_is_missing() {
    let check = |root: &Path, n_promised: usize| {
        let found = fs::read_to_string(root.join("file")).unwrap();
        anyhow::ensure!(found == "new" || (found == "old" && n_promised == 0), "found {found:?}");
        Ok(())
    };
    let prepare = |root: &Path| fs::write(root.join("file"), "old").unwrap();
    let pass = |save: &dyn Fn(&Path) -> io::Result<()>| {
        let run = |root: &Path, promise: &dyn Fn()| {
            save(root)?;
            promise();
            Ok(())
        };
        Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass()
    };
    let save = |root: &Path, syncs: (bool, bool)| {
        let aside = root.join(format!("aside-{}", super::super::nonce()));
        let mut file = File::create_new(&aside)?;
        file.write_all(b"new")?;
        if syncs.0 {
            file.sync_all()?;
        }
        disk::rename(&aside, &root.join("file"))?;
        if syncs.1 { disk::sync_dir(root) } else { Ok(()) }
    };
    let tried = pass(&|root| save(root, (true, true)));
    assert_eq!(tried.n_changes, 5);
    for syncs in [(false, true), (true, false)] {
        let outcome = std::panic::catch_unwind(|| pass(&|root| save(root, syncs)));
        assert!(outcome.is_err(), "{syncs:?} passed");
    }
}

#[test]
fn a_durable_write_is_durable() {
    let name = |root: &Path| root.join("a/b/state");
    let check = |root: &Path, n_promised: usize| {
        match fs::read_to_string(name(root)) {
            Err(_) if n_promised == 0 => {}
            found => anyhow::ensure!(found? == "state"),
        }
        Ok(())
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        write_durable(&name(root), b"state")?;
        promise();
        Ok(())
    };
    Trial { prepare: &nothing, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn a_line_that_was_appended_stays() {
    let whole_lines = |root: &Path| {
        let text = fs::read_to_string(root.join("logs/log")).unwrap_or_default();
        text.split_inclusive('\n')
            .filter_map(|line| Some(line.strip_suffix('\n')?.to_owned()))
            .collect::<Vec<_>>()
    };
    let check = |root: &Path, n_promised: usize| {
        let found = whole_lines(root);
        let are_known = found.iter().all(|line| ["one", "two", "three"].contains(&line.as_str()));
        anyhow::ensure!(are_known && found.len() >= n_promised, "found {found:?}");
        Ok(())
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        for line in ["one", "two", "three"] {
            append_durable(&root.join("logs/log"), line)?;
            promise();
        }
        Ok(())
    };
    Trial { prepare: &nothing, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn a_folder_is_published_over_another_whole_or_not_at_all() {
    let save = |root: &Path, text: &str| {
        let staged = StagedDir::new(&root.join("last"))?;
        for name in ["a", "b"] {
            write_durable(&staged.path().join(name), text.as_bytes())?;
        }
        staged.publish_over(&root.join("previous"), |files| files)
    };
    let prepare = |root: &Path| {
        save(root, "1").unwrap();
        save(root, "2").unwrap();
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        save(root, "3")?;
        promise();
        Ok(())
    };
    let read = |dir: PathBuf| -> anyhow::Result<String> {
        let files: Vec<super::super::FileDigest> =
            super::super::read_json(&dir.join(super::super::MANIFEST))?;
        super::super::verify_digests(&dir, &files)?;
        Ok(fs::read_to_string(dir.join("a"))?)
    };
    let check = |root: &Path, n_promised: usize| {
        let last = if root.join("last").exists() { "last" } else { "previous" };
        let found = read(root.join(last))?;
        anyhow::ensure!(found == "3" || (found == "2" && n_promised == 0), "found {found}");
        if root.join("previous").exists() {
            read(root.join("previous"))?;
        }
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn a_discarded_folder_is_whole_or_gone() {
    let prepare = |root: &Path| {
        fs::create_dir(root.join("window")).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(root.join("window").join(name), name).unwrap();
        }
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        if root.join("window").exists() {
            super::super::discard_dir(&root.join("window"))?;
        }
        promise();
        Ok(())
    };
    let check = |root: &Path, _: usize| {
        let found = fs::read_dir(root.join("window")).map_or(0, |entries| entries.count());
        anyhow::ensure!(found == 3 || found == 0, "{found} files are left");
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}
