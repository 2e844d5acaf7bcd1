//! The reading side: which days have data, where their rows lie ([`super::looks`]), and their step aggregates.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde::Serialize;

use crate::calendar;
use crate::fsx;

use super::Buffer;
use super::looks::REACH_DAYS;
use super::merge::{self, DayInputs, Found, Survey};
use super::open::frame::Header;
use super::open::segment;
use super::sealed::day_file::{self, GROUP_ROWS};
use super::sealed::parquet_rows::{Columns, ParquetFile};
use super::steps::aggregate::StepBuilder;
use super::steps::cache::{self, FileId, Fresh, SourceDigest, StepsKey};
use super::steps::step_table::{StepOutline, StepTable};

/// A day with data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Day {
    pub date: NaiveDate,
    /// The sealed file of that name; `None` if the day is only open, or its rows lie in neighbouring files.
    pub path: Option<PathBuf>,
    /// Whether it has segments that are not sealed yet.
    pub is_open: bool,
}

/// Days that are aggregated at once, each of which takes a slice of its file in memory.
const MAX_DAYS_AT_ONCE: usize = 4;
/// How often a read starts anew because a rotation moved the rows meanwhile, before it keeps rotations out.
const MAX_ATTEMPTS: usize = 10;

/// Where the rows of one day lie at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DaySources {
    pub sealed: Vec<FileId>,
    pub segments: Vec<PathBuf>,
    pub bounds: (i64, i64),
    /// The file of the day's own name, whether or not it has rows of the day.
    named: Option<FileId>,
    /// Whether that file holds another day: nothing is made of it, and what remembers its own day stays.
    is_misnamed: bool,
    /// Taken for the header of a segment that lost its own.
    spare: Header,
}

impl DaySources {
    pub fn inputs(&self) -> DayInputs {
        DayInputs {
            sealed: self.sealed.iter().map(|file| file.path.clone()).collect(),
            segments: self.segments.clone(),
            bounds: Some(self.bounds),
            spare: self.spare.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.segments.is_empty()
    }

    /// Whether aggregates of these rows are worth keeping.
    fn are_sealed(&self) -> bool {
        !self.sealed.is_empty() && self.segments.is_empty() && !self.is_misnamed
    }

    /// The sha256 of the sealed files behind `day`, in their order.
    ///
    /// - Errors: one is damaged, or cannot be read.
    pub(super) fn sealed_digests(&self, day: NaiveDate) -> Result<Vec<String>> {
        let whole = |file: &FileId| {
            let date = day_file::date_of(&file.file);
            day_file::ensure_whole(&file.path, date.unwrap_or(day))
        };
        self.sealed.iter().map(whole).collect()
    }

    /// What each file is, from its sha256 and what was found in it: sealed files, then segments.
    fn with_digests(&self, sha256: Vec<String>, found: &[Found]) -> Vec<SourceDigest> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names = self.sealed.iter().map(|file| file.file.clone()).chain(self.segments.iter().map(name));
        let digest = |((file, sha256), Found { n_rows, damage }): ((String, String), &Found)| SourceDigest {
            file,
            sha256,
            n_rows: *n_rows,
            damage: *damage,
        };
        names.zip(sha256).zip(found).map(digest).collect()
    }
}

/// The aggregates on disk that were checked, as they looked from outside then, and the key that they fit.
pub(super) type Checked = HashMap<PathBuf, (FileId, String, Arc<Fresh>)>;

/// What reading a day gave: the aggregates, and what was found of each source (sealed files, then segments).
struct Aggregated {
    table: StepTable,
    found: Vec<Found>,
}

impl Buffer {
    /// Every day with data, ascending.
    ///
    /// A file whose footer cannot be read counts as its day: [`Buffer::read_steps`] then says what is wrong.
    pub fn days(&self) -> Result<Vec<Day>> {
        let files = day_file::list(&self.dir)?;
        let mut dates: BTreeSet<NaiveDate> = BTreeSet::new();
        for (date, path) in &files {
            match self.look_at(path) {
                Ok(look) if !look.is_cut_here => dates.extend(self.dates_in(look, *date)),
                _ => drop(dates.insert(*date)),
            }
        }
        let open = self.open_dates()?;
        dates.extend(open.keys().copied());
        let day = |date: NaiveDate| Day {
            date,
            path: files.get(&date).cloned(),
            is_open: open.contains_key(&date),
        };
        Ok(dates.into_iter().map(day).collect())
    }

