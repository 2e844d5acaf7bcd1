//! The one HTTP client: webhooks, hooks, Prometheus.
//!
//! Bounded in every direction: 3 s to connect, 10 s per attempt and three attempts with jittered back-off (unless the
//! request says otherwise), all of it inside the caller's deadline, and a reply of at most a stated size. Redirects are never followed, because
//! the address of a webhook is a secret and another host has no business with it. Errors name scheme and host
//! only ([`HttpError`]). `HTTP_PROXY` and friends are respected, except for loopback addresses.
//!
//! A request may arrive more than once (a reply can be lost after the work was done), so callers send what can
//! stand a repetition.

mod failure;
#[cfg(test)]
pub(crate) mod receiver;

use std::thread;
use std::time::{Duration, Instant};

use chrono::DateTime;
use ureq::Agent;
use ureq::http::{HeaderMap, Method, Request as HttpRequest, Response, Uri};

pub use failure::{FailureKind, HttpError, redact};

const CONNECT: Duration = Duration::from_secs(3);
const ATTEMPT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(400);
const MAX_ATTEMPTS: u32 = 3;
const DEFAULT_REPLY_BYTES: u64 = 64 << 10;

/// What to send, and where.
#[derive(Clone)]
pub struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    max_reply_bytes: u64,
    attempt_timeout: Duration,
    max_attempts: u32,
}

impl Request {
    /// A GET of `url`.
    pub fn get(url: &str) -> Self {
        Self {
            method: Method::GET,
            url: url.to_owned(),
            headers: Vec::new(),
            body: None,
            max_reply_bytes: DEFAULT_REPLY_BYTES,
            attempt_timeout: ATTEMPT,
            max_attempts: MAX_ATTEMPTS,
        }
    }

    /// A POST of `body` to `url`.
    pub fn post(url: &str, content_type: &str, body: Vec<u8>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { method: Method::POST, headers, body: Some(body), ..Self::get(url) }
    }

    /// A POST of a JSON document.
    pub fn post_json(url: &str, document: &serde_json::Value) -> Self {
        Self::post(url, "application/json; charset=utf-8", document.to_string().into_bytes())
    }

    /// Adds a header, such as a token; its value never appears in an error.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How long a reply may be (64 KiB unless told); a longer one is an error.
    pub fn max_reply_bytes(mut self, limit: u64) -> Self {
        self.max_reply_bytes = limit;
        self
    }

    /// How long one attempt may take (10 s unless told), for replies that are large.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// How often it is sent at most (three times unless told), for work that would rather wait than begin anew.
    pub fn max_attempts(mut self, limit: u32) -> Self {
        self.max_attempts = limit.max(1);
        self
    }

    /// What errors must not contain: the address beyond its host, and every header value.
    fn secrets(&self) -> Vec<&str> {
        let after_scheme = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let path = after_scheme.split_once(['/', '?', '#']).map_or("", |(_, path)| path);
        let user = after_scheme.split(['/', '?', '#']).next().and_then(|host| host.rsplit_once('@'));
        let mut secrets = vec![self.url.as_str(), path];
        secrets.extend(user.map(|(user, _)| user));
        secrets.extend(path.split(['/', '?', '&', '=', '#']));
        secrets.extend(self.headers.iter().map(|(_, value)| value.as_str()));
        secrets
    }
}

/// A reply with a status of 200 to 299.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// Attempts it took, the good one included.
    pub n_attempts: u32,
}

/// Sends `request` until it is answered well, cannot be, or `deadline` comes.
///
/// Tried again: no connection, a broken one, a time-out, 429 and 5xx. Not tried again: every other status
/// (redirects too), an untrusted certificate, an address that is none. `Retry-After` is honoured; where it
/// points beyond the deadline, the attempt that got it was the last.
pub fn send(request: &Request, deadline: Instant) -> Result<Reply, HttpError> {
    let mut pause = FIRST_PAUSE;
    for n_attempts in 1.. {
        let trouble = match attempt(request, deadline) {
            Ok((status, body)) => return Ok(Reply { status, body, n_attempts }),
            Err(trouble) => trouble,
        };
        let wait = trouble.retry_after.unwrap_or_else(|| jittered(pause));
        let is_last = !trouble.is_passing || n_attempts == request.max_attempts;
        if is_last || Instant::now() + wait >= deadline {
            return Err(HttpError::new(&request.url, n_attempts, trouble));
        }
        thread::sleep(wait);
        pause *= 3;
    }
    unreachable!("the last attempt returns")
}

