//! A client of a cluster, independent of the transport that carries its requests.
//!
//! Nodes forward requests to the leader, so any running node can serve a client. Redirects are
//! followed: a node with `--no-forward` answers with one. A request that was certainly not executed
//! is retried on the next server until the timeout. A request that may have been executed is
//! repeated only if it is a read, or a write in a session ([`Client::write`]), which is done once.
//!
//! A server may accept a connection and never answer: its process is stopped, or it is no node. A
//! write that was sent to it could not be repeated. So a client that divides its time
//! ([`Client::dividing_time`]) first asks a server whether it is a node. One that does not answer
//! soon is passed over, and none uses up the time of the others.
//!
//! This module opens no connections ([`Exchange`] does), and uses only the clock that it is given.

pub use crate::api::NODE;
use crate::api::{SESSION_ID, SESSION_SEQ, WAIT_MS};
use crate::plain::shown;
use bytes::Bytes;
use driver::Clock;
use http_body_util::Full;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use raft::check_address;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The pause after all servers have failed. An election takes some hundred milliseconds.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The most redirects that one attempt follows. The leader may change meanwhile; more redirects
/// than this are a loop.
const REDIRECTS_MAX: usize = 3;

/// The client waits at most this much longer than it lets the node wait. An answer without a wait
/// takes less.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

/// The question whether a server is a node that answers. Each node answers it at once, whatever its
/// disk does.
const PROBE: &str = "/healthz";

/// How long the first question to a server may take. If none answers in that time, each is asked
/// again, and may take its share of what is left.
const PROBE_TIME: Duration = Duration::from_millis(400);

/// Opens a session. One that is not used ends by itself, so it may be opened again.
const SESSIONS: &str = "/v1/sessions";

/// The least time for which a further attempt is made.
const ATTEMPT_MIN: Duration = Duration::from_millis(20);

/// An HTTP request, without the address of the node.
#[derive(Clone, Debug)]
pub struct Request {
    /// The HTTP method. A `GET` may be repeated after a lost answer.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// Headers beyond `Host`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; empty for none.
    pub body: Bytes,
}

impl Request {
    /// Whether it may be sent again although it may have been executed.
    fn is_repeatable(&self) -> bool {
        !self.changes_something() || self.headers.iter().any(|(name, _)| name == SESSION_ID)
    }

    /// Whether it matters that it was executed. A session that is not used ends by itself.
    fn changes_something(&self) -> bool {
        self.method != Method::GET && self.path != SESSIONS
    }

    /// A request without headers and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Request { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Builds the hyper request. `host` becomes the `Host` header.
    pub fn build(&self, host: &HeaderValue) -> Result<hyper::Request<Full<Bytes>>, String> {
        let mut request = hyper::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            self.path.parse().map_err(|error| format!("bad path {}: {error}", self.path))?;
        request.headers_mut().insert(HOST, host.clone());
        if self.method == hyper::Method::PUT {
            // hyper leaves it out for an empty body, which the API then takes for a mistake.
            request.headers_mut().insert(CONTENT_LENGTH, self.body.len().into());
        }
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}

/// The answer of a server.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: StatusCode,
    /// All headers. Answers of a node include `raft-kv-node`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Response {
    /// The body as JSON. Null if it is not valid JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// A text for people that explains an answer without success: from the problem document, or
    /// else the status.
    pub fn explanation(&self) -> String {
        let problem = self.json();
        let said = ["detail", "title", "error"].iter().find_map(|field| problem[*field].as_str());
        match said {
            // The server may be anything.
            Some(said) => format!("{} ({})", shown(said), self.status),
            None => self.status.to_string(),
        }
    }
}

/// Why an exchange brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request was not sent, so it was not executed.
    #[error("{0}")]
    NotSent(String),
    /// The request was not sent, and a retry would not help: nothing listens at the address, or the
    /// name does not exist.
    #[error("{0}")]
    Nobody(String),
    /// The request was sent, so it may have been executed.
    #[error("{0}")]
    Lost(String),
}

