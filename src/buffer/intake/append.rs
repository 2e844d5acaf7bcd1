//! `buffer append`: reads records, judges each, files the good ones and quarantines the rest.
//!
//! A report that is returned (or passed to `on_ack`) speaks only of rows that are on stable storage. When the
//! source breaks in the middle, the good rows before the break are made durable first, and the error says how
//! many they are.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use chrono::{NaiveDate, TimeZone, Utc};
use serde::Serialize;

use crate::calendar;
use crate::clock::Clock;
use crate::error::Refusal;
use crate::progress::{Progress, Tick};

use super::csv_rows::Header;
use super::lines::{Line, LineSplitter};
use super::ndjson::LineReader;
use super::quarantine::{Place, Quarantine};
use super::record::{Candidate, Fields, Reason, Reject, Rules, UnknownFields};
use super::source::{Format, Input, ParquetInput, Source, detect_text};
use crate::buffer::Buffer;
use crate::buffer::open::open_days::OpenDays;
use crate::buffer::sealed::parquet_rows::{ParquetFile, SliceTime};

/// How to append.
#[derive(Clone, Debug)]
pub struct AppendOptions {
    pub format: Format,
    /// Serves a pipe that stays open: acknowledges at least every `flush_every`, also while nothing comes.
    pub follow: bool,
    /// Longest time a row waits for its acknowledgement with `follow`.
    pub flush_every: Duration,
    /// Good rows after which a batch is acknowledged with `follow`.
    pub batch_rows: u64,
    /// Set from elsewhere (a signal handler), it ends a followed pipe as if it were closed.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Default for AppendOptions {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            follow: false,
            flush_every: Duration::from_secs(1),
            batch_rows: 50_000,
            stop: None,
        }
    }
}

/// What became of the rows of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AppendReport {
    /// The file, or the name of the pipe.
    pub source: String,
    /// Records found, good and bad.
    pub n_rows: u64,
    /// Records in the buffer, on stable storage.
    pub n_good: u64,
    /// Records in quarantine.
    pub n_bad: u64,
    /// Bad records by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Fields that the schema does not know, dropped, by name.
    pub n_unknown_fields: BTreeMap<String, u64>,
    /// Good records by day.
    pub n_per_day: BTreeMap<NaiveDate, u64>,
    /// Good records for days that are sealed already; the next rotation merges them.
    pub n_late: u64,
    /// Values outside of their metric's range that were kept, as the config says.
    pub n_out_of_range_kept: u64,
    /// Bytes read, after decompression.
    pub n_bytes: u64,
    /// The file that the bad records were added to.
    pub quarantine: Option<PathBuf>,
    pub duration_secs: f64,
}

impl Buffer {
    /// Adds the records of `source` to the open days they belong to.
    ///
    /// Bad records go to quarantine and are counted; whether they are an error (`--strict`) is the caller's
    /// business. When this returns `Ok`, every good row is on stable storage.
    ///
    /// - Errors: the buffer is foreign ([`Refusal::Usage`]); the source cannot be read or is broken (the good
    ///   rows before the break are durable, the message counts them); the disk refuses.
    pub fn append(
        &self,
        source: Source,
        options: &AppendOptions,
        clock: &Clock,
        progress: &dyn Progress,
    ) -> Result<AppendReport> {
        self.append_with(source, options, clock, progress, &mut |_| {})
    }

    /// [`Buffer::append`] that passes the report so far to `on_ack` each time a batch has become durable.
    pub fn append_with(
        &self,
        source: Source,
        options: &AppendOptions,
        clock: &Clock,
        progress: &dyn Progress,
        on_ack: &mut dyn FnMut(&AppendReport),
    ) -> Result<AppendReport> {
        if self.is_foreign {
            let dir = self.dir.display();
            return Err(Refusal::usage(format!("{dir} lies outside of this site and is only read")));
        }
        let name = source.name();
        let mut intake = Intake::new(self, &name, clock, progress, on_ack);
        let outcome = match Input::open(source, options.format) {
            Ok(Input::Text { reader, format }) => intake.take_text(reader, format, options),
            Ok(Input::Parquet(input)) => intake.take_parquet(input),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            if !intake.is_disk_broken {
                intake.acknowledge()?;
            }
            let n_good = intake.report.n_good;
            return Err(error.context(format!("append {name} (the {n_good} good rows before are kept)")));
        }
        intake.acknowledge().with_context(|| format!("append {name}"))?;
        Ok(intake.report)
    }
}

