//! What a night leaves behind, and for how long: one rule per kind of thing.
//!
//! Each rule fails alone: one forecast that cannot be deleted must not let the models fill the disk. A failure is a
//! warning, and the next night tries again.

use anyhow::Result;
use chrono::{DateTime, NaiveDate, Utc};

use super::state;
use crate::forecast;
use crate::fsx;
use crate::registry::{By, ModelEntry, Registry};
use crate::report::{apply_log_retention, plan_log_retention};
use crate::site::Site;
use crate::window;

/// Applies every rule as of the night `today`; what failed comes back as warnings.
pub(super) fn apply(site: &Site, registry: &Registry, today: NaiveDate, now: DateTime<Utc>) -> Vec<String> {
    let retention = &site.config.retention;
    let outcomes = [
        ("forecasts", forecasts(site, today, retention.forecasts_days)),
        ("models", models(registry, retention.models, now)),
        ("windows", windows(site, registry, today, retention.windows_days)),
        ("logs", logs(site, today, retention.logs_days)),
        ("nights", state::prune(site, today, retention.logs_days)),
    ];
    let failed = outcomes.into_iter().filter_map(|(what, outcome)| Some((what, outcome.err()?)));
    failed.map(|(what, error)| format!("retention of {what}: {error:#}")).collect()
}

fn forecasts(site: &Site, today: NaiveDate, keep_days: u32) -> Result<()> {
    for path in forecast::plan_retention(site, today, keep_days)? {
        fsx::remove_file(&path)?;
    }
    Ok(())
}

fn models(registry: &Registry, n_newest: usize, now: DateTime<Utc>) -> Result<()> {
    registry.apply_prune(&registry.plan_prune(n_newest, now)?, By::Nightly, now).map(drop)
}

/// Windows that a model still names are kept: they say what it was trained on.
fn windows(site: &Site, registry: &Registry, today: NaiveDate, keep_days: u32) -> Result<()> {
    let named = |entry: ModelEntry| entry.manifest.map(|manifest| manifest.window_id);
    let in_use: Vec<String> = registry.list()?.into_iter().filter_map(named).collect();
    window::prune(site, today, keep_days, &in_use).map(drop)
}

fn logs(site: &Site, today: NaiveDate, keep_days: u32) -> Result<()> {
    apply_log_retention(&plan_log_retention(&site.log_dir(), today, keep_days)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::nightly::state::Night;

    #[test]
    fn one_rule_that_fails_does_not_stop_the_others() {
        let root = tempfile::tempdir().unwrap();
        let site = Site::of(root.path(), Config::default());
        // The folder of the forecasts is a file: it cannot be listed.
        std::fs::write(site.forecasts_dir(), "x").unwrap();
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        Night::new(date("2020-01-01"), DateTime::UNIX_EPOCH, 1).save(&site).unwrap();
        std::fs::create_dir_all(site.log_dir()).unwrap();
        std::fs::write(site.log_dir().join("training_2020-01-01.log"), "x").unwrap();
        apply(&site, &Registry::open(&site), date("2024-01-01"), DateTime::UNIX_EPOCH);
        assert!(!site.log_dir().join("training_2020-01-01.log").exists());
        assert_eq!(std::fs::read_dir(state::dir(&site)).unwrap().count(), 0);
    }
}
