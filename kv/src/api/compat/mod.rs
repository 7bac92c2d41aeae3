//! The compatible API: the calls of an older system, with the same fields, so that its clients run
//! unchanged. This file has what its calls share, and the calls without state.

#![allow(clippy::result_large_err, reason = "a refusal is a ready answer, on the rare path")]

mod listing;
mod operations;
mod submit;

pub use listing::{get_commit, get_commits_since};
pub use operations::{cas, get, put};
pub use submit::{submit, wait_commit};

use super::App;
use super::batch_json::Object;
use super::body;
use super::params::{self, pairs};
use super::routes::{json, refusal};
use crate::command::{Command, Compat, Kind};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use driver::{DriverStatus, ProposeError, ReadError};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, Uri};
use raft::NodeId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json as value;
use std::sync::Arc;
use std::time::Duration;

/// The longest that a call waits.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a call waits, from its `timeout_ms`.
fn wait_of(timeout_ms: Option<f64>, default: Duration) -> Result<Duration, Response> {
    match timeout_ms {
        None => Ok(default),
        Some(ms) if ms >= 0.0 => Ok(Duration::from_millis(ms as u64).min(WAIT_MAX)),
        Some(ms) => {
            let error = format!("timeout_ms is {ms}: a time is not negative");
            Err(refusal(StatusCode::BAD_REQUEST, error))
        }
    }
}

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

/// `GET /listen_addr`: the peer address.
pub async fn listen_addr(State(app): State<Arc<App>>) -> Response {
    json(StatusCode::OK, value!({ "address": app.peer_address }).to_string())
}

/// `POST /ready`: always true. Has no effect.
pub async fn ready() -> Response {
    json(StatusCode::OK, Bytes::from_static(b"{\"ready\":true}"))
}

/// The JSON of a command, as a client sends it.
#[derive(Deserialize)]
struct Given {
    kind: Option<String>,
    key: Option<String>,
    value: Option<String>,
    compare_value: Option<String>,
    id: Option<i128>,
    /// How long a call waits for its outcome. Not for `submit`, which does not wait.
    timeout_ms: Option<f64>,
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
