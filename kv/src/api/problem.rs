//! Errors of the v1 API: `application/problem+json` (RFC 9457).
//!
//! Each has a `type` that stays the same for good, and each failed write an `outcome`: `not_done`
//! if it has certainly not been done and never will be, `unknown` if it may have been.

use super::body::BodyError;
use super::reply::NoRoom;
use super::routes::refusal;
use axum::response::{IntoResponse, Response};
use driver::{ProposeError, ReadError};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};

/// The most bytes of a text about what a client has sent.
const DETAIL_BYTES_MAX: usize = 512;

/// A text that may quote what a client has sent, without what is too long of it.
pub fn brief(mut text: String) -> String {
    if text.len() > DETAIL_BYTES_MAX {
        let end = (0..=DETAIL_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str(" ...");
        text.shrink_to_fit();
    }
    text
}

/// What is known of a write that was not answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has certainly not been done and never will be.
    NotDone,
    /// It may have been done.
    Unknown,
}

impl Known {
    /// As it stands in an answer.
    pub fn name(self) -> &'static str {
        match self {
            Known::NotDone => "not_done",
            Known::Unknown => "unknown",
        }
    }
}

/// An error, on its way to the client.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    detail: String,
    outcome: Option<Known>,
    more: Map<String, Value>,
}

impl Problem {
    /// An error of this kind.
    pub fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        let detail = brief(detail.into());
        Problem { status, slug, detail, outcome: None, more: Map::new() }
    }

    /// The request makes no sense.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// The request asks for what this version does not have.
    pub fn not_built(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not-implemented", detail)
    }

    /// Something is larger than allowed.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// There is nobody to do it.
    pub fn no_leader() -> Self {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-leader",
            "no leader is known at the moment; try again",
        )
    }

    /// The node is stopping.
    pub fn stopped() -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", "this node is stopping")
    }

    /// Too much is under way.
    pub fn overloaded(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail)
    }

    /// The time is over.
    pub fn timeout(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
    }

    /// The same, of a write of which this is known.
    pub fn outcome(mut self, known: Known) -> Self {
        self.outcome = Some(known);
        self
    }

    /// The same, of a write that was not done.
    pub fn not_done(self) -> Self {
        self.outcome(Known::NotDone)
    }

    /// The same, with another status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same, as an error of the compatible API.
    pub fn into_compat(self) -> Response {
        let mut response = refusal(self.status, self.detail);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// The same, with one more field.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:raft-kv:problem:{}", self.slug),
            "title": title(self.slug),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(fields) = &mut body {
            if let Some(known) = self.outcome {
                fields.insert("outcome".to_owned(), known.name().into());
            }
            fields.extend(self.more);
        }
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn title(slug: &str) -> &'static str {
    match slug {
        "malformed" => "The request is malformed",
        "not-implemented" => "Not implemented",
        "not-found" => "Not found",
        "wrong-method" => "Wrong method",
        "foreign" => "Foreign host or origin",
        "condition-failed" => "The condition does not hold",
        "too-large" => "Too large",
        "head-too-large" => "The head is too large",
        "slow" => "The request did not arrive in time",
        "overloaded" => "Overloaded",
        "read-only" => "Read-only",
        "no-leader" => "No leader",
        "not-leader" => "Not the leader",
        "stopped" => "Stopping",
        "timeout" => "Timeout",
        "not-ready" => "Not ready",
        "not-understood" => "Not understood",
        _ => "Error",
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let detail = error.to_string();
        match error {
            BodyError::TooLarge { .. } => Problem::too_large(detail),
            BodyError::Slow => Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", detail),
            BodyError::Broken => Problem::malformed(detail),
            BodyError::Busy => Problem::overloaded(detail),
        }
    }
}

impl From<NoRoom> for Problem {
    fn from(error: NoRoom) -> Self {
        Problem::overloaded(error.to_string())
    }
}

impl From<ProposeError> for Problem {
    /// Whatever the reason, it has not been done.
    fn from(error: ProposeError) -> Self {
        let detail = error.to_string();
        match error {
            ProposeError::NotLeader { .. } => Problem::no_leader(),
            ProposeError::Busy => Problem::overloaded(detail),
            ProposeError::TooLarge { .. } => Problem::too_large(detail),
            ProposeError::ReadOnly { .. } => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "read-only", detail)
            }
            _ => Problem::stopped(),
        }
        .not_done()
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::NoLeader => Problem::no_leader(),
            ReadError::Busy => Problem::overloaded(detail),
            ReadError::Timeout => Problem::timeout(detail),
            _ => Problem::stopped(),
        }
    }
}
