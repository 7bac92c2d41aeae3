//! `POST /v1/batch`: many independent operations in one request. Each has its own outcome.
//!
//! ```json
//! {"operations": [
//!     {"op": "put", "key": "a", "value": "1"},
//!     {"op": "put", "key": "b", "value": "2", "if_none_match": "*"},
//!     {"op": "delete", "key": "c", "if_match": 7}]}
//! ```
//!
//! Keys and values are strings here. For bytes that are not valid UTF-8, use `PUT`. The operations
//! are executed in order, as one log entry. So a reader sees the effects of all of them or of none.

use super::App;
use super::batch_json::{self, AskedOperation, Kind, Tag, Text};
use super::body;
use super::conditions;
use super::params;
use super::problem::Problem;
use super::write::{Written, ignored, json_ok};
use crate::command::{Change, Command, Condition, Operation, Outcome, Reply, Version};
use crate::limits::Limits;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;

/// Executes a batch.
pub async fn batch(State(app): State<Arc<App>>, request: Request) -> Response {
    run(&app, request).await.unwrap_or_else(|problem| problem.not_done().into_response())
}

async fn run(app: &App, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let params = params::of_write(parts.uri.query(), &parts.headers)?;
    if conditions::of_write(&parts.headers)? != Condition::Always {
        return Err(Problem::malformed(
            "a batch takes no If-Match or If-None-Match; an operation has if_match or if_none_match",
        ));
    }
    let body = body::whole(body).await;
    let (bytes, limits) = (body.len(), app.limits.clone());
    let parse = move || Ok(Command::Batch(operations(&limits, &body)?).encode());
    let parsed = app.offload(bytes, parse).await;
    let command = parsed.unwrap_or_else(|| Err(Problem::malformed("parsing the batch failed")))?;
    Ok(match app.write(command, &parts.uri, params).await {
        Written::Done(Reply::Batch(outcomes)) => {
            json_ok(&Results { results: outcomes.iter().map(OneResult::of).collect() })
        }
        Written::Done(_) => ignored(),
        Written::Failed(response) => response,
    })
}

#[derive(Serialize)]
struct Results {
    results: Vec<OneResult>,
}

/// The outcome of an operation.
#[derive(Serialize)]
#[serde(untagged)]
enum OneResult {
    /// With the version of the change, or the one that holds instead.
    AtVersion {
        status: u16,
        outcome: &'static str,
        version: Option<u64>,
    },
    Plain {
        status: u16,
        outcome: &'static str,
    },
}

impl OneResult {
    fn of(outcome: &Outcome) -> Self {
        let at_version = |status, outcome, version: Option<Version>| {
            let version = version.map(|version| version.0);
            OneResult::AtVersion { status, outcome, version }
        };
        match *outcome {
            Outcome::Written { version } => at_version(200, "done", Some(version)),
            Outcome::Deleted { version } => at_version(204, "done", Some(version)),
            Outcome::Missing => OneResult::Plain { status: 404, outcome: "not_done" },
            Outcome::Failed { current } => at_version(412, "not_done", current),
        }
    }
}

fn operations<'a>(limits: &Limits, body: &'a [u8]) -> Result<Vec<Operation<Text<'a>>>, Problem> {
    let asked = batch_json::parse(body, limits)?;
    if asked.is_empty() {
        return Err(Problem::malformed("a batch has at least one operation"));
    }
    let mut bytes = 0;
    let mut operations = Vec::with_capacity(asked.len());
    for (position, asked) in asked.into_iter().enumerate() {
        let operation = operation(asked, limits)
            .map_err(|problem| problem.with("operation", position as u64))?;
        bytes += operation.key.len();
        if let Change::Put(value) = &operation.change {
            bytes += value.len();
        }
        operations.push(operation);
    }
    if bytes > limits.batch_bytes_max {
        let max = limits.batch_bytes_max;
        let detail = format!("the batch has {bytes} bytes of keys and values; {max} are allowed");
        return Err(Problem::too_large(detail));
    }
    Ok(operations)
}

fn operation<'a>(
    asked: AskedOperation<'a>,
    limits: &Limits,
) -> Result<Operation<Text<'a>>, Problem> {
    let change = match (asked.op, asked.value) {
        (Kind::Put, Some(value)) if value.len() > limits.value_bytes_max => {
            let max = limits.value_bytes_max;
            return Err(Problem::too_large(format!("a value has more than {max} bytes")));
        }
        (Kind::Put, Some(value)) => Change::Put(value),
        (Kind::Put, None) => return Err(Problem::malformed("a put has a value")),
        (Kind::Delete, None) => Change::Delete,
        (Kind::Delete, Some(_)) => return Err(Problem::malformed("a delete has no value")),
    };
    if asked.key.len() == 0 {
        return Err(Problem::malformed("a key has at least one byte"));
    }
    if asked.key.len() > limits.key_bytes_max {
        let max = limits.key_bytes_max;
        return Err(Problem::too_large(format!("a key has more than {max} bytes")));
    }
    let condition = condition(asked.if_match, asked.if_none_match).ok_or_else(|| {
        Problem::malformed("if_match or if_none_match has to be \"*\" or one version, such as 7")
    })?;
    Ok(Operation { key: asked.key, change, condition })
}

fn condition(is: Option<Tag>, is_not: Option<Tag>) -> Option<Condition> {
    match (is, is_not) {
        (None, None) => Some(Condition::Always),
        (Some(Tag::Version(version)), None) => Some(Condition::Is(Version(version))),
        (None, Some(Tag::Version(version))) => Some(Condition::IsNot(Version(version))),
        (Some(Tag::Any), None) => Some(Condition::Exists),
        (None, Some(Tag::Any)) => Some(Condition::Absent),
        _ => None,
    }
}
