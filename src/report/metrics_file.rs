//! `metrics.json`: one JSON array, one record per logical date, in the order of the dates.
//!
//! It is replaced as a whole, durably; other records pass through untouched, also those of a newer version. A
//! file that cannot be understood is set aside as `metrics.json.damaged-<n>` and never stands in a night's way.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::NightRecord;
use crate::fsx;

/// The name of the file in the log folder.
pub const METRICS_FILE: &str = "metrics.json";

/// What [`append_record`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// The records of earlier dates, oldest first: what the night's messages compare with.
    pub previous: Vec<NightRecord>,
    /// Whether a record of the same date was there and made way.
    pub is_replacement: bool,
    /// What the operator should look at.
    pub warnings: Vec<String>,
}

/// Adds `record` to the file in `log_dir`, in the place of an earlier record of the same logical date.
///
/// - Errors: the disk refuses. A damaged file is none, it is set aside with a warning.
pub fn append_record(log_dir: &Path, record: &NightRecord) -> Result<Appended> {
    let path = log_dir.join(METRICS_FILE);
    let mut warnings = Vec::new();
    let mut values = match read_values(&path) {
        Ok(values) => values,
        // A disk that does not answer is no damage: the file may be fine tomorrow.
        Err(error) if !error.is::<serde_json::Error>() => return Err(error),
        Err(error) => {
            let aside = set_aside(&path)?;
            warnings.push(format!("{error:#}; it was set aside as {}", aside.display()));
            Vec::new()
        }
    };
    let key = record.logical_date.to_string();
    let n_before = values.len();
    values.retain(|value| date_of(value) != Some(key.as_str()));
    let is_replacement = values.len() < n_before;
    let previous =
        values.iter().filter(|value| date_of(value) < Some(key.as_str())).filter_map(parse).collect();
    values.push(serde_json::to_value(record).context("encode the night's record")?);
    values.sort_by(|a, b| date_of(a).cmp(&date_of(b)));
    fsx::write_json(&path, &values)?;
    Ok(Appended { previous, is_replacement, warnings })
}

/// The records in `log_dir`, oldest first; none without a file. An entry that is no record is left out.
///
/// - Errors: the file cannot be read or is no JSON array.
pub fn read_records(log_dir: &Path) -> Result<Vec<NightRecord>> {
    let values = read_values(&log_dir.join(METRICS_FILE))?;
    let mut records: Vec<NightRecord> = values.iter().filter_map(parse).collect();
    records.sort_by_key(|record| record.logical_date);
    Ok(records)
}

fn read_values(path: &Path) -> Result<Vec<Value>> {
    Ok(fsx::read_json_if_exists(path)?.unwrap_or_default())
}

/// Dates in this form sort as text.
fn date_of(value: &Value) -> Option<&str> {
    value.get("logical_date")?.as_str()
}

fn parse(value: &Value) -> Option<NightRecord> {
    serde_json::from_value(value.clone()).ok()
}

fn set_aside(path: &Path) -> Result<PathBuf> {
    let names = (1..).map(|n| path.with_file_name(format!("{METRICS_FILE}.damaged-{n}")));
    let aside = names.into_iter().find(|name| !name.exists()).expect("numbers do not run out");
    fsx::rename_durable(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::NightOutcome;
    use super::*;

    fn record(date: &str, outcome: NightOutcome) -> NightRecord {
        NightRecord::new(date.parse().unwrap(), outcome, format!("{date}T03:00:00Z").parse().unwrap())
    }

    fn dates(records: &[NightRecord]) -> Vec<String> {
        records.iter().map(|record| record.logical_date.to_string()).collect()
    }

    #[test]
    fn records_are_kept_by_date_and_a_resumed_night_replaces_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("logs/continuous_learning");
        assert_eq!(read_records(&log_dir).unwrap(), []);
        for date in ["2026-06-01", "2026-06-03", "2026-06-02"] {
            append_record(&log_dir, &record(date, NightOutcome::TrainingFailed)).unwrap();
        }
        let appended = append_record(&log_dir, &record("2026-06-02", NightOutcome::Promoted)).unwrap();
        assert!(appended.is_replacement && appended.warnings.is_empty());
        assert_eq!(dates(&appended.previous), ["2026-06-01"]);
        let records = read_records(&log_dir).unwrap();
        assert_eq!(dates(&records), ["2026-06-01", "2026-06-02", "2026-06-03"]);
        assert_eq!(records[1].outcome, NightOutcome::Promoted);

        let path = log_dir.join(METRICS_FILE);
        let before = fs::read(&path).unwrap();
        append_record(&log_dir, &records[1]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before, "the same record twice changes nothing");
    }

    #[test]
    fn what_other_versions_wrote_passes_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        let other =
            r#"[{"logical_date": "2026-05-31", "success": true, "of_tomorrow": [1]}, {"total_epochs": 3}]"#;
        fs::write(&path, other).unwrap();
        append_record(dir.path(), &record("2026-06-01", NightOutcome::Promoted)).unwrap();
        let values: Vec<Value> = fsx::read_json(&path).unwrap();
        assert_eq!(values.len(), 3);
        assert!(values.iter().any(|value| value["of_tomorrow"][0] == 1));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        for (i, damage) in ["[{\"logical_date\": \"2026-", "{}", ""].into_iter().enumerate() {
            fs::write(&path, damage).unwrap();
            let appended = append_record(dir.path(), &record("2026-06-01", NightOutcome::Promoted)).unwrap();
            assert!(appended.warnings[0].contains(&format!("damaged-{}", i + 1)), "{appended:?}");
            assert_eq!(read_records(dir.path()).unwrap().len(), 1);
            let aside = dir.path().join(format!("{METRICS_FILE}.damaged-{}", i + 1));
            assert_eq!(fs::read_to_string(aside).unwrap(), damage);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(METRICS_FILE)).unwrap();
        assert!(append_record(dir.path(), &record("2026-06-01", NightOutcome::Promoted)).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
