//! From buffered days to a published window, or to the reasons why not.
//!
//! A window is named after its inputs (sources, schema, step, split, settings), so asking again for the same
//! costs nothing, and a night that is repeated trains on the very same bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::buffer::step_table::{StepOutline, StepTable};
use crate::calendar;
use crate::config::MAX_WINDOW_DAYS;
use crate::error::{HintExt, Refusal, message_and_hint};
use crate::fsx;
use crate::platform;
use crate::progress::Progress;
use crate::site::Site;

use super::assemble::{Cast, fill, outline, survey};
use super::grid::{Grid, Server, bytes_a_server};
use super::manifest::{FORMAT, Manifest, Source};
use super::quality::{Asked, Examination, QualityReport};
use super::span::Span;
use super::split::{PlannedSplit, Split, holdout_steps, plan_split};
use super::store::{self, Draft, Window};

/// Which window to build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowRequest {
    /// Days to read; the config's `training_window_days` by default.
    pub days: Option<u32>,
    /// The day after the last one to read; the logical date of now by default.
    pub end: Option<NaiveDate>,
    /// Days by which the holdout is longer than the config says.
    pub holdout_extra_days: u32,
}

impl WindowRequest {
    /// The day after the last one to read.
    pub(super) fn end_day(&self, site: &Site, now: DateTime<Utc>) -> NaiveDate {
        self.end.unwrap_or_else(|| site.logical_date(now))
    }

    /// The first day to read.
    pub(super) fn first_day(&self, site: &Site, now: DateTime<Utc>) -> NaiveDate {
        let n_days = self.days.unwrap_or(site.config.training_window_days);
        calendar::days_before(self.end_day(site, now), n_days)
    }
}

/// Where step tables come from: the buffer, or a test.
pub trait DaySource {
    /// Days with data, ascending.
    fn dates(&self) -> Result<Vec<NaiveDate>>;
    /// Warnings of rows of these days that were there, and that nothing here gives.
    fn missing_rows(&self, _first: NaiveDate, _end: NaiveDate) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Makes what the others read of these days, where it is not there yet: together that takes less time.
    fn prepare(&self, _days: &[NaiveDate]) {}
    /// The files behind a day, in a fixed order; cheap where they are known already.
    fn sources(&self, day: NaiveDate) -> Result<Vec<Source>>;
    /// Who and what is in the day's step aggregates; cheap where they are known already.
    fn outline(&self, day: NaiveDate) -> Result<StepOutline>;
    /// The day's step aggregates, and the files they were made of.
    fn read(&self, day: NaiveDate) -> Result<(StepTable, Vec<Source>)>;
    /// [`DaySource::read`] of some days, in their order; side by side, where that takes less time.
    fn read_all(&self, days: &[NaiveDate]) -> Result<Vec<(StepTable, Vec<Source>)>> {
        days.iter().map(|day| self.read(*day).with_context(|| format!("read the steps of {day}"))).collect()
    }
}

/// Everything decided before the first value is read.
struct Plan {
    id: String,
    asked: Asked,
    span: Span,
    days: Vec<NaiveDate>,
    sources: Vec<Source>,
    split: Option<PlannedSplit>,
    config_digest: String,
}

/// How often a build starts over because the buffer changed under it.
const MAX_ATTEMPTS: usize = 3;

