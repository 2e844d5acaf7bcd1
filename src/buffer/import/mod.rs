//! `buffer import --prometheus`: history out of a Prometheus server, one row per server and time step.
//!
//! The range is asked for page by page ([`range`], [`api`]), the answers of all queries for a page are joined
//! ([`page`]), and its rows go the way of every row: judged, quarantined or filed, made durable. Only then does the
//! record of the import move on ([`ledger`]), so that a killed import repeats at most one page, whose rows the rotation
//! finds to be duplicates.
//!
//! Memory is that of one page: a page whose answers are too large is asked for in halves.

mod api;
mod ledger;
mod page;
mod range;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::calendar;
use crate::clock::Clock;
use crate::config::PrometheusConfig;
use crate::error::{Hint, HintExt, Refusal};
use crate::progress::{Progress, Tick};

use super::Buffer;
use super::intake::{AppendOptions, AppendReport, Intake};
use api::{Api, TooLarge};
use ledger::Ledger;
use page::Page;
use range::{PageRange, Range};

/// What to import, and from where.
#[derive(Clone, Debug)]
pub struct PrometheusImport {
    /// Server, queries and labels, checked against the schema.
    pub source: PrometheusConfig,
    /// Headers of every request, secrets resolved.
    pub headers: Vec<(String, String)>,
    /// The first time asked for.
    pub start: DateTime<Utc>,
    /// Times from here on are not asked for; none: up to the present, and a later run goes on from there.
    pub end: Option<DateTime<Utc>>,
    pub step_secs: u32,
    /// Forgets how far an earlier run of the same import came.
    pub restart: bool,
}

/// What an import would ask, without asking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportPlan {
    pub source: String,
    pub n_queries: usize,
    /// Time steps that are left.
    pub n_points: u64,
    /// Pages of `prometheus.page_points`; more where an answer is too large for one.
    pub n_pages: u64,
    pub n_requests: u64,
    /// The first time that would be asked for, and the last.
    pub first: Option<DateTime<Utc>>,
    pub last: Option<DateTime<Utc>>,
    /// Whether an earlier run of the same import began it.
    pub is_resumed: bool,
}

/// What an import did; everything it counts is on stable storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImportReport {
    pub source: String,
    pub n_queries: usize,
    /// Time steps that were asked for now.
    pub n_points: u64,
    pub n_pages: u64,
    pub n_requests: u64,
    pub n_servers: usize,
    /// Samples that came, and those of them that were NaN or infinite: missing values.
    pub n_samples: u64,
    pub n_not_finite: u64,
    /// Metrics whose query gave no sample.
    pub without_samples: Vec<String>,
    /// The first time that was asked for, where an earlier run stopped.
    pub resumed_at: Option<DateTime<Utc>>,
    /// What a next run of the same import begins with.
    pub next: Option<DateTime<Utc>>,
    /// Whether nothing is left of the range.
    pub is_complete: bool,
    /// What became of the rows.
    pub rows: AppendReport,
}

impl Buffer {
    /// Says what [`Buffer::import_prometheus`] would ask.
    ///
    /// - Errors: those that the import would end with before its first request.
    pub fn plan_import(&self, import: &PrometheusImport, now: DateTime<Utc>) -> Result<ImportPlan> {
        let ledger = Ledger::open(&self.imports_dir, import, &self.schema.digest())?;
        let range = self.range_of(import, &ledger, now)?;
        let n_points = range.n_left();
        let n_pages = n_points.div_ceil(u64::from(import.source.page_points));
        let n_queries = import.source.queries.len();
        Ok(ImportPlan {
            source: import.source.url.clone(),
            n_queries,
            n_points,
            n_pages,
            n_requests: n_pages * n_queries as u64,
            first: (n_points > 0).then(|| calendar::to_utc(range.next_ms)),
            last: (n_points > 0).then(|| calendar::to_utc(range.last_ms())),
            is_resumed: ledger.is_resumed(),
        })
    }

