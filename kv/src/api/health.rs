//! `/healthz`, `/readyz` and `/metrics`, for monitoring.

use super::App;
use super::problem::Problem;
use crate::canned::METRICS_TEXT;
use crate::metrics;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use driver::{NotReady, StopReason};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Metrics are rendered again after this time. They are rendered on the thread that answers health
/// requests, which many scrapers must not occupy.
const METRICS_AGE_MAX: Duration = Duration::from_millis(50);

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
/// it. A node that is about to stop is not ready, so that a load balancer takes it out first.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.leaving.has_begun() {
        return unready(NotReady::Stopped(StopReason::Shutdown).to_string());
    }
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
    let mut response = text(&app).into_response();
    let kind = HeaderValue::from_static(METRICS_TEXT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The metrics, at most [`METRICS_AGE_MAX`] old.
fn text(app: &App) -> Bytes {
    let now_ns = app.clock.now().monotonic_ns;
    let mut latest = app.metrics.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((rendered_ns, text)) = &*latest
        && now_ns.saturating_sub(*rendered_ns) < METRICS_AGE_MAX.as_nanos() as u64
    {
        return text.clone();
    }
    let text = Bytes::from(render(app));
    *latest = Some((now_ns, text.clone()));
    text
}

fn render(app: &App) -> String {
    let status = app.handle.status();
    let peers = app.peers.as_ref().map(|read| read()).unwrap_or_default();
    let counters = app.handle.metrics();
    let places = app.work.places();
    metrics::render(&status, &counters, &app.figures, &app.requests, places, &peers)
}
