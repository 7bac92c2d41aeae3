//! `POST /v1/cluster/transfer`: hands leadership over to another node.

use super::App;
use super::batch_json::Object;
use super::body;
use super::params;
use super::problem::Problem;
use super::write::json_ok;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use driver::TransferError;
use hyper::StatusCode;
use raft::NodeId;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// The body of the request. It may be empty.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    /// The node that is to lead. Without it: the preferred follower of those that keep up.
    to: Option<u64>,
}

/// Answered when the other node leads. A node that does not lead redirects to the leader.
pub async fn transfer(State(app): State<Arc<App>>, request: Request) -> Response {
    run(&app, request).await.unwrap_or_else(|problem| problem.not_done().into_response())
}

async fn run(app: &App, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    params::of_operation(parts.uri.query(), &parts.headers)?;
    let body = body::whole(body).await;
    let given = match body.is_empty() {
        true => Given::default(),
        false => serde_json::from_slice(&body)
            .map(|Object(given)| given)
            .map_err(|error| Problem::malformed(format!("the body is not understood: {error}")))?,
    };
    if let Some(redirect) = app.redirect_to_leader(&parts.uri) {
        return Ok(redirect);
    }
    match app.handle.transfer(given.to.map(NodeId)).await {
        Ok(leader) => {
            let term = app.handle.status().raft.term;
            Ok(json_ok(&json!({ "leader": leader.0, "term": term.0 })))
        }
        Err(error) => Err(refused(error)),
    }
}

fn refused(error: TransferError) -> Problem {
    match error {
        TransferError::Refused(raft::TransferRefused::NotLeader { .. }) => Problem::no_leader(),
        TransferError::Refused(
            raft::TransferRefused::NotAVoter { .. } | raft::TransferRefused::LeadsAlready { .. },
        ) => Problem::malformed(error.to_string()),
        TransferError::Busy => Problem::overloaded(error.to_string()),
        TransferError::Stopped => Problem::stopped(),
        // It did not come about, or another transfer is under way.
        _ => Problem::new(StatusCode::CONFLICT, "not-transferred", error.to_string()),
    }
}
