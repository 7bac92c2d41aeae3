//! The compatible API: the calls of an older system, with the same fields, so that its clients run
//! unchanged.

#![allow(clippy::result_large_err, reason = "a refusal is a ready answer, on the rare path")]

use super::App;
use super::batch_json::Object;
use super::body;
use super::offload::yield_now;
use super::params::{self, pairs};
use super::reply::{self, Share};
use super::routes::{json, refusal};
use crate::command::{Command, Compat, Kind, Reply};
use crate::commits::{self, Listing};
use crate::history::Record;
use crate::pieces::Pieces;
use crate::query::{Query, Received};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use driver::{DriverStatus, Outcome, ProposeError, ReadError, ReadMode, WaitError};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, Uri};
use raft::{CommandNumber, NodeId, Term};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json as value;
use std::sync::Arc;
use std::time::Duration;

/// The longest that `wait_commit` waits.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long `wait_commit` waits if the request has no `timeout_ms`.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a listing waits for a leader to confirm it. A client gets an answer within 4 s.
const LISTING_TIMEOUT: Duration = Duration::from_millis(3500);

/// An answer, or a refusal. Both are complete responses.
type Answer = Result<Response, Response>;

fn either(answer: Answer) -> Response {
    answer.unwrap_or_else(|refusal| refusal)
}

/// `GET /is_leader`: answered from published state, within milliseconds.
pub async fn is_leader(State(app): State<Arc<App>>) -> Response {
    let body: &'static [u8] = if app.handle.status().serving() {
        b"{\"is_leader\":true}"
    } else {
        b"{\"is_leader\":false}"
    };
    json(StatusCode::OK, Bytes::from_static(body))
}

/// The JSON of a command, as a client sends it.
#[derive(Deserialize)]
struct Given {
    kind: Option<String>,
    key: Option<String>,
    value: Option<String>,
    compare_value: Option<String>,
    id: Option<i128>,
}

/// `POST /submit`: answered as soon as the leader has appended the command, before it is committed.
pub async fn submit(State(app): State<Arc<App>>, body: Body) -> Response {
    either(try_submit(&app, body).await)
}

async fn try_submit(app: &App, body: Body) -> Answer {
    let given: Given = read_json(app, body).await?;
    let kind = match given.kind.as_deref() {
        Some("put") => Kind::Put,
        Some("get") => Kind::Get,
        Some("cas") => Kind::Cas,
        Some(other) => {
            let error = format!("unknown kind {other:?}: expected put, get or cas");
            return Err(refusal(StatusCode::BAD_REQUEST, error));
        }
        None => return Err(absent("kind")),
    };
    let command = command(app, kind, given)?;
    let status = app.handle.status();
    if !status.serving() {
        return refuse_submit(app, &status);
    }
    match app.handle.propose(command.encode()).await {
        Ok(proposal) => {
            let (number, term) = (proposal.number.0, proposal.id.term.0);
            let body = format!("{{\"log_index\":{number},\"is_leader\":true,\"term\":{term}}}");
            Ok(json(StatusCode::OK, body))
        }
        Err(ProposeError::NotLeader { .. }) => refuse_submit(app, &app.handle.status()),
        Err(error) => Err(refused_proposal(&error)),
    }
}

/// The answer of a node that does not accept commands: it is not the leader, has stopped, or is
/// read-only.
fn refuse_submit(app: &App, status: &DriverStatus) -> Answer {
    if let Some(reason) = &status.stopped {
        let error = format!("this node has stopped: {reason}");
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, error));
    }
    // A read-only leader cannot append, but keeps its role until it steps down.
    if let (true, Some(reason)) = (status.raft.serving, &status.read_only) {
        return Err(refused_proposal(&ProposeError::ReadOnly { reason: reason.clone() }));
    }
    let leader = leader(app, status);
    let body = value!({ "log_index": -1, "is_leader": false, "leader": leader });
    Ok(json(StatusCode::OK, body.to_string()))
}

/// The client address of the leader, if it is another node.
fn leader(app: &App, status: &DriverStatus) -> Option<String> {
    app.client_address(status.raft.leader.filter(|leader: &NodeId| *leader != app.id))
}

fn command(app: &App, kind: Kind, given: Given) -> Result<Command, Response> {
    compat(app, kind, given).map(Command::Compat)
}

