//! The site's configuration: one TOML file, overlaid by the environment, checked once.
//!
//! Precedence is flags > environment > file > defaults; flags are the rim's business. A key that does not
//! exist is an error with the nearest name. [`template`] writes the commented file of `init`.

mod buffer;
mod input;
mod layers;
mod prometheus;
mod quality;
mod tables;
pub mod template;
mod zone;

use std::path::Path;

use anyhow::{Context, Result};
use chrono::NaiveTime;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::schema::{Metric, ProfileRule, Schema};

pub use buffer::{BufferConfig, OldDays};
pub use input::{ColumnRule, InputConfig, TimestampUnit};
pub use layers::{Origin, Setting, did_you_mean};
pub use prometheus::{MAX_PAGE_POINTS, PrometheusConfig};
pub use quality::QualityConfig;
pub use tables::{
    ModelConfig, NotifyConfig, RetentionConfig, SeriesConfig, TrainingConfig, ValidationConfig, WindowConfig,
};
pub use zone::parse_zone;

/// Days a window spans at most: more is a slip of the keyboard, and would be allocated step by step.
pub const MAX_WINDOW_DAYS: u32 = 3660;

/// Everything a site can set. Paths are relative to the file's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Cuts the days, feeds the calendar inputs and dates the nights.
    #[serde(alias = "training_timezone", with = "zone")]
    pub timezone: Tz,
    /// Where day files lie; a folder outside the site is only read.
    pub data_buffer_dir: String,
    /// Sealed days older than this are deleted, or archived, by `buffer rotate`.
    pub data_retention_days: u32,
    /// Days one training reads.
    pub training_window_days: u32,
    /// Local time of the nightly run, `HH:MM`.
    pub training_time: String,
    /// Epochs a night trains.
    pub epochs_per_day: u32,
    /// Epochs the first night of a lineage trains.
    pub initial_epochs: u32,
    /// Hard ceiling on challenger loss divided by champion loss.
    pub validation_loss_threshold: f64,
    /// Raw rows a window must hold.
    pub min_training_samples: u64,
    /// Receiver of alert mails (used once a mail server is configured).
    pub alert_email: String,
    /// Slack-format webhook: `env:NAME`, `file:PATH` or `cred:NAME`.
    pub slack_webhook: String,
    pub log_dir: String,
    /// Off: `nightly` stops before promotion.
    pub enable_auto_deploy: bool,
    /// Off: the quality checks of the exam are waived (never loading and sanity), and the log says so.
    pub require_validation: bool,
    pub max_training_duration_hours: f64,
    pub buffer: BufferConfig,
    pub input: InputConfig,
    pub series: SeriesConfig,
    pub window: WindowConfig,
    pub quality: QualityConfig,
    pub model: ModelConfig,
    pub training: TrainingConfig,
    pub validation: ValidationConfig,
    pub notify: NotifyConfig,
    pub retention: RetentionConfig,
    pub prometheus: PrometheusConfig,
    #[serde(rename = "profile")]
    pub profiles: Vec<ProfileRule>,
    #[serde(rename = "metric")]
    pub metrics: Vec<Metric>,
    /// Source columns that are metrics under another name or in another unit.
    #[serde(rename = "column")]
    pub columns: Vec<ColumnRule>,
}

impl Default for Config {
    fn default() -> Self {
        let schema = Schema::fleet14();
        Self {
            timezone: Tz::UTC,
            data_buffer_dir: "data_buffer".into(),
            data_retention_days: 60,
            training_window_days: 30,
            training_time: "02:00".into(),
            epochs_per_day: 1,
            initial_epochs: 1,
            validation_loss_threshold: 1.2,
            min_training_samples: 100_000,
            alert_email: String::new(),
            slack_webhook: String::new(),
            log_dir: "logs/continuous_learning".into(),
            enable_auto_deploy: true,
            require_validation: true,
            max_training_duration_hours: 4.0,
            buffer: BufferConfig::default(),
            input: InputConfig::default(),
            series: SeriesConfig::default(),
            window: WindowConfig::default(),
            quality: QualityConfig::default(),
            model: ModelConfig::default(),
            training: TrainingConfig::default(),
            validation: ValidationConfig::default(),
            notify: NotifyConfig::default(),
            retention: RetentionConfig::default(),
            prometheus: PrometheusConfig::default(),
            profiles: schema.profiles,
            metrics: schema.metrics,
            columns: Vec::new(),
        }
    }
}