    /// Fetches the range, and adds its rows to the days they belong to.
    ///
    /// - Errors: the buffer is foreign, the range or a query cannot be ([`Refusal::Usage`]); the same import is
    ///   running ([`Refusal::LockHeld`]); the server cannot be reached, refuses a query or gives two series for one
    ///   server; not one sample was found ([`Refusal::NotEnoughData`]); the disk refuses. What the finished pages
    ///   held is kept, and the next run goes on after them.
    pub fn import_prometheus(
        &self,
        import: &PrometheusImport,
        clock: &Clock,
        progress: &dyn Progress,
    ) -> Result<ImportReport> {
        self.ensure_own()?;
        let now = clock.now();
        let oldest_ms = self.oldest_kept_ms(now);
        let _lock = Ledger::lock(&self.imports_dir, import, &self.schema.digest(), now)?;
        ledger::sweep(&self.imports_dir, oldest_ms)?;
        let mut ledger = Ledger::open(&self.imports_dir, import, &self.schema.digest())?;
        if import.restart {
            ledger.forget()?;
        }
        let range = self.range_of(import, &ledger, now)?;
        let source = import.source.url.as_str();
        // PromQL speaks of the site's metrics in their units already: nothing is mapped.
        let options = AppendOptions { is_plain: true, ..AppendOptions::default() };
        let no_ack = &mut |_: &AppendReport| {};
        let mut run = Run {
            import,
            api: Api::new(&import.source, &import.headers),
            n_metrics: self.schema.metrics.len(),
            metric_idxs: self.metric_idxs(&import.source)?,
            intake: Intake::new(self, &format!("prometheus {source}"), &options, clock, progress, no_ack),
            progress,
            page_points: import.source.page_points,
            servers: BTreeSet::new(),
            has_samples: vec![false; import.source.queries.len()],
            report: ImportReport {
                source: source.to_owned(),
                n_queries: import.source.queries.len(),
                resumed_at: ledger.is_resumed().then(|| calendar::to_utc(range.next_ms)),
                ..ImportReport::default()
            },
            started: Instant::now(),
        };
        let taken = run.take(range, &mut ledger).with_context(|| format!("import from {source}"));
        taken.map_err(|error| with_way_on(error, import, &ledger))?;
        run.finish(&ledger, now)
    }

    /// The times that are left of an import at `now`.
    fn range_of(&self, import: &PrometheusImport, ledger: &Ledger, now: DateTime<Utc>) -> Result<Range> {
        let range = Range::new(import, ledger.next(), now)?;
        let oldest_ms = self.oldest_kept_ms(now);
        if range.n_left() > 0 && range.next_ms < oldest_ms {
            let oldest = calendar::day_of(oldest_ms, self.zone);
            let days = self.retention.kept_days;
            return Err(Refusal::usage(format!(
                "the import begins at {}, and data_retention_days = {days} keeps nothing before {oldest}",
                calendar::to_utc(range.next_ms).format("%Y-%m-%dT%H:%M:%SZ"),
            )))
            .hint(|| format!("begin with `--start {oldest}`, or raise data_retention_days"));
        }
        Ok(range)
    }

    /// The schema's position of each query's metric, in the order of the queries.
    fn metric_idxs(&self, source: &PrometheusConfig) -> Result<Vec<usize>> {
        source.ensure_valid(&self.schema)?;
        Ok(source.queries.keys().filter_map(|name| self.schema.metric_idx(name)).collect())
    }
}

/// Says where a broken import goes on, unless the error itself says what to do.
fn with_way_on(error: anyhow::Error, import: &PrometheusImport, ledger: &Ledger) -> anyhow::Error {
    if error.is::<Hint>() || ledger.next() <= import.start {
        return error;
    }
    let next = ledger.next().format("%Y-%m-%dT%H:%M:%SZ");
    error.context(Hint(format!("what came before {next} is safe; the same command goes on from there")))
}

/// One import at work.
struct Run<'a> {
    import: &'a PrometheusImport,
    api: Api,
    n_metrics: usize,
    metric_idxs: Vec<usize>,
    intake: Intake<'a>,
    progress: &'a dyn Progress,
    /// Points of the next page; halved when an answer is too large, never grown again.
    page_points: u32,
    servers: BTreeSet<String>,
    /// By query.
    has_samples: Vec<bool>,
    report: ImportReport,
    started: Instant,
}

