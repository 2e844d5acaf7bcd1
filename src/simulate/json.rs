//! Records and labels as NDJSON: one JSON object a line, written by hand because there are millions.

use anyhow::Result;

use crate::calendar;

use super::metrics::{IS_COUNT, METRICS};
use super::stream::SimulatedRow;

/// Writes records; remembers the last time stamp, which whole fleets share.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    last_ms: Option<i64>,
    stamp: String,
    /// The names of the metrics as JSON.
    names: Vec<String>,
}

impl Default for RowEncoder {
    fn default() -> Self {
        let names = METRICS.iter().map(|name| format!("\"{name}\"")).collect();
        Self { last_ms: None, stamp: String::new(), names }
    }
}

impl RowEncoder {
    /// Writes metrics with these names, as many as they are; their values are those of the fleet's metrics, in turn.
    ///
    /// - Errors: a name cannot be JSON.
    pub fn of_metrics(names: &[String]) -> Result<Self> {
        let names = names.iter().map(serde_json::to_string).collect::<serde_json::Result<_>>()?;
        Ok(Self { names, ..Self::default() })
    }

    /// Appends `row` as one line, its newline included.
    ///
    /// Names of servers are letters and digits, so nothing needs escaping.
    pub fn encode(&mut self, row: &SimulatedRow<'_>, line: &mut Vec<u8>) {
        if self.last_ms != Some(row.time_ms) {
            self.stamp = calendar::to_utc(row.time_ms).format("%Y-%m-%dT%H:%M:%SZ").to_string();
            self.last_ms = Some(row.time_ms);
        }
        for (key, text) in [
            ("{\"timestamp\":\"", self.stamp.as_str()),
            ("\",\"server_name\":\"", &row.server.name),
            ("\",\"profile\":\"", row.server.profile.name()),
            ("\",\"status\":\"", row.status.name()),
        ] {
            line.extend_from_slice(key.as_bytes());
            line.extend_from_slice(text.as_bytes());
        }
        line.extend_from_slice(b"\",\"metrics\":{");
        let values = row.metrics.iter().zip(IS_COUNT).cycle();
        for (metric, (name, (value, is_count))) in self.names.iter().zip(values).enumerate() {
            if metric > 0 {
                line.push(b',');
            }
            line.extend_from_slice(name.as_bytes());
            line.push(b':');
            write_value(*value, is_count, line);
        }
        line.extend_from_slice(b"}}\n");
    }
}

/// A value that is not negative, with two decimals or, of a count, none.
fn write_value(value: f64, is_count: bool, line: &mut Vec<u8>) {
    let centi = (value * 100.0).round() as u64;
    // Digits are laid down from the right; 20 hold any u64, and the point is one more.
    let mut digits = [0_u8; 21];
    let mut first = digits.len();
    let mut put = |digit: u8| {
        first -= 1;
        digits[first] = digit;
    };
    if !is_count {
        put(b'0' + (centi % 10) as u8);
        put(b'0' + (centi / 10 % 10) as u8);
        put(b'.');
    }
    let mut whole = centi / 100;
    loop {
        put(b'0' + (whole % 10) as u8);
        whole /= 10;
        if whole == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn case(value: f64, is_count: bool, expected: &str) {
        let mut line = Vec::new();
        write_value(value, is_count, &mut line);
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn values_have_two_decimals_or_none() {
        case(0.0, false, "0.00");
        case(0.07, false, "0.07");
        case(99.99, false, "99.99");
        case(123_456.5, false, "123456.50");
        case(17.0, true, "17");
    }
}
