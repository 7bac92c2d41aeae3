//! In the end every node serves: whoever has patience is answered what it asks, however often.
//!
//! Clients forgive: what fails is tried elsewhere or given up. So a node that refuses for ever, because
//! something that it hands out was never given back, is noticed by none of them.

use super::app::{LISTINGS_MAX_LEAST, Store};
use super::clients::Wires;
use hyper::header::LOCATION;
use hyper::{Method, StatusCode};
use kv::client::{Exchange, Request, Response};
use raft::NodeId;
use serde_json::json;
use simulator::checks::{Check, Violation, violation};
use std::time::Duration;
use transport_sim::{Cluster, client_address, node_at, now_us, sleep_us};

/// How often each node is asked everything: more than there is of the least of its limits.
const ROUNDS: usize = LISTINGS_MAX_LEAST + 1;
/// The longest that one answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// After so long in vain a node does not serve.
const PATIENCE_US: u64 = 60_000_000;
/// Between two attempts.
const PAUSE_US: u64 = 100_000;
/// How often an answer may say that another node leads: the leader does not change any more.
const REDIRECTS_MAX: usize = 2;

/// Asks every healthy node to read, to write and to list.
pub async fn every_node(store: &Store, cluster: &Cluster<Store>) -> Result<(), Violation> {
    for asks in Asks::everybody(cluster) {
        let node = asks.node;
        // Its own key, which takes some escaping.
        let (key, path) = (format!("the last/{node}%"), format!("/v1/kv/the%20last%2F{node}%25"));
        for round in 0..ROUNDS {
            let value = round.to_string();
            let put = Request::new(Method::PUT, &path).body(value.clone());
            asks.until(&put, |answer| answer.status == StatusCode::OK).await?;
            let get = Request::new(Method::GET, &path);
            let reads = |answer: &Response| answer.status == StatusCode::OK && answer.body == value;
            asks.until(&get, reads).await?;
            let body = json!({ "key": key }).to_string();
            let get = Request::new(Method::POST, "/get").body(body);
            asks.until(&get, |answer| answer.json()["value"] == value).await?;
            let since = store.history().done().map_or(-1, |done| done as i64);
            let path = format!("/get_commits_since?since_index={since}");
            let list = Request::new(Method::GET, path);
            let lists = |answer: &Response| answer.json()["commits"].is_array();
            asks.until(&list, lists).await?;
        }
    }
    Ok(())
}

/// Whoever asks one node until it answers.
pub(super) struct Asks {
    wires: Wires,
    /// Which node.
    pub node: NodeId,
}

impl Asks {
    /// One for every healthy node.
    pub fn everybody(cluster: &Cluster<Store>) -> Vec<Asks> {
        // One more than the clients.
        let number = u64::from(cluster.plan().swarm.clients);
        let nodes = cluster.must_serve().into_iter();
        nodes.map(|node| Asks { wires: Wires { cluster: cluster.clone(), number }, node }).collect()
    }

    /// Asks again and again, until an answer is right.
    pub async fn until(
        &self,
        request: &Request,
        is_right: impl Fn(&Response) -> bool,
    ) -> Result<Response, Violation> {
        let until_us = now_us() + PATIENCE_US;
        loop {
            let said = match self.ask(request).await {
                Ok(answer) if is_right(&answer) => return Ok(answer),
                Ok(answer) => format!("{}, {:?}", answer.explanation(), answer.body),
                Err(why) => why,
            };
            if now_us() >= until_us {
                let (node, Request { method, path, .. }) = (self.node, request);
                let detail = format!("node {node}, {method} {path}: {said}");
                return violation(Check::EveryNodeServesInTheEnd, detail);
            }
            sleep_us(PAUSE_US).await;
        }
    }

    /// Asks once, and whoever leads if the node says so.
    async fn ask(&self, request: &Request) -> Result<Response, String> {
        let (mut node, mut request) = (self.node, request.clone());
        for _ in 0..REDIRECTS_MAX {
            let answer = self.wires.exchange(&client_address(node.0), &request, TIMEOUT).await;
            let answer = answer.map_err(|failure| failure.to_string())?;
            let location = answer.headers.get(LOCATION).and_then(|to| to.to_str().ok());
            let there = location.and_then(|to| to.strip_prefix("http://")?.split_once('/'));
            let leader = match (there, answer.json()["leader"].as_str()) {
                (Some((address, path)), _) => {
                    request.path = format!("/{path}");
                    node_at(address)
                }
                (None, leader) => leader.and_then(node_at),
            };
            match leader {
                Some(leader) => node = leader,
                None => return Ok(answer),
            }
        }
        Err("redirected in circles".to_owned())
    }
}
