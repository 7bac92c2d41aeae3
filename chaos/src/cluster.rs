//! A cluster of nodes on this machine, and the requests that scenarios send to it.

use crate::bounds::{LISTING_TIMEOUT, PATIENCE};
use crate::http::{Answer, Connection, Failed};
use crate::live;
use crate::network::Network;
use crate::node::{Node, Settings};
use crate::outcome::Trouble;
use crate::ports;
use hyper::Method;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// All nodes, and the network between them.
pub struct Cluster {
    /// The nodes. The index of a node is its id.
    pub nodes: Vec<Node>,
    /// The links between them.
    pub network: Network,
    /// The `--peers` argument of all founders.
    pub peers: String,
    /// The entry of each node in such an argument.
    pub entries: Vec<String>,
    binary: PathBuf,
    handle: Handle,
}

impl Cluster {
    /// Nodes that have not been started, with a proxy in front of each.
    pub fn new(
        root: &Path,
        binary: &Path,
        handle: &Handle,
        (count, spares): (u64, u64),
        host: impl Fn(u64) -> String,
        settings: impl Fn(u64) -> Settings,
    ) -> Result<Cluster, Trouble> {
        let network = Network::default();
        let mut nodes = Vec::new();
        let mut peers = Vec::new();
        for id in 0..count + spares {
            let (client, peer) = (ports::free(), ports::free());
            let proxy = network.proxy(handle, id, peer);
            let name = host(id);
            peers.push(format!("{id}={name}:{}/{name}:{}", client.port(), proxy.port()));
            let mut node = Node::new(root, id, client, peer, settings(id))?;
            (node.is_member, node.joins) = (id < count, id >= count);
            nodes.push(node);
        }
        let (binary, handle) = (binary.to_owned(), handle.clone());
        let (entries, peers) = (peers.clone(), peers[..count as usize].join(","));
        Ok(Cluster { nodes, network, peers, entries, binary, handle })
    }

    /// Starts a node.
    pub fn start(&mut self, id: u64) -> Result<(), Trouble> {
        let peers = match self.nodes[id as usize].joins {
            false => self.peers.clone(),
            // Itself, and all members.
            true => {
                let members = self.nodes.iter().filter(|node| node.is_member || node.id == id);
                let entries = members.map(|node| self.entries[node.id as usize].as_str());
                entries.collect::<Vec<_>>().join(",")
            }
        };
        let node = &mut self.nodes[id as usize];
        let pid = node.start(&self.binary, &peers)?;
        self.network.runs(id, pid);
        Ok(())
    }

