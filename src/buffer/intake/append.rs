//! `buffer append`: reads records, judges each, files the good ones and quarantines the rest.
//!
//! A report that is returned (or passed to `on_ack`) speaks only of rows that are on stable storage. When the
//! source breaks in the middle, the good rows before the break are made durable first, and the error says how
//! many they are.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, NaiveDate, Utc};

use crate::calendar;
use crate::clock::Clock;
use crate::error::Refusal;
use crate::progress::{Progress, Tick};
use crate::schema::Metric;

use super::csv_rows::Header;
use super::join::Joiner;
use super::judge::{Judge, Tally};
use super::lines::Line;
use super::names::Fields;
use super::ndjson::LineReader;
use super::quarantine::Quarantine;
use super::record::{Candidate, Reason, Reject, Rules, UnknownFields};
use super::report::{AppendOptions, AppendReport};
use super::source::{Format, Input, ParquetInput, Source};
use super::telegraf::{Series, TelegrafReader, is_telegraf};
use super::text::{TakeText, Text, without_mark};
use crate::buffer::Buffer;
use crate::buffer::open::open_days::OpenDays;
use crate::buffer::sealed::parquet_rows::{Columns, ParquetFile, SliceTime};

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
        self.ensure_own()?;
        let name = source.name();
        let mut intake = Intake::new(self, &name, options, clock, progress, on_ack);
        let outcome = match Input::open(source, options.format) {
            Ok(Input::Text { reader, format, is_compressed }) => {
                let input = &intake.fields.input;
                let keys = [input.timestamp.clone(), input.server_name.clone()];
                intake.take_text(reader, Text::new(format, keys, is_compressed), options)
            }
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

    /// - Errors: the buffer came from elsewhere ([`Refusal::Usage`]).
    pub(in crate::buffer) fn ensure_own(&self) -> Result<()> {
        if self.is_foreign {
            let dir = self.dir.display();
            return Err(Refusal::usage(format!("{dir} lies outside of this site and is only read")));
        }
        Ok(())
    }

    /// The first instant that retention keeps at `now`, epoch milliseconds: never before the year 2000.
    pub(in crate::buffer) fn oldest_kept_ms(&self, now: DateTime<Utc>) -> i64 {
        let today = calendar::day_of(now.timestamp_millis(), self.zone);
        let oldest = calendar::days_before(today, self.retention.kept_days);
        calendar::day_start(oldest, self.zone).timestamp_millis().max(YEAR_2000_MS)
    }
}

/// No server of today measured anything before.
pub(super) const YEAR_2000_MS: i64 = 946_684_800_000;

/// What the thread that reads a followed pipe sends.
type Chunk = std::io::Result<Vec<u8>>;

const CHUNK_BYTES: usize = 1 << 16;

static NO_MAPPING: BTreeMap<String, String> = BTreeMap::new();

/// Takes the records of one source: each is judged, and filed or quarantined.
pub(in crate::buffer) struct Intake<'a> {
    buffer: &'a Buffer,
    clock: &'a Clock,
    progress: &'a dyn Progress,
    on_ack: &'a mut dyn FnMut(&AppendReport),
    fields: Arc<Fields>,
    candidate: Candidate,
    unknown: UnknownFields,
    csv: Option<Header>,
    /// Whether the JSON is that of a Telegraf agent; `None` until a record shows it.
    is_telegraf: Option<bool>,
    series: Series,
    judge: Judge<'a>,
    report: AppendReport,
    started: Instant,
    acknowledged_at: Instant,
    /// Writing failed, so that nothing more may be promised.
    is_disk_broken: bool,
}

