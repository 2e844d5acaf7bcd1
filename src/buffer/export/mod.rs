//! Raw rows back out: every row of the chosen days, sealed and open, each key once, in a form that `append` takes in
//! again to the identical rows.
//!
//! Day by day, and of a day as many rows at once as are sorted together: memory does not grow with the days. A day is
//! first sorted into an unnamed temporary file and told only when no rotation moved its rows meanwhile, so that what
//! is told is the day of one moment. Columns are those of the site's schema, in its units; a missing value is absent
//! (NDJSON), empty (CSV) or null (parquet).

mod forms;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::config::did_you_mean;
use crate::error::Refusal;
use crate::progress::{Progress, Tick};

use super::Buffer;
use super::days::DaySources;
use super::merge::{self, Survey};
use super::open::flaws::Damage;
use super::sealed::day_file::GROUP_ROWS;
use super::sealed::parquet_rows::ParquetFile;
use super::sealed::row_groups::{Columns, GroupWriter};
use super::trouble::Trouble;
use forms::Form;

/// The form of what is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    #[default]
    Ndjson,
    Csv,
    Parquet,
}

/// What to export; everything, unless it is narrowed.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    pub format: ExportFormat,
    /// First day.
    pub from: Option<NaiveDate>,
    /// Last day, itself included.
    pub to: Option<NaiveDate>,
    /// Names of the servers; all, if none is named.
    pub servers: Vec<String>,
}

impl ExportOptions {
    fn covers(&self, date: NaiveDate) -> bool {
        self.from.is_none_or(|from| date >= from) && self.to.is_none_or(|to| date <= to)
    }
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    pub n_rows: u64,
    /// Days with rows.
    pub n_days: u64,
    pub first: Option<NaiveDate>,
    pub last: Option<NaiveDate>,
    /// What is damaged, misplaced or gone.
    pub troubles: Vec<Trouble>,
}

impl ExportReport {
    fn leave_out(&mut self, trouble: Trouble, progress: &dyn Progress) {
        progress.warn(&trouble.warning());
        self.troubles.push(trouble);
    }
}

impl Buffer {
    /// Checks that each server that `options` name has rows on the days that they choose.
    ///
    /// - Errors: one has none ([`Refusal::Usage`], with the nearest name that has); a day cannot be read.
    pub fn ensure_servers(&self, options: &ExportOptions) -> Result<()> {
        let mut unknown: BTreeSet<&str> = options.servers.iter().map(String::as_str).collect();
        let mut there = BTreeSet::new();
        for day in self.days()?.iter().filter(|day| options.covers(day.date)) {
            if unknown.is_empty() {
                break;
            }
            let of_day = self.outline_day(day.date)?.servers;
            unknown.retain(|name| !of_day.iter().any(|server| server == name));
            there.extend(of_day);
        }
        let Some(name) = unknown.first() else { return Ok(()) };
        let near = did_you_mean(name, there.iter().map(String::as_str));
        Err(Refusal::usage(format!("no row of these days is of a server `{name}`{near}")))
    }

    /// Writes the rows that `options` choose to `out`, by day, server and time.
    ///
    /// - Errors: a day cannot be read (it is named), or `out` refuses; what was written so far is whole rows.
    pub fn export(
        &self,
        options: &ExportOptions,
        out: &mut (dyn Write + Send),
        progress: &dyn Progress,
    ) -> Result<ExportReport> {
        let metrics = self.metric_names();
        let days: Vec<NaiveDate> =
            self.days()?.iter().map(|day| day.date).filter(|date| options.covers(*date)).collect();
        let mut form = Form::begin(options.format, &metrics, out)?;
        let mut report = ExportReport::default();
        for (done, day) in days.iter().enumerate() {
            let (done, total) = (done as u64, days.len() as u64);
            progress.tick(&Tick { stage: "export", done, total, unit: "days", detail: day.to_string() });
            let spooled =
                self.with_sources(*day, &|sources| spool_day(*day, sources, &metrics, &options.servers))?;
            for (file, damage) in spooled.damaged {
                report.leave_out(Trouble::of_segment(*day, file, damage), progress);
            }
            let Some(spool) = spooled.file else { continue };
            let mut file = ParquetFile::of(spool).with_context(|| format!("read day {day} back"))?;
            file.read_rows(&metrics, None, &mut |rows| {
                report.n_rows += rows.len() as u64;
                form.add(rows)
            })?;
            report.n_days += 1;
            report.first.get_or_insert(*day);
            report.last = Some(*day);
        }
        let left_out = self.day_troubles(&|date| options.covers(date), &BTreeMap::new())?.passed_over();
        left_out.into_iter().for_each(|trouble| report.leave_out(trouble, progress));
        form.end()?;
        Ok(report)
    }
}

/// The rows of one day, sorted.
struct Spooled {
    /// A temporary file; `None` if there are no rows.
    file: Option<File>,
    damaged: Vec<(PathBuf, Damage)>,
}

/// Sorts the rows of the chosen servers (all, if none is named) into a temporary file.
///
/// - Errors: a sealed file is damaged: what is told of it here would be taken in elsewhere as good rows.
fn spool_day(
    day: NaiveDate,
    sources: &DaySources,
    metrics: &[String],
    servers: &[String],
) -> Result<Spooled> {
    sources.sealed_digests(day)?;
    let inputs = sources.inputs();
    let mut survey = Survey::of(&inputs, metrics)?;
    let flaws = inputs.segments.iter().cloned().zip(&survey.flaws);
    let damaged = flaws.filter_map(|(path, flaws)| Some((path, flaws.damage?))).collect();
    if !servers.is_empty() {
        survey.servers.retain(|server, _| servers.contains(server));
    }
    if survey.n_rows() == 0 {
        return Ok(Spooled { file: None, damaged });
    }
    let file = tempfile::tempfile().context("make a temporary file")?;
    let mut writer = GroupWriter::new(&file, columns(metrics))?;
    merge::for_each_sorted(&inputs, &survey, metrics, &mut |sorted| {
        for part in sorted.order.chunks(GROUP_ROWS) {
            writer.write(&sorted.rows, part).context("write a temporary file")?;
        }
        Ok(())
    })?;
    writer.finish(Vec::new()).context("write a temporary file")?;
    Ok(Spooled { file: Some(file), damaged })
}

/// Every export has the same columns, whatever its rows hold.
fn columns(metrics: &[String]) -> Columns {
    Columns { metrics: metrics.to_vec(), has_profile: true, has_status: true }
}
