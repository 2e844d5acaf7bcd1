//! Sources that call things differently: names, units, zones and statuses by the config, and nothing by guessing.

use super::*;

/// A site with the metrics `cpu` and `net_mb`, and `text` on top of its config.
fn mapped(text: &str, now: &str) -> Bench {
    let metrics = "[[metric]]\nname = \"cpu\"\n[[metric]]\nname = \"net_mb\"\n";
    let text = format!("{text}\n{metrics}[model]\ntargets = [\"cpu\"]\n");
    Bench { config: Config::parse(&text, &[]).unwrap().config, ..Bench::new(&[], now) }
}

impl Bench {
    /// Seals everything so far, and gives the rows of `day`.
    fn rows_after_rotation(&self, day: &str) -> Vec<String> {
        let options = RotateOptions { include_open: true, ..RotateOptions::default() };
        let report = self.buffer().rotate(&options, self.now, &Silent).unwrap();
        assert_eq!(report.failed, []);
        self.sealed(day)
    }

    fn reasons(&self) -> Vec<String> {
        quarantined(self).into_values().collect()
    }
}

const NAMES: &str = r#"
[input]
timestamp = "time"
server_name = "node"
profile = "kind"
status = "state"
status_values = { up = "healthy", down = "offline" }
[[column]]
source = "bytes"
metric = "net_mb"
scale = 1e-6
[[column]]
source = "idle"
metric = "cpu"
scale = -100
offset = 100
"#;

#[test]
fn names_units_and_statuses_are_mapped_in_every_format() {
    let expected = [
        "a 1704103200000 dbhealthy[75.0, 123.456]".to_owned(),
        "b 1704103205000 offline[NaN, NaN]".to_owned(),
    ];
    let ndjson = r#"{"time":"2024-01-01T10:00:00Z","node":"a","kind":"db","state":"up","idle":0.25,"bytes":123456000}
{"time":1704103205,"node":"b","state":"down"}
"#;
    let csv = "node,time,state,idle,bytes,kind,rack\n\
               a,2024-01-01T10:00:00Z,up,0.25,123456000,db,r1\n\
               b,1704103205,down,,,,r1\n";
    for text in [ndjson, csv] {
        let bench = mapped(NAMES, "2024-01-01T12:00:00Z");
        assert_eq!(bench.append(text).n_good, 2, "{text}");
        assert_eq!(bench.rows_after_rotation("2024-01-01"), expected, "{text}");
    }
    let bench = mapped(NAMES, "2024-01-01T12:00:00Z");
    let path = bench.dir.path().join("in.parquet");
    write_mapped(&path);
    assert_eq!(bench.append_file(&path).n_good, 2);
    assert_eq!(bench.rows_after_rotation("2024-01-01"), expected);
}

/// The same two records as a parquet file with a counter of 64-bit integers and times without a zone.
fn write_mapped(path: &Path) {
    use polars::prelude::*;
    let times = Int64Chunked::from_vec("time".into(), vec![1_704_103_200_000, 1_704_103_205_000])
        .into_datetime(TimeUnit::Milliseconds, None)
        .into_series();
    let mut frame = DataFrame::new(
        2,
        vec![
            times.into_column(),
            Column::new("node".into(), ["a", "b"]),
            Column::new("kind".into(), [Some("db"), None]),
            Column::new("state".into(), ["up", "down"]),
            Column::new("bytes".into(), [Some(123_456_000i64), None]),
            Column::new("idle".into(), [Some(0.25f64), None]),
        ],
    )
    .unwrap();
    ParquetWriter::new(std::fs::File::create(path).unwrap()).finish(&mut frame).unwrap();
}

#[test]
fn a_mapped_name_is_the_only_one_and_a_metric_is_given_once() {
    let bench = mapped(NAMES, "2024-01-01T12:00:00Z");
    let report = bench.append(
        r#"{"timestamp":"2024-01-01T10:00:00Z","node":"a","idle":1}
{"time":"2024-01-01T10:00:00Z","server_name":"a","idle":1}
{"time":"2024-01-01T10:00:00Z","node":"a","idle":1,"cpu":3}
{"time":"2024-01-01T10:00:00Z","node":"a","cpu":3}
"#,
    );
    assert_eq!(report.n_good, 1);
    assert_eq!(bench.reasons(), ["missing_timestamp", "missing_server_name", "given_twice"]);
    let source = Source::reader("stdin", std::io::Cursor::new("time,node,cpu,idle\n"));
    let error = format!("{:#}", bench.try_append(source).unwrap_err());
    assert!(error.contains("`cpu` and `idle` are the same metric"), "{error}");
    // The site's own names are read as such when that is asked for.
    let options = AppendOptions { is_plain: true, ..AppendOptions::default() };
    let plain = "{\"timestamp\":1704103300,\"server_name\":\"a\",\"status\":\"up\",\"cpu\":4}\n";
    let source = Source::reader("stdin", std::io::Cursor::new(plain));
    bench.buffer().append(source, &options, &Clock::Fixed(bench.now), &Silent).unwrap();
    let rows = bench.rows_after_rotation("2024-01-01");
    assert_eq!(rows, ["a 1704103200000 [3.0, NaN]", "a 1704103300000 up[4.0, NaN]"]);
}