/// Builds the window `request` asks for from `source`, or reuses the one that is there.
///
/// - Errors: [`Refusal::NotEnoughData`] with the hard findings; a day that cannot be read.
pub fn build_from(
    source: &dyn DaySource,
    site: &Site,
    request: &WindowRequest,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<Window> {
    for _ in 0..MAX_ATTEMPTS {
        let plan = plan(source, site, request, now)?;
        warn_of_damage(source, &plan, progress)?;
        let whole = |window: Window| window.verify().map(|()| window);
        match store::find(site, &plan.id).and_then(|found| found.map(whole).transpose()) {
            Ok(None) => {}
            Ok(Some(window)) => {
                progress.note(&format!("window {} is there already", window.id));
                store::point_at(site, &window.id)?;
                return Ok(window);
            }
            Err(error) => {
                let (damage, _) = message_and_hint(&error);
                progress.warn(&format!("window {} is damaged and built anew: {damage}", plan.id));
                store::discard(site, &plan.id)?;
            }
        }
        let mut draft = Draft::begin(site, &plan.id)?;
        let mut write = |grid: &Grid, servers: &[usize]| draft.write(grid, servers);
        let Look { outline, report, sources } = look(source, site, &plan, &mut write, progress)
            .with_context(|| format!("build window {}..{}", plan.asked.first_day, plan.asked.end_day))?;
        if sources.iter().any(|sources| *sources != plan.sources) {
            progress.note("rows came in while the window was read; it is read again");
            continue;
        }
        let split = decide(&plan, &report)?;
        let window = draft.publish(&outline, manifest_of(site, &plan, split, &outline, report))?;
        store::point_at(site, &window.id)?;
        return Ok(window);
    }
    bail!("build window: the buffered days changed {MAX_ATTEMPTS} times while they were read")
}

/// Examines what [`build_from`] would build, without writing anything; hard findings are part of the report.
pub fn inspect_from(
    source: &dyn DaySource,
    site: &Site,
    request: &WindowRequest,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<QualityReport> {
    let plan = plan(source, site, request, now)?;
    warn_of_damage(source, &plan, progress)?;
    Ok(look(source, site, &plan, &mut |_, _| Ok(()), progress)?.report)
}

/// The newest `n_steps` complete steps of every server before `now`, straight from the buffer.
pub fn recent_from(
    source: &dyn DaySource,
    site: &Site,
    n_steps: usize,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<Grid> {
    let step_secs = site.config.series.step_secs;
    let step_ms = i64::from(step_secs) * 1000;
    let end_ms = now.timestamp_millis().div_euclid(step_ms) * step_ms;
    let span = Span::between(end_ms - n_steps as i64 * step_ms, end_ms, step_secs);
    let first = calendar::day_of(span.start_ms, site.zone());
    let last = calendar::day_of(end_ms - 1, site.zone());
    let missing = source.missing_rows(first, calendar::days_after(last, 1))?;
    missing.iter().for_each(|warning| progress.warn(warning));
    let dates = source.dates()?;
    let days: Vec<NaiveDate> = dates.into_iter().filter(|day| (first..=last).contains(day)).collect();
    // A few days, of which the last may be open: each is read once, and kept.
    let read = |day: &NaiveDate| {
        let (table, sources) = source.read(*day)?;
        warn_of_sources(&sources, progress);
        Ok((*day, table))
    };
    let mut tables: BTreeMap<NaiveDate, StepTable> = days.iter().map(read).collect::<Result<_>>()?;
    let schema = site.schema();
    let cast = survey(&days, &schema, &[], &mut |day| Ok(tables[&day].outline()))?;
    let mut take = |days: &[NaiveDate]| {
        days.iter().map(|day| tables.remove(day).context("each day is there once")).collect()
    };
    fill(&span, &schema, &cast, 0..cast.servers.len(), &mut take, progress)
}

fn plan(source: &dyn DaySource, site: &Site, request: &WindowRequest, now: DateTime<Utc>) -> Result<Plan> {
    let config = &site.config;
    let (first_day, end_day) = (request.first_day(site, now), request.end_day(site, now));
    let asked = Asked { first_day, end_day };
    let dates = source.dates()?;
    let days: Vec<NaiveDate> =
        dates.iter().copied().filter(|day| (first_day..end_day).contains(day)).collect();
    let Some(first_with_data) = days.first().copied() else { return Err(nothing_there(asked, &dates)) };
    ensure_sane(first_with_data, end_day)?;
    let step_secs = config.series.step_secs;
    let span = Span::of_days(first_with_data, end_day, site.zone(), step_secs);
    let n_holdout = holdout_steps(config.window.holdout_hours, request.holdout_extra_days, step_secs);
    let (encoder_length, horizon) = (config.model.encoder_length, config.model.horizon);
    let split = plan_split(span.n_steps, encoder_length, horizon, n_holdout);
    source.prepare(&days);
    let sources = read_sources(source, &days)?;
    let config_digest = config_digest(site);
    let inputs = Inputs {
        format: FORMAT,
        asked_days: (first_day, end_day),
        sources: &sources,
        split: split.as_ref().map(|plan| plan.split),
        config_digest: &config_digest,
    };
    let id = format!("{end_day}-{}", &digest(&inputs)[..12]);
    Ok(Plan { id, asked, span, days, sources, split, config_digest })
}

/// Rows that are missing are named, not passed over.
fn warn_of_damage(source: &dyn DaySource, plan: &Plan, progress: &dyn Progress) -> Result<()> {
    let Asked { first_day, end_day } = plan.asked;
    source.missing_rows(first_day, end_day)?.iter().for_each(|warning| progress.warn(warning));
    warn_of_sources(&plan.sources, progress);
    Ok(())
}

fn warn_of_sources(sources: &[Source], progress: &dyn Progress) {
    sources.iter().filter_map(Source::warning).for_each(|warning| progress.warn(&warning));
}

/// The steps between the first row and the end are laid out one by one, so there must be an end to them.
fn ensure_sane(first: NaiveDate, end: NaiveDate) -> Result<()> {
    if (end - first).num_days() <= i64::from(MAX_WINDOW_DAYS) {
        return Ok(());
    }
    let message = format!("a window from {first} to {end} is longer than {MAX_WINDOW_DAYS} days");
    Err(Refusal::usage(message)).hint(|| "`--days N` reads fewer, `--end DATE` ends it earlier".into())
}

/// What a window's name stands for.
#[derive(Serialize)]
struct Inputs<'a> {
    format: u32,
    asked_days: (NaiveDate, NaiveDate),
    sources: &'a [Source],
    split: Option<Split>,
    config_digest: &'a str,
}

/// A digest of every setting that changes a window's values, cut or verdict.
fn config_digest(site: &Site) -> String {
    let config = &site.config;
    let model = &config.model;
    let parts = (
        (config.timezone, &config.series, &config.window, config.min_training_samples),
        (&config.metrics, &config.profiles, &config.quality),
        (&model.targets, model.encoder_length, model.horizon),
    );
    digest(&parts)[..16].to_owned()
}

fn digest(value: &impl Serialize) -> String {
    fsx::sha256_bytes(&serde_json::to_vec(value).expect("plain data always encodes"))
}

fn read_sources(source: &dyn DaySource, days: &[NaiveDate]) -> Result<Vec<Source>> {
    let of_day = |day: &NaiveDate| source.sources(*day).with_context(|| format!("digest the files of {day}"));
    Ok(days.iter().map(of_day).collect::<Result<Vec<_>>>()?.concat())
}

fn nothing_there(asked: Asked, dates: &[NaiveDate]) -> anyhow::Error {
    let (first, end) = (asked.first_day, asked.end_day);
    let others = match (dates.first(), dates.last()) {
        (Some(oldest), Some(newest)) => format!("; it has days from {oldest} to {newest}"),
        _ => "; it is empty".to_owned(),
    };
    let reason = format!("the buffer holds no rows of the days from {first} up to {end}{others}");
    let refusal = Err::<(), _>(Refusal::NotEnoughData { reasons: vec![reason] });
    match dates.last() {
        Some(newest) => {
            let next = calendar::days_after(*newest, 1);
            refusal.hint(|| format!("`--end {next}` (or `--now {next}`) reads the newest day there is"))
        }
        None => refusal.hint(|| "`tftctl buffer append FILE` fills the buffer".into()),
    }
    .expect_err("it is an error")
}

/// What reading the days of a plan gave.
struct Look {
    /// The grid of all servers, without their values.
    outline: Grid,
    report: QualityReport,
    /// The files that were really read, in the order of the days, each time they were.
    sources: Vec<Vec<Source>>,
}

/// Reads the days and says what they are worth; `take` is given every grid and which of its servers can be trained on.
///
/// Days are read once, or once per group of servers where all of them would not fit into `training.memory_mb`.
fn look(
    source: &dyn DaySource,
    site: &Site,
    plan: &Plan,
    take: &mut dyn FnMut(&Grid, &[usize]) -> Result<()>,
    progress: &dyn Progress,
) -> Result<Look> {
    let (span, schema) = (&plan.span, site.schema());
    let cast = survey(&plan.days, &schema, &plan.sources, &mut |day| source.outline(day))?;
    let outline = outline(span, &schema, &cast);
    let mut examination = Examination::new(&outline, &cast, plan.asked, plan.split.as_ref(), &site.config);
    let mut sources = Vec::new();
    for servers in groups(&cast, site, bytes_a_server(span.n_steps, schema.metrics.len())) {
        let mut of_group = Vec::with_capacity(plan.sources.len());
        let mut read = |days: &[NaiveDate]| {
            let (tables, of_days): (Vec<_>, Vec<_>) = source.read_all(days)?.into_iter().unzip();
            of_group.extend(of_days.concat());
            Ok(tables)
        };
        // What making the aggregates took must not stand beside the grid, nor what reading them took beside the report.
        release_freed_memory();
        let grid = fill(span, &schema, &cast, servers, &mut read, progress)?;
        release_freed_memory();
        sources.push(of_group);
        let usable = examination.add(&grid);
        take(&grid, &usable)?;
    }
    Ok(Look { report: examination.finish(&outline), outline, sources })
}

/// Hands back what this thread and those of the pool have freed: each keeps its own.
fn release_freed_memory() {
    rayon::broadcast(|_| platform::release_freed_memory());
    platform::release_freed_memory();
}

/// The servers that are laid out at once; all of them if they fit into memory.
fn groups(cast: &Cast, site: &Site, bytes_a_server: u64) -> Vec<Range<usize>> {
    let n_servers = cast.servers.len();
    let at_once = match site.config.training.memory_bytes() {
        None => n_servers,
        Some(bytes) => usize::try_from(bytes / bytes_a_server.max(1)).unwrap_or(usize::MAX),
    };
    let at_once = at_once.clamp(1, n_servers.max(1));
    (0..n_servers.max(1)).step_by(at_once).map(|first| first..(first + at_once).min(n_servers)).collect()
}

/// The split, unless a hard finding stands against it; soft ones are in the manifest, for whoever asked to tell.
fn decide(plan: &Plan, report: &QualityReport) -> Result<Split> {
    let reasons = report.hard_reasons();
    match (&plan.split, reasons.is_empty()) {
        (Some(planned), true) => Ok(planned.split),
        _ => Err(Refusal::NotEnoughData { reasons }.into()),
    }
}

fn manifest_of(site: &Site, plan: &Plan, split: Split, outline: &Grid, quality: QualityReport) -> Manifest {
    let span = &plan.span;
    let judged = outline.servers.iter().zip(&quality.servers);
    let servers: Vec<Server> =
        judged.filter(|(_, quality)| quality.excluded.is_none()).map(|(server, _)| server.clone()).collect();
    Manifest {
        format: FORMAT,
        id: plan.id.clone(),
        zone: site.zone(),
        step_secs: span.step_secs,
        start: calendar::to_utc(span.start_ms),
        end: calendar::to_utc(span.end_ms()),
        first_day: plan.days[0],
        end_day: plan.asked.end_day,
        n_steps: span.n_steps,
        n_raw_rows: quality.n_raw_rows,
        schema: site.schema(),
        schema_digest: site.schema().digest(),
        config_digest: plan.config_digest.clone(),
        metrics: outline.metrics.clone(),
        statuses: outline.statuses.clone(),
        servers,
        split,
        sources: plan.sources.clone(),
        quality,
        files: Vec::new(),
        digest: Some(fsx::NO_DIGEST.into()),
    }
}
