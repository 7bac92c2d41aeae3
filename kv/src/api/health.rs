//! `/healthz`, `/readyz` and `/metrics`, for monitoring.

use super::App;
use super::problem::Problem;
use crate::metrics;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use driver::{NotReady, StopReason};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use std::sync::Arc;

/// `GET /healthz`: 503 if the node has stopped or its state differs from that of its peers.
pub async fn healthz(State(app): State<Arc<App>>) -> Response {
    let status = app.handle.status();
    match &status.stopped {
        Some(reason) => unready(NotReady::Stopped(reason.clone()).to_string()),
        None if status.raft.diverged => unready(StopReason::Diverged.to_string()),
        None => "ok\n".into_response(),
    }
}

/// `GET /readyz`: whether clients should use this node, as [`driver::DriverStatus::ready`] defines
/// it.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.handle.status().ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => unready(reason.to_string()),
    }
}

fn unready(why: String) -> Response {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", why).into_response()
}

/// `GET /metrics`: all metrics, in Prometheus' text format.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let status = app.handle.status();
    let peers = app.peers.as_ref().map(|read| read()).unwrap_or_default();
    let counters = app.handle.metrics();
    let places = app.work.places();
    let text = metrics::render(&status, &counters, &app.figures, &app.requests, places, peers);
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
