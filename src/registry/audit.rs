//! `audit.jsonl`: every act that changes which model serves or survives, one line each, hash-chained.
//!
//! Each line carries the sha256 of the line before it, so that an edited, removed, inserted or moved line
//! breaks the chain; `audit.head.json` beside it remembers the last line, so that a cut end is found too.
//! The log proves accidents and casual edits, not a forger who rewrites both files: whoever must defend
//! against that keeps [`AuditReport::head_sha256`] elsewhere (the nightly message carries it well).
//!
//! # Order of writes
//!
//! The champion pointer moves first and its line is appended after it, then the head. A crash (or a full
//! disk) in between leaves a pointer whose `generation` the log does not know: the next command appends the
//! missing line from the pointer itself, marked `recovered`, and says so. The other order would leave a log
//! that tells of a promotion that never happened, which nothing could repair. The head may lag by the lines
//! of such crashes; it never runs ahead.
//!
//! The log outlives `retention.logs_days`: it is not a log in that sense.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::fsx;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The pointer moved to a newly examined (or forced) model.
    Promote,
    /// The pointer moved back.
    Rollback,
    Pin,
    Unpin,
    /// A model was deleted by the retention rule.
    Prune,
    /// An exam was sat with its quality checks waived (`require_validation = false`).
    Waive,
    Import,
    Pause,
    Resume,
}

impl Act {
    /// Whether the act moves the champion pointer.
    pub fn moves_pointer(self) -> bool {
        matches!(self, Act::Promote | Act::Rollback)
    }
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A person at the command line.
    Operator,
    /// The nightly run.
    Nightly,
}

/// What the exam said of a model when it was promoted: what later ratchets are built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExamSummary {
    pub loss: Option<f64>,
    /// Loss over that of the champion of that day, on the same rows.
    pub ratio: Option<f64>,
    /// The champion of that day.
    pub against: Option<String>,
}

/// One act, before it has its place in the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deed {
    pub at: DateTime<Utc>,
    pub act: Act,
    /// The model it was done to (or what else: a window, the site).
    pub subject: String,
    pub by: By,
    pub reason: String,
    /// Whether the exam's word was overruled.
    #[serde(default)]
    pub forced: bool,
    /// Counts the pointer's moves; none for other acts.
    #[serde(default)]
    pub generation: Option<u64>,
    /// The champion before a move.
    #[serde(default)]
    pub previous: Option<String>,
    #[serde(default)]
    pub weights_sha256: Option<String>,
    #[serde(default)]
    pub exam: Option<ExamSummary>,
    /// Appended by a later command, because the one that did it was stopped before it could.
    #[serde(default)]
    pub recovered: bool,
}

impl Deed {
    /// An act that does not move the pointer.
    pub fn new(act: Act, subject: impl Into<String>, by: By, reason: &str, at: DateTime<Utc>) -> Self {
        Self {
            at,
            act,
            subject: subject.into(),
            by,
            reason: reason.to_owned(),
            forced: false,
            generation: None,
            previous: None,
            weights_sha256: None,
            exam: None,
            recovered: false,
        }
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// 1 for the first line.
    pub seq: u64,
    /// sha256 of the line before, without its newline; 64 zeros for the first.
    pub prev: String,
    #[serde(flatten)]
    pub deed: Deed,
}

/// What [`AuditLog::verify`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditReport {
    pub path: PathBuf,
    pub n_entries: u64,
    /// sha256 of the last line: keep it elsewhere to notice a rewritten log.
    pub head_sha256: String,
    /// Bytes after the last newline: a crash while a line was written; the next act cuts them.
    pub has_torn_tail: bool,
    /// Lines that a later command had to append.
    pub n_recovered: u64,
    pub findings: Vec<AuditFinding>,
}

/// One thing that is wrong with the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// 1-based line, where one can be named.
    pub line: Option<u64>,
    pub problem: String,
}

/// `audit.head.json`: the last line whose append was finished.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    seq: u64,
    sha256: String,
}

const HEAD_FORMAT: u32 = 1;

/// The log of one site.
#[derive(Clone, Debug)]
pub struct AuditLog {
    pub path: PathBuf,
    head_path: PathBuf,
}

impl AuditLog {
    /// The log in `dir`; nothing is created before the first act.
    pub fn new(dir: PathBuf) -> Self {
        Self { path: dir.join("audit.jsonl"), head_path: dir.join("audit.head.json") }
    }

