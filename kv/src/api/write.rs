//! How a write of the v1 API gets done, wherever the leader is: the library forwards it.
//!
//! The client hears one of three: done, certainly not done, or unknown. What has certainly not been
//! done is tried again here for a while, so that an election is a pause and not an error; what may
//! have been done is never repeated.

use super::App;
use super::problem::{Known, Problem};
use super::routes::json;
use crate::command::Reply;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use driver::{ExecuteError, ProposeError};
use hyper::header::{HeaderMap, LOCATION};
use hyper::http::request::Parts;
use hyper::{StatusCode, Uri};
use std::time::Duration;

/// Names the node that answers. It is on every answer, so that a client can tell a node from
/// another server that happens to listen there.
pub const NODE: &str = "raft-kv-node";

/// How many milliseconds a write may wait for a leader, if that is less than the node would let it:
/// a client that gives up before the node does would not learn that nothing was done.
pub const WAIT_MS: &str = "raft-kv-wait-ms";

/// Between two looks for a leader.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What came of a write.
pub enum Written {
    /// It is done; the machine's reply.
    Done(Reply),
    /// It is not, or nobody knows: the answer is ready.
    Failed(Response),
}

impl From<Problem> for Written {
    fn from(problem: Problem) -> Self {
        Written::Failed(problem.into_response())
    }
}

impl App {
    /// Has a command done, on this node or by way of the leader. `request` is the head of the
    /// client's request.
    pub(super) async fn write(&self, command: Bytes, request: &Parts) -> Written {
        let began_ns = self.clock.now().monotonic_ns;
        let wait = wait_of(&request.headers).unwrap_or(Duration::MAX).min(self.limits.leader_wait);
        let timeout = self.limits.request_timeout;
        loop {
            if let Some(redirect) = self.redirect(&request.uri) {
                return Written::Failed(redirect);
            }
            let problem = match self.handle.execute_within(command.clone(), timeout).await {
                Ok(reply) => return Written::Done(Reply::decode(&reply).unwrap_or(Reply::Ignored)),
                Err(ExecuteError::Unknown) => {
                    return Problem::timeout("it is not known whether the write was done")
                        .outcome(Known::Unknown)
                        .into();
                }
                // There is no leader, or another one took over.
                Err(
                    ExecuteError::NotDone | ExecuteError::Refused(ProposeError::NotLeader { .. }),
                ) => Problem::no_leader(),
                // The leader steps down soon, and another node may have room.
                Err(ExecuteError::Refused(error @ ProposeError::ReadOnly { .. })) => error.into(),
                Err(ExecuteError::Refused(error)) => {
                    return Problem::from(error).not_done().into();
                }
            };
            // By the clock: each try takes a time of its own.
            let passed_ns = self.clock.now().monotonic_ns.saturating_sub(began_ns);
            if Duration::from_nanos(passed_ns) + LOOK_EVERY > wait {
                return problem.not_done().into();
            }
            self.sleep(LOOK_EVERY).await;
        }
    }

    /// Sends the client to the leader, if that is another node and this one forwards nothing.
    fn redirect(&self, uri: &Uri) -> Option<Response> {
        if self.forward {
            return None;
        }
        let leader = self.handle.status().raft.leader.filter(|leader| *leader != self.id);
        let address = self.client_address(leader)?;
        let location = format!("http://{address}{}", uri.path_and_query()?).parse().ok()?;
        let mut response =
            not_leader(&address).status(StatusCode::TEMPORARY_REDIRECT).not_done().into_response();
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }
}

/// How long the client wants its write to wait for a leader, if it says so.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    headers.get(WAIT_MS)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

fn not_leader(address: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-leader", "this node does not lead")
        .with("leader", address)
}

/// A reply that does not fit its command can only be that the command was not understood.
pub fn ignored() -> Response {
    let detail = "the command was not understood by the version that runs here";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not-understood", detail)
        .not_done()
        .into_response()
}

/// A JSON answer.
pub fn json_ok(body: &serde_json::Value) -> Response {
    json(StatusCode::OK, body.to_string())
}
