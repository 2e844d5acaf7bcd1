//! What an HTTP failure may say: scheme and host, the status, the operating system's words; never the address
//! behind the host, a header or a proxy's password.

use std::fmt;
use std::io;

const EXCERPT_CHARS: usize = 200;
const REPLY_CHARS: usize = 4096;
/// Shorter pieces of an address (`v1`, `api`) are words, not secrets; blanking them would garble the text.
const MIN_SECRET_CHARS: usize = 5;

/// What a caller may branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The server answered with this status.
    Status(u16),
    /// The reply is longer than the request allows.
    TooLong,
    /// There was no answer, or no way to ask.
    NoAnswer,
}

/// A request that was not answered well.
#[derive(Debug, Clone)]
pub struct HttpError {
    /// Scheme and host of the address, such as `https://hooks.slack.com`.
    pub target: String,
    pub n_attempts: u32,
    /// What the last attempt met.
    pub what: String,
    pub kind: FailureKind,
    /// What the server said with its status: one line of at most 4096 characters, secrets blanked.
    pub reply: String,
}

impl HttpError {
    pub(super) fn new(url: &str, n_attempts: u32, trouble: super::Trouble) -> Self {
        let super::Trouble { what, kind, reply, .. } = trouble;
        Self { target: target_of(url), n_attempts, what, kind, reply }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.what)?;
        if self.n_attempts > 1 { write!(f, " ({} attempts)", self.n_attempts) } else { Ok(()) }
    }
}

impl std::error::Error for HttpError {}

/// Scheme, host and port of `url`; a placeholder where it has none, since then any part may be the secret.
fn target_of(url: &str) -> String {
    let parsed: Option<ureq::http::Uri> = url.parse().ok();
    let target = parsed.as_ref().and_then(|uri| {
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{}{port}", uri.scheme_str()?, uri.host()?))
    });
    target.unwrap_or_else(|| "an address without scheme and host".to_owned())
}

/// `text` with every one of `secrets` blanked, longest first.
pub fn redact(text: &str, secrets: &[&str]) -> String {
    let mut secrets: Vec<&str> = secrets
        .iter()
        .map(|secret| secret.trim())
        .filter(|secret| secret.len() >= MIN_SECRET_CHARS)
        .collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[secret]"))
}

/// A reply on one line; secrets are blanked before it is cut, so that no half of one stays.
pub(super) fn reply_text(body: &[u8], secrets: &[&str]) -> String {
    let text = redact(&String::from_utf8_lossy(body), secrets);
    let is_gap = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<&str> = text.split(is_gap).filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(REPLY_CHARS).collect()
}

/// Its first words.
pub(super) fn excerpt(reply: &str) -> String {
    reply.chars().take(EXCERPT_CHARS).collect()
}

/// A client error in words of our own, and whether trying again can help.
///
/// ureq's own texts are not used where they can quote the address or the proxy.
pub(super) fn describe(error: &ureq::Error) -> (String, bool) {
    use ureq::Error::*;
    let passing = |what: &str| (what.to_owned(), true);
    let lasting = |what: &str| (what.to_owned(), false);
    match error {
        Timeout(_) => passing("no answer in time"),
        Io(error) => (describe_io(error), true),
        HostNotFound => passing("the host name does not resolve"),
        ConnectionFailed | Protocol(_) | BodyStalled => passing("the connection broke"),
        ConnectProxyFailed(_) => passing("the proxy did not connect us"),
        BodyExceedsLimit(limit) => (format!("the reply is longer than {limit} bytes"), false),
        Rustls(error) => (format!("no trusted connection: {error}"), false),
        Tls(_) | Pem(_) | TlsRequired => lasting("no trusted connection"),
        InvalidProxyUrl => lasting("the proxy setting is not a URL"),
        BadUri(_) | Http(_) => lasting("the address is not a URL"),
        _ => lasting("the request failed"),
    }
}

/// The operating system's words; those of a library could quote anything.
fn describe_io(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code).to_string().to_lowercase(),
        None => error.kind().to_string(),
    }
}
