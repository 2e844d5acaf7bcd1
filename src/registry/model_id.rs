//! The name of a model, which is also the name of its folder: checked once, so that it can never be a path.

use std::cmp::Ordering;
use std::fmt;

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::model_manifest::ID_PREFIX;

/// `tft_model_YYYYMMDD_HHMMSS[_n]`; ordered by time, then by `n`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelId {
    text: String,
    stamp: NaiveDateTime,
    n: u32,
}

impl ModelId {
    /// Reads an id.
    ///
    /// - Errors: [`Refusal::Usage`]: the text has another form (a path, a date that does not exist, ...).
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        Self::from_text(text).ok_or_else(|| {
            Refusal::usage(format!(
                "`{}` is no model: the form is {ID_PREFIX}YYYYMMDD_HHMMSS",
                printable(text)
            ))
        })
    }

    /// The id as text, which is the folder's name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// When the model was made, in UTC.
    pub fn stamp(&self) -> NaiveDateTime {
        self.stamp
    }

    fn from_text(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(ID_PREFIX).filter(|rest| rest.is_ascii())?;
        let (stamp, n) = match rest.get(15..)? {
            "" => (rest, 0),
            tail => (rest.get(..15)?, number(tail.strip_prefix('_')?)?),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let is_stamp = digits(&stamp[..8]) && &stamp[8..9] == "_" && digits(&stamp[9..]);
        let stamp = is_stamp.then(|| NaiveDateTime::parse_from_str(stamp, "%Y%m%d_%H%M%S").ok())??;
        Some(Self { text: text.to_owned(), stamp, n })
    }
}

/// A positive number without leading zeros, so that one model has one name.
fn number(text: &str) -> Option<u32> {
    let value: u32 = text.parse().ok()?;
    (value > 0 && value.to_string() == text).then_some(value)
}

/// At most 60 characters of `text`, none of which can disturb a terminal.
fn printable(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

impl Ord for ModelId {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.stamp, self.n).cmp(&(other.stamp, other.n))
    }
}

impl PartialOrd for ModelId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for ModelId {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ModelId> for String {
    fn from(id: ModelId) -> String {
        id.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(text: &str, is_fine: bool) {
        assert_eq!(ModelId::parse(text).is_ok(), is_fine, "{text}");
    }

    #[test]
    fn only_the_one_form_is_an_id() {
        case("tft_model_20260102_020000", true);
        case("tft_model_20260102_020000_2", true);
        case("tft_model_20260102_020000_02", false);
        case("tft_model_20260102_020000_0", false);
        case("tft_model_20260102_020000_", false);
        case("tft_model_20261302_020000", false);
        case("tft_model_20260102-020000", false);
        case("tft_model_+0260102_020000", false);
        case("tft_model_2026010é_02000", false);
        case("../tft_model_20260102_020000", false);
        case("tft_model_20260102_020000/..", false);
        case("tft_model_", false);
        case("", false);
    }

    #[test]
    fn ids_are_ordered_by_time_then_number() {
        let mut ids = ["20260102_020000_10", "20260102_020000_2", "20260102_020000", "20260101_235959"]
            .map(|text| ModelId::parse(&format!("{ID_PREFIX}{text}")).unwrap());
        ids.sort();
        let names: Vec<&str> = ids.iter().map(|id| &id.as_str()[ID_PREFIX.len()..]).collect();
        assert_eq!(names, ["20260101_235959", "20260102_020000", "20260102_020000_2", "20260102_020000_10"]);
    }

    #[test]
    fn json_cannot_smuggle_a_path() {
        assert!(serde_json::from_str::<ModelId>("\"../../etc\"").is_err());
        let id = ModelId::parse("tft_model_20260102_020000").unwrap();
        assert_eq!(serde_json::from_str::<ModelId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }
}