/// Transport of requests.
pub trait Exchange: Send + Sync {
    /// Sends `request`, once, to the node at `address` (`host:port`) and waits for the whole
    /// answer.
    fn exchange(
        &self,
        address: &str,
        request: &Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response, Failure>> + Send;
}

/// Why a call brought no answer of the store.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request was certainly not executed.
    #[error("not done: {0}")]
    NotDone(String),
    /// The request may have been executed.
    #[error("outcome unknown (it may have been done): {0}")]
    Unknown(String),
}

/// A client of one cluster.
pub struct Client<E> {
    servers: Vec<String>,
    timeout: Duration,
    exchange: E,
    clock: Arc<dyn Clock>,
    divides_time: bool,
    /// The server that answered last, which a client that divides its time tries first.
    first: AtomicUsize,
}

impl<E: Exchange> Client<E> {
    /// A client that tries these servers in turn. `timeout` bounds each call, over all attempts.
    pub fn new(
        servers: Vec<String>,
        timeout: Duration,
        exchange: E,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let first = AtomicUsize::new(0);
        Client { servers, timeout, exchange, clock, divides_time: false, first }
    }

    /// Lets no server use up the time of the others. With several servers, a request is sent only
    /// to a server that has just answered as a node, and an attempt to read takes an equal share of
    /// the time that is left.
    #[must_use]
    pub fn dividing_time(mut self) -> Self {
        self.divides_time = self.servers.len() > 1;
        self
    }

    /// Sends `request` to one server after another until one gives an answer of the store. Statuses
    /// such as 404 and 412 are answers of the store. A server error or 429 is not: it leads to a
    /// retry or to an error.
    pub async fn call(&self, request: &Request) -> Result<Response, CallError> {
        self.call_for(request, |_| true).await
    }

    /// Like [`Client::call`] for a write, which is done once: it is sent in a session of its own,
    /// and repeated until its outcome is known. The session costs a request before it.
    pub async fn write(&self, request: &Request) -> Result<Response, CallError> {
        let began_ns = self.clock.now().monotonic_ns;
        let opened = self.call(&Request::new(Method::POST, SESSIONS)).await;
        let opened = opened.map_err(|error| match error {
            // Only the session is in doubt. The write was not sent.
            CallError::Unknown(why) | CallError::NotDone(why) => CallError::NotDone(why),
        })?;
        let session = opened.json()["session"].as_str().and_then(|id| id.parse().ok());
        let Some(session) = session else {
            // An earlier version, without sessions.
            return self.call(request).await;
        };
        let mut request = request.clone();
        request.headers.push((HeaderName::from_static(SESSION_ID), session));
        request.headers.push((HeaderName::from_static(SESSION_SEQ), HeaderValue::from(1)));
        let passed_ns = self.clock.now().monotonic_ns.saturating_sub(began_ns);
        let left = self.timeout.saturating_sub(Duration::from_nanos(passed_ns));
        if left < ATTEMPT_MIN {
            return Err(CallError::NotDone("to open a session took all of the time".into()));
        }
        self.repeat(&request, left, |_| true).await
    }

    /// Like [`Client::call`] for a read, but an answer that is not `wanted` is only returned if all
    /// other servers have been tried.
    pub async fn call_for(
        &self,
        request: &Request,
        wanted: impl Fn(&Response) -> bool,
    ) -> Result<Response, CallError> {
        self.repeat(request, self.timeout, wanted).await
    }