/// What the thread that reads a followed pipe sends.
type Chunk = std::io::Result<Vec<u8>>;

const CHUNK_BYTES: usize = 1 << 16;

struct Intake<'a> {
    buffer: &'a Buffer,
    clock: &'a Clock,
    progress: &'a dyn Progress,
    on_ack: &'a mut dyn FnMut(&AppendReport),
    fields: Fields,
    candidate: Candidate,
    unknown: UnknownFields,
    csv: Option<Header>,
    judge: Judge<'a>,
    report: AppendReport,
    started: Instant,
    acknowledged_at: Instant,
    /// Writing failed, so that nothing more may be promised.
    is_disk_broken: bool,
}

/// The part of an intake that decides about one candidate; apart, so that a parser can hold the rest.
struct Judge<'a> {
    rules: Rules<'a>,
    open: OpenDays<'a>,
    quarantine: Quarantine,
    file: String,
    now_ms: i64,
    today: NaiveDate,
    tally: Tally,
    /// The first failure to write.
    failure: Option<anyhow::Error>,
}

/// Counts that become part of a report when they are durable.
#[derive(Default)]
struct Tally {
    n_good: u64,
    n_bad: u64,
    n_late: u64,
    n_out_of_range_kept: u64,
    reasons: BTreeMap<Reason, u64>,
    n_per_day: BTreeMap<NaiveDate, u64>,
}

impl Judge<'_> {
    /// Files or quarantines a candidate that was found at `line` (and `record` of it).
    fn judge(&mut self, candidate: &mut Candidate, line: u64, record: Option<usize>, raw: &[u8]) {
        match self.rules.check(candidate) {
            Ok(n_kept) => {
                self.tally.n_out_of_range_kept += n_kept as u64;
                self.accept(candidate);
            }
            Err(reject) => self.reject(&reject, line, record, raw),
        }
    }

    fn accept(&mut self, candidate: &Candidate) {
        match self.open.push(candidate.row(), self.now_ms) {
            Ok((date, is_sealed)) => {
                self.tally.n_good += 1;
                self.tally.n_late += u64::from(is_sealed);
                *self.tally.n_per_day.entry(date).or_default() += 1;
            }
            Err(error) => self.fail(error),
        }
    }

    fn reject(&mut self, reject: &Reject, line: u64, record: Option<usize>, raw: &[u8]) {
        self.tally.n_bad += 1;
        *self.tally.reasons.entry(reject.reason).or_default() += 1;
        let place = Place { file: &self.file, line, record };
        let now = calendar::to_utc(self.now_ms);
        if let Err(error) = self.quarantine.add(&place, reject, raw, now, self.today) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: anyhow::Error) {
        self.failure.get_or_insert(error);
    }
}

impl<'a> Intake<'a> {
    fn new(
        buffer: &'a Buffer,
        name: &str,
        clock: &'a Clock,
        progress: &'a dyn Progress,
        on_ack: &'a mut dyn FnMut(&AppendReport),
    ) -> Self {
        let judge = Judge {
            rules: Rules { metrics: &buffer.schema.metrics, min_ms: i64::MAX, max_ms: i64::MIN },
            open: OpenDays::new(buffer),
            quarantine: Quarantine::new(&buffer.quarantine_dir),
            file: name.to_owned(),
            now_ms: 0,
            today: NaiveDate::MIN,
            tally: Tally::default(),
            failure: None,
        };
        let mut intake = Self {
            buffer,
            clock,
            progress,
            on_ack,
            fields: Fields::of(&buffer.schema),
            candidate: Candidate::new(buffer.schema.metrics.len()),
            unknown: UnknownFields::default(),
            csv: None,
            judge,
            report: AppendReport { source: name.to_owned(), ..AppendReport::default() },
            started: Instant::now(),
            acknowledged_at: Instant::now(),
            is_disk_broken: false,
        };
        intake.look_at_clock();
        intake
    }