#[test]
fn a_recording_of_the_predecessor_is_imported() {
    // `state` for the status, local times without a zone whose fractions come and go, one with none at all.
    let text = "timestamp,server_name,profile,state,cpu,net_mb,notes\n\
                2025-10-17T09:30:00,ppml0001,ml_compute,healthy,41.5,1.25,\n\
                2025-10-17T09:30:05.007312,ppml0001,ml_compute,morning_spike,55,,\"busy, again\"\n\
                2025-10-17T09:30:10.02,ppml0001,ml_compute,offline,,,\n\
                2025-11-02T01:30:00,ppml0001,ml_compute,healthy,1,1,twice\n";
    let zoned = "[input]\nstatus = \"state\"\ntimestamp_zone = \"America/New_York\"";
    let bench = mapped(zoned, "2025-11-03T00:00:00Z");
    let report = bench.append(text);
    assert_eq!((report.n_good, report.n_unknown_fields["notes"]), (3, 4));
    assert_eq!(bench.reasons(), ["bad_timestamp"]);
    let rows = bench.rows_after_rotation("2025-10-17");
    assert_eq!(
        rows,
        [
            "ppml0001 1760707800000 ml_computehealthy[41.5, 1.25]",
            "ppml0001 1760707805007 ml_computemorning_spike[55.0, NaN]",
            "ppml0001 1760707810020 ml_computeoffline[NaN, NaN]",
        ]
    );
    // The rolling window that it kept is one document of records.
    let document =
        r#"{"records":[{"timestamp":"2025-10-17T09:30:00.5","server_name":"a","state":"idle","cpu":1}]}"#;
    assert_eq!(bench.append(document).n_good, 1);
    let without = mapped("[input]\nstatus = \"state\"", "2025-11-03T00:00:00Z");
    assert_eq!(without.append(text).n_bad, 4);
    assert!(without.reasons().iter().all(|reason| reason == "bad_timestamp"));
}

const TELEGRAF: &str = r#"
[input]
status = "env"
[[column]]
source = "cpu.usage_idle"
metric = "cpu"
scale = -1
offset = 100
tags = { cpu = "cpu-total" }
[[column]]
source = "net.bytes_recv"
metric = "net_mb"
scale = 1e-6
"#;

