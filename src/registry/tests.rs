//! The promises of the registry: a bad model never gets in, a good one is never lost.

mod power;

use std::fs;

use super::testing::{Shelf, id, night};
use super::*;
use crate::error::{Exit, message_and_hint};
use crate::validate::testing::worsen;

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, exit: Exit, expected: &str) {
    let error = result.expect_err("it should be refused");
    let (message, _) = message_and_hint(&error);
    assert!(message.contains(expected), "{message:?} should contain {expected:?}");
    assert_eq!(Exit::of(&error), exit, "{message}");
}

#[test]
fn promotion_needs_a_passing_verdict() {
    let shelf = Shelf::with_models(3);
    refused(shelf.promote(0), Exit::Refused, "never examined");
    shelf.pass_and_promote(0);
    shelf.serves(0);
    let mut exam = shelf.exam(1);
    worsen(exam.challenger.as_mut().unwrap(), 1.1);
    shelf.store(&exam);
    refused(shelf.promote(1), Exit::Refused, "the exam said worse");
    shelf.serves(0);
    assert!(shelf.force(1).unwrap().champion.forced);
    shelf.serves(1);
    refused(shelf.registry.resolve("tft_model_20300101_000000"), Exit::Usage, "there is no model");
    refused(shelf.registry.resolve("../etc"), Exit::Usage, "is no model");
    shelf.audit_is_fine();
}

#[test]
fn promoting_the_champion_again_does_nothing() {
    let shelf = Shelf::with_champions(2);
    let before = fs::read(shelf.registry.pointer_path()).unwrap();
    assert!(shelf.promote(1).unwrap().was_champion);
    assert!(shelf.force(1).unwrap().was_champion);
    assert_eq!(fs::read(shelf.registry.pointer_path()).unwrap(), before);
    assert_eq!(shelf.audit_is_fine().n_entries, 2);
}

#[test]
fn one_changed_byte_voids_the_verdict_and_the_promotion() {
    let shelf = Shelf::with_models(2);
    shelf.pass_and_promote(0);
    let verdict = shelf.store(&shelf.exam(1));
    shelf.flip_a_byte(1);
    match shelf.registry.verdict_for(&id(1)).unwrap() {
        VerdictState::Void(why) => assert!(why.contains("sha256 differs"), "{why}"),
        state => panic!("the verdict should be void, it is {state:?}"),
    }
    refused(shelf.promote(1), Exit::Failed, "sha256 differs");
    refused(shelf.force(1), Exit::Failed, "sha256 differs");
    refused(shelf.registry.write_verdict(&verdict, By::Nightly), Exit::Failed, "changed during the exam");
    shelf.serves(0);
}

#[test]
fn other_bytes_with_a_manifest_of_their_own_do_not_inherit_the_verdict() {
    let shelf = Shelf::with_models(2);
    shelf.store(&shelf.exam(1));
    shelf.flip_a_byte(1);
    let dir = shelf.registry.model_dir(&id(1));
    let mut manifest = ModelManifest::read(&dir).unwrap();
    for file in &mut manifest.files {
        file.sha256 = crate::fsx::sha256_file(&dir.join(&file.name)).unwrap();
    }
    manifest.weights_sha256 = ModelManifest::weights_digest(&manifest.files).unwrap();
    manifest.write(&dir).unwrap();
    refused(shelf.promote(1), Exit::Refused, "its verdict does not count");
    assert!(shelf.registry.list().unwrap()[0].verdict.is_none());
}

#[test]
fn a_doctored_or_foreign_verdict_does_not_count() {
    let shelf = Shelf::with_models(2);
    let mut exam = shelf.exam(0);
    exam.challenger.as_mut().unwrap().coverage = Some(0.1);
    shelf.store(&exam);
    let path = shelf.registry.model_dir(&id(0)).join(VERDICT_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"outcome\": \"worse\"", "\"outcome\": \"passed\"")).unwrap();
    refused(shelf.promote(0), Exit::Refused, "contradicts its own checks");
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    refused(shelf.promote(0), Exit::Refused, "a newer one wrote it");
    fs::write(&path, "{").unwrap();
    refused(shelf.promote(0), Exit::Refused, "does not count");
}

#[test]
fn a_verdict_against_another_champion_is_out_of_date() {
    let shelf = Shelf::with_models(3);
    shelf.pass_and_promote(0);
    shelf.store(&shelf.exam(1));
    shelf.pass_and_promote(2);
    refused(shelf.promote(1), Exit::Refused, "but the champion is");
    shelf.pass_and_promote(1);
    shelf.serves(1);
}