    /// Which times are absurd depends on the present, which moves on while a pipe is followed.
    fn look_at_clock(&mut self) {
        let now = self.clock.now();
        let buffer = self.buffer;
        let judge = &mut self.judge;
        judge.now_ms = now.timestamp_millis();
        judge.today = calendar::day_of(judge.now_ms, buffer.zone);
        let oldest = calendar::days_before(judge.today, buffer.retention.kept_days);
        let year_2000 = Utc.with_ymd_and_hms(2000, 1, 1, 0, 0, 0).single().expect("a valid date");
        judge.rules.min_ms = calendar::day_start(oldest, buffer.zone).max(year_2000).timestamp_millis();
        judge.rules.max_ms = judge.now_ms + 1000 * i64::from(buffer.max_future_secs);
    }

    fn take_text(
        &mut self,
        mut reader: Box<dyn Read + Send>,
        format: Format,
        options: &AppendOptions,
    ) -> Result<()> {
        let mut text = Text { lines: LineSplitter::default(), format, head: Vec::new() };
        if options.follow {
            return self.follow(&mut text, reader, options);
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return text.finish(self),
                Ok(n_read) => text.push(&chunk[..n_read], self)?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken_source(error)),
            }
        }
    }

    /// Reads in a thread, so that idle time is noticed; it ends with the pipe or with the process.
    fn follow(
        &mut self,
        text: &mut Text,
        mut reader: Box<dyn Read + Send>,
        options: &AppendOptions,
    ) -> Result<()> {
        let (sender, receiver) = sync_channel::<Chunk>(4);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let message = match reader.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(n_read) => {
                        chunk.truncate(n_read);
                        Ok(chunk)
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let is_last = message.is_err();
                if sender.send(message).is_err() || is_last {
                    return;
                }
            }
        });
        self.take_chunks(text, &receiver, options)
    }

    fn take_chunks(
        &mut self,
        text: &mut Text,
        chunks: &Receiver<Chunk>,
        options: &AppendOptions,
    ) -> Result<()> {
        let is_stopped = || options.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        loop {
            let wait = options.flush_every.saturating_sub(self.acknowledged_at.elapsed());
            // A short nap at most, so that a stop is noticed soon.
            match chunks.recv_timeout(wait.min(Duration::from_millis(200))) {
                Ok(Ok(chunk)) => text.push(&chunk, self)?,
                Ok(Err(error)) => return Err(self.broken_source(error)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return text.finish(self),
            }
            let is_due = self.acknowledged_at.elapsed() >= options.flush_every;
            if is_due || self.judge.tally.n_good >= options.batch_rows {
                self.acknowledge()?;
            }
            if is_stopped() {
                return Ok(());
            }
        }
    }

    fn broken_source(&self, error: std::io::Error) -> anyhow::Error {
        let n_bytes = self.report.n_bytes;
        anyhow!(error).context(format!("read it: broken off after {n_bytes} bytes of text"))
    }

    fn take_line(&mut self, number: u64, line: Line<'_>, format: Format) -> Result<()> {
        match line {
            Line::TooLong(head) => {
                let reject = Reject::new(Reason::LineTooLong, "longer than 1 MiB (a batch: 32 MiB)");
                self.judge.reject(&reject, number, None, head);
            }
            Line::Whole(text) if text.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole(text) if format == Format::Csv => self.take_csv_line(number, text)?,
            Line::Whole(text) => self.take_json_line(number, text),
        }
        self.check_disk()
    }

    fn check_disk(&mut self) -> Result<()> {
        match self.judge.failure.take() {
            None => Ok(()),
            Some(failure) => {
                self.is_disk_broken = true;
                Err(failure)
            }
        }
    }

    fn take_json_line(&mut self, number: u64, text: &[u8]) {
        let judge = &mut self.judge;
        // A byte order mark stands before the first line of some writers.
        let text = if number == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        let outcome = LineReader {
            fields: &self.fields,
            metrics: &self.buffer.schema.metrics,
            candidate: &mut self.candidate,
            unknown: &mut self.unknown,
            emit: &mut |candidate, record| judge.judge(candidate, number, record, text),
        }
        .read(text);
        if let Err(reject) = outcome {
            self.judge.reject(&reject, number, None, text);
        }
    }

    fn take_csv_line(&mut self, number: u64, text: &[u8]) -> Result<()> {
        let Some(header) = &mut self.csv else {
            self.csv = Some(Header::parse(text, &self.fields)?);
            return Ok(());
        };
        let metrics = &self.buffer.schema.metrics;
        match header.read(text, metrics, &mut self.candidate, &mut self.unknown) {
            Ok(()) => self.judge.judge(&mut self.candidate, number, None, text),
            Err(reject) => self.judge.reject(&reject, number, None, text),
        }
        Ok(())
    }

    fn take_parquet(&mut self, input: ParquetInput) -> Result<()> {
        self.report.n_bytes = input.file.metadata()?.len();
        let mut file = ParquetFile::of(input.file)?;
        let names = self.buffer.metric_names();
        for name in file.numeric_columns() {
            if !names.contains(&name) {
                *self.unknown.0.entry(name).or_default() += file.n_rows() as u64;
            }
        }
        let mut first_row = 0;
        for slice in file.slices() {
            let rows = file.read_slice(&slice, &names)?;
            for idx in 0..rows.len() {
                rows.fill(idx, &mut self.candidate, &self.buffer.schema.metrics);
                let raw = match rows.time(idx) {
                    SliceTime::Text(text) => format!("{text} {}", self.candidate.server),
                    time => format!("{time:?} {}", self.candidate.server),
                };
                self.judge.judge(&mut self.candidate, first_row + idx as u64 + 1, None, raw.as_bytes());
                self.check_disk()?;
            }
            first_row += rows.len() as u64;
            self.tell();
        }
        Ok(())
    }

    /// Makes everything taken so far durable, and tells.
    fn acknowledge(&mut self) -> Result<()> {
        let judge = &mut self.judge;
        if let Err(error) = judge.open.acknowledge(judge.now_ms).and_then(|()| judge.quarantine.flush()) {
            self.is_disk_broken = true;
            return Err(error);
        }
        let tally = std::mem::take(&mut judge.tally);
        let report = &mut self.report;
        report.n_good += tally.n_good;
        report.n_bad += tally.n_bad;
        report.n_rows = report.n_good + report.n_bad;
        report.n_late += tally.n_late;
        report.n_out_of_range_kept += tally.n_out_of_range_kept;
        for (reason, n) in tally.reasons {
            *report.reasons.entry(reason.name().to_owned()).or_default() += n;
        }
        for (date, n) in tally.n_per_day {
            *report.n_per_day.entry(date).or_default() += n;
        }
        report.n_unknown_fields.clone_from(&self.unknown.0);
        report.quarantine.clone_from(&self.judge.quarantine.path);
        report.duration_secs = self.started.elapsed().as_secs_f64();
        self.acknowledged_at = Instant::now();
        if tally.n_good + tally.n_bad > 0 {
            (self.on_ack)(&self.report);
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.look_at_clock();
        let tally = &self.judge.tally;
        self.progress.tick(&Tick {
            stage: "append",
            done: self.report.n_rows + tally.n_good + tally.n_bad,
            total: 0,
            unit: "rows",
            detail: format!("{} bad", self.report.n_bad + tally.n_bad),
        });
    }
}

/// Text on its way to records.
struct Text {
    lines: LineSplitter,
    format: Format,
    /// What came before the format was known.
    head: Vec<u8>,
}

/// The first line is waited for up to this length before the format is decided.
const MAX_HEAD_BYTES: usize = 1 << 16;

impl Text {
    fn push(&mut self, chunk: &[u8], intake: &mut Intake<'_>) -> Result<()> {
        intake.report.n_bytes += chunk.len() as u64;
        if self.format == Format::Auto {
            self.head.extend_from_slice(chunk);
            if self.head.contains(&b'\n') || self.head.len() >= MAX_HEAD_BYTES {
                self.decide(intake)?;
            }
        } else {
            self.split(chunk, intake)?;
        }
        intake.tell();
        Ok(())
    }

    fn decide(&mut self, intake: &mut Intake<'_>) -> Result<()> {
        self.format = detect_text(&self.head);
        let head = std::mem::take(&mut self.head);
        self.split(&head, intake)
    }

    fn split(&mut self, chunk: &[u8], intake: &mut Intake<'_>) -> Result<()> {
        let format = self.format;
        self.lines.push(chunk, &mut |number, line| intake.take_line(number, line, format))
    }

    fn finish(&mut self, intake: &mut Intake<'_>) -> Result<()> {
        if self.format == Format::Auto {
            self.decide(intake)?;
        }
        let format = self.format;
        self.lines.finish(&mut |number, line| intake.take_line(number, line, format))
    }
}
