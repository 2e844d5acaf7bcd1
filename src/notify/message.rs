//! What there is to say, before any channel's format.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::site::Site;

/// How soon someone should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing to do.
    Info,
    /// Look at it today.
    Warning,
    /// Someone should be woken.
    Critical,
}

impl Severity {
    /// `info`, `warning` or `critical`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// Which site on which machine speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    pub site: String,
    pub host: String,
}

impl Sender {
    /// The folder name of `site` and the name of this machine.
    pub fn of(site: &Site) -> Self {
        let folder = site.root.file_name().map(|name| name.to_string_lossy().into_owned());
        Self {
            site: folder.unwrap_or_else(|| site.root.display().to_string()),
            host: gethostname::gethostname().to_string_lossy().into_owned(),
        }
    }
}

/// One named value beside the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// One message to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub severity: Severity,
    /// Stable name of what happened, such as `training_failed`: what a receiver routes by.
    pub kind: String,
    pub site: String,
    pub host: String,
    /// One line.
    pub subject: String,
    pub text: Vec<String>,
    /// The night it is about.
    pub logical_date: Option<NaiveDate>,
    pub facts: Vec<Fact>,
}

impl Message {
    /// A message without text or facts.
    pub fn new(severity: Severity, kind: &str, sender: &Sender, subject: impl Into<String>) -> Self {
        Self {
            severity,
            kind: kind.to_owned(),
            site: sender.site.clone(),
            host: sender.host.clone(),
            subject: subject.into(),
            text: Vec::new(),
            logical_date: None,
            facts: Vec::new(),
        }
    }

    /// What a command reads on its standard input: the fields by their names, and `format`.
    pub fn to_json(&self) -> Value {
        let mut document = json!({ "format": 1 });
        let fields = serde_json::to_value(self).expect("plain data always encodes");
        if let (Value::Object(document), Value::Object(fields)) = (&mut document, fields) {
            document.extend(fields);
        }
        document
    }

    /// The message as plain text, for mail and terminals.
    pub fn to_text(&self) -> String {
        let mut lines = vec![format!("[{}] {}", self.severity.name(), self.subject)];
        lines.extend(self.text.iter().cloned());
        let width = self.facts.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0);
        lines.extend(self.facts.iter().map(|fact| format!("  {:width$}  {}", fact.name, fact.value)));
        lines.push(format!("({} on {})", self.site, self.host));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn sample() -> Message {
        let sender = Sender { site: "fleet".into(), host: "ops1".into() };
        Message {
            text: vec!["The challenger lost to <the champion> & stays out.".into()],
            logical_date: Some("2026-06-01".parse().unwrap()),
            facts: vec![
                Fact { name: "loss".into(), value: "0.31".into() },
                Fact { name: "champion".into(), value: "0.22".into() },
            ],
            ..Message::new(Severity::Critical, "validation_failed", &sender, "2026-06-01: model refused")
        }
    }

    #[test]
    fn plain_text_is_for_reading() {
        let expected = "[critical] 2026-06-01: model refused\n\
                        The challenger lost to <the champion> & stays out.\n  \
                        loss      0.31\n  \
                        champion  0.22\n\
                        (fleet on ops1)\n";
        assert_eq!(sample().to_text(), expected);
    }

    #[test]
    fn json_has_every_field_and_reads_back() {
        let document = sample().to_json();
        assert_eq!(document["format"], 1);
        assert_eq!(document["severity"], "critical");
        assert_eq!(document["logical_date"], "2026-06-01");
        assert_eq!(serde_json::from_value::<Message>(document).unwrap(), sample());
    }
}
