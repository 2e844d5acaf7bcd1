//! A real local HTTP server for tests: says what it is told to, one answer per connection, and remembers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What to say to one connection.
#[derive(Clone)]
pub enum Answer {
    Reply {
        status: u16,
        headers: Vec<String>,
        body: String,
    },
    /// Takes the request and never answers.
    Silence,
}

impl Answer {
    pub fn status(status: u16, body: &str) -> Self {
        Answer::Reply { status, headers: Vec::new(), body: body.to_owned() }
    }

    pub fn header(mut self, line: &str) -> Self {
        if let Answer::Reply { headers, .. } = &mut self {
            headers.push(line.to_owned());
        }
        self
    }
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Request line and headers.
    pub head: String,
    pub body: String,
}

/// The server; its thread ends with the test process.
pub struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Listens on a free port and gives `answers` in turn; after the last one it says 200 `ok`.
    pub fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        thread::spawn(move || {
            let mut answers = answers.into_iter();
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                kept.lock().unwrap().push(read_request(&mut stream));
                match answers.next().unwrap_or(Answer::status(200, "ok")) {
                    Answer::Reply { status, headers, body } => reply(&mut stream, status, &headers, &body),
                    Answer::Silence => silent.push(stream),
                }
            }
        });
        Self { port, requests }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }
}

/// The address of a port on which nobody listens.
pub fn refused_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port())
}

fn read_request(stream: &mut TcpStream) -> Received {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Received { head, body: String::from_utf8(body).unwrap() }
}

fn reply(stream: &mut TcpStream, status: u16, headers: &[String], body: &str) {
    let extra: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    // A client that has gone away is the client's affair.
    let _ = stream.write_all(format!("{head}{extra}\r\n{body}").as_bytes());
}
