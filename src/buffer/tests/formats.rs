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
