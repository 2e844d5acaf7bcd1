//! Imports from a server that says what it is told to; `tests/promises/prometheus.rs` asks a real one.

use std::io::Cursor;

use chrono::{DateTime, Utc};

use crate::buffer::sealed::day_file;
use crate::buffer::tests::rows_of;
use crate::buffer::{AppendOptions, Buffer, PrometheusImport, RotateOptions, Source};
use crate::clock::Clock;
use crate::config::{Config, PrometheusConfig};
use crate::error::{Exit, message_and_hint};
use crate::http::receiver::{Answer, Receiver, refused_url};
use crate::progress::Silent;
use crate::schema::{Metric, OutOfRange};
use crate::site::Site;

use super::ImportReport;

/// 2024-05-01T00:00:00Z, in seconds.
const START: i64 = 1_714_521_600;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(START + secs, 0).unwrap()
}

/// A site with the metrics `cpu` (0 to 100) and `mem`, a day and a half after the data.
struct Bench {
    dir: tempfile::TempDir,
    config: Config,
    now: DateTime<Utc>,
}

impl Bench {
    fn new() -> Self {
        let cpu = Metric {
            min: Some(0.0),
            max: Some(100.0),
            out_of_range: OutOfRange::Quarantine,
            ..Metric::new("cpu", "%")
        };
        let config = Config { metrics: vec![cpu, Metric::new("mem", "")], ..Config::default() };
        Self { dir: tempfile::tempdir().unwrap(), config, now: at(36 * 3600) }
    }

    fn buffer(&self) -> Buffer {
        Buffer::open(&Site::of(&self.dir.path().canonicalize().unwrap(), self.config.clone()))
    }

    fn import(&self, import: &PrometheusImport) -> anyhow::Result<ImportReport> {
        self.buffer().import_prometheus(import, &Clock::Fixed(self.now), &Silent)
    }

    #[track_caller]
    fn refused(&self, import: &PrometheusImport, exit: Exit, expected: &[&str]) {
        let error = self.import(import).unwrap_err();
        let (message, hint) = message_and_hint(&error);
        let text = format!("{message} ({})", hint.unwrap_or_default());
        for words in expected {
            assert!(text.contains(words), "{text:?} should contain {words:?}");
        }
        assert_eq!(Exit::of(&error), exit, "{text}");
    }

    /// The rows of the one day, sealed.
    fn rows(&self) -> Vec<String> {
        let buffer = self.buffer();
        let report = buffer.rotate(&RotateOptions::default(), self.now, &Silent).unwrap();
        assert_eq!(report.failed, []);
        let path = day_file::path(&buffer.dir, at(0).date_naive());
        rows_of(&path, &buffer.metric_names())
    }
}

/// Ten-second steps from [`START`] on, before `end_secs`.
fn import(url: &str, queries: &[&str], end_secs: i64) -> PrometheusImport {
    let queries = queries.iter().map(|metric| ((*metric).to_owned(), format!("of({metric})"))).collect();
    PrometheusImport {
        source: PrometheusConfig { url: url.to_owned(), queries, ..PrometheusConfig::default() },
        headers: Vec::new(),
        start: at(0),
        end: Some(at(end_secs)),
        step_secs: 10,
        restart: false,
    }
}

/// A reply with series: labels as JSON, and samples by seconds after [`START`].
fn matrix(series: &[(&str, &[(i64, &str)])]) -> Answer {
    let series: Vec<String> = series
        .iter()
        .map(|(labels, samples)| {
            let samples: Vec<String> =
                samples.iter().map(|(secs, value)| format!("[{},\"{value}\"]", START + secs)).collect();
            format!("{{\"metric\":{labels},\"values\":[{}]}}", samples.join(","))
        })
        .collect();
    let result = series.join(",");
    Answer::status(
        200,
        &format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{result}]}}}}"#),
    )
}