/// Half to one and a half of `pause`, so that many sites do not knock in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// Why one attempt did not do.
struct Trouble {
    what: String,
    kind: FailureKind,
    /// What the server said, redacted.
    reply: String,
    /// Whether another attempt can help.
    is_passing: bool,
    retry_after: Option<Duration>,
}

fn attempt(request: &Request, deadline: Instant) -> Result<(u16, Vec<u8>), Trouble> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Trouble::lasting("no time was left to try"));
    }
    let uri: Uri = request.url.parse().map_err(|_| Trouble::lasting("the address is not a URL"))?;
    let agent = agent_for(&uri, left.min(request.attempt_timeout));
    let sent = match &request.body {
        Some(body) => agent.run(build(request, uri, body.as_slice())?),
        None => agent.run(build(request, uri, ())?),
    };
    read_reply(sent.map_err(Trouble::of)?, request)
}

fn build<B>(request: &Request, uri: Uri, body: B) -> Result<HttpRequest<B>, Trouble> {
    let mut builder = HttpRequest::builder().method(request.method.clone()).uri(uri);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    builder.body(body).map_err(|_| Trouble::lasting("a header holds a character that HTTP forbids"))
}

fn read_reply(mut response: Response<ureq::Body>, request: &Request) -> Result<(u16, Vec<u8>), Trouble> {
    let status = response.status();
    let body = response.body_mut().with_config().limit(request.max_reply_bytes).read_to_vec();
    if status.is_success() {
        return body.map(|body| (status.as_u16(), body)).map_err(Trouble::of);
    }
    let is_passing = status.is_server_error() || status.as_u16() == 429;
    let mut what = format!("answered {}", status.as_u16());
    if status.is_redirection() {
        what.push_str(", and redirects are not followed");
    }
    let reply = failure::reply_text(&body.unwrap_or_default(), &request.secrets());
    if !reply.is_empty() {
        what.push_str(&format!(" ({})", failure::excerpt(&reply)));
    }
    let kind = FailureKind::Status(status.as_u16());
    Err(Trouble { what, kind, reply, is_passing, retry_after: retry_after(response.headers()) })
}

impl Trouble {
    fn lasting(what: &str) -> Self {
        let (kind, reply) = (FailureKind::NoAnswer, String::new());
        Self { what: what.to_owned(), kind, reply, is_passing: false, retry_after: None }
    }

    fn of(error: ureq::Error) -> Self {
        let (what, is_passing) = failure::describe(&error);
        let is_too_long = matches!(error, ureq::Error::BodyExceedsLimit(_));
        let kind = if is_too_long { FailureKind::TooLong } else { FailureKind::NoAnswer };
        Self { kind, is_passing, ..Self::lasting(&what) }
    }
}

