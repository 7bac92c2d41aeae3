//! `/healthz`, `/readyz` and `/metrics`: for those who watch over a node.

use super::App;
use super::problem::Problem;
use crate::metrics;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use std::sync::Arc;

/// Alive: the process answers, and the node has not failed.
pub async fn healthz(State(app): State<Arc<App>>) -> Response {
    match &app.handle.status().stopped {
        None => "ok\n".into_response(),
        Some(reason) => unready(reason.to_string()),
    }
}

/// Safe to send clients to: it follows a leader or leads, and its state is whole.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    let status = app.handle.status();
    let raft = &status.raft;
    let why = if let Some(reason) = &status.stopped {
        reason.to_string()
    } else if raft.outcast {
        "this node is no member of the cluster any more".to_owned()
    } else if raft.lost.is_some() {
        "part of the log is lost and is being repaired from the other nodes".to_owned()
    } else if let Some(reason) = &status.read_only {
        format!("read-only: {reason}")
    } else if raft.leader.is_none() {
        "no leader is known".to_owned()
    } else if raft.leader == Some(app.id) && !raft.serving {
        "this node was elected and does not serve yet".to_owned()
    } else {
        return "ready\n".into_response();
    };
    unready(why)
}

fn unready(why: String) -> Response {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", why).into_response()
}

/// All figures, in Prometheus' text format.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let status = app.handle.status();
    let peers = app.peers.as_ref().map(|read| read()).unwrap_or_default();
    let text = metrics::render(&status, &app.handle.metrics(), &app.figures, &app.requests, peers);
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
