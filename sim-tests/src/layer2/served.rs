//! Checks that in the end every node serves: a patient client gets an answer to every request,
//! however often it sends one.
//!
//! The other clients are tolerant: they retry a failed request elsewhere, or give up. So none of
//! them notices a node that always refuses because it has leaked a limited resource.

use super::store::{LISTINGS_MAX_LEAST, Store};
use super::wires::Wires;
use hyper::header::LOCATION;
use hyper::{Method, StatusCode};
use kv::client::{Exchange, Request, Response};
use raft::NodeId;
use serde_json::json;
use simulator::checks::{Check, Violation, violation};
use std::time::Duration;
use transport_sim::{Cluster, client_address, node_at, now_us, sleep_us};

/// How often each node gets each request: more often than its lowest limit allows.
const ROUNDS: usize = LISTINGS_MAX_LEAST + 1;
/// The longest that one answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A node that has not answered after this time does not serve.
const PATIENCE_US: u64 = 60_000_000;
/// The pause between two attempts.
const PAUSE_US: u64 = 100_000;
/// The most redirects to another leader: the leader does not change any more.
const REDIRECTS_MAX: usize = 2;

/// Sends reads, writes and listings to every healthy node.
pub async fn every_node(store: &Store, cluster: &Cluster<Store>) -> Result<(), Violation> {
    for asks in Asks::everybody(cluster) {
        let node = asks.node;
        // A key of its own, which needs escaping.
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

/// A client that sends requests to one node until it answers.
pub(super) struct Asks {
    wires: Wires,
    /// The id of the node.
    pub node: NodeId,
}

impl Asks {
    /// A client for every healthy node.
    pub fn everybody(cluster: &Cluster<Store>) -> Vec<Asks> {
        // A client number that no other client has.
        let number = u64::from(cluster.plan().swarm.clients);
        let nodes = cluster.must_serve().into_iter();
        nodes.map(|node| Asks { wires: Wires { cluster: cluster.clone(), number }, node }).collect()
    }

    /// Repeats a request until an answer is right.
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
                return violation(Check::EveryNodeServesInTheEnd, node, detail);
            }
            sleep_us(PAUSE_US).await;
        }
    }

    /// Sends a request once, and follows redirects to the leader.
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