#[test]
fn force_overrules_the_exam_but_not_sanity() {
    let shelf = Shelf::with_models(2);
    let mut exam = shelf.exam(0);
    exam.challenger.as_mut().unwrap().n_not_finite = 4;
    shelf.store(&exam);
    refused(shelf.force(0), Exit::Refused, "NaN");
    assert!(shelf.registry.champion().unwrap().is_none());
    refused(shelf.force(1), Exit::Refused, "never examined");
    let error = shelf.force(1).unwrap_err();
    assert!(crate::error::message_and_hint(&error).1.unwrap().contains("`tftctl validate` first"));
    let mut exam = shelf.exam(1);
    worsen(exam.challenger.as_mut().unwrap(), 9.0);
    exam.challenger.as_mut().unwrap().coverage = Some(0.1);
    shelf.store(&exam);
    let obstacles = |n, is_forced| shelf.registry.promotion_obstacles(&id(n), is_forced).unwrap();
    assert!(
        !obstacles(0, true).is_empty() && !obstacles(1, false).is_empty() && obstacles(1, true).is_empty()
    );
    shelf.force(1).unwrap();
    assert!(obstacles(1, false).is_empty(), "promoting the champion again does nothing");
    let line = &shelf.registry.audit.entries().unwrap()[0].deed;
    assert!(line.forced && line.reason == "I know better");
}

#[test]
fn waived_checks_are_logged() {
    let shelf = Shelf::with_models(1);
    let mut exam = shelf.exam(0);
    exam.require_validation = false;
    exam.challenger.as_mut().unwrap().coverage = Some(0.1);
    shelf.store(&exam);
    assert!(shelf.promote(0).unwrap().champion.reason.contains("waived"));
    let acts: Vec<Act> = shelf.registry.audit.entries().unwrap().iter().map(|entry| entry.deed.act).collect();
    assert_eq!(acts, [Act::Waive, Act::Promote]);
}

#[test]
fn rolling_back_twice_walks_back() {
    let shelf = Shelf::with_champions(4);
    let rollback = shelf.rollback(None).unwrap();
    assert_eq!((rollback.left, rollback.verified), (Some(id(3)), Verified::Bytes));
    shelf.serves(2);
    shelf.rollback(None).unwrap();
    shelf.serves(1);
    let champion = shelf.registry.champion().unwrap().unwrap();
    assert_eq!(champion.predecessors().collect::<Vec<_>>(), [&id(0)]);
    shelf.rollback(None).unwrap();
    shelf.serves(0);
    refused(shelf.rollback(None), Exit::Failed, "nothing to go back to");
    shelf.serves(0);
    shelf.audit_is_fine();
}

#[test]
fn a_model_that_was_left_is_not_promoted_again_by_itself() {
    let shelf = Shelf::with_champions(3);
    shelf.rollback(None).unwrap();
    shelf.store(&shelf.exam(2));
    refused(shelf.promote(2), Exit::Refused, "rolled back at 2026-04-11T02:00:00Z (bad forecasts)");
    refused(shelf.rollback(Some(2)), Exit::Failed, "itself rolled back");
    assert!(shelf.registry.list().unwrap()[0].rolled_back.is_some());
    shelf.force(2).unwrap();
    shelf.serves(2);
    assert!(shelf.registry.list().unwrap()[0].rolled_back.is_none());
}

#[test]
fn the_mark_survives_later_promotions() {
    let shelf = Shelf::with_champions(3);
    shelf.rollback(None).unwrap();
    shelf.train(3);
    shelf.pass_and_promote(3);
    shelf.store(&shelf.exam(2));
    refused(shelf.promote(2), Exit::Refused, "rolled back");
}

#[test]
fn rolling_back_to_a_named_model() {
    let shelf = Shelf::with_champions(4);
    shelf.train(4);
    refused(shelf.rollback(Some(4)), Exit::Usage, "never served");
    refused(shelf.rollback(Some(9)), Exit::Usage, "there is no model");
    shelf.rollback(Some(1)).unwrap();
    shelf.serves(1);
    assert!(shelf.rollback(Some(1)).unwrap().was_champion);
    assert_eq!(shelf.audit_is_fine().n_entries, 5);
}