impl<'a> Intake<'a> {
    pub fn new(
        buffer: &'a Buffer,
        name: &str,
        options: &AppendOptions,
        clock: &'a Clock,
        progress: &'a dyn Progress,
        on_ack: &'a mut dyn FnMut(&AppendReport),
    ) -> Self {
        let fields = match options.is_plain {
            true => Fields::plain(&buffer.schema),
            false => Fields::of(&buffer.schema, &buffer.input, &buffer.columns),
        };
        let is_telegraf = match options.format {
            Format::Telegraf => Some(true),
            Format::Ndjson => Some(false),
            _ => None,
        };
        let mut open = OpenDays::new(buffer);
        open.completes_rows = is_telegraf == Some(true);
        let judge = Judge {
            rules: Rules {
                metrics: &buffer.schema.metrics,
                min_ms: i64::MAX,
                max_ms: i64::MIN,
                status_values: if options.is_plain { &NO_MAPPING } else { &buffer.input.status_values },
            },
            open,
            quarantine: Quarantine::new(&buffer.quarantine_dir, buffer.min_free_bytes),
            file: name.to_owned(),
            now_ms: 0,
            today: NaiveDate::MIN,
            leaves_out_old: options.leave_out_old,
            tally: Tally::default(),
            joiner: Joiner::default(),
            failure: None,
        };
        let mut intake = Self {
            buffer,
            clock,
            progress,
            on_ack,
            candidate: Candidate::new(buffer.schema.metrics.len(), fields.times()),
            fields: Arc::new(fields),
            unknown: UnknownFields::default(),
            csv: None,
            is_telegraf,
            series: Series::default(),
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
    pub fn look_at_clock(&mut self) {
        let now = self.clock.now();
        let buffer = self.buffer;
        let judge = &mut self.judge;
        judge.now_ms = now.timestamp_millis();
        judge.today = calendar::day_of(judge.now_ms, buffer.zone);
        judge.rules.min_ms = buffer.oldest_kept_ms(now);
        judge.rules.max_ms = judge.now_ms + 1000 * i64::from(buffer.max_future_secs);
    }

    fn take_text(
        &mut self,
        mut reader: Box<dyn Read + Send>,
        mut text: Text,
        options: &AppendOptions,
    ) -> Result<()> {
        if options.follow {
            return self.follow(&mut text, reader, options);
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return text.finish(self),
                Ok(n_read) => self.take_chunk(&mut text, &chunk[..n_read])?,
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
                Ok(Ok(chunk)) => self.take_chunk(text, &chunk)?,
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

    fn take_chunk(&mut self, text: &mut Text, chunk: &[u8]) -> Result<()> {
        self.report.n_bytes += chunk.len() as u64;
        text.push(chunk, self)?;
        self.tell();
        Ok(())
    }

    fn broken_source(&self, error: std::io::Error) -> anyhow::Error {
        let n_bytes = self.report.n_bytes;
        anyhow!(error).context(format!("read it: broken off after {n_bytes} bytes of text"))
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

    fn take_json(&mut self, number: u64, text: &[u8]) {
        let text = if number == 1 { without_mark(text) } else { text };
        if self.is_telegraf.is_none() {
            self.is_telegraf = is_telegraf(text);
            self.judge.open.completes_rows = self.is_telegraf == Some(true);
        }
        let judge = &mut self.judge;
        let emit: &mut dyn FnMut(&mut Candidate, Option<usize>) =
            &mut |candidate, record| judge.judge(candidate, number, record, text);
        let (fields, metrics) = (&*self.fields, self.buffer.schema.metrics.as_slice());
        let (candidate, unknown) = (&mut self.candidate, &mut self.unknown);
        let outcome = match self.is_telegraf {
            Some(true) => {
                let (series, n_unmapped) = (&mut self.series, &mut self.report.n_unmapped);
                TelegrafReader { fields, metrics, candidate, unknown, series, n_unmapped, emit }.read(text)
            }
            _ => LineReader { fields, metrics, candidate, unknown, emit }.read(text),
        };
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
        let file = ParquetFile::of(input.file)?;
        for name in file.numeric_columns() {
            if self.fields.get(&name).is_none() {
                *self.unknown.0.entry(name).or_default() += file.n_rows() as u64;
            }
        }
        let names = file.columns();
        let fields = self.fields.clone();
        let columns = Columns::mapped(&names, &fields, self.buffer.schema.metrics.len())?;
        let mut first_row = 0;
        for slice in file.slices() {
            let rows = file.read_slice(&slice, &columns)?;
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

    /// Judges one record that somebody else has read: `fill` writes it into an empty candidate. `number` and `raw` are
    /// what quarantine says of it.
    pub fn take_read(
        &mut self,
        number: u64,
        raw: &[u8],
        fill: impl FnOnce(&mut Candidate, &[Metric]),
    ) -> Result<()> {
        self.candidate.reset();
        fill(&mut self.candidate, &self.buffer.schema.metrics);
        self.judge.judge(&mut self.candidate, number, None, raw);
        self.check_disk()
    }

    /// What is durable so far.
    pub fn report(&self) -> &AppendReport {
        &self.report
    }

    /// Makes everything taken so far durable, and tells.
    pub fn acknowledge(&mut self) -> Result<()> {
        self.judge.file_joined();
        self.check_disk()?;
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
        report.n_joined += tally.n_joined;
        report.n_too_old += tally.n_too_old;
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

impl TakeText for Intake<'_> {
    fn take(&mut self, number: u64, text: Line<'_>, is_csv: bool) -> Result<()> {
        match text {
            Line::TooLong(_) if is_csv && self.csv.is_none() => bail!("its CSV header is longer than 1 MiB"),
            Line::TooLong(head) => {
                let reject = Reject::new(Reason::LineTooLong, "longer than 1 MiB (a batch: 32 MiB)");
                self.judge.reject(&reject, number, None, head);
            }
            Line::Whole(text) if text.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole(text) if is_csv => self.take_csv_line(number, text)?,
            Line::Whole(text) => self.take_json(number, text),
        }
        self.check_disk()
    }

    fn n_good(&self) -> u64 {
        self.report.n_good + self.judge.tally.n_good
    }
}
