//! Waits until the cluster has a leader.

use super::ports::Addresses;
use crate::cli::http::{self, Request};
use hyper::Method;
use std::time::Duration;

/// The pause between two rounds of requests.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The timeout of one request. `/is_leader` is answered within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits until a node is leader and serves, and returns its id.
pub async fn find(nodes: Vec<Addresses>) -> u16 {
    let request = Request::new(Method::GET, "/is_leader");
    loop {
        for node in &nodes {
            let answer = http::exchange(&node.client.to_string(), &request, ANSWER_TIMEOUT).await;
            if answer.is_ok_and(|answer| answer.json()["is_leader"] == true) {
                return node.id;
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
