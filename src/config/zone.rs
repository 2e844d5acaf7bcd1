//! Names of time zones, with the nearest one where a name is none.

use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layers::did_you_mean;

/// Reads the name of a time zone.
///
/// - Errors: there is none of that name; the sentence names the nearest.
pub fn parse_zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| {
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        format!("`{name}` is no time zone{}", did_you_mean(name, known))
    })
}

pub(super) fn serialize<S: Serializer>(zone: &Tz, serializer: S) -> Result<S::Ok, S::Error> {
    zone.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
    parse_zone(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_answered_with_the_nearest() {
        assert_eq!(parse_zone("Asia/Kolkata"), Ok(Tz::Asia__Kolkata));
        assert_eq!(
            parse_zone("Europe/Berln").unwrap_err(),
            "`Europe/Berln` is no time zone; did you mean `Europe/Berlin`?"
        );
        assert_eq!(parse_zone("zzz").unwrap_err(), "`zzz` is no time zone");
    }
}
