//! What happens to every request: origin checks, admission and counting around its handler. Also
//! the answers for paths without a handler.

use super::problem::{Problem, brief};
use super::write::NODE;
use super::{Api, App, head, params, v1};
use crate::metrics::Route;
use axum::body::Body;
use axum::extract;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Body as HttpBody;
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use std::net::IpAddr;
use tower::ServiceExt as _;

/// Whether this path has a short answer, given at once from published state. A full node still
/// answers such requests.
pub fn is_short(path: &str) -> bool {
    path == "/is_leader" || Route::of(path).is_watch()
}

impl Api {
    /// Answers a request of a client at `source`. Every request gets an answer.
    pub async fn answer<B>(&self, mut request: Request<B>, source: Option<IpAddr>) -> Response
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let app = &self.app;
        let route = Route::of(request.uri().path());
        let for_other = params::take_cluster(request.uri_mut(), app.cluster).err();
        let refusal = for_other.map(|problem| problem.not_done().into_response());
        let mut response = match refusal.or_else(|| refuse(app, route, &request)) {
            Some(refusal) => refusal,
            None => self.work(route, request, source).await,
        };
        app.requests.count(route, response.status());
        response.headers_mut().insert(NODE, app.node.clone());
        response
    }

    /// Runs the handler if there is a place for the request. The place is taken only after the
    /// whole body has arrived, so a client that sends slowly does not occupy one.
    async fn work<B>(&self, route: Route, request: Request<B>, source: Option<IpAddr>) -> Response
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let app = &self.app;
        let (parts, body) = request.into_parts();
        let limit_bytes = route.body_bytes_max(&app.limits);
        let awaits_continue = parts.headers.contains_key(EXPECT);
        let held = match app.read_body(body, limit_bytes, awaits_continue).await {
            Ok(held) => held,
            Err(error) if route.is_compat() => return Problem::from(error).into_compat(),
            Err(error) => return Problem::from(error).not_done().into_response(),
        };
        if route.is_batch() {
            return match app.batches.try_acquire() {
                Ok(_place) => self.run(route, parts, held.bytes.clone()).await,
                Err(_) => overloaded(route),
            };
        }
        if !route.is_work() {
            return self.run(route, parts, held.bytes.clone()).await;
        }
        let Some(place) = app.work.enter(source, &*app.clock).await else {
            return overloaded(route);
        };
        let response = self.run(route, parts, held.bytes.clone()).await;
        place.leave(app.clock.now().monotonic_ns);
        response
    }

    /// Runs the handler. The calls on a key are most of the load, and the router would take a tenth
    /// of their time. So they do not go through it.
    async fn run(&self, route: Route, parts: Parts, body: Bytes) -> Response {
        if route.is_key() && parts.uri.path().len() > v1::PREFIX.len() {
            match parts.method {
                Method::PUT => return v1::put(&self.app, &parts, body).await,
                Method::GET => return v1::get(&self.app, &parts).await,
                Method::DELETE => return v1::delete(&self.app, &parts).await,
                _ => {}
            }
        }
        let request = Request::from_parts(parts, Body::from(body));
        let answered = self.router.clone().oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

fn overloaded(route: Route) -> Response {
    let detail = "this node has as many requests to work on as it can; try again later";
    if route.is_compat() {
        let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, detail);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    } else {
        Problem::overloaded(detail).not_done().into_response()
    }
}

/// The refusal of a request with an invalid head, host or origin, on any route.
fn refuse<B>(app: &App, route: Route, request: &Request<B>) -> Option<Response> {
    let host = head::check_size(request)
        .and_then(|()| head::check_coding(request.headers()))
        .and_then(|()| head::host(request.version(), request.uri(), request.headers()));
    match host {
        Ok(host) => refuse_foreign(app, route, host, request.headers()),
        Err(problem) if route.is_compat() => Some(problem.into_compat()),
        Err(problem) => Some(problem.not_done().into_response()),
    }
}

fn refuse_foreign(
    app: &App,
    route: Route,
    host: Option<&str>,
    headers: &HeaderMap,
) -> Option<Response> {
    let status = app.handle.status();
    let membership = &status.raft.membership;
    // The answer to a probe is only whether the node is well. A probe may use any name.
    let detail = if !route.is_probe() && !app.hosts.admits_host(host, membership) {
        "the Host header names none of this cluster's addresses; to admit a name, start the node \
         with --hosts NAME"
    } else if !app.hosts.admits_origin(host, headers, membership) {
        "the Origin header names another site than the Host header, or one that is none of this \
         cluster's addresses (to admit a name, start the node with --hosts NAME), or a page of \
         another site loads this"
    } else {
        return None;
    };
    Some(if route.is_compat() {
        refusal(StatusCode::FORBIDDEN, detail)
    } else {
        Problem::new(StatusCode::FORBIDDEN, "foreign", detail).not_done().into_response()
    })
}

/// The answer for a known path with an unsupported method.
pub async fn wrong_method(request: extract::Request) -> Response {
    let path = request.uri().path();
    let detail = format!("{} is not served with {}", path, request.method());
    let status = StatusCode::METHOD_NOT_ALLOWED;
    if Route::of(path).is_compat() {
        refusal(status, detail)
    } else {
        Problem::new(status, "wrong-method", detail).not_done().into_response()
    }
}

/// The answer for an unknown path.
pub async fn unknown(request: extract::Request) -> Response {
    let path = request.uri().path();
    let detail = match path.is_empty() {
        true => "the request has no path".to_owned(),
        false => format!("there is no {path}"),
    };
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
        .not_done()
        .with("error", "unknown path")
        .into_response()
}

/// A response with a JSON body.
pub fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An error in the form of the compatible API.
pub fn refusal(status: StatusCode, error: impl Into<String>) -> Response {
    json(status, serde_json::json!({ "error": brief(error.into()) }).to_string())
}
