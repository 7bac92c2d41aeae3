//! Answers that are given without the router: while the node starts, when it is full, and to a head
//! that cannot be parsed.

use crate::api::NODE;
use crate::connection::Common;
use axum::response::{IntoResponse, Response};
use driver::NotReady;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};

/// The outcome of a request that no handler has seen.
const NOT_DONE: &str = "not_done";

const PROBLEM_JSON: &str = "application/problem+json";

/// The type of Prometheus' text format.
pub(crate) const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a node that has not joined its cluster: what alerts are made of.
const STARTING_METRICS: &str = "\
# HELP raft_ready 1 if it is ready to serve.
# TYPE raft_ready gauge
raft_ready 0
# HELP raft_serving 1 if it leads and takes proposals.
# TYPE raft_serving gauge
raft_serving 0
# HELP raft_is_leader 1 if the node leads.
# TYPE raft_is_leader gauge
raft_is_leader 0
# HELP raft_has_leader 1 if a leader is known.
# TYPE raft_has_leader gauge
raft_has_leader 0
";

/// The answer to any request before the node has joined its cluster.
pub(crate) fn starting(path: &str, common: &Common) -> Response {
    let waits = common.waits.get().map(String::as_str);
    let json = |body: String| {
        let mut response = body.into_response();
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    let mut response = match path {
        "/healthz" => "ok\n".into_response(),
        "/is_leader" => json("{\"is_leader\":false}".to_owned()),
        "/ready" => json("{\"ready\":true}".to_owned()),
        "/listen_addr" => json(serde_json::json!({ "address": common.peer_address }).to_string()),
        "/metrics" => {
            let mut response = STARTING_METRICS.into_response();
            let kind = HeaderValue::from_static(METRICS_TEXT);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/readyz" => {
            let starting = NotReady::Starting.to_string();
            let detail = waits.unwrap_or(&starting);
            problem(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready", detail)
        }
        _ => {
            let starting = "this node is starting; it waits for the other nodes, or reads its log";
            let detail = waits.unwrap_or(starting);
            problem(StatusCode::SERVICE_UNAVAILABLE, "starting", "Starting", detail)
        }
    };
    response.headers_mut().insert(NODE, common.node.clone());
    response
}

/// The answer to a request for `/metrics` while too many others wait.
pub(crate) fn too_many_metrics(common: &Common) -> Response {
    let detail = "too many requests for /metrics wait";
    let status = StatusCode::TOO_MANY_REQUESTS;
    let mut response = problem(status, "overloaded", "Overloaded", detail);
    response.headers_mut().insert(NODE, common.node.clone());
    response
}

/// The answer of a full node. The connection closes after it.
pub(crate) fn full(node: &HeaderValue) -> Vec<u8> {
    let detail =
        "this node has as many connections as it can have; try again later, or another node";
    let title = "No place for another connection";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    bytes(status, &body(status, "full", title, detail, NOT_DONE), node)
}

/// The answer to a request that is still in progress when the node ends. The connection closes
/// after it.
pub(crate) fn unanswered(node: &HeaderValue) -> Vec<u8> {
    let detail = "this node stops before the answer: if it was a write, it may be done";
    let title = "The node stops";
    let body = body(StatusCode::SERVICE_UNAVAILABLE, "stopped", title, detail, "unknown");
    bytes(StatusCode::SERVICE_UNAVAILABLE, &body, node)
}

/// Why the head of a request cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHead {
    /// It is not an HTTP/1.1 head.
    Malformed,
    /// The client closed its side before the end of the head.
    Ends,
    /// It is the preface of HTTP/2.
    Http2,
    /// The path and query are too long.
    UriTooLong,
    /// The whole head is too long, or it has too many headers.
    TooLarge,
    /// It did not arrive within the client timeout.
    Slow,
}

/// The answer to such a head. The connection closes after it.
pub(crate) fn bad_head(why: BadHead, node: &HeaderValue) -> Vec<u8> {
    let malformed = "The request is malformed";
    let (status, slug, title, detail) = match why {
        BadHead::Malformed => {
            let detail = "the head of the request is none of HTTP/1.1";
            (StatusCode::BAD_REQUEST, "malformed", malformed, detail)
        }
        BadHead::Ends => {
            let detail = "the request ends in the middle of its head";
            (StatusCode::BAD_REQUEST, "malformed", malformed, detail)
        }
        BadHead::Http2 => {
            let detail = "this node speaks HTTP/1.1 and not HTTP/2";
            (StatusCode::BAD_REQUEST, "malformed", malformed, detail)
        }
        BadHead::UriTooLong => {
            let detail = "the path and query of the request are too long";
            (StatusCode::URI_TOO_LONG, "uri-too-long", "The path is too long", detail)
        }
        BadHead::TooLarge => {
            let detail =
                "the head of the request is too long, has too many headers, or an absurd length";
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            (status, "head-too-large", "The head is too large", detail)
        }
        BadHead::Slow => {
            let detail = "the head of the request did not arrive in time";
            let title = "The request did not arrive in time";
            (StatusCode::REQUEST_TIMEOUT, "slow", title, detail)
        }
    };
    bytes(status, &body(status, slug, title, detail, NOT_DONE), node)
}

fn problem(status: StatusCode, slug: &str, title: &str, detail: &str) -> Response {
    let mut response = (status, body(status, slug, title, detail, NOT_DONE)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn bytes(status: StatusCode, body: &str, node: &HeaderValue) -> Vec<u8> {
    let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    let retry = match status {
        StatusCode::SERVICE_UNAVAILABLE => "retry-after: 1\r\n",
        _ => "",
    };
    let length = body.len();
    let node = node.to_str().unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: {PROBLEM_JSON}\r\n{retry}{NODE}: {node}\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    text.into_bytes()
}

fn body(status: StatusCode, slug: &str, title: &str, detail: &str, outcome: &str) -> String {
    let body = serde_json::json!({
        "type": format!("urn:raft-kv:problem:{slug}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "error": detail,
        "outcome": outcome,
    });
    body.to_string()
}