/// A record as the agent writes it: members in alphabetical order.
fn point(name: &str, tags: &str, fields: &str, time: i64) -> String {
    format!(r#"{{"fields":{{{fields}}},"name":"{name}","tags":{{{tags}}},"timestamp":{time}}}"#)
}

fn cpu(idle: f64, time: i64) -> String {
    let fields = format!(r#""usage_idle":{idle},"usage_user":1"#);
    point("cpu", r#""cpu":"cpu-total","host":"web-1""#, &fields, time)
}

fn net(bytes: u64, time: i64) -> String {
    point(
        "net",
        r#""env":"prod","host":"web-1","interface":"eth0""#,
        &format!("\"bytes_recv\":{bytes}"),
        time,
    )
}

#[test]
fn records_of_a_telegraf_agent_become_rows() {
    let disk = point("disk", r#""host":"web-1","path":"/""#, r#""used":5,"fstype":"xfs""#, 1_704_103_200);
    let lines = [cpu(25.0, 1_704_103_200), net(123_456_000, 1_704_103_200), disk, cpu(50.0, 1_704_103_210)];
    let batch = format!("{{\"metrics\":[{}]}}\n", lines.join(","));
    let pretty = format!("{{\n  \"metrics\": [\n    {}\n  ]\n}}\n", lines.join(",\n    "));
    for text in [lines.join("\n"), batch, pretty] {
        let bench = mapped(TELEGRAF, "2024-01-01T12:00:00Z");
        let report = bench.append(&text);
        assert_eq!((report.n_good, report.n_bad, report.n_joined, report.n_unmapped), (3, 0, 1, 1), "{text}");
        assert_eq!(report.n_per_day[&date("2024-01-01")], 2);
        assert_eq!(report.n_unknown_fields["cpu.usage_user"], 2);
        let rows = bench.rows_after_rotation("2024-01-01");
        assert_eq!(rows, ["web-1 1704103200000 prod[75.0, 123.456]", "web-1 1704103210000 [50.0, NaN]"]);
    }
}

#[test]
fn parts_of_a_row_that_come_apart_complete_each_other() {
    let bench = mapped(TELEGRAF, "2024-01-01T12:00:00Z");
    bench.append(&cpu(25.0, 1_704_103_200));
    bench.append(&net(1_000_000, 1_704_103_200));
    // Sent again with another value: the newest one counts.
    bench.append(&net(2_000_000, 1_704_103_200));
    let expected = ["web-1 1704103200000 prod[75.0, 2.0]"];
    assert_eq!(bench.rows_after_rotation("2024-01-01"), expected);
    // Also a day that is sealed already is completed, and a full row still replaces all of it.
    bench.append(&cpu(90.0, 1_704_103_200));
    assert_eq!(bench.rows_after_rotation("2024-01-01"), ["web-1 1704103200000 prod[10.0, 2.0]"]);
    bench.append("{\"timestamp\":1704103200,\"server_name\":\"web-1\",\"cpu\":7}");
    assert_eq!(bench.rows_after_rotation("2024-01-01"), ["web-1 1704103200000 [7.0, NaN]"]);
}

#[test]
fn a_telegraf_record_that_does_not_fit_is_told() {
    let untagged = TELEGRAF.replace("tags =", "# tags =");
    let bench = mapped(&untagged, "2024-01-01T12:00:00Z");
    let core = |name: &str, idle: f64| {
        let tags = format!(r#""cpu":"{name}","host":"web-1""#);
        point("cpu", &tags, &format!("\"usage_idle\":{idle}"), 1_704_103_200)
    };
    let lines = [
        core("cpu-total", 25.0),
        core("cpu0", 30.0),
        point("net", "", "\"bytes_recv\":1", 1_704_103_200),
        point("net", r#""host":"web-1""#, "\"bytes_recv\":\"many\"", 1_704_103_200),
        point("net", r#""host":"web-1""#, "\"bytes_recv\":1", 1_704_103_200_000_000_000),
        r#"{"fields":[1],"name":"net","tags":{},"timestamp":1}"#.to_owned(),
    ];
    let report = bench.append(&lines.join("\n"));
    assert_eq!((report.n_good, report.n_bad), (1, 5));
    let reasons = ["given_twice", "missing_server_name", "not_a_number", "bad_timestamp", "malformed_json"];
    assert_eq!(bench.reasons(), reasons);
    let nanos = untagged.replace("[input]", "[input]\ntimestamp_unit = \"ns\"");
    let bench = mapped(&nanos, "2024-01-01T12:00:00Z");
    assert_eq!(bench.append(&lines[4]).n_good, 1);
}

#[test]
fn documents_over_several_lines_are_taken() {
    let record = |second: u32, value: &str| {
        format!(
            "{{\n  \"timestamp\": \"2024-01-01T10:00:{second:02}Z\",\n  \"server_name\": \"a\",\n  \"cpu\": {value}\n}}"
        )
    };
    for (open, close) in
        [("", ""), ("[\n", "\n]"), ("{\n\"from\": \"x\",\n\"records\": [\n", "\n], \"n\": 3\n}")]
    {
        let between = if open.is_empty() { "\n" } else { ",\n" };
        let records = [record(1, "1"), record(2, "\"x\""), record(3, "3")].join(between);
        let bench = mapped("", "2024-01-01T12:00:00Z");
        let report = bench.append(&format!("{open}{records}{close}\n"));
        assert_eq!((report.n_good, report.n_bad), (2, 1), "{open}");
        let line = 5 + open.lines().count() as u64 + 1;
        assert_eq!(quarantined(&bench), BTreeMap::from([(line, "not_a_number".to_owned())]), "{open}");
    }
}

#[test]
fn a_clock_that_is_set_back_does_not_make_later_rows_older() {
    let bench = mapped("", "2024-01-01T12:00:00Z");
    let buffer = bench.buffer();
    let mut open = open_days::OpenDays::new(&buffer);
    for (value, now_ms) in [(1.0, 1_704_110_400_000), (2.0, 1_704_106_800_000)] {
        let (time_ms, values) = (1_704_103_200_000, [value, value]);
        let row =
            crate::buffer::rows::Row { time_ms, server: "a", profile: None, status: None, values: &values };
        open.push(row, now_ms).unwrap();
        open.acknowledge(now_ms).unwrap();
    }
    drop(open);
    assert_eq!(bench.rows_after_rotation("2024-01-01"), ["a 1704103200000 [2.0, 2.0]"]);
}