fn compat(app: &App, kind: Kind, given: Given) -> Result<Compat, Response> {
    let key = given.key.ok_or_else(|| absent("key"))?;
    let value = match kind {
        Kind::Put | Kind::Cas => given.value.ok_or_else(|| absent("value"))?,
        Kind::Get => given.value.unwrap_or_default(),
    };
    let compare_value = match kind {
        Kind::Cas => given.compare_value.ok_or_else(|| absent("compare_value"))?,
        Kind::Put | Kind::Get => given.compare_value.unwrap_or_default(),
    };
    let limits = &app.limits;
    for (name, len, max) in [
        ("key", key.len(), limits.key_bytes_max),
        ("value", value.len(), limits.value_bytes_max),
        ("compare_value", compare_value.len(), limits.value_bytes_max),
    ] {
        if len > max {
            let error = format!("{name} has {len} bytes; {max} are allowed");
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
    }
    Ok(Compat {
        kind,
        key: key.into(),
        value: value.into(),
        compare_value: compare_value.into(),
        id: given.id.unwrap_or(0),
    })
}

fn absent(field: &str) -> Response {
    refusal(StatusCode::BAD_REQUEST, format!("the field {field} is missing"))
}

#[derive(Deserialize)]
struct Wait {
    log_index: Option<i128>,
    timeout_ms: Option<f64>,
    term: Option<u64>,
}

/// `POST /wait_commit`: answered when the command with this number is applied on this node.
pub async fn wait_commit(State(app): State<Arc<App>>, body: Body) -> Response {
    either(try_wait_commit(&app, body).await)
}

async fn try_wait_commit(app: &App, body: Body) -> Answer {
    let wait: Wait = read_json(app, body).await?;
    let index = wait.log_index.ok_or_else(|| absent("log_index"))?;
    let Ok(number) = u64::try_from(index).map(CommandNumber) else {
        let error = format!("log_index is {index}: no command has such an index");
        return Err(refusal(StatusCode::BAD_REQUEST, error));
    };
    let timeout = match wait.timeout_ms {
        None => WAIT_DEFAULT,
        Some(ms) if ms >= 0.0 => Duration::from_millis(ms as u64).min(WAIT_MAX),
        Some(ms) => {
            let error = format!("timeout_ms is {ms}: a time is not negative");
            return Err(refusal(StatusCode::BAD_REQUEST, error));
        }
    };
    let term = wait.term.map(Term);
    let waited = tokio::select! {
        biased;
        waited = app.handle.wait_applied(number, term) => waited,
        () = app.sleep(timeout) => {
            let error = format!("nothing was committed at index {number} in time");
            return Err(refusal(StatusCode::REQUEST_TIMEOUT, error));
        }
    };
    match waited {
        Ok(()) => match commit(app, number).await? {
            Found::Commit(record) if term.is_some_and(|term| term != record.term) => {
                Err(superseded(number))
            }
            Found::Commit(record) => reply_commit(app, number, &record),
            Found::NotYet => {
                let error = format!("nothing is committed at index {number} on this node");
                Err(refusal(StatusCode::SERVICE_UNAVAILABLE, error))
            }
        },
        Err(WaitError::Superseded) => Err(superseded(number)),
        Err(error @ WaitError::Busy) => Err(busy(&error.to_string())),
        Err(error) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

fn superseded(number: CommandNumber) -> Response {
    let error = format!("another term's command took index {number}, or the log was cut before it");
    refusal(StatusCode::CONFLICT, error)
}

/// `GET /get_commit?index=0`: the command with this number, from the state of this node.
pub async fn get_commit(State(app): State<Arc<App>>, uri: Uri) -> Response {
    either(try_get_commit(&app, &uri).await)
}

async fn try_get_commit(app: &App, uri: &Uri) -> Answer {
    let index = parameter(uri, "index")?
        .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "the parameter index is missing"))?;
    let number = CommandNumber(u64::try_from(index).unwrap_or(u64::MAX));
    match commit(app, number).await? {
        Found::Commit(record) => reply_commit(app, number, &record),
        Found::NotYet => {
            let error = format!("nothing is committed at index {index} yet");
            Err(refusal(StatusCode::NOT_FOUND, error))
        }
    }
}

/// The result of looking up a command on this node.
enum Found {
    Commit(Box<Record>),
    NotYet,
}

fn reply_commit(app: &App, number: CommandNumber, record: &Record) -> Answer {
    let mut pieces = Pieces::default();
    commits::add_commit(number, record, &mut pieces);
    let share = app.room(pieces.bytes()).map_err(|error| busy(&error.to_string()))?;
    Ok(reply::pieces(pieces, share))
}

async fn commit(app: &App, number: CommandNumber) -> Result<Found, Response> {
    let mode = ReadMode::Stale { max_age: Duration::MAX };
    let ticket = app.answers.ticket();
    let answer = app.handle.read(mode, Query::Commit(number).encode(&ticket)).await;
    match Received::decode(answer.map_err(|error| refused_read(&error))?, &ticket) {
        Received::Commit(record) => Ok(Found::Commit(record)),
        Received::Compacted(first) => {
            let error = format!("index {number} is older than what is retained");
            let body = value!({ "error": error, "first_index": first.0 });
            Err(json(StatusCode::GONE, body.to_string()))
        }
        Received::Nothing | Received::Value(..) => Ok(Found::NotYet),
    }
}

/// `GET /get_commits_since?since_index=-1`: a linearizable read of the whole history, streamed.
pub async fn get_commits_since(State(app): State<Arc<App>>, uri: Uri) -> Response {
    either(try_get_commits_since(app, &uri).await)
}

async fn try_get_commits_since(app: Arc<App>, uri: &Uri) -> Answer {
    let since = parameter(uri, "since_index")?.unwrap_or(-1);
    let limit = match parameter(uri, "limit")? {
        None => u64::MAX,
        Some(limit) => u64::try_from(limit).map_err(|_| {
            refusal(StatusCode::BAD_REQUEST, format!("limit is {limit}: out of range"))
        })?,
    };
    let from = u64::try_from(since.max(-1).saturating_add(1)).unwrap_or(u64::MAX);
    let permit = app.listings.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        app.pressure.raise();
        busy("too many listings are under way")
    })?;
    let frozen = app.handle.freeze_within(ReadMode::Linearizable, LISTING_TIMEOUT).await;
    let state = frozen.map_err(|error| match error {
        ReadError::Busy => busy(&error.to_string()),
        _ => refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let listing = Listing::new(state, CommandNumber(from), limit);
    let parts =
        futures_util::stream::unfold((app, listing, permit), async |(app, listing, permit)| {
            // Other requests run between two parts.
            yield_now().await;
            let (listing, part) = next_part(&app, listing).await?;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(part)), (app, listing, permit)))
        });
    Ok(json(StatusCode::OK, Body::from_stream(parts)))
}

