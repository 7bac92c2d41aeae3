//! `PUT`, `GET` and `DELETE` of `/v1/kv/{key}`: raw bytes in and out.

use super::App;
use super::conditions::{self, Verdict};
use super::params;
use super::problem::Problem;
use super::reply;
use super::write::{Written, ignored};
use crate::command::{Change, Command, Operation, Outcome, Reply, Version};
use crate::query::{Query, Received};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use std::sync::Arc;
use std::time::Duration;

/// The prefix of all paths of keys.
pub const PREFIX: &str = "/v1/kv/";

/// `PUT /v1/kv/{key}`: writes the body as the value.
pub async fn put(app: &App, parts: &Parts, value: Bytes) -> Response {
    if value.is_empty() && !says_its_length(&parts.headers) {
        // It may be a value that the client has sent without saying so.
        let detail = "a PUT needs Content-Length or Transfer-Encoding, also for an empty value";
        let problem = Problem::new(StatusCode::LENGTH_REQUIRED, "length-required", detail);
        return problem.not_done().into_response();
    }
    let written = change(app, parts, Change::Put(value)).await;
    written.unwrap_or_else(|problem| problem.not_done().into_response())
}

fn says_its_length(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}

/// `DELETE /v1/kv/{key}`: removes the key.
pub async fn delete(app: &App, parts: &Parts) -> Response {
    let deleted = change(app, parts, Change::Delete).await;
    deleted.unwrap_or_else(|problem| problem.not_done().into_response())
}

/// `GET /v1/kv/{key}`: reads the value, linearizably unless `consistency` is given.
pub async fn get(app: &App, parts: &Parts) -> Response {
    read(app, &parts.uri, &parts.headers).await.unwrap_or_else(IntoResponse::into_response)
}

/// `HEAD /v1/kv/{key}`: like `GET`. The router leaves the body out.
pub async fn head(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    read(&app, &uri, &headers).await.unwrap_or_else(IntoResponse::into_response)
}

/// `/v1/kv/`: the path has no key.
pub async fn no_key() -> Response {
    Problem::malformed("the path has no key after /v1/kv/").not_done().into_response()
}

async fn change(app: &App, parts: &Parts, change: Change) -> Result<Response, Problem> {
    let key = key_of(&parts.uri, app.limits.key_bytes_max)?;
    let params = params::of_write(parts.uri.query(), &parts.headers)?;
    let condition = conditions::of_write(&parts.headers)?;
    let command = Command::Write(Operation { key, change, condition }).encode();
    Ok(match app.write(command, &parts.uri, params).await {
        Written::Done(Reply::Write(outcome)) => answer(outcome)?,
        Written::Done(_) => ignored(),
        Written::Failed(response) => response,
    })
}

fn answer(outcome: Outcome) -> Result<Response, Problem> {
    match outcome {
        Outcome::Written { version } => Ok(tagged(StatusCode::OK, version, Body::empty())),
        Outcome::Deleted { version } => Ok(tagged(StatusCode::NO_CONTENT, version, Body::empty())),
        Outcome::Missing => Err(not_found()),
        Outcome::Failed { current } => Err(failed(current)),
    }
}

fn failed(current: Option<Version>) -> Problem {
    let detail = match current {
        Some(version) => format!("the key has version {version}"),
        None => "the key does not exist".to_owned(),
    };
    Problem::new(StatusCode::PRECONDITION_FAILED, "condition-failed", detail)
        .with("version", current.map(|version| version.0))
}

async fn read(app: &App, uri: &Uri, headers: &HeaderMap) -> Result<Response, Problem> {
    let key = key_of(uri, app.limits.key_bytes_max)?;
    let mode = params::of_read(uri.query())?;
    let conditions = conditions::of_read(headers)?;
    let ticket = app.answers.ticket();
    let query = Query::Value(&key).encode(&ticket);
    let limit = params::of_wait(headers)?.unwrap_or(Duration::MAX).min(app.limits.read_timeout);
    let answer = app.handle.read_within(query, mode, limit).await?;
    match Received::decode(answer, &ticket) {
        Received::Value(version, value) => {
            match conditions.verdict(version) {
                Verdict::Send => {}
                Verdict::NotModified => {
                    return Ok(tagged(StatusCode::NOT_MODIFIED, version, Body::empty()));
                }
                Verdict::Failed => return Err(failed(Some(version))),
            }
            let share = app.room(value.len())?;
            let mut response = tagged(StatusCode::OK, version, reply::bytes(value, share));
            let bytes = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, bytes);
            Ok(response)
        }
        _ if conditions.need_the_key() => Err(failed(None)),
        _ => Err(not_found()),
    }
}

fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "there is no such key")
}

fn tagged(status: StatusCode, version: Version, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let tag = HeaderValue::from_str(&format!("\"{version}\""))
        .expect("digits between quotes are a header value");
    response.headers_mut().insert(ETAG, tag);
    response
}

/// The key in a path: the percent-decoded bytes after the prefix.
fn key_of(uri: &Uri, bytes_max: usize) -> Result<Bytes, Problem> {
    let raw = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    if !raw.contains('%') {
        return checked(Bytes::copy_from_slice(raw.as_bytes()), bytes_max);
    }
    let is_escape = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !raw.split('%').skip(1).all(is_escape) {
        return Err(Problem::malformed("a % in the path is not followed by two hex digits"));
    }
    checked(percent_decode_str(raw).collect::<Vec<u8>>().into(), bytes_max)
}

fn checked(key: Bytes, bytes_max: usize) -> Result<Bytes, Problem> {
    match key.len() {
        0 => Err(Problem::malformed("the path has no key after /v1/kv/")),
        len if len > bytes_max => {
            Err(Problem::too_large(format!("the key has {len} bytes; {bytes_max} are allowed")))
        }
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &'static str) -> Option<Bytes> {
        key_of(&Uri::from_static(path), 10).ok()
    }

    #[test]
    fn a_key_is_the_rest_of_the_path_byte_for_byte() {
        assert_eq!(key("/v1/kv/a/b").unwrap(), "a/b");
        assert_eq!(key("/v1/kv//a/").unwrap(), "/a/");
        assert_eq!(key("/v1/kv/a%2Fb%25").unwrap(), "a/b%");
        assert_eq!(key("/v1/kv/%ff%00").unwrap(), &b"\xff\0"[..]);
        assert_eq!(key("/v1/kv/a+b?x=1").unwrap(), "a+b");
    }

    #[test]
    fn a_path_that_is_no_key_is_refused() {
        for path in ["/v1/kv/", "/v1/kv/%", "/v1/kv/%4", "/v1/kv/%zz", "/v1/kv/12345678901"] {
            assert_eq!(key(path), None, "{path}");
        }
    }
}
