//! What a record of this site holds: its metrics with units, ranges and aggregation, and the profile rules.
//!
//! The metric set is the site's choice; nothing may assume a number of metrics or their names. Two presets
//! exist: [`Schema::fleet14`] here, and the one `init --from` derives from a sample of the user's own data.

use serde::{Deserialize, Serialize};

/// How the raw rows of one step become one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    #[default]
    Mean,
    Max,
    Min,
    Sum,
    Last,
}

/// What happens to a row with a value outside the metric's range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutOfRange {
    /// The value is taken as it is and counted.
    #[default]
    Keep,
    /// The row goes to quarantine.
    Quarantine,
}

/// One numeric column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Column and member name.
    pub name: String,
    /// Unit, for people: `%`, `MB/s`, `count`.
    #[serde(default)]
    pub unit: String,
    /// Smallest valid value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f32>,
    /// Largest valid value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f32>,
    #[serde(default)]
    pub aggregation: Aggregation,
    #[serde(default)]
    pub out_of_range: OutOfRange,
    /// Value above which somebody wants to be warned; `predict` gives the chance of crossing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_above: Option<f32>,
}

impl Metric {
    /// A metric with no range, taken as the mean of its step.
    pub fn new(name: &str, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            min: None,
            max: None,
            aggregation: Aggregation::Mean,
            out_of_range: OutOfRange::Keep,
            alert_above: None,
        }
    }

    /// Whether `value` lies in the metric's range (both ends included).
    pub fn is_in_range(&self, value: f32) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

/// Servers whose name begins with `prefix` have `profile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRule {
    pub prefix: String,
    pub profile: String,
}

/// The profile of servers that match no rule.
pub const GENERIC_PROFILE: &str = "generic";

/// The columns of a site and the rules that name a server's profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    pub metrics: Vec<Metric>,
    pub profiles: Vec<ProfileRule>,
}

impl Schema {
    /// The fourteen metrics and seven profiles of the original fleet.
    pub fn fleet14() -> Self {
        let percent = |name: &str, alert: Option<f32>| Metric {
            min: Some(0.0),
            max: Some(100.0),
            out_of_range: OutOfRange::Quarantine,
            alert_above: alert,
            ..Metric::new(name, "%")
        };
        let at_least_zero = |name: &str, unit: &str| Metric {
            min: Some(0.0),
            out_of_range: OutOfRange::Quarantine,
            ..Metric::new(name, unit)
        };
        let metrics = vec![
            percent("cpu_user_pct", Some(90.0)),
            percent("cpu_sys_pct", None),
            percent("cpu_iowait_pct", Some(30.0)),
            percent("cpu_idle_pct", None),
            percent("java_cpu_pct", None),
            percent("mem_used_pct", Some(95.0)),
            percent("swap_used_pct", Some(50.0)),
            percent("disk_usage_pct", Some(90.0)),
            at_least_zero("net_in_mb_s", "MB/s"),
            at_least_zero("net_out_mb_s", "MB/s"),
            at_least_zero("back_close_wait", "count"),
            at_least_zero("front_close_wait", "count"),
            Metric { alert_above: Some(16.0), ..at_least_zero("load_average", "load") },
            Metric { aggregation: Aggregation::Last, ..at_least_zero("uptime_days", "days") },
        ];
        let rules = [
            ("ppml", "ml_compute"),
            ("ppdb", "database"),
            ("ppweb", "web_api"),
            ("ppcond", "conductor_mgmt"),
            ("ppetl", "data_ingest"),
            ("pprisk", "risk_analytics"),
        ];
        let profiles = rules
            .map(|(prefix, profile)| ProfileRule { prefix: prefix.into(), profile: profile.into() })
            .to_vec();
        Self { metrics, profiles }
    }

    /// The targets of `fleet14`: what on-call wants to know ahead.
    pub const FLEET14_TARGETS: [&'static str; 5] =
        ["cpu_user_pct", "cpu_iowait_pct", "mem_used_pct", "swap_used_pct", "load_average"];

    /// Position of a metric.
    pub fn metric_idx(&self, name: &str) -> Option<usize> {
        self.metrics.iter().position(|metric| metric.name == name)
    }

    /// The profile of a server by the first rule whose prefix fits, ignoring case.
    pub fn profile_of(&self, server: &str) -> &str {
        let fits = |rule: &&ProfileRule| {
            server.get(..rule.prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(&rule.prefix))
        };
        self.profiles.iter().find(fits).map_or(GENERIC_PROFILE, |rule| &rule.profile)
    }

    /// A digest of what decides the shape and meaning of aggregated data: names, units and aggregations.
    pub fn digest(&self) -> String {
        let columns: Vec<_> = self.metrics.iter().map(|m| (&m.name, &m.unit, m.aggregation)).collect();
        let text = serde_json::to_vec(&columns).expect("plain data always encodes");
        crate::fsx::sha256_bytes(&text)[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_go_by_prefix_and_fall_back_to_generic() {
        let schema = Schema::fleet14();
        assert_eq!(schema.profile_of("ppml0001"), "ml_compute");
        assert_eq!(schema.profile_of("PPDB01"), "database");
        assert_eq!(schema.profile_of("pp"), GENERIC_PROFILE);
        assert_eq!(schema.profile_of("serveür"), GENERIC_PROFILE);
    }

    #[test]
    fn the_digest_follows_meaning_not_ranges() {
        let schema = Schema::fleet14();
        let mut wider = schema.clone();
        wider.metrics[0].max = Some(200.0);
        assert_eq!(schema.digest(), wider.digest());
        wider.metrics[0].aggregation = Aggregation::Max;
        assert_ne!(schema.digest(), wider.digest());
    }
}