    /// The step aggregates of `day`: exactly the rows whose event time falls on it in the site's zone.
    ///
    /// Kept on disk for days without open segments, and rebuilt when anything they depend on changed. The table
    /// is empty if the day has no data. Memory is bounded by the aggregates and one sorting budget.
    ///
    /// - Errors: a day file or a segment cannot be read; it is named.
    pub fn read_steps(&self, day: NaiveDate) -> Result<StepTable> {
        Ok(self.read_day(day)?.0)
    }

    /// The files behind [`Buffer::read_steps`] of `day`, with their sha256 and rows.
    ///
    /// Where the aggregates are on disk, these are what was written down with them: no row is read.
    pub fn source_digests(&self, day: NaiveDate) -> Result<Vec<SourceDigest>> {
        self.with_sources(day, &|sources| self.digest_sources(day, sources))
    }

    /// Both of the above, of the same moment.
    pub fn read_day(&self, day: NaiveDate) -> Result<(StepTable, Vec<SourceDigest>)> {
        self.with_sources(day, &|sources| self.read_sources(day, sources))
    }

    /// Who and what is in [`Buffer::read_steps`] of `day`. Where the aggregates are on disk, no value is read.
    pub fn outline_day(&self, day: NaiveDate) -> Result<StepOutline> {
        self.with_sources(day, &|sources| match self.fresh_steps(day, sources) {
            Some(fresh) => Ok(fresh.outline.clone()),
            None => Ok(self.read_sources(day, sources)?.0.outline()),
        })
    }

    /// Does `work` on the files of a day, anew when a rotation moves rows from segments to the day file meanwhile; where
    /// that happens again and again, the next rotation waits.
    pub(super) fn with_sources<T>(
        &self,
        day: NaiveDate,
        work: &dyn Fn(&DaySources) -> Result<T>,
    ) -> Result<T> {
        let read = || {
            for _ in 0..MAX_ATTEMPTS {
                if let Some(outcome) = self.try_sources(day, work)? {
                    return Ok(outcome);
                }
            }
            let _quiet = self.keep_rotations_out()?;
            self.try_sources(day, work)?.context("its files changed each time they were read")
        };
        read().with_context(|| format!("read day {day}"))
    }

    /// What `work` gives; `None` if its files changed meanwhile.
    fn try_sources<T>(&self, day: NaiveDate, work: &dyn Fn(&DaySources) -> Result<T>) -> Result<Option<T>> {
        let sources = self.sources_of(day)?;
        let outcome = work(&sources);
        if self.are_current(day, &sources)? { outcome.map(Some) } else { Ok(None) }
    }

    fn read_sources(&self, day: NaiveDate, sources: &DaySources) -> Result<(StepTable, Vec<SourceDigest>)> {
        if sources.is_empty() {
            let values = vec![Vec::new(); self.schema.metrics.len()];
            return Ok((StepTable { step_secs: self.step_secs, values, ..StepTable::default() }, Vec::new()));
        }
        if let Some(fresh) = self.fresh_steps(day, sources) {
            return Ok((fresh.read(&self.metric_names())?, fresh.sources.clone()));
        }
        let sha256 = digest(day, sources)?;
        let aggregated = self.aggregate(sources)?;
        let digests = sources.with_digests(sha256, &aggregated.found);
        if sources.are_sealed() && self.are_current(day, sources)? {
            let zone = self.zone.to_string();
            let key = StepsKey::new(self.step_secs, self.schema.digest(), &zone, &sources.sealed);
            let path = cache::path(&self.steps_dir, day);
            cache::write(&path, &aggregated.table, &self.metric_names(), &key, &digests)?;
        }
        Ok((aggregated.table, digests))
    }

    fn digest_sources(&self, day: NaiveDate, sources: &DaySources) -> Result<Vec<SourceDigest>> {
        if let Some(fresh) = self.fresh_steps(day, sources) {
            return Ok(fresh.sources.clone());
        }
        if sources.segments.is_empty() {
            // Whoever asks for the digests wants the aggregates next: they are kept on the way.
            return Ok(self.read_sources(day, sources)?.1);
        }
        let survey = Survey::of(&sources.inputs(), &[])?;
        Ok(sources.with_digests(digest(day, sources)?, &survey.found_by_source()))
    }

