//! The pointer on a disk whose power goes, and which fails, at any change: one model serves, whole, and the log says why.

use std::path::Path;

use anyhow::{Result, ensure};

use super::*;
use crate::config::Config;
use crate::fsx::simulated::{Tree, Trial, nothing};

fn registry(root: &Path) -> Registry {
    Registry::open(&Site::of(root, Config::default()))
}

/// `run` is on trial, which moves the pointer from the model of night 1 to that of night `to`.
fn moving(to: i64, run: &dyn Fn(&Registry) -> Result<()>) {
    let shelf = Shelf::with_champions(2);
    shelf.train(2);
    shelf.store(&shelf.exam(2));
    let before = Tree::of_folder(shelf.dir.path());
    let prepare = |root: &Path| before.write_to(root);
    let run = |root: &Path, promise: &dyn Fn()| {
        run(&registry(root))?;
        promise();
        Ok(())
    };
    let check = |root: &Path, n_promised: usize| {
        let registry = registry(root);
        let serves = registry.champion()?.map(|champion| champion.model_id);
        let expected = if n_promised == 0 { [id(1), id(to)] } else { [id(to), id(to)] };
        ensure!(serves.as_ref().is_some_and(|id| expected.contains(id)), "{serves:?} serves");
        let findings = registry.verify_audit()?.findings;
        ensure!(findings.is_empty(), "{findings:?}");
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}

#[test]
fn a_promotion_is_done_or_not() {
    moving(2, &|registry| {
        registry.promote(&id(2), &PromoteOptions { by: By::Nightly, force: None }, night(3)).map(drop)
    });
}

#[test]
fn a_rollback_is_done_or_not() {
    moving(0, &|registry| {
        let options =
            RollbackOptions { to: Some(id(0)), reason: "worse".into(), by: By::Operator, verify_bytes: true };
        registry.rollback(&options, night(3)).map(drop)
    });
}
