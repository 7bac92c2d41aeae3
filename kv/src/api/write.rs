//! How a write of the v1 API gets done, wherever the leader is.
//!
//! The client hears one of three: done, certainly not done, or unknown. What has certainly not been
//! done is tried again here for a while, so that an election is a pause and not an error; what may have
//! been done is never repeated.

use super::App;
use super::forward::{ForwardError, Incoming, NOT_LEADER};
use super::problem::{Known, Problem};
use super::routes::json;
use crate::command::Reply;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use driver::{Outcome, ProposeError};
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};
use std::time::Duration;

/// Between two looks for a leader.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What came of a write.
pub enum Written {
    /// This node leads; the machine's reply.
    Here(Reply),
    /// Another node does, or nobody: the answer is ready.
    Elsewhere(Response),
}

impl From<Problem> for Written {
    fn from(problem: Problem) -> Self {
        Written::Elsewhere(problem.into_response())
    }
}

impl App {
    /// Has a command done, by this node or by the leader, which is given `incoming`.
    pub(super) async fn write(&self, command: Bytes, incoming: &Incoming) -> Written {
        let began_ns = self.clock.now().monotonic_ns;
        let wait = incoming.wait().unwrap_or(Duration::MAX).min(self.limits.leader_wait);
        loop {
            let status = self.handle.status();
            let leader = status.raft.leader;
            let refused = if let (true, Some(reason)) = (status.raft.serving, &status.read_only) {
                // It steps down soon, and another node may have room.
                ProposeError::ReadOnly { reason: reason.clone() }.into()
            } else if status.serving() {
                match self.propose(command.clone()).await {
                    Err(Retry::Now) => Problem::no_leader(),
                    Err(Retry::Never(problem)) => return problem.into(),
                    Ok(reply) => return Written::Here(reply),
                }
            } else {
                match self.client_address(leader.filter(|leader| *leader != self.id)) {
                    Some(address) => match self.elsewhere(&address, incoming).await {
                        Ok(response) => return Written::Elsewhere(response),
                        Err(problem) => problem,
                    },
                    None if status.stopped.is_some() => {
                        return Problem::stopped().not_done().into();
                    }
                    None => Problem::no_leader(),
                }
            };
            // By the clock: each try takes a time of its own.
            let passed_ns = self.clock.now().monotonic_ns.saturating_sub(began_ns);
            if Duration::from_nanos(passed_ns) + LOOK_EVERY > wait {
                return refused.not_done().into();
            }
            self.sleep(LOOK_EVERY).await;
        }
    }

    async fn propose(&self, command: Bytes) -> Result<Reply, Retry> {
        let timeout = self.limits.request_timeout;
        let proposal = match self.handle.propose_within(command, timeout).await {
            Ok(proposal) => proposal,
            Err(ProposeError::NotLeader { .. }) => return Err(Retry::Now),
            Err(error) => return Err(Retry::Never(error.into())),
        };
        match proposal.done.await {
            Ok(reply) => Ok(Reply::decode(&reply).unwrap_or(Reply::Ignored)),
            Err(Outcome::NotDone) => Err(Retry::Now),
            Err(Outcome::Unknown) => Err(Retry::Never(
                Problem::time_over("it is not known whether the write was done")
                    .outcome(Known::Unknown),
            )),
        }
    }

    /// Sends the client or its request to the leader. An error: nothing was done, try again.
    async fn elsewhere(&self, address: &str, incoming: &Incoming) -> Result<Response, Problem> {
        if incoming.was_forwarded() {
            // The node that passed it on looks for the leader again. Waiting here would take a
            // place.
            let mut response = not_leader(address).not_done().into_response();
            response.headers_mut().insert(NOT_LEADER, HeaderValue::from_static("1"));
            return Ok(response);
        }
        let Some(forward) = &self.forward else {
            let location = incoming.location(address).and_then(|l| l.parse().ok());
            let Some(location) = location else { return Err(not_leader(address)) };
            let mut response = not_leader(address)
                .status(StatusCode::TEMPORARY_REDIRECT)
                .not_done()
                .into_response();
            response.headers_mut().insert(LOCATION, location);
            return Ok(response);
        };
        let request = incoming.to(address, self.id).ok_or_else(|| not_leader(address))?;
        match forward.forward(request, self.limits.request_timeout).await {
            Ok(answer) if answer.headers().contains_key(NOT_LEADER) => Err(Problem::no_leader()),
            Ok(answer) => Ok(answer.map(Body::from)),
            Err(ForwardError::NotSent) => Err(Problem::no_leader()),
            Err(error @ ForwardError::Busy) => {
                Ok(Problem::overloaded(error.to_string()).not_done().into_response())
            }
            Err(error @ ForwardError::Lost) => {
                Ok(Problem::time_over(error.to_string()).outcome(Known::Unknown).into_response())
            }
        }
    }
}

/// Whether a proposal that failed may be made again.
enum Retry {
    /// Certainly not done; by another leader it may be.
    Now,
    /// The client has to know.
    Never(Problem),
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
