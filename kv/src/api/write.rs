//! Executes the writes of the v1 API. The library forwards a command to the leader if necessary.
//!
//! A write has one of three outcomes: done, certainly not done, or unknown. A write that was
//! certainly not done is retried here for a limited time, so that clients see an election as a
//! delay and not as an error. A write that may have been done is repeated only in a session, which
//! executes it once.

use super::App;
use super::params::{self, WriteParams};
use super::problem::{Known, Problem};
use super::routes::json;
use crate::command::Reply;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use driver::{AttemptError, ProposeError};
use hyper::header::LOCATION;
use hyper::{StatusCode, Uri};
use std::time::Duration;

/// The header with the id of the node that answers. Every answer has it, so that a client can
/// distinguish a node from any other server.
pub const NODE: &str = "raft-kv-node";

/// The header with the milliseconds that a write may wait for a leader. The node's own limit
/// applies if it is lower. A client sets it below its own timeout: it then gets the answer that
/// nothing was done.
pub const WAIT_MS: &str = "raft-kv-wait-ms";

/// How long a write waits at most for a disk that has no room, or does not answer. A lack of
/// descriptors or memory is over by then. Another node may serve the client meanwhile.
const READ_ONLY_WAIT: Duration = Duration::from_secs(1);

/// The pause between two attempts.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The outcome of a write.
pub enum Written {
    /// The command was applied. Holds the reply of the state machine.
    Done(Reply),
    /// The write was not done, or its outcome is unknown. Holds the complete answer.
    Failed(Response),
}

impl App {
    /// Executes a command, on this node or through the leader. `uri` is that of the client's
    /// request.
    pub(super) async fn write(&self, command: Bytes, uri: &Uri, params: WriteParams) -> Written {
        let timeout = self.limits.request_timeout;
        let handle = &self.handle;
        let attempt = || {
            let command = command.clone();
            async move {
                match params.session {
                    None => handle.execute_within(command, timeout).await,
                    Some(number) => handle.execute_in_session(number, command, timeout).await,
                }
            }
        };
        match self.patiently(uri, params.wait, attempt).await {
            Ok(reply) => Written::Done(Reply::decode(&reply).unwrap_or(Reply::Ignored)),
            Err(failed) => Written::Failed(failed),
        }
    }

    /// Calls `attempt` until it is done or its outcome is unknown, for as long as a write waits for
    /// a leader. An error is the complete answer.
    pub(super) async fn patiently<T, F: Future<Output = Result<T, AttemptError>>>(
        &self,
        uri: &Uri,
        wait: Option<Duration>,
        attempt: impl Fn() -> F,
    ) -> Result<T, Response> {
        let began_ns = self.clock.now().monotonic_ns;
        let leader_wait = wait.unwrap_or(Duration::MAX).min(self.limits.leader_wait);
        loop {
            let mut wait = leader_wait;
            if let Some(redirect) = self.redirect(uri) {
                return Err(redirect);
            }
            let problem = match attempt().await {
                Ok(done) => return Ok(done),
                Err(AttemptError::Unknown) => {
                    let problem = Problem::timeout("it is not known whether the write was done");
                    return Err(problem.outcome(Known::Unknown).into_response());
                }
                Err(AttemptError::Session(error)) => {
                    return Err(Problem::from(error).into_response());
                }
                // There is no leader, or another node became leader.
                Err(
                    AttemptError::NotDone | AttemptError::Refused(ProposeError::NotLeader { .. }),
                ) => Problem::no_leader(),
                Err(AttemptError::Refused(error @ ProposeError::ReadOnly { .. })) => {
                    wait = wait.min(READ_ONLY_WAIT);
                    error.into()
                }
                Err(AttemptError::Refused(error)) => {
                    return Err(Problem::from(error).not_done().into_response());
                }
            };
            // Measured by the clock, because the attempts take time too.
            let passed_ns = self.clock.now().monotonic_ns.saturating_sub(began_ns);
            if Duration::from_nanos(passed_ns) + LOOK_EVERY > wait {
                return Err(problem.not_done().into_response());
            }
            self.sleep(LOOK_EVERY).await;
        }
    }

    /// A redirect to the leader, if another node leads and this node does not forward.
    fn redirect(&self, uri: &Uri) -> Option<Response> {
        if self.forward { None } else { self.redirect_to_leader(uri) }
    }

    /// A redirect to the leader, if another node leads.
    pub(super) fn redirect_to_leader(&self, uri: &Uri) -> Option<Response> {
        let leader = self.handle.status().raft.leader.filter(|leader| *leader != self.id);
        let address = self.client_address(leader)?;
        let query = params::with_cluster(uri.query(), self.cluster);
        let location = format!("http://{address}{}{query}", uri.path()).parse().ok()?;
        let mut response =
            not_leader(&address).status(StatusCode::TEMPORARY_REDIRECT).not_done().into_response();
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }
}

fn not_leader(address: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-leader", "this node does not lead")
        .with("leader", address)
}

/// The answer for a reply that does not fit the command. It means that the state machine did not
/// understand the command.
pub fn ignored() -> Response {
    let detail = "the command was not understood by the version that runs here";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not-understood", detail)
        .not_done()
        .into_response()
}

/// A JSON answer with status 200.
pub fn json_ok(body: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("an answer has a JSON form, and memory takes it");
    json(StatusCode::OK, body)
}
