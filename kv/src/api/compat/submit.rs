//! Commands in two steps: `/submit` appends one, `/wait_commit` waits until it is applied.

use super::listing::{Found, commit, reply_commit};
use super::{
    Answer, Given, absent, busy, command, either, leader, read_json, refused_proposal, wait_of,
};
use crate::api::App;
use crate::api::params;
use crate::api::problem::Problem;
use crate::api::routes::{json, refusal};
use crate::command::Kind;
use crate::places::Side;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use driver::{DriverStatus, ProposeError, WaitError};
use hyper::{HeaderMap, StatusCode};
use raft::{CommandNumber, Term};
use serde::Deserialize;
use serde_json::json as value;
use std::sync::Arc;
use std::time::Duration;

/// How long `wait_commit` waits if the request has no `timeout_ms`.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// `POST /submit`: answered as soon as the leader has appended the command, before it is committed.
pub async fn submit(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    either(try_submit(&app, &headers, body).await)
}

async fn try_submit(app: &App, headers: &HeaderMap, body: Body) -> Answer {
    // If they were ignored, a repeat would be done twice.
    params::of_no_session(headers).map_err(Problem::into_compat)?;
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

#[derive(Deserialize)]
struct Wait {
    log_index: Option<i128>,
    timeout_ms: Option<f64>,
    term: Option<u64>,
}

/// `POST /wait_commit`: answered when the command with this number is applied on this node.
pub async fn wait_commit(
    State(app): State<Arc<App>>,
    client: Option<Extension<Side>>,
    body: Body,
) -> Response {
    let client = client.map(|Extension(client)| client);
    either(try_wait_commit(&app, client, body).await)
}

async fn try_wait_commit(app: &App, client: Option<Side>, body: Body) -> Answer {
    let wait: Wait = read_json(app, body).await?;
    let index = wait.log_index.ok_or_else(|| absent("log_index"))?;
    let Ok(number) = u64::try_from(index).map(CommandNumber) else {
        let error = format!("log_index is {index}: no command has such an index");
        return Err(refusal(StatusCode::BAD_REQUEST, error));
    };
    let timeout = wait_of(wait.timeout_ms, WAIT_DEFAULT)?;
    let too_many = || busy("too many requests wait for a command");
    let place = app.waits.take(client).ok_or_else(too_many)?;
    let term = wait.term.map(Term);
    let waited = tokio::select! {
        biased;
        waited = app.handle.wait_applied(number, term) => waited,
        () = place.lost() => return Err(too_many()),
        () = app.leaving.begun() => {
            let error = "this node stops; ask another one";
            return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, error));
        }
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