    async fn repeat(
        &self,
        request: &Request,
        timeout: Duration,
        wanted: impl Fn(&Response) -> bool,
    ) -> Result<Response, CallError> {
        let began_ns = self.clock.now().monotonic_ns;
        let left = || {
            let passed_ns = self.clock.now().monotonic_ns.saturating_sub(began_ns);
            timeout.saturating_sub(Duration::from_nanos(passed_ns))
        };
        // Whether an attempt to write in a session may have been done.
        let mut may_be_done = false;
        // The latest reason other than "cannot connect" is the most useful in an error message.
        let mut reason = String::new();
        let mut probe_time = PROBE_TIME;
        loop {
            let (mut nobody, mut unwanted) = (Vec::new(), None);
            let first = self.first.load(Ordering::Relaxed);
            for at in (first..self.servers.len()).chain(0..first) {
                let server = &self.servers[at];
                let left = left();
                if left < ATTEMPT_MIN && !(reason.is_empty() && nobody.is_empty()) {
                    if let Some(response) = unwanted {
                        return Ok(response);
                    }
                    let reason = if reason.is_empty() { nobody.join("; ") } else { reason };
                    return Err(match may_be_done {
                        true => CallError::Unknown(reason),
                        false => CallError::NotDone(reason),
                    });
                }
                match self.probe_and_attempt(server, request, left, probe_time).await {
                    // The session has ended: an earlier attempt may have been done, this one not.
                    Ok(response)
                        if response.status == StatusCode::GONE && request.method != Method::GET =>
                    {
                        let why = response.explanation();
                        return Err(match may_be_done {
                            true => CallError::Unknown(why),
                            false => CallError::NotDone(why),
                        });
                    }
                    Ok(response) if wanted(&response) => {
                        if self.divides_time {
                            self.first.store(at, Ordering::Relaxed);
                        }
                        return Ok(response);
                    }
                    Ok(response) => unwanted = Some(response),
                    Err(Missed::Nobody(why)) => nobody.push(why),
                    Err(Missed::NotDone(why)) => reason = why,
                    Err(Missed::Unknown(why)) if request.is_repeatable() => {
                        may_be_done |= request.changes_something();
                        reason = why;
                    }
                    Err(Missed::Unknown(why)) => return Err(CallError::Unknown(why)),
                }
            }
            if let Some(response) = unwanted {
                return Ok(response);
            }
            if nobody.len() == self.servers.len() && !may_be_done {
                return Err(CallError::NotDone(nobody.join("; ")));
            }
            probe_time = Duration::MAX;
            self.clock.sleep(RETRY_PAUSE).await;
        }
    }

    /// One attempt at `server`. If this client divides its time, it has a share of what is left,
    /// and begins with the question whether the server is a node.
    async fn probe_and_attempt(
        &self,
        server: &str,
        request: &Request,
        left: Duration,
        probe_time: Duration,
    ) -> Result<Response, Missed> {
        if !self.divides_time {
            return self.attempt(server, request, left).await;
        }
        let servers = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let share = (left / servers).max(ATTEMPT_MIN).min(left);
        let began_ns = self.clock.now().monotonic_ns;
        let probe = Request::new(Method::GET, PROBE);
        let answer = self.exchange.exchange(server, &probe, share.min(probe_time)).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::Nobody(why) => Missed::Nobody(why),
            Failure::NotSent(why) | Failure::Lost(why) => Missed::NotDone(why),
        })?;
        if !answer.headers.contains_key(NODE) {
            return Err(foreign(server, false, &answer));
        }
        let passed_ns = self.clock.now().monotonic_ns.saturating_sub(began_ns);
        let left = if request.is_repeatable() { share } else { left };
        let left = left.saturating_sub(Duration::from_nanos(passed_ns));
        self.attempt(server, request, left).await
    }

    /// One attempt, which starts at `server` and follows redirects.
    async fn attempt(
        &self,
        server: &str,
        request: &Request,
        left: Duration,
    ) -> Result<Response, Missed> {
        let mut address = server.to_owned();
        let mut request = request.clone();
        // The node has to give up before this client does, so that it can answer that nothing was
        // done.
        let wait = left.saturating_sub((left / 4).min(ANSWER_TIME_MAX));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        request.headers.push((HeaderName::from_static(WAIT_MS), wait_ms.into()));
        for _ in 0..=REDIRECTS_MAX {
            let response = self.exchange.exchange(&address, &request, left).await;
            let response = response.map_err(|failure| match failure {
                Failure::NotSent(why) => Missed::NotDone(why),
                Failure::Nobody(why) => Missed::Nobody(why),
                Failure::Lost(why) => Missed::Unknown(why),
            })?;
            if !response.headers.contains_key(NODE) {
                return Err(foreign(&address, request.changes_something(), &response));
            }
            if response.status != StatusCode::TEMPORARY_REDIRECT {
                return sorted(response);
            }
            let location = response.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let Some((next, path)) = location.and_then(split_location) else {
                return Err(Missed::NotDone(format!("{address}: a redirect to nowhere")));
            };
            address = next;
            request.path = path;
        }
        Err(Missed::NotDone(format!("{server}: redirected in circles")))
    }
}

