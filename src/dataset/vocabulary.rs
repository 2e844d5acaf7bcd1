//! Names and their codes: what an embedding row stands for, for as long as a lineage lives.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The code of every name that is not in the vocabulary.
pub const UNKNOWN: u32 = 0;

/// The categories of a lineage. A name's code is 1 + its position; names are only ever appended, so a code
/// never changes its meaning and an embedding only grows by rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    pub servers: Vec<String>,
    pub profiles: Vec<String>,
    pub statuses: Vec<String>,
}

/// Codes by name, for looking up many.
pub type Codes<'a> = HashMap<&'a str, u32>;

/// Codes of `names`.
pub fn codes(names: &[String]) -> Codes<'_> {
    names.iter().map(String::as_str).zip(UNKNOWN + 1..).collect()
}

/// Appends those of `candidates` that `names` lacks, in their order; returns how many that were.
pub fn extend<'a>(names: &mut Vec<String>, candidates: impl IntoIterator<Item = &'a str>) -> usize {
    let mut known: std::collections::HashSet<String> = names.iter().cloned().collect();
    let n_before = names.len();
    for candidate in candidates {
        if known.insert(candidate.to_owned()) {
            names.push(candidate.to_owned());
        }
    }
    names.len() - n_before
}

impl Vocabulary {
    /// The code of a server, [`UNKNOWN`] if it has none.
    pub fn server_id(&self, name: &str) -> u32 {
        code_of(&self.servers, name)
    }

    /// The code of a profile, [`UNKNOWN`] if it has none.
    pub fn profile_id(&self, name: &str) -> u32 {
        code_of(&self.profiles, name)
    }

    /// The code of a status, [`UNKNOWN`] if it has none.
    pub fn status_id(&self, name: &str) -> u32 {
        code_of(&self.statuses, name)
    }
}

fn code_of(names: &[String], name: &str) -> u32 {
    names.iter().position(|known| known == name).map_or(UNKNOWN, |position| position as u32 + UNKNOWN + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_keeps_every_code() {
        let mut vocabulary = Vocabulary::default();
        assert_eq!(extend(&mut vocabulary.servers, ["b", "d"]), 2);
        assert_eq!((vocabulary.server_id("b"), vocabulary.server_id("d")), (1, 2));
        assert_eq!(extend(&mut vocabulary.servers, ["a", "b", "c", "a"]), 2);
        let ids = ["b", "d", "a", "c", "nobody"].map(|name| vocabulary.server_id(name));
        assert_eq!(ids, [1, 2, 3, 4, UNKNOWN]);
        assert_eq!(codes(&vocabulary.servers)["c"], 4);
    }
}