/// A config with the origin of each of its values.
pub struct Loaded {
    pub config: Config,
    /// One entry per dotted key, in the order of the template.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Reads `path`, overlays `env` (pairs such as `TFTCTL_MODEL__HORIZON=48`), and checks the result.
    ///
    /// - Errors: [`Refusal::Usage`] naming the file and line, the unknown key and its nearest name, or the
    ///   value that cannot be.
    pub fn load(path: &Path, env: &[(String, String)]) -> Result<Loaded> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Refusal::usage(format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text, env).with_context(|| format!("read config {}", path.display()))
    }

    /// [`Config::load`] from the file's text.
    pub fn parse(text: &str, env: &[(String, String)]) -> Result<Loaded> {
        let loaded = layers::merge(text, env)?;
        loaded.config.ensure_valid()?;
        Ok(loaded)
    }

    /// The columns and profile rules.
    pub fn schema(&self) -> Schema {
        Schema { metrics: self.metrics.clone(), profiles: self.profiles.clone() }
    }

    /// `training_time` as a time of day.
    pub fn training_time(&self) -> Result<NaiveTime> {
        NaiveTime::parse_from_str(&self.training_time, "%H:%M").map_err(|_| {
            Refusal::usage(format!("training_time `{}` is not a time like 02:00", self.training_time))
        })
    }

    /// Quantile levels, ascending.
    pub fn quantiles(&self) -> &[f64] {
        &self.model.quantiles
    }

    /// A digest of every setting that changes what a model learns.
    pub fn learning_digest(&self) -> String {
        let parts = (&self.model, &self.series, &self.window, self.timezone, self.schema().digest());
        crate::fsx::sha256_bytes(&serde_json::to_vec(&parts).expect("plain data always encodes"))[..16]
            .to_owned()
    }

    /// Checks what the types cannot: ranges, lists that must agree, names that must exist.
    ///
    /// - Errors: the first thing that is wrong ([`Refusal::Usage`]).
    pub fn ensure_valid(&self) -> Result<()> {
        self.training_time()?;
        let require = |fine: bool, message: &str| if fine { Ok(()) } else { Err(Refusal::usage(message)) };
        require(!self.metrics.is_empty(), "the config lists no [[metric]]")?;
        self.ensure_unique_metric_names()?;
        require(
            (1..=MAX_WINDOW_DAYS).contains(&self.training_window_days),
            "training_window_days must be at least 1 and at most 3660, ten years",
        )?;
        require(
            self.data_retention_days >= self.training_window_days,
            "data_retention_days must cover training_window_days, or the window loses its oldest days",
        )?;
        require(
            self.epochs_per_day >= 1 && self.initial_epochs >= 1,
            "epochs_per_day and initial_epochs must be at least 1",
        )?;
        require(self.validation_loss_threshold >= 1.0, "validation_loss_threshold is a ratio of at least 1")?;
        require(
            self.max_training_duration_hours > 0.0 && self.max_training_duration_hours <= 8760.0,
            "max_training_duration_hours must be positive and at most 8760, a year",
        )?;
        self.buffer.ensure_valid(&self.data_buffer_dir)?;
        self.input.ensure_valid(&self.schema(), &self.columns)?;
        self.series.ensure_valid()?;
        self.window.ensure_valid()?;
        self.quality.ensure_valid()?;
        self.model.ensure_valid(&self.schema())?;
        self.training.ensure_valid()?;
        self.validation.ensure_valid()?;
        self.notify.ensure_valid(&self.slack_webhook)?;
        self.prometheus.ensure_valid(&self.schema())
    }

    fn ensure_unique_metric_names(&self) -> Result<()> {
        let mut names: Vec<&str> = self.metrics.iter().map(|metric| metric.name.as_str()).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            if pair[0] == pair[1] {
                return Err(Refusal::usage(format!("the config lists [[metric]] `{}` twice", pair[0])));
            }
        }
        let reserved = ["timestamp", "server_name", "profile", "status", "metrics", "records"];
        match names.iter().find(|name| name.is_empty() || reserved.contains(name)) {
            Some(name) => Err(Refusal::usage(format!("`{name}` cannot be the name of a metric"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, env: &[(&str, &str)], expected: &str) {
        let env: Vec<_> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let error = Config::parse(text, &env).err().expect("the config should be refused");
        let message = format!("{error:#}");
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        assert_eq!(crate::error::Exit::of(&error), crate::error::Exit::Usage);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("", &[]).unwrap().config, Config::default());
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_name() {
        refused("training_windows_days = 7", &[], "did you mean `training_window_days`");
        refused("[model]\nhidden = 3", &[], "did you mean `model.hidden_size`");
        refused("[[metric]]\nname = \"x\"\nuint = \"%\"", &[], "unknown field `uint`");
        refused("", &[("TFTCTL_TRAINING_WINDOWDAYS", "7")], "did you mean `TFTCTL_TRAINING_WINDOW_DAYS`");
    }

    #[test]
    fn the_environment_beats_the_file_and_says_so() {
        let env = [
            ("TFTCTL_TRAINING_WINDOW_DAYS".to_owned(), "9".to_owned()),
            ("TFTCTL_MODEL__HORIZON".to_owned(), "12".to_owned()),
            ("TFTCTL_TIMEZONE".to_owned(), "America/New_York".to_owned()),
        ];
        let loaded = Config::parse("training_window_days = 7\n[training]\nseed = 5", &env).unwrap();
        assert_eq!(loaded.config.training_window_days, 9);
        assert_eq!(loaded.config.model.horizon, 12);
        assert_eq!(loaded.config.timezone, chrono_tz::America::New_York);
        let origin = |key: &str| loaded.settings.iter().find(|s| s.key == key).unwrap().origin.clone();
        assert_eq!(origin("training_window_days"), Origin::Environment("TFTCTL_TRAINING_WINDOW_DAYS".into()));
        assert_eq!(origin("training.seed"), Origin::File);
        assert_eq!(origin("training_time"), Origin::Default);
    }

    #[test]
    fn target_weights_are_relative_and_belong_to_the_digest() {
        let text = "[model]\ntargets = [\"cpu_user_pct\", \"mem_used_pct\", \"load_average\"]\n";
        let weights = |more: &str| {
            let config = Config::parse(&format!("{text}{more}"), &[]).unwrap().config;
            (config.model.target_weights_of(&config.model.targets), config.learning_digest())
        };
        let (plain, digest) = weights("");
        assert_eq!(plain, [1.0; 3]);
        let (stated, other_digest) = weights("target_weights = { mem_used_pct = 4 }");
        assert_eq!(stated, [0.5, 2.0, 0.5]);
        assert_ne!(other_digest, digest);
        assert_eq!(weights("[model.target_weights]\nmem_used_pct = 4").0, stated);
        let by_env = [("TFTCTL_MODEL__TARGET_WEIGHTS".to_owned(), "{ mem_used_pct = 4 }".to_owned())];
        let config = Config::parse(text, &by_env).unwrap().config;
        assert_eq!(config.model.target_weights_of(&config.model.targets), stated);
    }

    #[test]
    fn keeping_everything_for_ever_can_be_asked_for() {
        let config = Config::parse("data_retention_days = 99999999", &[]).unwrap().config;
        assert_eq!(config.data_retention_days, 99_999_999);
    }

    #[test]
    fn the_designs_alias_for_the_zone_works() {
        let loaded = Config::parse("training_timezone = \"Europe/Berlin\"", &[]).unwrap();
        assert_eq!(loaded.config.timezone, chrono_tz::Europe::Berlin);
    }

    #[test]
    fn impossible_values_are_refused() {
        refused("[buffer]\narchive_dir = \"./data_buffer/\"", &[], "a folder of its own");
        refused("[buffer]\nretention_action = \"burn\"", &[], "archive");
        refused("training_time = \"25:00\"", &[], "not a time");
        refused("timezone = \"Mars/Olympus\"", &[], "timezone");
        refused("timezone = \"Europe/Berln\"", &[], "did you mean `Europe/Berlin`?");
        refused("[model]\ntargets = [\"nope\"]", &[], "`nope`");
        let weights = |text: &str| format!("[model]\ntarget_weights = {{ {text} }}");
        refused(&weights("cpu_usr_pct = 2"), &[], "none of model.targets; did you mean `cpu_user_pct`?");
        refused(&weights("net_in_mb_s = 2"), &[], "`net_in_mb_s`, which is none of model.targets");
        refused(&weights("cpu_user_pct = 0"), &[], "model.target_weights.cpu_user_pct must be at least");
        refused(&weights("cpu_user_pct = nan"), &[], "at most 1000");
        refused(&weights("cpu_user_pct = \"much\""), &[], "f64");
        refused("[model]\nquantiles = [0.5, 0.1]", &[], "ascending");
        refused("data_retention_days = 3", &[], "data_retention_days");
        refused("max_training_duration_hours = inf", &[], "at most 8760");
        refused("max_training_duration_hours = nan", &[], "at most 8760");
        refused("training_window_days = 4000000", &[], "at most 3660");
        refused("[model]\nhorizon = 9000000000", &[], "at most 100000");
        refused("[window]\nholdout_hours = 4000000000", &[], "window.holdout_hours");
        refused("[quality]\nmax_missing = 1.5", &[], "quality.max_missing is a share");
        refused("[quality]\ndrift_effect = 0", &[], "quality.drift_effect must be");
        refused("[quality]\nresize_ratio = 1", &[], "quality.resize_ratio must be");
        refused("[quality]\nstop_on = [\"drifted\"]", &[], "did you mean `drift`");
        refused("[training]\nlearning_rate = inf", &[], "training.learning_rate");
        refused("[training]\nema_decay = 1.0", &[], "training.ema_decay");
        refused("[training]\nema_decay = -0.1", &[], "training.ema_decay");
        refused("[training]\nprecision = \"fp16\"", &[], "float32");
        refused("[notify]\ntimeout_secs = 9000000000", &[], "notify.timeout_secs");
        refused("[[metric]]\nname = \"records\"", &[], "`records` cannot be");
        refused("slack_webhook = \"https://hooks.example/secret\"", &[], "env:NAME");
    }
}