    /// The ids of all members.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().filter(|node| node.is_member).map(|node| node.id).collect()
    }

    /// The client addresses of all nodes, also of those that are no members yet.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client).collect()
    }

    /// Sends one request to a node, and waits for the response for at most `limit`.
    pub fn ask(
        &self,
        id: u64,
        method: Method,
        path: &str,
        body: &str,
        limit: Duration,
    ) -> Result<Answer, Failed> {
        let mut connection = Connection::new(self.nodes[id as usize].client);
        self.handle.block_on(connection.ask(method, path, &[], body.to_owned(), limit))
    }

    /// Sends `GET path` to a node.
    pub fn get(&self, id: u64, path: &str) -> Result<Answer, Failed> {
        self.ask(id, Method::GET, path, "", Duration::from_secs(5))
    }

    /// Reads all commits through a node. The answer may have many megabytes.
    pub fn listing(&self, id: u64) -> Result<Answer, Failed> {
        self.ask(id, Method::GET, "/get_commits_since?since_index=-1", "", LISTING_TIMEOUT)
    }

    /// Writes through a node. Returns whether the write was done.
    pub fn put(&self, id: u64, key: &str, value: &str) -> bool {
        let path = format!("/v1/kv/{key}");
        let answer = self.ask(id, Method::PUT, &path, value, Duration::from_secs(3));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Writes `count` values of `bytes` bytes through a node, four at a time, to keys that the
    /// history does not contain. Returns the number of writes that were done.
    pub fn fill(&self, id: u64, count: u64, bytes: usize) -> u64 {
        let address = self.nodes[id as usize].client;
        let value = bytes::Bytes::from(vec![b'v'; bytes]);
        let writers = (0..4).map(|writer| {
            let value = value.clone();
            self.handle.spawn(async move {
                let (mut connection, mut done) = (Connection::new(address), 0);
                for at in (writer..count).step_by(4) {
                    let (path, limit) = (format!("/v1/kv/load-{at}"), Duration::from_secs(5));
                    let put = connection.ask(Method::PUT, &path, &[], value.clone(), limit).await;
                    done += u64::from(put.is_ok_and(|answer| answer.status == 200));
                }
                done
            })
        });
        let writers: Vec<_> = writers.collect();
        self.handle.block_on(async {
            let mut done = 0;
            for writer in writers {
                done += writer.await.unwrap_or(0);
            }
            done
        })
    }

    /// Whether a node reports ready.
    pub fn is_ready(&self, id: u64) -> bool {
        let answer = self.ask(id, Method::GET, "/readyz", "", Duration::from_secs(2));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until a node reports that it is not ready, or does not answer.
    pub fn unready_within(&self, id: u64, limit: Duration) -> Result<(), Trouble> {
        if live::wait_until(limit, || !self.is_ready(id)) {
            return Ok(());
        }
        Err(Trouble::violated(format!("node {id} is sick and still reports ready after {limit:?}")))
    }

    /// The status that a node reports.
    pub fn status(&self, id: u64) -> Option<Value> {
        let path = "/v1/cluster?local=true";
        let answer = self.ask(id, Method::GET, path, "", Duration::from_secs(2)).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// A number in the status that a node reports.
    pub fn position(&self, id: u64, name: &str) -> Option<u64> {
        self.status(id)?.get(name)?.as_u64()
    }

    /// The value of a metric in `/metrics`.
    pub fn metric(&self, id: u64, name: &str) -> Option<u64> {
        let answer = self.ask(id, Method::GET, "/metrics", "", Duration::from_secs(2)).ok()?;
        figure(&String::from_utf8_lossy(&answer.body), name)
    }

    /// The first of these nodes that reports that it leads.
    pub fn leader_among(&self, ids: &[u64]) -> Option<u64> {
        ids.iter().copied().find(|id| {
            let limit = Duration::from_millis(500);
            let answer = self.ask(*id, Method::GET, "/is_leader", "", limit);
            answer.is_ok_and(|answer| answer.json()["is_leader"] == true)
        })
    }

    /// Waits for a leader, for at most [`PATIENCE`].
    pub fn leader(&self) -> Result<u64, Trouble> {
        self.leader_within(&self.ids(), PATIENCE)
    }

    /// Waits for a leader among these nodes.
    pub fn leader_within(&self, ids: &[u64], limit: Duration) -> Result<u64, Trouble> {
        let mut leader = None;
        live::wait_until(limit, || {
            leader = self.leader_among(ids);
            leader.is_some()
        });
        leader.ok_or_else(|| {
            Trouble::violated(format!("no leader among nodes {ids:?} within {limit:?}"))
        })
    }

    /// Waits until a write through one of these nodes is done. Returns how long that took.
    pub fn served_within(&self, ids: &[u64], limit: Duration) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        let mut turn = 0;
        let served = live::wait_until(limit, || {
            turn += 1;
            self.put(ids[turn % ids.len()], "served", &turn.to_string())
        });
        if served {
            return Ok(begun.elapsed());
        }
        Err(Trouble::violated(format!("no write through nodes {ids:?} was done within {limit:?}")))
    }

    /// Waits until a node has applied what the leader has committed by now. Returns how long that
    /// took.
    pub fn caught_up_within(&self, id: u64, limit: Duration) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        let leader = self.leader()?;
        let commit = self.position(leader, "commit_index").unwrap_or(0);
        let reached = live::wait_until(limit, || {
            self.position(id, "applied_index").is_some_and(|applied| applied >= commit)
        });
        if reached {
            return Ok(begun.elapsed());
        }
        let applied = self.position(id, "applied_index");
        Err(Trouble::violated(format!(
            "node {id} has applied {applied:?} of {commit} committed entries after {limit:?}"
        )))
    }
}

/// The value of a metric without labels.
pub fn figure(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}
