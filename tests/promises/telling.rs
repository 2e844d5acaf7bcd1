//! Somebody hears of a night, in bounded time, and telling never changes its result.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::Story;

/// A receiver on loopback that answers `ok` to every request and hands on the bodies.
fn receiver() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/services/T0/B0/canary-secret", listener.local_addr().unwrap());
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let body = read_request(stream.unwrap());
            if sender.send(body).is_err() {
                return;
            }
        }
    });
    (url, bodies)
}

fn read_request(mut stream: TcpStream) -> String {
    let mut request = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let n = stream.read(&mut chunk).unwrap();
        request.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    .unwrap();
                return body.to_owned();
            }
        }
        assert!(n > 0, "the request ended early");
    }
}

#[test]
fn a_webhook_and_a_command_hear_of_the_night() {
    let (url, bodies) = receiver();
    let mut story = Story::with_small_fleet();
    story.set("slack_webhook", "\"env:NIGHT_HOOK\"").set("notify.command", "\"cat > heard.json\"");
    story.at("2024-01-08T02:00");
    let output = story.command("nightly --verbose").env("NIGHT_HOOK", &url).output().unwrap();
    assert!([Some(0), Some(3)].contains(&output.status.code()));
    let body: Value = serde_json::from_str(&bodies.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap();
    assert!(body["text"].as_str().unwrap().contains("2024-01-08"), "{body}");
    let heard: Value =
        serde_json::from_str(&std::fs::read_to_string(story.path("heard.json")).unwrap()).unwrap();
    assert_eq!(heard["logical_date"], "2024-01-08");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let log =
        std::fs::read_to_string(story.path("logs/continuous_learning/training_2024-01-08.log")).unwrap();
    for text in [&said, &log] {
        assert!(!text.contains("canary-secret"), "the webhook's address must not be shown: {text}");
    }
}

#[test]
fn a_dead_receiver_changes_nothing_and_costs_bounded_time() {
    // It takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/canary-secret", listener.local_addr().unwrap());
    let mut story = Story::with_small_fleet();
    story.set("require_validation", "false");
    story.set("slack_webhook", "\"env:NIGHT_HOOK\"").set("notify.timeout_secs", "3");
    story.at("2024-01-08T02:00");
    let started = Instant::now();
    let output = story.command("nightly").env("NIGHT_HOOK", &url).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("was not told") && !stderr.contains("canary-secret"), "{stderr}");
    assert!(started.elapsed() < Duration::from_secs(100), "telling took too long");
    assert_eq!(story.names("state/undelivered").len(), 1, "the message waits for the next delivery");
    // The next night delivers what waited, as soon as somebody listens.
    let (url, bodies) = receiver();
    story.at("2024-01-09T02:00");
    story.command("nightly").env("NIGHT_HOOK", &url).output().unwrap();
    let heard: Vec<String> = bodies.try_iter().collect();
    assert!(heard.iter().any(|body| body.contains("2024-01-08")), "{heard:?}");
    assert_eq!(story.names("state/undelivered").len(), 0);
}

#[test]
fn a_night_without_enough_data_says_so_everywhere() {
    let mut story = Story::with_small_fleet();
    story.set("min_training_samples", "10000000").set("notify.command", "\"cat >> heard.json\"");
    story.at("2024-01-08T02:00").run("nightly").exit(4).stderr("not enough");
    let heard = std::fs::read_to_string(story.path("heard.json")).unwrap();
    assert!(heard.contains("warning"), "{heard}");
    let records: Value = serde_json::from_str(
        &std::fs::read_to_string(story.path("logs/continuous_learning/metrics.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(records[0]["success"], false);
    assert_eq!(records[0]["exit_code"], 4);
    // More data may have come by the catch-up start: the night is tried again, and recorded once.
    story.set("min_training_samples", "2000");
    let again = story.run("nightly");
    assert!([Some(0), Some(3)].contains(&again.code), "{}", again.stderr);
    let records: Value = serde_json::from_str(
        &std::fs::read_to_string(story.path("logs/continuous_learning/metrics.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1);
}

#[test]
fn a_record_that_cannot_be_written_silences_nobody_and_is_made_up_for() {
    let mut story = Story::with_small_fleet();
    story.set("require_validation", "false").set("notify.command", "\"cat > heard.json\"");
    let metrics = story.path("logs/continuous_learning/metrics.json");
    std::fs::create_dir_all(&metrics).unwrap();
    story.at("2024-01-08T02:00").run("nightly").exit(1).stderr("metrics.json");
    assert!(story.path("heard.json").is_file(), "the channels hear of the night all the same");
    std::fs::remove_dir(&metrics).unwrap();
    story.run("nightly").exit(0);
    let records: Value = serde_json::from_str(&std::fs::read_to_string(&metrics).unwrap()).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1);
    assert_eq!(
        story.run("models list --json").json().as_array().unwrap().len(),
        1,
        "nothing was trained twice"
    );
}