#[test]
fn rollback_passes_over_what_cannot_serve() {
    let shelf = Shelf::with_champions(4);
    fs::remove_file(shelf.weights_path(2)).unwrap();
    shelf.flip_a_byte(1);
    let rollback = shelf.rollback(None).unwrap();
    let skipped: Vec<&ModelId> = rollback.skipped.iter().map(|one| &one.model_id).collect();
    assert_eq!(skipped, [&id(2), &id(1)]);
    shelf.serves(0);
}

#[test]
fn a_damaged_champion_is_an_error_that_says_what_to_do() {
    let shelf = Shelf::with_champions(2);
    fs::remove_file(shelf.weights_path(1)).unwrap();
    let (message, hint) = message_and_hint(&shelf.registry.champion().unwrap_err());
    assert!(message.contains(id(1).as_str()), "{message}");
    assert!(hint.unwrap().contains("tftctl rollback"));
    shelf.rollback(None).unwrap();
    shelf.serves(0);
}

#[test]
fn a_lost_pointer_is_written_anew_by_a_named_rollback() {
    let shelf = Shelf::with_champions(2);
    fs::write(shelf.registry.pointer_path(), "{").unwrap();
    let (_, hint) = message_and_hint(&shelf.rollback(Some(1)).unwrap_err());
    assert!(hint.unwrap().contains("move models/champion.json aside"));
    fs::remove_file(shelf.registry.pointer_path()).unwrap();
    assert_eq!(shelf.registry.verify_audit().unwrap().findings.len(), 1);
    refused(shelf.rollback(None), Exit::Usage, "no champion to leave");
    assert_eq!(shelf.rollback(Some(1)).unwrap().left, None);
    shelf.serves(1);
    shelf.audit_is_fine();
}

/// Every file of the site but the models themselves.
fn snapshot(shelf: &Shelf) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let logs = shelf.dir.path().join("logs/continuous_learning");
    let paths = [shelf.registry.pointer_path(), logs.join("audit.jsonl"), logs.join("audit.head.json")];
    paths.map(|path| (path.clone(), fs::read(path).ok())).to_vec()
}

/// Replays `act` as if it had been stopped after its first `n_done` writes (pointer, line, head).
fn stopped_after(shelf: &Shelf, n_done: usize, act: impl FnOnce()) {
    let before = snapshot(shelf);
    act();
    for (path, content) in before.into_iter().skip(n_done) {
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => drop(fs::remove_file(path)),
        }
    }
}

#[test]
fn a_promotion_stopped_anywhere_leaves_the_old_or_the_new_champion() {
    for (n_done, serving, n_repairs) in [(0, 1, 0), (1, 2, 1), (2, 2, 0), (3, 2, 0)] {
        let shelf = Shelf::with_champions(2);
        shelf.train(2);
        shelf.store(&shelf.exam(2));
        stopped_after(&shelf, n_done, || drop(shelf.promote(2).unwrap()));
        shelf.serves(serving);
        let again = shelf.promote(2).unwrap();
        assert_eq!((again.was_champion, again.notes.len()), (n_done > 0, n_repairs), "{:?}", again.notes);
        shelf.serves(2);
        let report = shelf.audit_is_fine();
        assert_eq!((report.n_entries, report.n_recovered), (3, n_repairs as u64), "after {n_done} writes");
    }
}

#[test]
fn a_rollback_stopped_anywhere_leaves_the_old_or_the_new_champion() {
    for (n_done, serving, n_repairs) in [(0, 1, 0), (1, 0, 1), (2, 0, 0), (3, 0, 0)] {
        let shelf = Shelf::with_champions(2);
        stopped_after(&shelf, n_done, || drop(shelf.rollback(None).unwrap()));
        shelf.serves(serving);
        assert_eq!(shelf.rollback(Some(0)).unwrap().notes.len(), n_repairs);
        shelf.serves(0);
        let last = shelf.registry.audit.moves().unwrap().pop().unwrap().deed;
        assert_eq!((last.act, last.previous.as_deref()), (Act::Rollback, Some(id(1).as_str())));
        shelf.audit_is_fine();
    }
}

#[test]
fn a_log_that_cannot_be_written_does_not_stop_a_rollback() {
    let shelf = Shelf::with_champions(2);
    let log = shelf.registry.audit.path.clone();
    let aside = log.with_extension("aside");
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    let rollback = shelf.rollback(None).unwrap();
    assert!(rollback.notes.iter().any(|note| note.contains("still to be written")), "{:?}", rollback.notes);
    shelf.serves(0);
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    assert_eq!(shelf.registry.settle().unwrap().len(), 1);
    assert_eq!(shelf.audit_is_fine().n_recovered, 1);
}

