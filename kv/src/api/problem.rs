//! Errors of the v1 API: `application/problem+json` (RFC 9457).
//!
//! Each has a `type`, which never changes. Each failed write also has an `outcome`: `not_done` if
//! it was certainly not executed and never will be, `unknown` if it may have been.

use super::body::BodyError;
use super::reply::NoRoom;
use super::routes::refusal;
use axum::response::{IntoResponse, Response};
use driver::{ProposeError, ReadError, SessionError};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};

/// The most bytes of an error text.
const DETAIL_BYTES_MAX: usize = 512;

/// Shortens an error text, which may quote what a client has sent.
pub fn brief(mut text: String) -> String {
    if text.len() > DETAIL_BYTES_MAX {
        let end = (0..=DETAIL_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str(" ...");
        text.shrink_to_fit();
    }
    text
}

/// The outcome of a write that was not answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was certainly not executed and never will be.
    NotDone,
    /// It may have been executed.
    Unknown,
}

impl Known {
    /// The value of the field `outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Known::NotDone => "not_done",
            Known::Unknown => "unknown",
        }
    }
}

/// An error document for a client.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    detail: String,
    outcome: Option<Known>,
    more: Map<String, Value>,
}

impl Problem {
    /// An error whose `type` ends in `slug`.
    pub fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        let detail = brief(detail.into());
        Problem { status, slug, detail, outcome: None, more: Map::new() }
    }

    /// 400: the request is malformed.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 501: the request needs a feature that this version does not have.
    pub fn not_built(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not-implemented", detail)
    }

    /// 413: the body, key or value is larger than allowed.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// 503: no leader is known.
    pub fn no_leader() -> Self {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-leader",
            "no leader is known at the moment; try again",
        )
    }

    /// 503: the node is stopping.
    pub fn stopped() -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", "this node is stopping")
    }

    /// 429: a limit on concurrent requests or memory is reached.
    pub fn overloaded(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail)
    }

    /// 504: the request took too long.
    pub fn timeout(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
    }

    /// Sets the outcome of the write.
    pub fn outcome(mut self, known: Known) -> Self {
        self.outcome = Some(known);
        self
    }

    /// Sets the outcome `not_done`.
    pub fn not_done(self) -> Self {
        self.outcome(Known::NotDone)
    }

    /// Replaces the status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Converts it to an error in the form of the compatible API.
    pub fn into_compat(self) -> Response {
        let mut response = refusal(self.status, self.detail);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Adds a field to the document.
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
        "members-changing" => "Another change of the members",
        "members-unsafe" => "The change is refused",
        "members-given-up" => "The change was given up",
        "members-superseded" => "Another change has followed",
        "length-required" => "The length of the body is missing",
        "not-transferred" => "Leadership was not handed over",
        "session-ended" => "The session has ended",
        "reply-forgotten" => "The reply is not kept any more",
        "sequence-reused" => "The number was used for another write",
        "sequence-gap" => "The number is too high",
        "not-understood" => "Not understood",
        "wrong-cluster" => "A node of another cluster",
        "transfer-coding" => "Unknown transfer coding",
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
            BodyError::Busy | BodyError::GivenUp => Problem::overloaded(detail),
        }
    }
}

impl From<NoRoom> for Problem {
    fn from(error: NoRoom) -> Self {
        Problem::overloaded(error.to_string())
    }
}

impl From<ProposeError> for Problem {
    /// All proposal errors mean that the command was not executed.
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

impl From<SessionError> for Problem {
    /// A write of an earlier attempt may have been done if the session does not know its number.
    fn from(error: SessionError) -> Self {
        let detail = error.to_string();
        match error {
            SessionError::Reused => {
                Problem::new(StatusCode::CONFLICT, "sequence-reused", detail).not_done()
            }
            SessionError::Gap { highest } => {
                Problem::new(StatusCode::CONFLICT, "sequence-gap", detail)
                    .with("highest", highest)
                    .not_done()
            }
            SessionError::Forgotten | SessionError::TooLow => {
                Problem::new(StatusCode::GONE, "reply-forgotten", detail).outcome(Known::Unknown)
            }
            _ => Problem::new(StatusCode::GONE, "session-ended", detail).outcome(Known::Unknown),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::NoLeader => Problem::no_leader(),
            ReadError::Busy => Problem::overloaded(detail),
            ReadError::Timeout => Problem::timeout(detail),
            ReadError::ReadOnly => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "read-only", detail)
            }
            _ => Problem::stopped(),
        }
    }
}
