//! A site with made-up models, for the registry's tests.

use std::fs;
use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::config::Config;
use crate::fsx::StagedDir;
use crate::model_manifest::{FORMAT, PREPROCESSING_FILE, WEIGHTS_FILE};
use crate::validate::Verdict;
use crate::validate::testing::Exam;

/// The moment of night `n`: 2026-01-01T02:00:00Z and so many days.
pub fn night(n: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_232_800, 0).unwrap() + TimeDelta::days(n)
}

/// The id of the model of night `n`.
pub fn id(n: i64) -> ModelId {
    ModelId::parse(&night(n).format("tft_model_%Y%m%d_%H%M%S").to_string()).unwrap()
}

/// A site in a temporary folder.
pub struct Shelf {
    pub dir: tempfile::TempDir,
    pub registry: Registry,
}

impl Shelf {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&Site::of(dir.path(), Config::default()));
        Self { dir, registry }
    }

    /// A site with unexamined models of nights 0 to `n`.
    pub fn with_models(n: i64) -> Self {
        let shelf = Self::new();
        (0..n).for_each(|night| shelf.train(night));
        shelf
    }

    /// A site whose nights 0 to `n` all trained, passed and promoted.
    pub fn with_champions(n: i64) -> Self {
        let shelf = Self::with_models(n);
        (0..n).for_each(|night| drop(shelf.pass_and_promote(night)));
        shelf
    }

    /// Publishes a model as training does.
    pub fn train(&self, n: i64) {
        let staged = StagedDir::new(&self.registry.model_dir(&id(n))).unwrap();
        fs::write(staged.path().join(WEIGHTS_FILE), format!("weights of night {n}")).unwrap();
        fs::write(staged.path().join(PREPROCESSING_FILE), "{}").unwrap();
        fs::write(staged.path().join("training.json"), "{\"seed\": 42}").unwrap();
        let manifest = |files: Vec<crate::fsx::FileDigest>| ModelManifest {
            format: FORMAT,
            id: id(n).to_string(),
            created_at: night(n),
            weights_sha256: ModelManifest::weights_digest(&files).unwrap(),
            files,
            total_epochs: n as u64 + 1,
            total_steps: 100,
            lineage: "line".into(),
            parent: None,
            window_id: "w".into(),
            trained_until: DateTime::UNIX_EPOCH,
            logical_date: Some(night(n).date_naive()),
            loss_train: Some(0.3),
            n_samples: 1000,
            optimizer_steps: 100,
            duration_secs: 60.0,
            partial_epoch: None,
        };
        staged.publish(manifest).unwrap();
    }

    /// An exam of night `n`'s model against the champion of now, which it would pass.
    pub fn exam(&self, n: i64) -> Exam {
        let manifest = ModelManifest::read(&self.registry.model_dir(&id(n))).unwrap();
        let champion = self.registry.pointer().unwrap().map(|champion| champion.model_id.to_string());
        Exam::fine(id(n).as_str(), &manifest.weights_sha256).against(champion.as_deref())
    }

    /// Stores what `exam` says.
    pub fn store(&self, exam: &Exam) -> Verdict {
        let verdict = exam.sit();
        self.registry.write_verdict(&verdict, By::Nightly).unwrap();
        verdict
    }

    pub fn promote(&self, n: i64) -> Result<Promotion> {
        self.registry.promote(&id(n), &PromoteOptions { by: By::Nightly, force: None }, night(n))
    }

    pub fn force(&self, n: i64) -> Result<Promotion> {
        let options = PromoteOptions { by: By::Operator, force: Some("I know better".into()) };
        self.registry.promote(&id(n), &options, night(n))
    }

    pub fn pass_and_promote(&self, n: i64) -> Promotion {
        self.store(&self.exam(n));
        self.promote(n).unwrap()
    }

    pub fn rollback(&self, to: Option<i64>) -> Result<Rollback> {
        let options = RollbackOptions {
            to: to.map(id),
            reason: "bad forecasts".into(),
            by: By::Operator,
            verify_bytes: false,
        };
        self.registry.rollback(&options, night(100))
    }

    /// The night whose model serves.
    #[track_caller]
    pub fn serves(&self, n: i64) {
        assert_eq!(self.registry.champion().unwrap().unwrap().model_id, id(n));
    }

    pub fn weights_path(&self, n: i64) -> PathBuf {
        self.registry.model_dir(&id(n)).join(WEIGHTS_FILE)
    }

    /// Changes one byte of the weights of night `n`.
    pub fn flip_a_byte(&self, n: i64) {
        let path = self.weights_path(n);
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// The audit log must be whole.
    #[track_caller]
    pub fn audit_is_fine(&self) -> AuditReport {
        let report = self.registry.verify_audit().unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        report
    }
}