#[test]
fn a_pointer_from_a_backup_is_found() {
    let shelf = Shelf::with_champions(2);
    let old = fs::read(shelf.registry.pointer_path()).unwrap();
    shelf.train(2);
    shelf.pass_and_promote(2);
    fs::write(shelf.registry.pointer_path(), old).unwrap();
    let findings = shelf.registry.verify_audit().unwrap().findings;
    assert!(findings[0].problem.contains("restored from a backup"), "{findings:?}");
    shelf.pass_and_promote(2);
    shelf.audit_is_fine();
}

#[test]
fn a_damaged_folder_hides_no_other() {
    let shelf = Shelf::with_champions(3);
    fs::write(shelf.registry.model_dir(&id(1)).join("manifest.json"), "{").unwrap();
    fs::create_dir(shelf.registry.model_dir(&id(5))).unwrap();
    fs::create_dir(shelf.dir.path().join("models/.staging-x")).unwrap();
    fs::create_dir(shelf.dir.path().join("models/notes")).unwrap();
    let entries = shelf.registry.list().unwrap();
    let seen: Vec<(ModelId, bool)> =
        entries.iter().map(|entry| (entry.id.clone(), entry.damage.is_some())).collect();
    assert_eq!(seen, [(id(5), true), (id(2), false), (id(1), true), (id(0), false)]);
    assert!(entries[1].is_champion && entries[2].is_previous);
    let details = shelf.registry.show(&id(1)).unwrap();
    assert!(details.entry.damage.is_some());
    assert_eq!(details.acts.len(), 2);
}

#[test]
fn showing_a_model_tells_all_and_reads_every_byte() {
    let shelf = Shelf::with_champions(1);
    let details = shelf.registry.show(&id(0)).unwrap();
    assert!(details.verdict.counting().is_some() && details.entry.damage.is_none());
    assert_eq!(details.training.unwrap()["seed"], 42);
    shelf.flip_a_byte(0);
    let details = shelf.registry.show(&id(0)).unwrap();
    assert!(details.entry.damage.is_some() && details.verdict.counting().is_none());
}

#[test]
fn names_people_use() {
    let shelf = Shelf::with_champions(2);
    shelf.train(2);
    for (text, expected) in [("latest", 2), ("champion", 1), ("previous", 0), (id(1).as_str(), 1)] {
        assert_eq!(shelf.registry.resolve(text).unwrap(), id(expected));
    }
    refused(Shelf::new().registry.resolve("champion"), Exit::Usage, "no champion yet");
    assert!(Shelf::new().registry.list().unwrap().is_empty());
}

#[test]
fn pruning_keeps_champion_predecessors_and_pinned() {
    let shelf = Shelf::with_models(14);
    for n in [0, 2, 3, 4, 5, 6, 7] {
        shelf.pass_and_promote(n);
    }
    assert!(shelf.registry.pin(&id(1), "reference", By::Operator, night(14)).unwrap());
    assert!(!shelf.registry.pin(&id(1), "again", By::Operator, night(14)).unwrap());
    fs::remove_file(shelf.weights_path(9)).unwrap();
    let plan = shelf.registry.plan_prune(2, night(14)).unwrap();
    let kept: Vec<ModelId> = plan.keep.iter().map(|kept| kept.model_id.clone()).collect();
    assert_eq!(kept, [13, 12, 7, 6, 5, 4, 3, 2, 1].map(id));
    let gone: Vec<ModelId> = plan.delete.iter().map(|gone| gone.model_id.clone()).collect();
    assert_eq!(gone, [11, 10, 9, 8, 0].map(id));
    assert!(plan.keep.iter().all(|kept| !kept.reasons.is_empty()));
    let pruned = shelf.registry.apply_prune(&plan, By::Nightly, night(14)).unwrap();
    assert_eq!(pruned.deleted, plan.delete);
    assert!(pruned.freed_bytes > 0);
    assert_eq!(shelf.registry.ids().unwrap(), kept);
    assert!(shelf.registry.plan_prune(2, night(14)).unwrap().delete.is_empty());
    shelf.serves(7);
    shelf.audit_is_fine();
}

#[test]
fn pruning_never_deletes_everything_nor_the_future() {
    let shelf = Shelf::with_models(3);
    let kept = |n_newest, now| -> Vec<ModelId> {
        let plan = shelf.registry.plan_prune(n_newest, now).unwrap();
        plan.keep.into_iter().map(|kept| kept.model_id).collect()
    };
    assert_eq!(kept(0, night(9)), [id(2)]);
    assert_eq!(kept(1, night(0)), [2, 1].map(id));
    fs::remove_file(shelf.weights_path(2)).unwrap();
    assert_eq!(kept(1, night(9)), [2, 1].map(id));
}

