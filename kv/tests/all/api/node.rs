//! Nodes in this process with real disks and sockets, and a client that sends exactly the given
//! bytes.

pub use crate::local::until;

use crate::local::{PATIENCE, PEER_PORT_OFFSET, free_ports};
use kv::serve::{Peer, Running, ServeConfig, run};
use raft::NodeId;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A node with its own runtime, as in a separate process.
pub struct Node {
    pub address: SocketAddr,
    running: Option<Running>,
    runtime: Runtime,
}

impl Node {
    pub fn start(config: ServeConfig) -> Node {
        Node::try_start(config).expect("the node starts")
    }

    pub fn try_start(config: ServeConfig) -> Result<Node, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let begun = std::time::Instant::now();
        let running = loop {
            match runtime.block_on(run(config.clone())).map_err(|error| error.to_string()) {
                // A node that a test has stopped a moment ago may still hold its port.
                Err(error) if error.contains("in use") && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                run => break run?,
            }
        };
        Ok(Node { address: running.client_addr(), running: Some(running), runtime })
    }

    pub fn stop(mut self) {
        let running = self.running.take().expect("it is stopped once");
        self.runtime.block_on(running.stop()).expect("it stops in good order");
    }

    /// Waits until it stops by itself, and returns the reason.
    pub fn wait(mut self) -> Result<(), String> {
        let mut running = self.running.take().expect("it runs");
        let ended =
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, running.wait()).await });
        self.running = Some(running);
        let Ok(ended) = ended else {
            panic!("not stopped within {PATIENCE:?}: {}", self.get("/v1/cluster?local=true").body);
        };
        ended.map_err(|error| error.to_string())
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(self.address, method, path, &[], body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, body)
    }

    pub fn leads(&self) -> bool {
        self.get("/is_leader").body == "{\"is_leader\":true}"
    }

    /// Submits a command and waits for it. Returns the answer of `wait_commit`.
    pub fn commit(&self, command: &str) -> Answer {
        let submitted = self.post("/submit", command).json();
        let index = submitted["log_index"].as_i64().expect("a number");
        assert!(index >= 0, "not submitted: {submitted}");
        self.post("/wait_commit", &format!("{{\"log_index\":{index},\"timeout_ms\":5000}}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let running = self.running.take();
        let _inside = self.runtime.enter();
        drop(running);
    }
}

/// The configurations of a cluster on free ports. Each node has a subdirectory of `directory`.
pub fn cluster(size: u64, directory: &Path) -> Vec<ServeConfig> {
    let port = free_ports(size as u16);
    let client_address = |id: u64| SocketAddr::from((Ipv4Addr::LOCALHOST, port + id as u16));
    let peer_address =
        |id: u64| SocketAddr::from((Ipv4Addr::LOCALHOST, port + id as u16 + PEER_PORT_OFFSET));
    let peers: Vec<Peer> = (0..size)
        .map(|id| Peer {
            id: NodeId(id),
            client_address: client_address(id).to_string(),
            peer_address: peer_address(id).to_string(),
        })
        .collect();
    (0..size)
        .map(|id| ServeConfig {
            bootstrap: true,
            campaign_at_start: id == 0,
            // Long, so that a busy machine causes no elections. No test here depends on it.
            election_timeout: Duration::from_secs(1),
            ..ServeConfig::new(
                NodeId(id),
                client_address(id),
                peer_address(id),
                peers.clone(),
                directory.join(id.to_string()),
            )
        })
        .collect()
}

/// Starts a cluster of one node, and waits until it is leader.
pub fn single(directory: &Path, change: impl FnOnce(&mut ServeConfig)) -> Node {
    let mut config = cluster(1, directory).remove(0);
    change(&mut config);
    let node = Node::start(config);
    until("the node leads", || node.leads());
    node
}

/// Starts all nodes, and waits until one is leader and the others follow it. The leader comes first
/// in the result. Followers learn of a new leader a moment later than the leader itself.
pub fn start(configs: Vec<ServeConfig>) -> Vec<Node> {
    let ids: Vec<u64> = configs.iter().map(|config| config.id.0).collect();
    let starting: Vec<_> =
        configs.into_iter().map(|config| std::thread::spawn(|| Node::start(config))).collect();
    let mut nodes: Vec<Node> =
        starting.into_iter().map(|node| node.join().expect("all start")).collect();
    let mut leader = 0;
    until("a node leads, and all know it", || {
        let Some(position) = nodes.iter().position(Node::leads) else { return false };
        leader = position;
        let known = |node: &Node| node.get("/v1/cluster").json()["leader"] == ids[position];
        nodes.iter().all(known)
    });
    nodes.swap(0, leader);
    nodes
}

/// Where a redirect leads that sends a request with this target to the first of these nodes.
pub fn location(nodes: &[Node], target: &str) -> String {
    let view = nodes[0].get("/v1/cluster?local=true").json();
    let cluster = view["cluster_id"].as_str().expect("it has one");
    format!("http://{}{target}?cluster_id={cluster}", nodes[0].address)
}

/// A parsed HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
}

pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n").into_bytes();
    for header in headers {
        request.extend_from_slice(format!("{header}\r\n").as_bytes());
    }
    let length = body.len();
    let rest = format!("connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    request.extend_from_slice(rest.as_bytes());
    send(address, &request).expect("the node answers")
}

/// Sends bytes, and reads until the node closes the connection. `None` if there was no answer, also
/// if a node that stops has reset the connection.
pub fn send(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    send_over(TcpStream::connect(address).expect("the node listens"), bytes)
}

/// The same on a connection that exists.
pub fn send_over(mut stream: TcpStream, bytes: &[u8]) -> Option<Answer> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // The node may close before it has read everything. Its answer is read nevertheless.
    let _ = stream.write_all(bytes);
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => all.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if all.is_empty() => panic!("no answer: {error}"),
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    Some(Answer { status, head: head.to_owned(), body })
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("the length of a chunk");
        body.push_str(&more[..length]);
        rest = more[length..].trim_start_matches("\r\n");
    }
    body
}
