//! `/v1/sessions`: sessions, in which a write is done once however often it is repeated.
//!
//! A client opens a session, numbers its writes from 1, and sends each with the headers
//! `Session-Id` and `Session-Seq`. If it does not know the outcome of a write, it sends the same
//! write with the same number again, to any node. The node answers a repeat as it answered the
//! first time.

use super::App;
use super::body;
use super::params;
use super::problem::Problem;
use super::routes::json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use driver::SessionId;
use hyper::{HeaderMap, StatusCode, Uri};
use serde_json::json;
use std::sync::Arc;

/// `POST /v1/sessions`: opens a session.
pub async fn open(State(app): State<Arc<App>>, request: Request) -> Response {
    let opened = try_open(&app, request).await;
    opened.unwrap_or_else(|problem| problem.not_done().into_response())
}

async fn try_open(app: &App, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    params::of_no_session(&parts.headers)?;
    let params = params::of_write(parts.uri.query(), &parts.headers)?;
    if !body::whole(body).await.is_empty() {
        return Err(Problem::malformed("POST /v1/sessions has no body"));
    }
    let timeout = app.limits.request_timeout;
    let open = || app.handle.open_session(timeout);
    Ok(match app.patiently(&parts.uri, params.wait, open).await {
        Ok(session) => {
            let limits = app.handle.session_limits();
            let body = json!({
                "session": session.to_string(),
                "ttl_ms": limits.ttl.as_millis() as u64,
                "window": limits.window,
            });
            json(StatusCode::CREATED, body.to_string())
        }
        Err(failed) => failed,
    })
}

/// `DELETE /v1/sessions/{session}`: ends a session.
pub async fn close(
    State(app): State<Arc<App>>,
    Path(session): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let closed = try_close(&app, &session, &uri, &headers).await;
    closed.unwrap_or_else(|problem| problem.not_done().into_response())
}

async fn try_close(
    app: &App,
    session: &str,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    params::of_no_session(headers)?;
    let params = params::of_write(uri.query(), headers)?;
    let is_number = session.bytes().all(|byte| byte.is_ascii_digit());
    let id = session.parse().ok().filter(|_| is_number).map(SessionId);
    let id = id.ok_or_else(|| Problem::malformed("the id of a session is a number"))?;
    let timeout = app.limits.request_timeout;
    let close = || app.handle.close_session(id, timeout);
    match app.patiently(uri, params.wait, close).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(false) => {
            Err(Problem::new(StatusCode::NOT_FOUND, "not-found", "there is no such session"))
        }
        Err(failed) => Ok(failed),
    }
}
