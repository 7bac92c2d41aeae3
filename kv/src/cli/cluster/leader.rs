//! Waits until the cluster has a leader.

use super::ports::Addresses;
use crate::cli::http::{self, Request};
use hyper::Method;
use std::collections::BTreeSet;
use std::time::Duration;

/// The pause between two rounds of requests.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The timeout of one request. `/is_leader` is answered within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The leader of a cluster, and the members that it knows.
pub struct Found {
    /// The id of the leader.
    pub leader: u16,
    /// The ids of the members.
    pub members: BTreeSet<u64>,
}

/// Waits until a node is leader and serves.
pub async fn find(nodes: Vec<Addresses>) -> Found {
    let request = Request::new(Method::GET, "/is_leader");
    loop {
        for node in &nodes {
            let answer = http::exchange(&node.client.to_string(), &request, ANSWER_TIMEOUT).await;
            if answer.is_ok_and(|answer| answer.json()["is_leader"] == true)
                && let Some(members) = members_of(node).await
            {
                return Found { leader: node.id, members };
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The ids of the members, as a leader knows them. One that was removed may run for a moment yet.
async fn members_of(leader: &Addresses) -> Option<BTreeSet<u64>> {
    let request = Request::new(Method::GET, "/v1/cluster?local=true");
    let answer = http::exchange(&leader.client.to_string(), &request, ANSWER_TIMEOUT).await.ok()?;
    let view = answer.json();
    let members = view["members"].as_array()?;
    Some(members.iter().filter_map(|member| member["id"].as_u64()).collect())
}
