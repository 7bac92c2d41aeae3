//! Waits for the first leader.

use super::ports::Addresses;
use crate::cli::http::{self, Request};
use hyper::Method;
use std::time::Duration;

/// Between two rounds of asking.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// `is_leader` is answered within milliseconds or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Resolves to the id of a node that leads and serves.
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
