//! Tells people: messages go to a Slack-format webhook and to a command, in bounded time.
//!
//! Telling never changes a night's result, so nothing here returns an error: what could not be delivered is in
//! the [`DeliveryReport`], and waits as a file in `state/undelivered/` for the next delivery. A message arrives
//! at least once, and may arrive twice if its receiver's answer was lost.
//!
//! What a message says is `report`'s business; this module knows how to say it.

mod channel;
mod command;
mod message;
mod slack;
mod spool;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::Config;
use crate::secrets::{EnvLookup, SecretSource};
use crate::site::Site;
use channel::Channel;
use spool::Spool;

pub use message::{Fact, Message, Sender, Severity};
pub use slack::render_slack;

/// What became of some messages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeliveryReport {
    pub sent: Vec<Sent>,
    pub failed: Vec<FailedDelivery>,
    /// Messages in `state/undelivered/` afterwards, of this delivery and of earlier ones.
    pub n_waiting: usize,
    /// What the operator should look at besides, such as a secret file that others can read.
    pub warnings: Vec<String>,
}

/// One message that one channel took.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    pub channel: String,
    pub kind: String,
    pub subject: String,
    /// Whether it had waited since an earlier delivery.
    pub was_waiting: bool,
}

/// One message that one channel did not take.
#[derive(Clone, Debug, Serialize)]
pub struct FailedDelivery {
    pub channel: String,
    pub kind: String,
    pub subject: String,
    pub error: String,
    /// Whether it waits for the next delivery.
    pub is_spooled: bool,
}

/// The channels of a config, in the order they are used; empty when nobody listens.
pub fn channel_names(config: &Config) -> Vec<&'static str> {
    let mut names = Vec::new();
    if !config.slack_webhook.is_empty() {
        names.push(channel::SLACK);
    }
    if !config.notify.command.is_empty() {
        names.push(channel::COMMAND);
    }
    names
}

/// Sends `messages`, most severe first, and then what earlier deliveries left, to every channel of the site.
///
/// All of it together takes at most `notify.timeout_secs` (and the moment it takes to kill a command): each
/// channel gets an equal share of the time that is left, so that a dead webhook does not silence the command.
/// `env` looks up an environment variable for `env:` and `cred:` secrets.
pub fn deliver(messages: &[Message], site: &Site, env: &EnvLookup, now: DateTime<Utc>) -> DeliveryReport {
    let deadline = Instant::now() + Duration::from_secs(site.config.notify.timeout_secs);
    let mut report = DeliveryReport::default();
    let names = channel_names(&site.config);
    let mut spool = Spool::open(&site.state_dir(), now, &mut report.warnings);
    spool.forget_channels_except(&names, &mut report.warnings);
    let source = SecretSource { site_root: &site.root, env };
    for (i, name) in names.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = Instant::now() + left / (names.len() - i) as u32;
        let channel = Channel::open(name, site, &source, &mut report.warnings);
        send_new(messages, &channel, share, &mut spool, &mut report);
        send_waiting(&channel, share, &mut spool, &mut report);
    }
    report.n_waiting = spool.len();
    report
}

fn send_new(
    messages: &[Message],
    channel: &Channel,
    deadline: Instant,
    spool: &mut Spool,
    report: &mut DeliveryReport,
) {
    let mut messages: Vec<&Message> = messages.iter().collect();
    messages.sort_by_key(|message| std::cmp::Reverse(message.severity));
    for message in messages {
        match channel.send(message, deadline) {
            Ok(()) => report.sent.push(sent(channel, message, false)),
            Err(error) => {
                let is_spooled = spool.keep(channel.name, message, &error, &mut report.warnings);
                report.failed.push(failed(channel, message, error, is_spooled));
            }
        }
    }
}

fn send_waiting(channel: &Channel, deadline: Instant, spool: &mut Spool, report: &mut DeliveryReport) {
    for waiting in spool.left_by_earlier(channel.name) {
        match channel.send(&waiting.marked_as_late(), deadline) {
            Ok(()) => {
                spool.remove(&waiting, &mut report.warnings);
                report.sent.push(sent(channel, &waiting.message, true));
            }
            Err(error) => report.failed.push(failed(channel, &waiting.message, error, true)),
        }
    }
}

fn sent(channel: &Channel, message: &Message, was_waiting: bool) -> Sent {
    Sent {
        channel: channel.name.to_owned(),
        kind: message.kind.clone(),
        subject: message.subject.clone(),
        was_waiting,
    }
}

fn failed(channel: &Channel, message: &Message, error: String, is_spooled: bool) -> FailedDelivery {
    FailedDelivery {
        channel: channel.name.to_owned(),
        kind: message.kind.clone(),
        subject: message.subject.clone(),
        error,
        is_spooled,
    }
}

#[cfg(test)]
mod tests;
