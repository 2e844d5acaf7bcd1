//! `buffer import --prometheus` against a real Prometheus: its history whole and once, whatever interrupts it.
//!
//! Needs the programs `prometheus` and `promtool` (and `prometheus-node-exporter`); without them the tests skip with a line.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use polars::prelude::{DataFrame, ParquetReader, SerReader};

use crate::common::Story;

/// 2024-05-01T00:00:00Z, in seconds, and the minutes of history from there: three days.
const START: i64 = 1_714_521_600;
const N_MINUTES: i64 = 3 * 1440;
/// Minutes in which `b` was gone, and in which its memory was no number.
const GONE: std::ops::Range<i64> = 600..720;
const NO_NUMBER: std::ops::Range<i64> = 2000..2010;

/// A program of the test that ends with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `programs` can be started; says which one cannot.
fn are_here(programs: &[&str]) -> bool {
    let is_here = |program: &&&str| {
        let started =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        started.is_ok()
    };
    let missing = programs.iter().find(|program| !is_here(program));
    if let Some(program) = missing {
        println!("skipped: {program} is not installed");
    }
    missing.is_none()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(program: &str, args: &[String], log: &Path) -> Daemon {
    let log = fs::File::create(log).unwrap();
    let child =
        Command::new(program).args(args).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    Daemon(child)
}

/// A Prometheus on loopback with its data in `dir`; scrapes `target` every second, if there is one.
struct Prometheus {
    url: String,
    _daemon: Daemon,
}

impl Prometheus {
    fn start(dir: &Path, target: Option<u16>) -> Self {
        let mut config = "global:\n  scrape_interval: 1s\n".to_owned();
        if let Some(port) = target {
            write!(
                config,
                "scrape_configs:\n- job_name: node\n  static_configs:\n  - targets: [\"127.0.0.1:{port}\"]\n"
            )
            .unwrap();
        }
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let port = free_port();
        let args = [
            format!("--config.file={}", dir.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            // The history is older than what it keeps by itself.
            "--storage.tsdb.retention.time=100y".to_owned(),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let daemon = spawn("prometheus", &args, &dir.join("log"));
        let url = format!("http://127.0.0.1:{port}");
        let started = Instant::now();
        while !get(port, "/-/ready").starts_with("HTTP/1.1 200") {
            let log = fs::read_to_string(dir.join("log")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(120), "prometheus does not answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { url, _daemon: daemon }
    }
}

/// The answer of a local server, empty where there is none yet.
fn get(port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut text = String::new();
    // A server that is just starting may hang up.
    let _ = stream.read_to_string(&mut text);
    text
}

fn load(server: &str, minute: i64) -> f64 {
    let phase = if server == "a" { 0 } else { 7 };
    f64::from(i32::try_from((minute + phase) % 97).unwrap()) / 8.0
}

fn memory(server: &str, minute: i64) -> f64 {
    let base = if server == "a" { 40.0 } else { 60.0 };
    base + load(server, 3 * minute)
}

fn is_there(server: &str, minute: i64) -> bool {
    server == "a" || !GONE.contains(&minute)
}

fn has_memory(server: &str, minute: i64) -> bool {
    is_there(server, minute) && !(server == "b" && NO_NUMBER.contains(&minute))
}

/// Three days of two servers, made into blocks at once.
fn write_history(dir: &Path) {
    let mut text = String::new();
    for (name, value) in [("load", load as fn(&str, i64) -> f64), ("memory", memory)] {
        writeln!(text, "# TYPE {name} gauge").unwrap();
        for server in ["a", "b"] {
            for minute in (0..N_MINUTES).filter(|minute| is_there(server, *minute)) {
                let is_number = name == "load" || has_memory(server, minute);
                let value = if is_number { value(server, minute).to_string() } else { "NaN".to_owned() };
                let time = START + 60 * minute;
                writeln!(text, "{name}{{instance=\"{server}:9100\",job=\"node\"}} {value} {time}").unwrap();
            }
        }
    }
    // A second job on the same machine, for one hour.
    for minute in 0..60 {
        writeln!(text, "load{{instance=\"a:9100\",job=\"other\"}} 1 {}", START + 60 * minute).unwrap();
    }
    text.push_str("# EOF\n");
    fs::create_dir_all(dir.join("data")).unwrap();
    fs::write(dir.join("history.txt"), text).unwrap();
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics", "-q"])
        .args([dir.join("history.txt"), dir.join("data")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A site of `fleet14` in the days after the history; its step is the minute.
fn site() -> Story {
    let mut story = Story::new();
    story.run("init").exit(0);
    story.set("series.sample_secs", "60");
    story.at("2024-05-05T12:00");
    story
}

/// The history and its server, in a folder that goes last.
fn with_history() -> Option<(tempfile::TempDir, Prometheus)> {
    if !are_here(&["prometheus", "promtool"]) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    write_history(dir.path());
    let server = Prometheus::start(dir.path(), None);
    Some((dir, server))
}

/// The import of the whole history: load and memory of both servers.
fn whole(server: &Prometheus) -> String {
    format!(
        "buffer import --prometheus {} --query load_average=load{{job=\"node\"}} --query mem_used_pct=memory \
         --start 2024-05-01 --end 2024-05-04 --strip-port",
        server.url
    )
}

/// The sealed days of a site, whole.
fn sealed(story: &Story) -> Vec<DataFrame> {
    story.run("buffer rotate").exit(0);
    let names: Vec<String> =
        story.names("data_buffer").into_iter().filter(|name| name.ends_with(".parquet")).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let read = |name: &String| {
        let file = fs::File::open(story.path("data_buffer").join(name)).unwrap();
        ParquetReader::new(file).finish().unwrap()
    };
    names.iter().map(read).collect()
}

/// The rows of one metric: server, minute of the history, value.
fn values(days: &[DataFrame], metric: &str) -> Vec<(String, i64, Option<f32>)> {
    let mut found = Vec::new();
    for day in days {
        let servers = day.column("server_name").unwrap().cast(&polars::prelude::DataType::String).unwrap();
        let times = day.column("timestamp").unwrap().cast(&polars::prelude::DataType::Int64).unwrap();
        let values = day.column(metric).unwrap().f32().unwrap().clone();
        for idx in 0..day.height() {
            let per_sec =
                if times.i64().unwrap().get(idx).unwrap() > 100_000_000_000_000 { 1_000_000 } else { 1000 };
            let secs = times.i64().unwrap().get(idx).unwrap() / per_sec;
            let value = values.get(idx).filter(|value| !value.is_nan());
            found.push((servers.str().unwrap().get(idx).unwrap().to_owned(), (secs - START) / 60, value));
        }
    }
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    found
}

/// What the history holds of one metric at every minute.
fn expected(
    value: impl Fn(&str, i64) -> f64,
    has: impl Fn(&str, i64) -> bool,
) -> Vec<(String, i64, Option<f32>)> {
    let row = |server: &str, minute: i64| {
        let value = has(server, minute).then(|| value(server, minute) as f32);
        (server.to_owned(), minute, value)
    };
    let of =
        |server: &'static str| (0..N_MINUTES).filter(move |m| is_there(server, *m)).map(move |m| (server, m));
    of("a").chain(of("b")).map(|(server, minute)| row(server, minute)).collect()
}

#[test]
fn a_real_history_arrives_whole_and_once() {
    let Some((_dir, server)) = with_history() else { return };
    let story = site();
    // No lookback: what is not there at a minute is missing at that minute.
    let exact = whole(&server).replace("=load{job=\"node\"}", "=last_over_time(load{job=\"node\"}[30s])");
    let exact = exact.replace("=memory", "=last_over_time(memory[30s])");
    story.run(&format!("{exact} --dry-run")).exit(0).stdout("2 queries x 3 pages = 6 requests");
    let report = story.run(&format!("{exact} --json")).exit(0).json();
    let n_rows = 2 * N_MINUTES - 120;
    assert_eq!((report["n_points"].as_i64(), report["n_pages"].as_i64()), (Some(N_MINUTES), Some(3)));
    assert_eq!(
        (report["rows"]["n_good"].as_i64(), report["rows"]["n_bad"].as_i64()),
        (Some(n_rows), Some(0))
    );
    assert_eq!((report["n_not_finite"].as_i64(), report["n_servers"].as_i64()), (Some(10), Some(2)));
    story.run(&format!("{exact} --dry-run")).exit(0).stdout("nothing is left to ask");
    story.run(&exact).exit(0).stdout("nothing is left to ask");
    let days = sealed(&story);
    assert_eq!(values(&days, "load_average"), expected(load, is_there));
    assert_eq!(values(&days, "mem_used_pct"), expected(memory, has_memory));
}

#[test]
fn pages_as_long_as_the_server_allows_are_taken() {
    let Some((_dir, server)) = with_history() else { return };
    let story = site();
    story.set("prometheus.page_points", "11000");
    let finer = whole(&server).replace("load{job=\"node\"}", "load{job=\"node\",instance=\"a:9100\"}");
    let finer = finer.replace("--query mem_used_pct=memory", "--step 20");
    let report = story.run(&format!("{finer} --json")).exit(0).json();
    assert_eq!((report["n_pages"].as_i64(), report["n_points"].as_i64()), (Some(2), Some(3 * N_MINUTES)));
    assert_eq!(report["rows"]["n_good"].as_i64(), Some(3 * N_MINUTES));
    assert_eq!(sealed(&story).iter().map(DataFrame::height).sum::<usize>() as i64, 3 * N_MINUTES);
}

#[test]
fn an_import_killed_in_the_middle_ends_as_if_it_never_was() {
    let Some((_dir, server)) = with_history() else { return };
    let (killed, calm) = (site(), site());
    killed.set("prometheus.page_points", "40");
    let record = |story: &Story| -> Option<PathBuf> {
        let name = story.names("data_buffer/imports").into_iter().find(|name| name.ends_with(".json"))?;
        Some(story.path("data_buffer/imports").join(name))
    };
    let mut n_kills = 0;
    let mut last_next = String::new();
    while n_kills < 3 {
        let mut child = killed.command(&whole(&server)).spawn().unwrap();
        let started = Instant::now();
        // Killed once it has come further than the one before.
        loop {
            let text = record(&killed).map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default();
            let next =
                text.split("\"next\": \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            if next > last_next.as_str() {
                last_next = next.to_owned();
                break;
            }
            assert!(child.try_wait().unwrap().is_none(), "the import ended before it could be killed");
            assert!(started.elapsed() < Duration::from_secs(120), "the import does not advance");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        n_kills += 1;
    }
    let report = killed.run(&format!("{} --json", whole(&server))).exit(0).json();
    let n_left = report["n_points"].as_i64().unwrap();
    assert!(n_left <= N_MINUTES - 3 * 40, "{n_left} of {N_MINUTES} times were asked for again");
    assert_eq!(report["is_complete"], true);
    calm.run(&whole(&server)).exit(0);
    let (killed, calm) = (sealed(&killed), sealed(&calm));
    for (killed, calm) in killed.iter().zip(&calm) {
        assert!(killed.equals_missing(calm), "{killed} {calm}");
    }
}

#[test]
fn what_cannot_be_is_said_in_the_servers_words() {
    let Some((_dir, server)) = with_history() else { return };
    let story = site();
    let import = |query: &str| {
        format!(
            "buffer import --prometheus {} --query {query} --start 2024-05-01 --end 2024-05-02",
            server.url
        )
    };
    story.run(&import("load_average=sum(load")).exit(2).stderr("parse error: unclosed left parenthesis");
    let both = story.run(&import("load_average=load")).exit(2);
    both.stderr("{__name__=\"load\", instance=\"a:9100\", job=\"node\"} and {__name__=\"load\", instance=\"a:9100\", job=\"other\"}")
        .stderr("hint: aggregate them");
    story.run(&import("load_average=sum(load)")).exit(2).stderr("has no label `instance`");
    story.run(&import("load_avg=load")).exit(2).stderr("did you mean `load_average`?");
    story.run(&import("load_average=nothing_like_it")).exit(4).stderr("no query gave a sample");
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    story.run(&import("load_average=load").replace(&server.url, &nowhere)).exit(1).stderr("refused");
    let elsewhere = format!("{}/elsewhere", server.url);
    story.run(&import("load_average=load").replace(&server.url, &elsewhere)).exit(1).stderr("answered 404");
    assert_eq!(story.names("data_buffer/open"), Vec::<String>::new(), "nothing of it was filed");
}

/// The config that docs/prometheus.md shows, with windows that a test can wait for: a rate is too low until its series is
/// as old as its window.
fn documented_config() -> toml::Table {
    let page = include_str!("../../docs/prometheus.md");
    let block = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    block.replace("[5m]", "[5s]").parse().unwrap()
}

#[test]
fn the_documented_queries_fill_fleet14_from_a_live_node_exporter() {
    if !are_here(&["prometheus", "prometheus-node-exporter"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _exporter = spawn(
        "prometheus-node-exporter",
        &[format!("--web.listen-address=127.0.0.1:{port}")],
        &dir.path().join("exporter.log"),
    );
    let server = Prometheus::start(&dir.path().join("prometheus"), Some(port));
    let story = Story::new();
    story.run("init").exit(0);
    let mut config = documented_config();
    config["prometheus"].as_table_mut().unwrap().insert("url".into(), server.url.clone().into());
    let queries: Vec<String> = config["prometheus"]["queries"].as_table().unwrap().keys().cloned().collect();
    let mut site: toml::Table = fs::read_to_string(story.path("tftctl.toml")).unwrap().parse().unwrap();
    site.insert("prometheus".into(), config["prometheus"].clone());
    fs::write(story.path("tftctl.toml"), site.to_string()).unwrap();

    let start = chrono::Utc::now();
    let import =
        format!("buffer import --prometheus --step 1 --json --start {}", start.format("%Y-%m-%dT%H:%M:%SZ"));
    std::thread::sleep(Duration::from_secs(12));
    let first = story.run(&import).exit(0).json();
    assert_eq!(first["n_queries"].as_u64().unwrap(), queries.len() as u64);
    assert_eq!((first["rows"]["n_bad"].as_u64(), first["n_servers"].as_u64()), (Some(0), Some(1)), "{first}");
    // A container may have no network or disk of its own; the rest every machine has.
    let absent: Vec<&str> =
        first["without_samples"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(
        absent.iter().all(|name| name.starts_with("net_") || name.starts_with("disk_")),
        "{absent:?} have no samples"
    );
    std::thread::sleep(Duration::from_secs(2));
    let second = story.run(&import).exit(0).json();
    assert_eq!(second["resumed_at"], first["next"], "a collector goes on where it was");
    assert!(second["rows"]["n_good"].as_u64().unwrap() >= 1);

    story.run("buffer rotate --include-open").exit(0);
    let day = story.names("data_buffer").into_iter().rfind(|name| name.ends_with(".parquet")).unwrap();
    let file = fs::File::open(story.path("data_buffer").join(day)).unwrap();
    let rows = ParquetReader::new(file).finish().unwrap();
    let last = |metric: &str| rows.column(metric).unwrap().f32().unwrap().get(rows.height() - 1).unwrap();
    let cpu: f32 = ["cpu_user_pct", "cpu_sys_pct", "cpu_iowait_pct", "cpu_idle_pct"].map(last).iter().sum();
    assert!((50.0..=130.0).contains(&cpu), "the shares of the processors' time add up to {cpu}");
    assert!(last("mem_used_pct") > 1.0 && last("uptime_days") > 0.0);
}

#[test]
fn a_file_that_reaches_back_too_far_is_taken_as_far_as_it_is_kept() {
    let story = site();
    let row = |day: &str| {
        format!("{{\"timestamp\":\"{day}T00:00:00Z\",\"server_name\":\"a\",\"load_average\":1}}\n")
    };
    story
        .write("old.ndjson", &row("2023-05-01"))
        .write("both.ndjson", &(row("2023-05-01") + &row("2024-05-01")));
    story.run("buffer import both.ndjson").exit(0).stdout("1 row taken").stdout("left out: 1 row");
    story
        .run("buffer import old.ndjson")
        .exit(4)
        .stderr("1 row older than data_retention_days")
        .stderr("raise data_retention_days");
    assert_eq!(story.names("data_buffer/quarantine"), Vec::<String>::new());
    story.run("buffer import").exit(2);
    story
        .run("buffer import --prometheus http://127.0.0.1:1 --query load_average=up")
        .exit(2)
        .stderr("--start TIME");
}
