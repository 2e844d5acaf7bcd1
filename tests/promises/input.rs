//! Every form of input through the real program: files, pipes, packed, followed; and out again by `buffer export`.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::common::Story;

const NOW: &str = "2024-01-01T12:00";

fn story() -> Story {
    let mut story = Story::new();
    story.run("init").exit(0);
    story.at(NOW);
    story
}

fn record(second: u32) -> String {
    format!(
        "{{\"timestamp\":\"2024-01-01T10:00:{second:02}Z\",\"server_name\":\"s1\",\"metrics\":{{\"cpu_user_pct\":0.1}}}}\n"
    )
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn files_and_pipes_packed_or_not_are_taken() {
    let story = story();
    let csv = "timestamp;server_name;cpu_user_pct\n2024-01-01T10:00:00Z;s2;3\n";
    std::fs::write(story.path("a.ndjson.gz"), gzip(&record(1))).unwrap();
    std::fs::write(story.path("b.zst"), zstd::encode_all(csv.as_bytes(), 1).unwrap()).unwrap();
    story.write("c.json", "{\n  \"records\": [\n    {\"timestamp\": 1704103202, \"server_name\": \"s1\", \"load_average\": 1}\n  ]\n}\n");
    story.run("buffer append a.ndjson.gz b.zst c.json --strict").exit(0).stdout("1 row taken");
    let packed = zstd::encode_all(record(3).as_bytes(), 1).unwrap();
    story.run_with_input("buffer append - --strict", &packed).exit(0);
    story.run_with_input("buffer append - --format csv --strict", csv.as_bytes()).exit(0);
    let lines = story.run("buffer export").exit(0).stdout;
    assert_eq!(lines.lines().count(), 4, "{lines}");
    assert!(lines.contains("\"metrics\":{\"cpu_user_pct\":0.1}"), "{lines}");
}

#[test]
fn a_followed_pipe_of_an_agent_is_acknowledged_and_comes_out_as_rows() {
    let story = story();
    let config = std::fs::read_to_string(story.path("tftctl.toml")).unwrap();
    let column = "[[column]]\nsource = \"cpu.usage_user\"\nmetric = \"cpu_user_pct\"\n";
    story.write("tftctl.toml", &format!("{config}\n{column}"));
    let mut child = story.command("buffer append - --follow").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let point = "{\"fields\":{\"usage_user\":7.5},\"name\":\"cpu\",\"tags\":{\"host\":\"s1\"},\"timestamp\":1704103200}\n";
    stdin.write_all(point.as_bytes()).unwrap();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "1 row safe, 0 bad\n");
    drop(stdin);
    assert!(child.wait().unwrap().success());
    story.run("buffer export --format csv").exit(0).stdout("2024-01-01T10:00:00.000Z,s1,,,7.5,");
    let unmapped = point.replace("usage_user", "usage_steal");
    story.run_with_input("buffer append -", unmapped.as_bytes()).exit(2).stderr("[[column]]");
}

#[test]
fn what_is_exported_is_appended_again_to_the_same_bytes() {
    let from = story();
    from.write("in.ndjson", &(0..60).map(record).collect::<String>());
    from.run("buffer append in.ndjson").exit(0);
    for file in ["all.parquet", "all.csv", "all.ndjson"] {
        from.run(&format!("buffer export --output {file}")).exit(0).stdout("60 rows of 1 day");
        let to = story();
        std::fs::copy(from.path(file), to.path(file)).unwrap();
        // What the site calls things does not matter to its own files.
        to.set("input.timestamp", "\"time\"").set("input.server_name", "\"node\"");
        to.run(&format!("buffer append {file}")).exit(if file.ends_with("json") { 4 } else { 1 });
        to.run(&format!("buffer append {file} --plain --strict")).exit(0);
        let again = to.run("buffer export").exit(0).stdout;
        assert_eq!(again, from.run("buffer export").exit(0).stdout, "{file}");
    }
    from.run("buffer export --from 2024-01-02").exit(0);
    from.run("buffer export --server nobody --output none.csv --json").exit(2).stderr("nobody");
}

#[test]
fn a_mapping_that_cannot_be_is_a_config_error() {
    let story = story();
    story.set("input.timestamp_zone", "\"Europe/Berln\"");
    story.run("config check").exit(2).stderr("did you mean `Europe/Berlin`?");
    story.run("buffer append -").exit(2);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_happens() {
    let mut story = Story::new();
    story.at("2024-01-02T00:00:00Z").run("init").exit(0);
    let row = "{\"timestamp\":\"2024-01-01T10:00:00Z\",\"server_name\":\"s1\",\"cpu_user_pct\":7.5}\n";
    story.write("a.ndjson", row);
    story.run("buffer import --dry-run a.ndjson").exit(2).stderr("--dry-run");
    story.run("buffer export").exit(0).stderr("no rows");
    // A file that is not there does not keep the one behind it waiting.
    story.run("buffer append nowhere.ndjson a.ndjson").exit(1).stderr("nowhere.ndjson");
    assert_eq!(story.run("buffer export").exit(0).stdout.lines().count(), 1);
    story.run("buffer export --from 2024-01-02 --to 2024-01-01").exit(2).stderr("is after");
    story
        .run("buffer export --output data_buffer/metrics_2024-01-01.parquet")
        .exit(2)
        .stderr("buffer itself");
    story.run("window build --days 0").exit(2);
}

#[test]
fn a_source_without_a_good_row_is_told_by_the_exit_code_whatever_the_others_hold() {
    let story = story();
    story.write("good.ndjson", &record(1)).write("bad.ndjson", "no json\n");
    story.run("buffer append bad.ndjson good.ndjson").exit(4).stdout("1 row taken").stderr("quarantine");
    story.run("buffer export").exit(0).stdout("2024-01-01T10:00:01");
    story.write("named.csv", "time,host,cpu_user_pct\n1704103200,s1,1\n");
    story.run("buffer append named.csv").exit(1).stderr("[input] in the config maps them");
}

#[test]
fn a_file_in_a_folder_that_is_not_there_is_refused() {
    let story = story();
    story.run_with_input("buffer append -", record(1).as_bytes()).exit(0);
    story.run("buffer export --output some/missing/x.csv").exit(2).stderr("there is no folder some/missing");
    story.run("predict --out some/missing/x.csv").exit(2).stderr("there is no folder some/missing");
    assert!(!story.path("some").exists());
}
