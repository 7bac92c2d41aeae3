//! Operations in one step: `/get`, `/put` and `/cas` are answered when they are done.

use super::{
    Answer, Given, busy, command, compat, either, leader, read_json, refused_proposal,
    refused_read, wait_of,
};
use crate::api::App;
use crate::api::params;
use crate::api::problem::Problem;
use crate::api::reply::{self, Share};
use crate::command::{Kind, Reply};
use crate::pieces::Pieces;
use crate::query::{Query, Received};
use crate::shared_bytes::SharedBytes;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use driver::{AttemptError, Consistency, ProposeError, SessionError};
use hyper::HeaderMap;
use std::sync::Arc;
use std::time::Duration;

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
/// The number was used before, and the first reply cannot be given.
const STATUS_DUPLICATE: u8 = 3;

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

    fn out_of_session(kind: Kind, error: SessionError) -> Self {
        let (resp_status, outcome) = match error {
            SessionError::Reused => (STATUS_DUPLICATE, "not_done"),
            SessionError::Forgotten => (STATUS_DUPLICATE, "unknown"),
            SessionError::Gap { .. } => (STATUS_COMMIT_FAILED, "not_done"),
            _ => (STATUS_COMMIT_FAILED, "unknown"),
        };
        Done { outcome: Some(outcome), ..Done::new(kind, resp_status, None) }
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
    let timeout = wait_of(given.timeout_ms, app.limits.read_timeout)?;
    let key = compat(app, Kind::Get, given)?.key;
    if !app.handle.status().raft.serving {
        return Ok(Done::not_leader(app, Kind::Get).send_short());
    }
    let ticket = app.answers.ticket();
    let query = Query::Value(&key).encode(&ticket);
    let answer = app.handle.read_within(query, Consistency::Linearizable, timeout).await;
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
pub async fn put(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    either(one_write(&app, Kind::Put, &headers, body).await)
}

/// `POST /cas {"key","compare_value","value"}`: answered when the command is committed and applied.
pub async fn cas(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    either(one_write(&app, Kind::Cas, &headers, body).await)
}

/// Appends a command on this node, which leads, and waits until it is applied.
async fn propose(app: &App, command: Bytes, timeout: Duration) -> Result<Bytes, AttemptError> {
    let proposal = app.handle.propose_within(command, timeout).await;
    Ok(proposal.map_err(AttemptError::Refused)?.done.await?)
}

async fn one_write(app: &App, kind: Kind, headers: &HeaderMap, body: Body) -> Answer {
    let session = params::of_session(headers).map_err(Problem::into_compat)?;
    let given: Given = read_json(app, body).await?;
    let timeout = wait_of(given.timeout_ms, app.limits.request_timeout)?;
    let command = command(app, kind, given)?;
    // `raft.serving` includes a leader whose disk is full. Its proposal below fails with the
    // reason.
    if !app.handle.status().raft.serving {
        return Ok(Done::not_leader(app, kind).send_short());
    }
    let executed = match session {
        None => propose(app, command.encode(), timeout).await,
        Some(number) => app.handle.execute_in_session(number, command.encode(), timeout).await,
    };
    let reply = match executed {
        Ok(reply) => reply,
        Err(AttemptError::Refused(ProposeError::NotLeader { .. })) => {
            return Ok(Done::not_leader(app, kind).send_short());
        }
        Err(AttemptError::Refused(error)) => return Err(refused_proposal(&error)),
        Err(AttemptError::NotDone) => return Ok(Done::failed(kind, "not_done").send_short()),
        Err(AttemptError::Unknown) => return Ok(Done::failed(kind, "unknown").send_short()),
        Err(AttemptError::Session(error)) => {
            return Ok(Done::out_of_session(kind, error).send_short());
        }
    };
    let Some(Reply::Compat { previous, .. }) = Reply::decode(&reply) else {
        return Ok(Done::failed(kind, "not_done").send_short());
    };
    drop(reply);
    let done = Done::new(kind, STATUS_DONE, previous.map(SharedBytes::into_bytes));
    // The write is done, so refusing for lack of memory would be wrong. Wait for room instead.
    Ok(match app.room_in_time(done.bytes()).await {
        Some(share) => done.send(share),
        None => Done::failed(kind, "unknown").send_short(),
    })
}