    /// The aggregates on disk, if the day has no open segments and they fit its files. A file is checked once, and again
    /// when it looks different from outside.
    fn fresh_steps(&self, day: NaiveDate, sources: &DaySources) -> Option<Arc<Fresh>> {
        if sources.sealed.is_empty() || !sources.segments.is_empty() {
            return None;
        }
        let path = cache::path(&self.steps_dir, day);
        let id = FileId::of(&path).ok()?;
        let zone = self.zone.to_string();
        let key = StepsKey::new(self.step_secs, self.schema.digest(), &zone, &sources.sealed).text();
        let known = |checked: &Checked| {
            let (known_id, known_key, fresh) = checked.get(&path)?;
            (*known_id == id && *known_key == key).then(|| fresh.clone())
        };
        if let Some(fresh) = known(&self.checked.lock().expect("nobody panics while holding it")) {
            return Some(fresh);
        }
        let fresh = Arc::new(cache::fresh(&path, &key, self.step_secs)?);
        let mut checked = self.checked.lock().expect("nobody panics while holding it");
        checked.insert(path, (id, key, fresh.clone()));
        Some(fresh)
    }

    /// Whether the aggregates of `day` are on disk and fit its files.
    pub fn has_steps(&self, day: NaiveDate) -> bool {
        self.sources_of(day).is_ok_and(|sources| self.fresh_steps(day, &sources).is_some())
    }

    /// Makes sure that the aggregates of a sealed day are on disk; true if they had to be made.
    pub(super) fn ensure_steps(&self, day: NaiveDate) -> Result<bool> {
        let is_due = self.needs_steps(day)?;
        if is_due { self.read_day(day).map(|_| true) } else { Ok(false) }
    }

    /// Whether a day is sealed, and its aggregates are not on disk.
    pub(super) fn needs_steps(&self, day: NaiveDate) -> Result<bool> {
        let sources = self.sources_of(day)?;
        Ok(sources.are_sealed() && self.fresh_steps(day, &sources).is_none())
    }

    /// Whether [`Buffer::ensure_steps`] would aggregate `day`.
    ///
    /// - Errors: it would fail, because a file is damaged.
    pub(super) fn foresee_steps(&self, day: NaiveDate) -> Result<bool> {
        let is_due = self.needs_steps(day)?;
        if is_due {
            self.sources_of(day)?.sealed_digests(day)?;
        }
        Ok(is_due)
    }