fn refusal(status: u16, kind: &str, words: &str) -> Answer {
    Answer::status(status, &format!(r#"{{"status":"error","errorType":"{kind}","error":"{words}"}}"#))
}

const A: &str = r#"{"instance":"a:9100"}"#;
const B: &str = r#"{"instance":"b:9100"}"#;

/// First and last time of each request, seconds after [`START`].
fn asked(receiver: &Receiver) -> Vec<(i64, i64)> {
    let field = |body: &str, name: &str| -> i64 {
        let pair = body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap();
        pair.strip_suffix(".000").unwrap().parse::<i64>().unwrap() - START
    };
    receiver.requests().iter().map(|r| (field(&r.body, "start"), field(&r.body, "end"))).collect()
}

#[test]
fn queries_are_joined_and_what_is_no_number_is_missing() {
    let cpu = matrix(&[(A, &[(0, "1"), (10, "NaN"), (20, "+Inf")]), (B, &[(0, "2")])]);
    let mem = matrix(&[(A, &[(0, "10"), (10, "11")]), (B, &[(20, "12.5")])]);
    let server = Receiver::start(vec![cpu, mem]);
    let bench = Bench::new();
    let report = bench.import(&import(&server.url(), &["cpu", "mem"], 30)).unwrap();
    assert_eq!((report.n_points, report.n_pages, report.n_requests, report.n_servers), (3, 1, 2, 2));
    assert_eq!((report.n_samples, report.n_not_finite), (7, 2));
    assert_eq!((report.rows.n_good, report.rows.n_bad, report.is_complete), (4, 0, true));
    let times = |secs: i64| (START + secs) * 1000;
    let rows: Vec<String> = vec![
        format!("a:9100 {} [1.0, 10.0]", times(0)),
        format!("a:9100 {} [NaN, 11.0]", times(10)),
        format!("b:9100 {} [2.0, NaN]", times(0)),
        format!("b:9100 {} [NaN, 12.5]", times(20)),
    ];
    assert_eq!(bench.rows(), rows);
    let head = &server.requests()[0];
    assert!(head.head.starts_with("POST /api/v1/query_range "), "{}", head.head);
    assert!(head.body.starts_with("query=of%28cpu%29&start=1714521600.000&end=1714521620.000&step=10.000"));
}

#[test]
fn each_time_is_asked_for_once() {
    let page = |times: &[i64]| {
        let samples: Vec<(i64, &str)> = times.iter().map(|secs| (*secs, "1")).collect();
        matrix(&[(A, &samples)])
    };
    let server = Receiver::start(vec![page(&[0, 10]), page(&[20, 30]), page(&[40])]);
    let mut wanted = import(&server.url(), &["cpu"], 50);
    wanted.source.page_points = 2;
    let bench = Bench::new();
    let plan = bench.buffer().plan_import(&wanted, bench.now).unwrap();
    assert_eq!((plan.n_points, plan.n_pages, plan.n_requests, plan.n_queries), (5, 3, 3, 1));
    assert_eq!((plan.first, plan.last), (Some(at(0)), Some(at(40))));
    let report = bench.import(&wanted).unwrap();
    assert_eq!(asked(&server), [(0, 10), (20, 30), (40, 40)]);
    assert_eq!((report.n_pages, report.rows.n_good, report.next), (3, 5, Some(at(50))));
    assert_eq!(bench.rows().len(), 5);
}

#[test]
fn an_interrupted_import_goes_on_and_a_finished_one_is_done() {
    let first = matrix(&[(A, &[(0, "1")])]);
    let second = matrix(&[(A, &[(10, "2")])]);
    let again = matrix(&[(A, &[(10, "3")])]);
    let server = Receiver::start(vec![first.clone(), Answer::status(404, "gone"), second, first, again]);
    let bench = Bench::new();
    let mut wanted = import(&server.url(), &["cpu"], 20);
    wanted.source.page_points = 1;
    bench.refused(&wanted, Exit::Failed, &["answered 404", "what came before 2024-05-01T00:00:10Z is safe"]);

    let report = bench.import(&wanted).unwrap();
    assert_eq!((report.resumed_at, report.n_points, report.is_complete), (Some(at(10)), 1, true));
    assert_eq!(asked(&server), [(0, 0), (10, 10), (10, 10)]);
    assert_eq!(bench.import(&wanted).unwrap().n_points, 0, "nothing is left");
    assert_eq!(asked(&server).len(), 3);

    wanted.restart = true;
    assert_eq!(bench.import(&wanted).unwrap().n_points, 2);
    assert_eq!(asked(&server).len(), 5);
    let last_wins: Vec<String> = bench.rows();
    assert_eq!(last_wins.len(), 2);
    assert!(last_wins[1].ends_with("[3.0, NaN]"), "{last_wins:?}");
}

#[test]
fn an_import_without_end_goes_on_with_the_clock() {
    let server = Receiver::start(vec![matrix(&[(A, &[(0, "1"), (10, "1")])]), matrix(&[(A, &[(20, "2")])])]);
    let mut bench = Bench::new();
    bench.now = at(15);
    let mut wanted = import(&server.url(), &["cpu"], 0);
    wanted.end = None;
    let report = bench.import(&wanted).unwrap();
    assert_eq!((report.n_points, report.is_complete, report.next), (2, false, Some(at(20))));
    bench.now = at(29);
    assert_eq!(bench.import(&wanted).unwrap().resumed_at, Some(at(20)));
    assert_eq!(asked(&server), [(0, 10), (20, 20)]);
    bench.now = at(29);
    assert_eq!(bench.import(&wanted).unwrap().n_points, 0);
}

#[test]
fn an_answer_that_is_too_large_is_asked_for_in_halves() {
    let too_many = refusal(422, "execution", "query processing would load too many samples into memory");
    let server =
        Receiver::start(vec![too_many, matrix(&[(A, &[(0, "1"), (10, "2")])]), matrix(&[(A, &[(20, "3")])])]);
    let bench = Bench::new();
    let report = bench.import(&import(&server.url(), &["cpu"], 30)).unwrap();
    assert_eq!((report.n_pages, report.n_requests, report.rows.n_good), (2, 3, 3));
    assert_eq!(asked(&server), [(0, 20), (0, 10), (20, 20)]);
    let exceeded = refusal(400, "bad_data", "exceeded maximum resolution of 1 points");
    let server = Receiver::start(vec![exceeded; 9]);
    bench.refused(&import(&server.url(), &["cpu"], 40), Exit::Failed, &["exceeded maximum resolution"]);
}

#[test]
fn two_series_for_one_server_are_refused_with_both_names() {
    let node = r#"{"instance":"a:9100","job":"node"}"#;
    let other = r#"{"instance":"a:9100","job":"other"}"#;
    let both = matrix(&[(node, &[(0, "1"), (10, "1")]), (other, &[(10, "2")])]);
    let server = Receiver::start(vec![both]);
    let bench = Bench::new();
    bench.refused(
        &import(&server.url(), &["cpu"], 20),
        Exit::Usage,
        &[
            "query `cpu` gives two series for server `a:9100` at 2024-05-01T00:00:10Z",
            r#"{instance="a:9100", job="node"} and {instance="a:9100", job="other"}"#,
            "sum by (instance)",
        ],
    );
    let in_turn = matrix(&[(node, &[(0, "1")]), (other, &[(10, "2")])]);
    let report = bench.import(&import(&Receiver::start(vec![in_turn]).url(), &["cpu"], 20)).unwrap();
    assert_eq!(report.rows.n_good, 2, "series that follow each other are one server's");
}

#[test]
fn labels_name_server_and_profile() {
    let labels = r#"{"instance":"db1:9100","role":"database"}"#;
    let server = Receiver::start(vec![matrix(&[(labels, &[(0, "1")])]), matrix(&[(labels, &[(0, "2")])])]);
    let bench = Bench::new();
    let mut wanted = import(&server.url(), &["cpu", "mem"], 10);
    wanted.source.strip_port = true;
    wanted.source.profile_label = "role".into();
    bench.import(&wanted).unwrap();
    assert!(bench.rows()[0].starts_with("db1 ") && bench.rows()[0].ends_with(" database[1.0, 2.0]"));

    let web = r#"{"instance":"db1:9100","role":"web"}"#;
    let server = Receiver::start(vec![matrix(&[(labels, &[(0, "1")])]), matrix(&[(web, &[(0, "2")])])]);
    wanted.source.url = server.url();
    bench.refused(&wanted, Exit::Usage, &["profile \"database\" by query `cpu` and \"web\" by query `mem`"]);

    let server = Receiver::start(vec![matrix(&[(r#"{"job":"node"}"#, &[(0, "1")])])]);
    let no_label = import(&server.url(), &["cpu"], 10);
    bench.refused(
        &no_label,
        Exit::Usage,
        &["{job=\"node\"}, which has no label `instance`", "--server-label"],
    );
}

#[test]
fn rows_are_judged_like_any_other() {
    let evil = r#"{"instance":"../x"}"#;
    let cpu = matrix(&[(A, &[(0, "150"), (10, "1e300"), (20, "5")]), (evil, &[(0, "1")])]);
    let bench = Bench::new();
    let report = bench.import(&import(&Receiver::start(vec![cpu]).url(), &["cpu"], 30)).unwrap();
    assert_eq!((report.rows.n_good, report.rows.n_bad), (1, 3));
    for reason in ["out_of_range", "not_finite", "bad_server_name"] {
        assert_eq!(report.rows.reasons[reason], 1);
    }
    let quarantine = std::fs::read_to_string(report.rows.quarantine.unwrap()).unwrap();
    assert!(quarantine.contains("2024-05-01T00:00:00+00:00 a:9100"), "{quarantine}");
}

#[test]
fn servers_that_fail_are_tried_again_and_refusals_are_quoted() {
    let bench = Bench::new();
    let server = Receiver::start(vec![Answer::status(503, "busy"), matrix(&[(A, &[(0, "1")])])]);
    assert_eq!(bench.import(&import(&server.url(), &["cpu"], 10)).unwrap().rows.n_good, 1);
    assert_eq!(server.requests().len(), 2);

    let words = "invalid parameter 'query': 1:4: parse error: unexpected end of input";
    let server = Receiver::start(vec![refusal(400, "bad_data", words)]);
    bench.refused(&import(&server.url(), &["cpu"], 10), Exit::Usage, &["query `cpu`", words]);
    assert_eq!(server.requests().len(), 1);

    bench.refused(&import(&refused_url(), &["cpu"], 10), Exit::Failed, &["refused"]);
    let page = Receiver::start(vec![Answer::status(200, "<html>")]);
    bench.refused(&import(&page.url(), &["cpu"], 10), Exit::Failed, &["not that of a Prometheus API"]);
    let partial = r#"{"status":"success","isPartial":true,"data":{"resultType":"matrix","result":[]}}"#;
    let server = Receiver::start(vec![Answer::status(200, partial)]);
    bench.refused(&import(&server.url(), &["cpu"], 10), Exit::Failed, &["partial"]);
}

#[test]
fn headers_are_sent_and_never_shown() {
    let server = Receiver::start(vec![Answer::status(401, "no canarybearer here")]);
    let mut wanted = import(&server.url(), &["cpu"], 10);
    wanted.headers.push(("authorization".into(), "Bearer canarybearer".into()));
    let text = format!("{:?}", Bench::new().import(&wanted).unwrap_err());
    assert!(text.contains("answered 401") && !text.contains("Bearer"), "{text}");
    assert!(server.requests()[0].head.contains("Bearer canarybearer"));
}

#[test]
fn nothing_at_all_is_an_error_and_is_asked_for_again() {
    let server = Receiver::start(vec![matrix(&[]), matrix(&[(A, &[(0, "1")])])]);
    let bench = Bench::new();
    let wanted = import(&server.url(), &["cpu"], 10);
    bench.refused(&wanted, Exit::NotEnoughData, &["no query gave a sample", "retention"]);
    assert_eq!(bench.import(&wanted).unwrap().rows.n_good, 1);
}

#[test]
fn a_metric_without_samples_is_named() {
    let server = Receiver::start(vec![matrix(&[(A, &[(0, "1")])]), matrix(&[])]);
    let report = Bench::new().import(&import(&server.url(), &["cpu", "mem"], 10)).unwrap();
    assert_eq!(report.without_samples, ["mem"]);
}

#[test]
fn what_retention_would_delete_is_not_fetched() {
    let mut bench = Bench::new();
    bench.now = at(100 * 86_400);
    let wanted = import("http://127.0.0.1:1", &["cpu"], 10);
    bench.refused(&wanted, Exit::Usage, &["data_retention_days = 60", "--start 2024-06-10"]);
    let mut backwards = wanted.clone();
    backwards.end = Some(at(-10));
    bench.refused(&backwards, Exit::Usage, &["--end 2024-04-30T23:59:50Z is not after"]);
}

#[test]
fn the_same_import_does_not_run_twice_at_once() {
    let bench = Bench::new();
    let wanted = import("http://127.0.0.1:1", &["cpu"], 10);
    let buffer = bench.buffer();
    let held = super::Ledger::lock(&buffer.imports_dir, &wanted, &buffer.schema.digest(), bench.now).unwrap();
    bench.refused(&wanted, Exit::Locked, &["buffer import"]);
    drop(held);
}

#[test]
fn records_of_imports_that_are_too_old_are_swept() {
    let mut bench = Bench::new();
    let server = Receiver::start(vec![matrix(&[(A, &[(0, "1")])])]);
    bench.import(&import(&server.url(), &["cpu"], 10)).unwrap();
    let dir = bench.buffer().imports_dir;
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "a record and its lock");
    bench.now = at(100 * 86_400);
    super::ledger::sweep(&dir, bench.buffer().oldest_kept_ms(bench.now)).unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn old_rows_of_a_file_are_left_out_and_absurd_ones_quarantined() {
    let bench = Bench::new();
    let rows = [at(0), at(-90 * 86_400), DateTime::from_timestamp(0, 0).unwrap()]
        .map(|time| format!("{{\"timestamp\":\"{}\",\"server_name\":\"a\",\"cpu\":1}}\n", time.to_rfc3339()))
        .concat();
    let append = |leave_out_old| {
        let options = AppendOptions { leave_out_old, ..AppendOptions::default() };
        let source = Source::reader("stdin", Cursor::new(rows.clone()));
        bench.buffer().append(source, &options, &Clock::Fixed(bench.now), &Silent).unwrap()
    };
    let report = append(true);
    assert_eq!((report.n_good, report.n_too_old, report.n_bad), (1, 1, 1));
    let report = append(false);
    assert_eq!((report.n_good, report.n_too_old, report.n_bad), (1, 0, 2));
}