#[test]
fn a_plan_that_is_out_of_date_deletes_nothing() {
    let shelf = Shelf::with_models(3);
    let plan = shelf.registry.plan_prune(1, night(9)).unwrap();
    shelf.registry.pin(&id(0), "", By::Operator, night(9)).unwrap();
    refused(shelf.registry.apply_prune(&plan, By::Operator, night(9)), Exit::Failed, "plan again");
    assert_eq!(shelf.registry.ids().unwrap().len(), 3);
    assert!(shelf.registry.unpin(&id(0), "", By::Operator, night(9)).unwrap());
    assert!(!shelf.registry.unpin(&id(0), "", By::Operator, night(9)).unwrap());
    fs::create_dir(shelf.dir.path().join("models/.pruned-x")).unwrap();
    shelf.registry.apply_prune(&plan, By::Operator, night(9)).unwrap();
    assert_eq!(shelf.registry.ids().unwrap(), [id(2)]);
    assert!(!shelf.dir.path().join("models/.pruned-x").exists());
}

#[test]
fn a_pruning_that_was_stopped_is_finished_by_the_next() {
    let shelf = Shelf::with_models(3);
    let models = shelf.dir.path().join("models");
    let aside = |n: i64| models.join(format!(".pruned-{}", id(n)));
    fs::rename(shelf.registry.model_dir(&id(0)), aside(0)).unwrap();
    fs::rename(shelf.registry.model_dir(&id(1)), aside(1)).unwrap();
    shelf.registry.audit.append(Deed::new(Act::Prune, id(1).as_str(), By::Nightly, "old", night(3))).unwrap();
    let plan = shelf.registry.plan_prune(1, night(9)).unwrap();
    assert!(plan.delete.is_empty());
    shelf.registry.apply_prune(&plan, By::Nightly, night(9)).unwrap();
    assert!(!aside(0).exists() && !aside(1).exists());
    let report = shelf.audit_is_fine();
    assert_eq!((report.n_entries, report.n_recovered), (2, 1));
}

#[test]
fn a_log_that_was_thrown_away_is_missed() {
    let shelf = Shelf::with_champions(3);
    fs::remove_dir_all(shelf.dir.path().join("logs")).unwrap();
    assert_eq!(shelf.registry.verify_audit().unwrap().findings.len(), 1);
    shelf.rollback(None).unwrap();
    assert_eq!(shelf.registry.verify_audit().unwrap().findings.len(), 1);
}

#[test]
fn the_line_of_descent_follows_promotions_rollbacks_and_force() {
    let shelf = Shelf::with_champions(3);
    let line = || -> Vec<(String, Option<f64>)> {
        let promoted = shelf.registry.promoted().unwrap();
        promoted.into_iter().map(|one| (one.model_id, one.ratio)).collect()
    };
    let one = |n: i64, ratio| (id(n).to_string(), ratio);
    assert_eq!(line(), [one(0, None), one(1, Some(1.0)), one(2, Some(1.0))]);
    shelf.rollback(None).unwrap();
    assert_eq!(line(), [one(0, None), one(1, Some(1.0))]);
    shelf.force(2).unwrap();
    assert_eq!(line(), [one(0, None), one(1, Some(1.0)), one(2, None)]);
}

/// Run it as `TMPDIR=/a/file/system/of/2/MB cargo test -- --ignored full_disk`.
#[test]
#[ignore = "needs a file system so small that a test can fill it"]
fn rollback_works_on_a_full_disk() {
    use std::io::Write;
    let shelf = Shelf::with_champions(3);
    let mut ballast = fs::File::create(shelf.dir.path().join("ballast")).unwrap();
    let is_full = (0..1 << 14).any(|_| ballast.write_all(&[1; 4096]).is_err());
    assert!(is_full, "the file system is too large to fill");
    while ballast.write_all(&[1]).is_ok() {}
    assert!(fs::write(shelf.dir.path().join("more"), [1; 4096]).is_err());
    let rollback = shelf.rollback(None).unwrap();
    shelf.serves(1);
    assert!(rollback.notes.is_empty(), "{:?}", rollback.notes);
    shelf.rollback(None).unwrap();
    shelf.serves(0);
    shelf.audit_is_fine();
}