/// Computes the next part of a listing, on another thread: the first one of a state with a long
/// history takes long, however short it is itself. `None` after the last.
async fn next_part(app: &App, mut listing: Listing) -> Option<(Listing, Vec<u8>)> {
    let _place = app.listing_work.acquire().await.ok()?;
    let part_bytes = app.limits.listing_part_bytes;
    let compute = move || listing.next_part(part_bytes).map(|part| (listing, part));
    app.offload(usize::MAX, compute).await?
}

/// `GET /listen_addr`: the peer address.
pub async fn listen_addr(State(app): State<Arc<App>>) -> Response {
    json(StatusCode::OK, value!({ "address": app.peer_address }).to_string())
}

/// `POST /ready`: always true. Has no effect.
pub async fn ready() -> Response {
    json(StatusCode::OK, Bytes::from_static(b"{\"ready\":true}"))
}

/// The answer to `/get`, `/put` and `/cas`.
struct Done {
    resp_status: u8,
    /// The JSON field of the value: `value` for a read, `prev_value` for a write.
    name: &'static str,
    value: Option<Bytes>,
    leader: Option<String>,
    outcome: Option<&'static str>,
}

const STATUS_DONE: u8 = 0;
const STATUS_NOT_LEADER: u8 = 1;
const STATUS_COMMIT_FAILED: u8 = 2;

impl Done {
    fn new(kind: Kind, resp_status: u8, value: Option<Bytes>) -> Self {
        let name = match kind {
            Kind::Get => "value",
            Kind::Put | Kind::Cas => "prev_value",
        };
        Done { resp_status, name, value, leader: None, outcome: None }
    }

    fn not_leader(app: &App, kind: Kind) -> Self {
        let leader = leader(app, &app.handle.status());
        Done { leader, ..Done::new(kind, STATUS_NOT_LEADER, None) }
    }

    fn failed(kind: Kind, outcome: &'static str) -> Self {
        Done { outcome: Some(outcome), ..Done::new(kind, STATUS_COMMIT_FAILED, None) }
    }

    /// The bytes that it needs in the budget for replies.
    fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }

    fn send(&self, share: Share) -> Response {
        let Done { resp_status, name, value, leader, outcome } = self;
        let mut pieces = Pieces::default();
        let key_found = value.is_some();
        pieces.json(&format!("{{\"resp_status\":{resp_status},\"key_found\":{key_found},"));
        pieces.json(&format!("\"{name}\":"));
        pieces.text_or_null(value.as_ref());
        for (name, text) in [("leader", leader.as_deref()), ("outcome", *outcome)] {
            if let Some(text) = text {
                pieces.json(&format!(",\"{name}\":"));
                pieces.text(&Bytes::copy_from_slice(text.as_bytes()));
            }
        }
        pieces.json("}");
        reply::pieces(pieces, share)
    }

    /// Sends an answer without a value. It needs no share of the budget.
    fn send_short(&self) -> Response {
        self.send(Share::none())
    }
}