impl Run<'_> {
    fn take(&mut self, mut range: Range, ledger: &mut Ledger) -> Result<()> {
        let n_total = range.n_left();
        while let Some(page) = self.fetch_next(&range)? {
            let n_before = self.intake.report().n_rows;
            self.file(&page)?;
            range.next_ms = page.range.end_ms();
            ledger.advance(range.next_ms, self.intake.report().n_rows - n_before)?;
            self.report.n_pages += 1;
            self.report.n_points += u64::from(page.range.n_points);
            self.tell(n_total);
        }
        Ok(())
    }

    /// The next page with the answers of every query; smaller than planned where an answer was too large.
    fn fetch_next(&mut self, range: &Range) -> Result<Option<Page>> {
        loop {
            let Some(wanted) = range.next_page(self.page_points) else { return Ok(None) };
            match self.fetch(wanted) {
                Err(error) if error.is::<TooLarge>() && wanted.n_points > 1 => {
                    self.page_points = wanted.n_points.div_ceil(2);
                    let smaller = self.page_points;
                    self.progress.detail(&format!("{error:#}: asking for {smaller} time steps at once"));
                }
                outcome => {
                    let of_page = || format!("fetch {wanted}");
                    return outcome.map(Some).with_context(of_page);
                }
            }
        }
    }

    fn fetch(&mut self, wanted: PageRange) -> Result<Page> {
        let import = self.import;
        let mut page = Page::new(wanted, self.n_metrics, &import.source);
        for (query_idx, (metric, promql)) in import.source.queries.iter().enumerate() {
            self.report.n_requests += 1;
            let reply = self.api.query_range(promql, &wanted).with_context(|| format!("query `{metric}`"))?;
            for warning in reply.new_warnings {
                self.progress.warn(&format!("{metric}: the server says: {warning}"));
            }
            let n_before = page.n_samples;
            page.add(metric, self.metric_idxs[query_idx], &reply.series)?;
            self.has_samples[query_idx] |= page.n_samples > n_before;
        }
        Ok(page)
    }

    /// Judges and files the rows of a page; they are durable when this returns.
    fn file(&mut self, page: &Page) -> Result<()> {
        self.intake.look_at_clock();
        let first = self.intake.report().n_rows;
        for (at, row) in page.rows().enumerate() {
            let raw = format!("{} {}", calendar::to_utc(row.time_ms).to_rfc3339(), row.server);
            self.intake.take_read(first + at as u64 + 1, raw.as_bytes(), |candidate, metrics| {
                row.fill(candidate, metrics);
            })?;
        }
        self.intake.acknowledge()?;
        self.servers.extend(page.servers().map(str::to_owned));
        self.report.n_samples += page.n_samples;
        self.report.n_not_finite += page.n_not_finite;
        Ok(())
    }

    fn tell(&self, n_total: u64) {
        let n_rows = self.intake.report().n_rows;
        let rate = n_rows as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        self.progress.tick(&Tick {
            stage: "import",
            done: self.report.n_points,
            total: n_total,
            unit: "time steps",
            detail: format!("{n_rows} rows, {rate:.0} rows/s"),
        });
    }

    /// The report; an import that found nothing at all is forgotten, so that it can be tried again.
    fn finish(self, ledger: &Ledger, now: DateTime<Utc>) -> Result<ImportReport> {
        let mut report = self.report;
        report.rows = self.intake.report().clone();
        report.n_servers = self.servers.len();
        report.next = Some(ledger.next());
        report.is_complete = self.import.end.is_some_and(|end| ledger.next() >= end);
        if report.n_points > 0 {
            let names = self.import.source.queries.keys().zip(self.has_samples);
            report.without_samples = names.filter(|(_, has)| !has).map(|(name, _)| name.clone()).collect();
        }
        if ledger.n_rows() == 0 && report.n_points > 0 {
            ledger.forget()?;
            let until = self.import.end.unwrap_or(now).format("%Y-%m-%dT%H:%M:%SZ");
            let start = self.import.start.format("%Y-%m-%dT%H:%M:%SZ");
            let reason = format!("no query gave a sample from {start} to {until}");
            return Err(Refusal::NotEnoughData { reasons: vec![reason] }).hint(|| {
                "try the queries on the server's own page; is the range within its retention?".into()
            });
        }
        for metric in &report.without_samples {
            self.progress.warn(&format!("{metric}: its query gave no sample"));
        }
        Ok(report)
    }
}
