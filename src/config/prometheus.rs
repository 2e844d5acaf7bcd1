//! `[prometheus]`: what `buffer import --prometheus` asks, and whom.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::layers::nearest;
use super::tables::{is_secret_reference, require};
use crate::schema::Schema;

/// Points one series may have in one reply: the limit of Prometheus itself.
pub const MAX_PAGE_POINTS: u32 = 11_000;

/// Where history comes from, and which query fills which metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrometheusConfig {
    /// Address of the server, with the path it is served under, such as `http://prometheus:9090`.
    pub url: String,
    /// The label that names the server a series belongs to.
    pub server_label: String,
    /// Whether `host:9100` is the server `host`.
    pub strip_port: bool,
    /// The label that names a server's profile; none: the `[[profile]]` rules decide.
    pub profile_label: String,
    /// Time steps one request asks for at most.
    pub page_points: u32,
    /// Token for `Authorization: Bearer`: `env:NAME`, `file:PATH` or `cred:NAME`.
    pub bearer_token: String,
    /// More headers by name, each value a reference like that of the token.
    pub headers: BTreeMap<String, String>,
    /// PromQL by metric.
    pub queries: BTreeMap<String, String>,
}

impl Default for PrometheusConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            server_label: "instance".into(),
            strip_port: false,
            profile_label: String::new(),
            page_points: 2000,
            bearer_token: String::new(),
            headers: BTreeMap::new(),
            queries: BTreeMap::new(),
        }
    }
}

impl PrometheusConfig {
    /// Checks what is there; an empty address or no query is fine until an import needs them.
    ///
    /// - Errors: the first thing that cannot be ([`crate::error::Refusal::Usage`]). No secret is quoted.
    pub fn ensure_valid(&self, schema: &Schema) -> Result<()> {
        self.ensure_valid_url()?;
        for (metric, query) in &self.queries {
            require(schema.metric_idx(metric).is_some(), || {
                let near = nearest(metric, schema.metrics.iter().map(|known| known.name.as_str()));
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                format!("prometheus.queries names `{metric}`, which is no [[metric]]{hint}")
            })?;
            require(!query.trim().is_empty(), || format!("prometheus.queries.{metric} is empty"))?;
        }
        require(!self.server_label.is_empty(), || {
            "prometheus.server_label is empty: which label names the server?".into()
        })?;
        require((1..=MAX_PAGE_POINTS).contains(&self.page_points), || {
            format!("prometheus.page_points must be at least 1 and at most {MAX_PAGE_POINTS}")
        })?;
        self.ensure_secrets_are_references()
    }

    fn ensure_valid_url(&self) -> Result<()> {
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return require(self.url.is_empty(), || {
                "prometheus.url must begin with http:// or https://".into()
            });
        };
        require(matches!(scheme, "http" | "https"), || {
            "prometheus.url must begin with http:// or https://".into()
        })?;
        require(!rest.split('/').next().unwrap_or_default().contains('@'), || {
            "prometheus.url holds a name or password: put the Authorization header into prometheus.headers, as env:NAME or file:PATH".into()
        })?;
        require(!rest.is_empty() && !rest.contains(['?', '#', ' ']), || {
            "prometheus.url is the server's address without `?` or `#`, such as http://prometheus:9090".into()
        })
    }

    fn ensure_secrets_are_references(&self) -> Result<()> {
        require(self.bearer_token.is_empty() || is_secret_reference(&self.bearer_token), || {
            "prometheus.bearer_token is a secret: write env:NAME, file:PATH or cred:NAME".into()
        })?;
        for (name, value) in &self.headers {
            require(is_secret_reference(value), || {
                format!("prometheus.headers.{name} is a secret: write env:NAME, file:PATH or cred:NAME")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = Config::parse(&format!("[prometheus]\n{text}"), &[]).err().expect("refused");
        let message = format!("{error:#}");
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        assert!(!message.contains("canary"), "{message:?} shows a secret");
    }

    #[test]
    fn queries_are_checked_against_the_schema() {
        refused("queries = { cpu_usr_pct = \"up\" }", "did you mean `cpu_user_pct`?");
        refused("queries = { cpu_user_pct = \" \" }", "prometheus.queries.cpu_user_pct is empty");
        refused("page_points = 11001", "at most 11000");
        refused("server_label = \"\"", "server_label");
    }

    #[test]
    fn secrets_are_references_and_addresses_hold_none() {
        refused("bearer_token = \"canary\"", "bearer_token is a secret");
        refused("headers = { Authorization = \"Basic canary\" }", "headers.Authorization is a secret");
        refused("url = \"http://me:canary@host:9090\"", "prometheus.headers");
        refused("url = \"host:9090\"", "http://");
        refused("url = \"ftp://host\"", "http://");
        refused("url = \"http://host/?token=canary\"", "without `?`");
    }

    #[test]
    fn a_whole_table_reads_back_from_the_template() {
        let text = "[prometheus]\nurl = \"https://prom.example/base/\"\nbearer_token = \"file:token\"\n\
            headers = { X-Scope-OrgID = \"env:TENANT\" }\n\
            [prometheus.queries]\ncpu_user_pct = 'rate(x{mode=\"user\"}[5m]) * 100'\n";
        let config = Config::parse(text, &[]).unwrap().config;
        let again = crate::config::template::render(&config);
        assert_eq!(Config::parse(&again, &[]).unwrap().config, config);
    }
}