    /// [`Buffer::ensure_steps`] of many days, a few side by side; what fails will fail again where it is named.
    ///
    /// Threads of our own: one of a pool that waits for the parquet reader's pool would begin another day meanwhile, and
    /// the memory of a day is what bounds their number.
    pub fn prepare_steps(&self, days: &[NaiveDate]) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(day) = days.get(next.fetch_add(1, Ordering::Relaxed)) {
                drop(self.ensure_steps(*day));
            }
        };
        let n_threads = rayon::current_num_threads().min(MAX_DAYS_AT_ONCE).min(days.len());
        std::thread::scope(|scope| (0..n_threads).for_each(|_| drop(scope.spawn(work))));
    }

    /// Where the rows of `day` lie now.
    pub(super) fn sources_of(&self, day: NaiveDate) -> Result<DaySources> {
        let bounds = calendar::day_bounds_ms(day, self.zone);
        let named = self.named_file(day)?;
        let look = named.as_ref().and_then(|named| self.look_at(&named.path).ok());
        let is_misnamed = look.is_some_and(|look| self.misnamed(day, &look).is_some());
        let mut sealed = Vec::new();
        let first = calendar::days_before(day, REACH_DAYS);
        for date in calendar::days_between(first, calendar::days_after(day, REACH_DAYS + 1)) {
            let path = day_file::path(&self.dir, date);
            if fsx::exists(&path)? && self.may_hold(&path, date, day, bounds)? {
                sealed.push(FileId::of(&path)?);
            }
        }
        let segments = segment::list(&segment::day_dir(&self.open_dir, day))?;
        Ok(DaySources { sealed, segments, bounds, named, is_misnamed, spare: self.segment_header() })
    }

    fn named_file(&self, day: NaiveDate) -> Result<Option<FileId>> {
        let path = day_file::path(&self.dir, day);
        if fsx::exists(&path)? { FileId::of(&path).map(Some) } else { Ok(None) }
    }

    /// Whether nothing of `sources` has been sealed or replaced since; rows that were added do not matter.
    ///
    /// A rotation moves rows of segments to the file of their day's name only, so no other file needs a look.
    fn are_current(&self, day: NaiveDate, sources: &DaySources) -> Result<bool> {
        for file in &sources.sealed {
            if !fsx::exists(&file.path)? || FileId::of(&file.path)? != *file {
                return Ok(false);
            }
        }
        let segments = segment::list(&segment::day_dir(&self.open_dir, day))?;
        let are_there = sources.segments.iter().all(|path| segments.contains(path));
        Ok(are_there && self.named_file(day)? == sources.named)
    }

    /// The open days, each with its folder.
    pub(super) fn open_dates(&self) -> Result<BTreeMap<NaiveDate, PathBuf>> {
        let mut dates = BTreeMap::new();
        for entry in fsx::list_dir(&self.open_dir)? {
            let path = entry.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(date) = name.parse() else { continue };
            if !segment::list(&path)?.is_empty() {
                dates.insert(date, path);
            }
        }
        Ok(dates)
    }

    /// Aggregates as it reads, if the rows allow it; else sorts them first.
    fn aggregate(&self, sources: &DaySources) -> Result<Aggregated> {
        if sources.segments.is_empty()
            && let Some(aggregated) = self.aggregate_in_file_order(sources)?
        {
            return Ok(aggregated);
        }
        self.aggregate_sorted(sources)
    }

    /// The fast way: `None` if the rows of some server are not in strictly ascending order of time.
    fn aggregate_in_file_order(&self, sources: &DaySources) -> Result<Option<Aggregated>> {
        let mut builder = StepBuilder::new(&self.schema, self.step_secs);
        let metrics = self.metric_names();
        let mut found = Vec::new();
        for file in &sources.sealed {
            let pushed = push_file(&mut builder, &file.path, &metrics, sources.bounds);
            let Some(n_rows) = pushed.with_context(|| format!("read {}", file.path.display()))? else {
                return Ok(None);
            };
            found.push(Found { n_rows, damage: None });
        }
        Ok(Some(Aggregated { table: builder.finish(), found }))
    }

    /// The slow way, for rows in any order and with duplicates.
    fn aggregate_sorted(&self, sources: &DaySources) -> Result<Aggregated> {
        let inputs = sources.inputs();
        let metrics = self.metric_names();
        let survey = Survey::of(&inputs, &metrics)?;
        let mut builder = StepBuilder::new(&self.schema, self.step_secs);
        merge::for_each_sorted(&inputs, &survey, &metrics, &mut |sorted| {
            for idx in &sorted.order {
                let is_taken = builder.push(sorted.rows.row(*idx as usize));
                debug_assert!(is_taken, "sorted rows ascend");
            }
            Ok(())
        })?;
        Ok(Aggregated { table: builder.finish(), found: survey.found_by_source() })
    }
}

/// Adds the rows of a day file that lie in `bounds`, and returns their number; `None` if those of some server are not in
/// strictly ascending order of time.
fn push_file(
    builder: &mut StepBuilder,
    path: &Path,
    metrics: &[String],
    bounds: (i64, i64),
) -> Result<Option<u64>> {
    let file = ParquetFile::open(path)?;
    let mut n_rows = 0;
    for slice in file.slices_overlapping(Some(bounds), GROUP_ROWS) {
        let part = file.part(&slice);
        let keys = part.read(&Columns::plain(&[]))?;
        let values = |metric: usize, take: &mut dyn FnMut(&[f32])| part.with_values(&metrics[metric], take);
        match builder.push_slice(&keys, bounds, &values)? {
            Some(more) => n_rows += more,
            None => return Ok(None),
        }
    }
    Ok(Some(n_rows))
}

/// The sha256 of the files behind `day`, in their order.
///
/// - Errors: a sealed file is damaged, or one cannot be read.
fn digest(day: NaiveDate, sources: &DaySources) -> Result<Vec<String>> {
    let mut digests = sources.sealed_digests(day)?;
    for segment in &sources.segments {
        digests.push(fsx::sha256_file(segment)?);
    }
    Ok(digests)
}
