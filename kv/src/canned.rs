//! Answers that need no router: of a node that is starting, and of one that is full.

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};

/// What is answered before the node takes part in its cluster.
pub(crate) fn starting(path: &str, peer_address: &str) -> Response {
    let json = |body: String| {
        let mut response = body.into_response();
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    match path {
        "/healthz" => "ok\n".into_response(),
        "/is_leader" => json("{\"is_leader\":false}".to_owned()),
        "/ready" => json("{\"ready\":true}".to_owned()),
        "/listen_addr" => json(serde_json::json!({ "address": peer_address }).to_string()),
        _ => {
            let detail = "this node is starting; it waits for the other nodes, or reads its log";
            let mut response = unavailable(problem("starting", "Starting", detail));
            response.headers_mut().remove(CONNECTION);
            response
        }
    }
}

/// What a node answers that has no place for another client.
pub(crate) fn full() -> Response {
    unavailable(full_body())
}

/// The same as bytes, for a connection on which nothing has been read.
pub(crate) fn full_bytes() -> String {
    let body = full_body();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn full_body() -> String {
    let detail =
        "this node has as many connections as it can have; try again later, or another node";
    problem("full", "No place for another connection", detail)
}

fn unavailable(body: String) -> Response {
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn problem(slug: &str, title: &str, detail: &str) -> String {
    let body = serde_json::json!({
        "type": format!("urn:raft-kv:problem:{slug}"),
        "title": title,
        "status": 503,
        "detail": detail,
        "error": detail,
        "outcome": "not_done",
    });
    body.to_string()
}