    /// Appends `deed` durably and returns the line.
    ///
    /// A broken chain is continued, not mended: the break stays where it is for [`AuditLog::verify`] to find.
    pub fn append(&self, deed: Deed) -> Result<AuditEntry> {
        let text = self.read()?;
        let lines: Vec<&str> = complete_lines(&text).collect();
        let seq = lines.len() as u64 + 1;
        let prev = lines.last().map_or_else(genesis, |line| line_sha256(line));
        let entry = AuditEntry { seq, prev, deed };
        let line = serde_json::to_string(&entry).context("encode an audit line")?;
        let is_head_true = self.head().is_ok_and(|head| head.is_none_or(|head| agrees(&head, &lines)));
        fsx::append_durable(&self.path, &line)?;
        if is_head_true {
            let head = Head { format: HEAD_FORMAT, seq, sha256: line_sha256(&line) };
            fsx::write_json(&self.head_path, &head)?;
        }
        Ok(entry)
    }

    /// Every line that can be read, oldest first; whether the chain holds is [`AuditLog::verify`]'s business.
    pub fn entries(&self) -> Result<Vec<AuditEntry>> {
        Ok(complete_lines(&self.read()?).filter_map(parse).collect())
    }

    /// The lines that moved the pointer, oldest first.
    pub fn moves(&self) -> Result<Vec<AuditEntry>> {
        let mut entries = self.entries()?;
        entries.retain(|entry| entry.deed.act.moves_pointer());
        Ok(entries)
    }

    /// Checks the whole chain.
    pub fn verify(&self) -> Result<AuditReport> {
        let text = self.read()?;
        let lines: Vec<&str> = complete_lines(&text).collect();
        let mut findings = chain_findings(&lines);
        findings.extend(generation_findings(&lines));
        findings.extend(self.head_finding(&lines));
        Ok(AuditReport {
            path: self.path.clone(),
            n_entries: lines.len() as u64,
            head_sha256: lines.last().map_or_else(genesis, |line| line_sha256(line)),
            has_torn_tail: !text.is_empty() && !text.ends_with('\n'),
            n_recovered: lines.iter().filter_map(|line| parse(line)).filter(|e| e.deed.recovered).count()
                as u64,
            findings,
        })
    }

    fn head_finding(&self, lines: &[&str]) -> Option<AuditFinding> {
        let problem = match self.head() {
            Ok(head) if head.as_ref().is_none_or(|head| agrees(head, lines)) => return None,
            Ok(_) => "the last lines were removed or edited: they are not those that were written".into(),
            Err(error) => format!("{error:#}"),
        };
        Some(AuditFinding { line: None, problem })
    }