/// `POST /get {"key"}`: a linearizable read.
pub async fn get(State(app): State<Arc<App>>, body: Body) -> Response {
    either(try_get(&app, body).await)
}

async fn try_get(app: &App, body: Body) -> Answer {
    let given: Given = read_json(app, body).await?;
    let key = compat(app, Kind::Get, given)?.key;
    if !app.handle.status().raft.serving {
        return Ok(Done::not_leader(app, Kind::Get).send_short());
    }
    let ticket = app.answers.ticket();
    let query = Query::Value(&key).encode(&ticket);
    let timeout = app.limits.read_timeout;
    let answer = app.handle.read_within(ReadMode::Linearizable, query, timeout).await;
    let answer = answer.map_err(|error| refused_read(&error))?;
    let value = match Received::decode(answer, &ticket) {
        Received::Value(_, value) => Some(value),
        _ => None,
    };
    let done = Done::new(Kind::Get, STATUS_DONE, value);
    let share = app.room(done.bytes()).map_err(|error| busy(&error.to_string()))?;
    Ok(done.send(share))
}

/// `POST /put {"key","value"}`: answered when the write is committed and applied.
pub async fn put(State(app): State<Arc<App>>, body: Body) -> Response {
    either(one_write(&app, Kind::Put, body).await)
}

/// `POST /cas {"key","compare_value","value"}`: answered when the command is committed and applied.
pub async fn cas(State(app): State<Arc<App>>, body: Body) -> Response {
    either(one_write(&app, Kind::Cas, body).await)
}

async fn one_write(app: &App, kind: Kind, body: Body) -> Answer {
    let given: Given = read_json(app, body).await?;
    let command = command(app, kind, given)?;
    // `raft.serving` includes a leader whose disk is full. Its proposal below fails with the
    // reason.
    if !app.handle.status().raft.serving {
        return Ok(Done::not_leader(app, kind).send_short());
    }
    let timeout = app.limits.request_timeout;
    let proposal = match app.handle.propose_within(command.encode(), timeout).await {
        Ok(proposal) => proposal,
        Err(ProposeError::NotLeader { .. }) => {
            return Ok(Done::not_leader(app, kind).send_short());
        }
        Err(error) => return Err(refused_proposal(&error)),
    };
    let reply = match proposal.done.await {
        Ok(reply) => reply,
        Err(Outcome::NotDone) => return Ok(Done::failed(kind, "not_done").send_short()),
        Err(Outcome::Unknown) => return Ok(Done::failed(kind, "unknown").send_short()),
    };
    let Some(Reply::Compat { previous, .. }) = Reply::decode(&reply) else {
        return Ok(Done::failed(kind, "not_done").send_short());
    };
    drop(reply);
    let done = Done::new(kind, STATUS_DONE, previous);
    // The write is done, so refusing for lack of memory would be wrong. Wait for room instead.
    Ok(match app.room_in_time(done.bytes()).await {
        Some(share) => done.send(share),
        None => Done::failed(kind, "unknown").send_short(),
    })
}

/// Parses a body that has to be one JSON object. `Content-Type` is ignored.
pub async fn read_json<T: DeserializeOwned + Send + 'static>(
    app: &App,
    body: Body,
) -> Result<T, Response> {
    let body = body::whole(body).await;
    let size = body.len();
    let parse = move || serde_json::from_slice(&body).map(|Object(parsed)| parsed);
    let parsed = app.offload(size, parse).await;
    parsed.ok_or_else(|| refusal(StatusCode::INTERNAL_SERVER_ERROR, "parsing it failed"))?.map_err(
        |error| refusal(StatusCode::BAD_REQUEST, format!("the body is not understood: {error}")),
    )
}

/// An integer parameter of the query string. `None` if it is absent.
fn parameter(uri: &Uri, name: &str) -> Result<Option<i128>, Response> {
    let mut values = pairs(uri.query()).filter(|(found, _)| found == name);
    let Some((_, text)) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(params::repeated("parameter", name).into_compat());
    }
    text.parse().map(Some).map_err(|_| {
        refusal(StatusCode::BAD_REQUEST, format!("{name} is {text:?}: expected an integer"))
    })
}

fn busy(error: &str) -> Response {
    let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, error);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn refused_proposal(error: &ProposeError) -> Response {
    match error {
        ProposeError::Busy => busy(&error.to_string()),
        ProposeError::TooLarge { .. } => refusal(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        _ => refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn refused_read(error: &ReadError) -> Response {
    match error {
        ReadError::Busy => busy(&error.to_string()),
        _ => refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
