//! A message in the form of Slack's incoming webhooks (which others accept too).
//!
//! Limits of the service: 150 characters in a header, 3,000 in a section's text, 10 fields of 2,000 in a
//! section, 50 blocks, and some 13,000 characters in all. We stay well below each. A top-level `text` is what
//! notifications and old clients show.

use serde_json::{Value, json};

use super::{Fact, Message, Severity};

const HEADER_CHARS: usize = 150;
const SECTION_CHARS: usize = 2_900;
const FIELD_CHARS: usize = 300;
const FIELDS_PER_SECTION: usize = 10;
const MAX_FACTS: usize = 20;

/// The JSON body of a webhook call.
pub fn render_slack(message: &Message) -> Value {
    let mark = match message.severity {
        Severity::Info => ":white_check_mark:",
        Severity::Warning => ":warning:",
        Severity::Critical => ":rotating_light:",
    };
    let headline = format!("{mark} {}", message.subject);
    let mut blocks = vec![json!({
        "type": "header",
        "text": { "type": "plain_text", "text": escaped(&headline, HEADER_CHARS), "emoji": true },
    })];
    if !message.text.is_empty() {
        let text = escaped(&message.text.join("\n"), SECTION_CHARS);
        blocks.push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }));
    }
    let facts = &message.facts[..message.facts.len().min(MAX_FACTS)];
    for chunk in facts.chunks(FIELDS_PER_SECTION) {
        let fields: Vec<Value> = chunk.iter().map(field).collect();
        blocks.push(json!({ "type": "section", "fields": fields }));
    }
    let origin = format!("{} on {} | {}", message.site, message.host, message.kind);
    let origin = json!({ "type": "mrkdwn", "text": escaped(&origin, FIELD_CHARS) });
    blocks.push(json!({ "type": "context", "elements": [origin] }));
    json!({ "text": escaped(&headline, SECTION_CHARS), "blocks": blocks })
}

fn field(fact: &Fact) -> Value {
    let name = escaped(&fact.name, FIELD_CHARS);
    json!({ "type": "mrkdwn", "text": format!("*{name}*\n{}", escaped(&fact.value, FIELD_CHARS)) })
}

/// `text` with Slack's three control characters escaped, cut so that the escaped text has at most `limit`
/// characters and no entity is cut in two.
fn escaped(text: &str, limit: usize) -> String {
    let mut result = String::new();
    let mut n_chars = 0;
    for c in text.chars() {
        let mut buffer = [0; 4];
        let piece = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            _ => &*c.encode_utf8(&mut buffer),
        };
        n_chars += piece.chars().count();
        if n_chars >= limit {
            result.push('…');
            break;
        }
        result.push_str(piece);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::sample;
    use super::*;

    #[test]
    fn a_message_in_blocks() {
        let expected = json!({
            "text": ":rotating_light: 2026-06-01: model refused",
            "blocks": [
                { "type": "header", "text": {
                    "type": "plain_text", "text": ":rotating_light: 2026-06-01: model refused", "emoji": true } },
                { "type": "section", "text": {
                    "type": "mrkdwn", "text": "The challenger lost to &lt;the champion&gt; &amp; stays out." } },
                { "type": "section", "fields": [
                    { "type": "mrkdwn", "text": "*loss*\n0.31" },
                    { "type": "mrkdwn", "text": "*champion*\n0.22" } ] },
                { "type": "context", "elements": [
                    { "type": "mrkdwn", "text": "fleet on ops1 | validation_failed" } ] },
            ],
        });
        assert_eq!(render_slack(&sample()), expected);
    }

    #[test]
    fn whatever_is_said_stays_within_the_limits() {
        let long = "<&>".repeat(5_000);
        let mut message = sample();
        message.subject = long.clone();
        message.text = vec![long.clone(); 20];
        message.facts = vec![Fact { name: long.clone(), value: long }; 99];
        let body = render_slack(&message);
        let blocks = body["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50);
        let chars = |value: &Value| value.as_str().unwrap().chars().count();
        assert!(chars(&blocks[0]["text"]["text"]) <= 150);
        assert!(chars(&blocks[1]["text"]["text"]) <= 3_000);
        assert!(blocks.iter().filter_map(|b| b["fields"].as_array()).all(|fields| fields.len() <= 10));
        assert!(!body["text"].as_str().unwrap().contains("&a…"), "no entity is cut in two");
    }
}