    fn read(&self) -> Result<String> {
        match fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            bytes => {
                let bytes = bytes.with_context(|| format!("read {}", self.path.display()))?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    fn head(&self) -> Result<Option<Head>> {
        fsx::read_versioned(&self.head_path, HEAD_FORMAT)
    }
}

fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

fn parse(line: &str) -> Option<AuditEntry> {
    serde_json::from_str(line).ok()
}

fn line_sha256(line: &str) -> String {
    fsx::sha256_bytes(line.as_bytes())
}

fn genesis() -> String {
    "0".repeat(64)
}

/// Whether the line the head remembers is still in its place.
fn agrees(head: &Head, lines: &[&str]) -> bool {
    let line = usize::try_from(head.seq).ok().and_then(|seq| lines.get(seq.checked_sub(1)?));
    line.is_some_and(|line| line_sha256(line) == head.sha256)
}

fn chain_findings(lines: &[&str]) -> Vec<AuditFinding> {
    let mut findings = Vec::new();
    let mut prev = genesis();
    for (at, line) in lines.iter().enumerate() {
        let number = at as u64 + 1;
        let problem = match parse(line) {
            None => Some("is not a line this program wrote".to_owned()),
            Some(entry) if entry.prev != prev => Some(match number {
                1 => "does not begin the chain: lines before it were removed".to_owned(),
                _ => format!("does not follow line {at}: one of them was edited, removed, inserted or moved"),
            }),
            Some(entry) if entry.seq != number => Some(format!("is numbered {}", entry.seq)),
            Some(_) => None,
        };
        findings.extend(problem.map(|problem| AuditFinding { line: Some(number), problem }));
        prev = line_sha256(line);
    }
    findings
}

/// Moves are counted from 1 without gaps; a gap is a move whose line never came, or a log that begins late.
fn generation_findings(lines: &[&str]) -> Vec<AuditFinding> {
    let mut findings = Vec::new();
    let mut last = 0;
    for (at, entry) in lines.iter().map(|line| parse(line)).enumerate() {
        let Some(generation) = entry.and_then(|entry| entry.deed.generation) else { continue };
        if generation != last + 1 {
            let problem = format!("is move {generation} of the pointer, the one before it was {last}");
            findings.push(AuditFinding { line: Some(at as u64 + 1), problem });
        }
        last = generation;
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(n: usize) -> (tempfile::TempDir, AuditLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = AuditLog::new(dir.path().join("logs"));
        for k in 0..n {
            let at = DateTime::from_timestamp(1_767_319_200 + k as i64, 0).unwrap();
            log.append(Deed::new(Act::Pin, format!("model {k}"), By::Operator, "why", at)).unwrap();
        }
        (dir, log)
    }

    /// Tampers with the lines of a log of five and expects a finding at `line` (none: at the end).
    #[track_caller]
    fn tampered(change: impl FnOnce(&mut Vec<String>), line: Option<u64>) {
        let (_dir, log) = log_of(5);
        let text = fs::read_to_string(&log.path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(&log.path, lines.join("\n") + "\n").unwrap();
        let findings = log.verify().unwrap().findings;
        assert!(findings.iter().any(|finding| finding.line == line), "{findings:?}");
        let n_before = findings.len();
        log.append(Deed::new(Act::Unpin, "m", By::Operator, "", DateTime::UNIX_EPOCH)).unwrap();
        assert!(log.verify().unwrap().findings.len() >= n_before, "a later act must not heal the break");
    }

    #[test]
    fn an_untouched_log_is_fine() {
        let (_dir, log) = log_of(5);
        let report = log.verify().unwrap();
        assert_eq!((report.n_entries, report.findings.len(), report.has_torn_tail), (5, 0, false));
        assert_eq!(log_of(0).1.verify().unwrap().n_entries, 0);
    }

    #[test]
    fn an_edited_line_is_found() {
        tampered(|lines| lines[1] = lines[1].replace("why", "because"), Some(3));
        tampered(|lines| lines[4] = lines[4].replace("why", "because"), None);
        tampered(|lines| lines[2] = "{}".into(), Some(3));
    }

    #[test]
    fn a_removed_inserted_or_moved_line_is_found() {
        tampered(|lines| drop(lines.remove(0)), Some(1));
        tampered(|lines| drop(lines.remove(2)), Some(3));
        tampered(|lines| drop(lines.pop()), None);
        tampered(|lines| lines.insert(2, lines[1].clone()), Some(3));
        tampered(|lines| lines.swap(1, 2), Some(2));
        tampered(|lines| lines.clear(), None);
    }

    #[test]
    fn a_torn_tail_is_cut_by_the_next_act() {
        let (_dir, log) = log_of(2);
        let mut text = fs::read_to_string(&log.path).unwrap();
        text.push_str("{\"seq\":3,\"pr");
        fs::write(&log.path, text).unwrap();
        let report = log.verify().unwrap();
        assert!(report.has_torn_tail && report.findings.is_empty());
        log.append(Deed::new(Act::Unpin, "m", By::Operator, "", DateTime::UNIX_EPOCH)).unwrap();
        let report = log.verify().unwrap();
        assert_eq!((report.n_entries, report.findings.len(), report.has_torn_tail), (3, 0, false));
    }

    #[test]
    fn a_head_that_lags_behind_is_no_finding() {
        let (_dir, log) = log_of(2);
        let head = fs::read(&log.head_path).unwrap();
        log.append(Deed::new(Act::Unpin, "m", By::Operator, "", DateTime::UNIX_EPOCH)).unwrap();
        fs::write(&log.head_path, head).unwrap();
        assert!(log.verify().unwrap().findings.is_empty());
        log.append(Deed::new(Act::Unpin, "n", By::Operator, "", DateTime::UNIX_EPOCH)).unwrap();
        assert!(log.verify().unwrap().findings.is_empty());
    }
}