/// Why an attempt brought no answer of the store.
#[derive(Debug)]
enum Missed {
    /// No node is there, and a retry would not find one.
    Nobody(String),
    /// The request was certainly not executed.
    NotDone(String),
    /// The request may have been executed.
    Unknown(String),
}

/// Handles an answer without the `raft-kv-node` header. The server is not a node, but may be a
/// proxy in front of one that has executed the request, if that `changes_something`.
fn foreign(address: &str, changes_something: bool, response: &Response) -> Missed {
    let status = response.status;
    let why = format!(
        "{address} answers {status}, but is no raft-kv node: its answer has no {NODE} header"
    );
    match changes_something {
        false => Missed::Nobody(why),
        true => Missed::Unknown(why),
    }
}

/// Separates answers of the store from errors. An error counts as not executed only if the answer
/// shows it.
fn sorted(response: Response) -> Result<Response, Missed> {
    let status = response.status;
    let busy = status == StatusCode::TOO_MANY_REQUESTS;
    if !status.is_server_error() && !busy {
        return Ok(response);
    }
    let why = response.explanation();
    let problem = response.json();
    let certain = match problem["outcome"].as_str() {
        Some(outcome) => outcome == "not_done",
        None => busy || status == StatusCode::SERVICE_UNAVAILABLE,
    };
    Err(if certain { Missed::NotDone(why) } else { Missed::Unknown(why) })
}

/// Splits an absolute `Location` into address and path.
fn split_location(location: &str) -> Option<(String, String)> {
    let rest = location.strip_prefix("http://")?;
    let (address, path) = rest.split_once('/')?;
    check_address(address).ok()?;
    Some((address.to_owned(), format!("/{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Default::default(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn an_answer_of_the_store_is_an_answer_even_when_it_is_no() {
        assert!(sorted(answer(404, "")).is_ok());
        assert!(sorted(answer(412, "")).is_ok());
    }

    #[test]
    fn a_failed_write_is_repeated_only_when_it_was_certainly_not_done() {
        let not_done = sorted(answer(503, r#"{"outcome":"not_done","detail":"no leader"}"#));
        assert!(matches!(not_done, Err(Missed::NotDone(why)) if why.contains("no leader")));
        let unknown = sorted(answer(504, r#"{"outcome":"unknown"}"#));
        assert!(matches!(unknown, Err(Missed::Unknown(_))));
        // A proxy in between, whose answer has no `outcome`.
        assert!(matches!(sorted(answer(502, "bad gateway")), Err(Missed::Unknown(_))));
    }

    #[test]
    fn a_text_of_a_foreign_server_is_short_and_harmless_on_a_terminal() {
        let body = serde_json::json!({"detail": format!("\x1b]0;\n{}", "x".repeat(70_000))});
        let mut answer = answer(400, "");
        answer.body = body.to_string().into();
        let text = answer.explanation();
        assert!(text.starts_with("\\u001b]0;\\u000axxx") && text.ends_with("(400 Bad Request)"));
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    }

    #[test]
    fn a_server_that_is_no_node_does_not_count() {
        let read = foreign("a:1", false, &answer(200, "ok"));
        assert!(matches!(read, Missed::Nobody(_)));
        let write = foreign("a:1", true, &answer(200, "ok"));
        assert!(matches!(write, Missed::Unknown(_)));
    }

    #[test]
    fn a_redirect_is_taken_apart() {
        let expected = Some(("127.0.0.1:8081".to_owned(), "/v1/kv/a%2Fb?x=1".to_owned()));
        assert_eq!(split_location("http://127.0.0.1:8081/v1/kv/a%2Fb?x=1"), expected);
        assert_eq!(split_location("/elsewhere"), None);
        assert_eq!(split_location("http://a b:1/"), None);
        assert_eq!(split_location(&format!("http://{}:1/", "a".repeat(300))), None);
    }
}