fn agent_for(uri: &Uri, timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT))
        .timeout_global(Some(timeout))
        .user_agent(concat!("tftctl/", env!("CARGO_PKG_VERSION")));
    let config = if is_loopback(uri) { config.proxy(None) } else { config };
    config.build().new_agent()
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// How long the server asks us to wait: seconds, or a date compared with the server's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text("retry-after")?;
    if let Ok(seconds) = asked.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(asked).ok()?;
    let at = DateTime::parse_from_rfc2822(text("date")?).ok()?;
    (until - at).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::receiver::{Answer, Receiver, refused_url};
    use super::*;

    const CANARY: &str = "T0CANARY/B1SECRET/xyzzy123456";

    fn within(secs: u64) -> Instant {
        Instant::now() + Duration::from_secs(secs)
    }

    #[track_caller]
    fn fails(url: &str, secs: u64, expected: &str) -> HttpError {
        let request =
            Request::post(&format!("{url}/{CANARY}?token=canarytoken"), "text/plain", b"x".to_vec())
                .header("authorization", "Bearer canarybearer");
        let error = send(&request, within(secs)).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text:?} should contain {expected:?}");
        for secret in ["T0CANARY", "B1SECRET", "xyzzy123456", "canarytoken", "canarybearer"] {
            assert!(!text.contains(secret), "{text:?} shows {secret}");
        }
        error
    }

    #[test]
    fn a_body_arrives_and_the_reply_comes_back() {
        let receiver = Receiver::start(vec![Answer::status(200, "ok")]);
        let document = serde_json::json!({"text": "grüße"});
        let reply = send(&Request::post_json(&receiver.url(), &document), within(20)).unwrap();
        assert_eq!((reply.status, reply.body.as_slice(), reply.n_attempts), (200, b"ok".as_slice(), 1));
        let requests = receiver.requests();
        assert!(requests[0].head.starts_with("POST / HTTP/1.1"));
        assert!(requests[0].head.to_lowercase().contains("content-type: application/json"));
        assert_eq!(requests[0].body, document.to_string());
    }

    #[test]
    fn a_failing_server_is_tried_again() {
        let receiver = Receiver::start(vec![Answer::status(500, "oops"), Answer::status(200, "ok")]);
        let reply = send(&Request::get(&receiver.url()), within(20)).unwrap();
        assert_eq!(reply.n_attempts, 2);
        assert_eq!(receiver.requests().len(), 2);
    }

    #[test]
    fn a_lasting_failure_is_tried_three_times() {
        let receiver = Receiver::start(vec![Answer::status(503, "down"); 5]);
        let error = fails(&receiver.url(), 30, "answered 503 (down)");
        assert_eq!(error.n_attempts, 3);
        assert_eq!(receiver.requests().len(), 3);
    }

    #[test]
    fn retry_after_is_honoured() {
        let busy = Answer::status(429, "slow down").header("Retry-After: 1");
        let receiver = Receiver::start(vec![busy, Answer::status(200, "ok")]);
        let started = Instant::now();
        assert_eq!(send(&Request::get(&receiver.url()), within(20)).unwrap().n_attempts, 2);
        assert!(started.elapsed() >= Duration::from_secs(1));
    }

    #[test]
    fn a_retry_after_beyond_the_deadline_ends_it() {
        let receiver = Receiver::start(vec![Answer::status(429, "slow down").header("Retry-After: 3600"); 2]);
        fails(&receiver.url(), 20, "answered 429");
        assert_eq!(receiver.requests().len(), 1);
    }

    #[test]
    fn other_client_errors_and_redirects_are_not_tried_again() {
        let receiver = Receiver::start(vec![Answer::status(404, "no_service"); 2]);
        assert_eq!(fails(&receiver.url(), 20, "answered 404 (no_service)").n_attempts, 1);
        let moved = Answer::status(302, "").header(&format!("Location: {}/elsewhere", receiver.url()));
        let mover = Receiver::start(vec![moved]);
        fails(&mover.url(), 20, "redirects are not followed");
        assert_eq!(receiver.requests().len(), 1);
    }

    #[test]
    fn a_silent_server_costs_no_more_than_the_deadline() {
        let receiver = Receiver::start(vec![Answer::Silence; 3]);
        let started = Instant::now();
        fails(&receiver.url(), 1, "no answer in time");
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_refused_port_and_a_bad_address_are_told_apart() {
        assert_eq!(fails(&refused_url(), 20, "refused").n_attempts, 3);
        assert_eq!(fails("ht tp://nowhere", 5, "not a URL").n_attempts, 1);
        assert_eq!(fails("no-scheme.example", 5, "not a URL").n_attempts, 1);
    }

    #[test]
    fn a_server_that_echoes_the_secret_does_not_get_it_into_the_error() {
        let echo = Answer::status(400, "POST /T0CANARY/B1SECRET/xyzzy123456?token=canarytoken is bad");
        fails(&Receiver::start(vec![echo]).url(), 20, "is bad");
    }

    #[test]
    fn a_reply_beyond_the_limit_is_an_error() {
        let receiver = Receiver::start(vec![Answer::status(200, &"x".repeat(5000))]);
        let request = Request::get(&receiver.url()).max_reply_bytes(1000);
        let error = send(&request, within(20)).unwrap_err();
        assert!(error.to_string().contains("longer than 1000 bytes"));
        assert_eq!(error.kind, FailureKind::TooLong);
    }

    #[test]
    fn a_refusal_keeps_the_servers_words_and_shows_their_beginning() {
        let words = format!("{{\"error\": \"canarytoken {}\"}}", "no ".repeat(300));
        let error = fails(&Receiver::start(vec![Answer::status(422, &words)]).url(), 20, "answered 422");
        assert_eq!(error.kind, FailureKind::Status(422));
        assert!(error.reply.len() > 600 && error.reply.ends_with("\"}"), "{}", error.reply);
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn a_date_to_retry_after_is_measured_by_the_servers_own_clock() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "Wed, 21 Oct 2015 07:28:05 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers), None);
        headers.insert("date", "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(5)));
    }
}
