//! One way to reach people, opened: its secret is resolved, or the reason why not is kept.

use std::time::Instant;

use super::{Message, command, slack};
use crate::http::{self, Request};
use crate::secrets::{Secret, SecretSource};
use crate::site::Site;

pub(super) const SLACK: &str = "slack";
pub(super) const COMMAND: &str = "command";

/// A channel of the site. One that could not be opened fails every message with the same words.
pub(super) struct Channel<'a> {
    pub name: &'static str,
    site: &'a Site,
    /// The webhook's address. A command has none of its own, but its output must not show the other's.
    webhook: Result<Option<Secret>, String>,
}

impl<'a> Channel<'a> {
    pub fn open(
        name: &'static str,
        site: &'a Site,
        source: &SecretSource<'_>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let reference = site.config.slack_webhook.as_str();
        let webhook = match reference {
            "" => Ok(None),
            _ => source.resolve(reference).map(Some).map_err(|error| format!("{error:#}")),
        };
        if let (SLACK, Ok(Some(secret))) = (name, &webhook) {
            warnings.extend(secret.warning().map(str::to_owned));
        }
        Self { name, site, webhook }
    }

    /// Delivers one message, or says why not, without a secret in it.
    pub fn send(&self, message: &Message, deadline: Instant) -> Result<(), String> {
        match self.name {
            SLACK => self.send_to_slack(message, deadline),
            _ => self.send_to_command(message, deadline),
        }
    }

    fn send_to_slack(&self, message: &Message, deadline: Instant) -> Result<(), String> {
        let webhook = self.webhook.as_ref().map_err(|error| format!("slack_webhook: {error}"))?;
        let url = webhook.as_ref().map(Secret::expose).unwrap_or_default();
        let request = Request::post_json(url, &slack::render_slack(message));
        http::send(&request, deadline).map(drop).map_err(|error| error.to_string())
    }

    fn send_to_command(&self, message: &Message, deadline: Instant) -> Result<(), String> {
        let secrets: Vec<&str> = self.webhook.iter().flatten().map(Secret::expose).collect();
        command::run(&self.site.config.notify.command, &self.site.root, &message.to_json(), deadline)
            .map_err(|error| http::redact(&format!("notify.command: {error:#}"), &secrets))
    }
}
