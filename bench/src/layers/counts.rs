//! `counts`: the cost of one write in a cluster of three nodes, over real HTTP and on a real disk,
//! in messages, turns of the core loops, syncs and allocations. These figures hardly depend on the
//! machine.
//!
//! The nodes run in this process, so that their allocations are counted. The client allocates
//! nothing. An idle cluster sends heartbeats; what it does in the same time is subtracted.

use crate::allocations;
use crate::http::{Connection, request};
use crate::rounds::{Contestant, Error, Row, Sample, Span, in_turn};
use bytes::Bytes;
use kv::serve::{Peer, Running, ServeConfig, run};
use raft::NodeId;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Writes that are sent at once; the next ones follow when all of these are answered.
const AT_ONCE: [usize; 2] = [1, 64];

/// Keys that are written in turn.
const KEYS: usize = 1000;

/// Writes before the measurement.
const WARM_UP: u64 = 200;

/// The time for which the idle cluster is watched.
const IDLE: Duration = Duration::from_millis(500);

/// A node renders its metrics again after 50 ms.
const METRICS_PAUSE: Duration = Duration::from_millis(60);

/// The time for an election, on a very busy machine.
const ELECTION_MAX: Duration = Duration::from_secs(60);

/// Counts in a cluster whose nodes have their data below `dir`.
pub fn measure(rounds: u32, span: Span, value: &Bytes, dir: &Path) -> Result<Vec<Row>, Error> {
    let cluster = Cluster::start(dir)?;
    let cluster = &cluster;
    let contestants = AT_ONCE.map(|at_once| Contestant {
        system: "raft-kv",
        setting: format!("{at_once} at once"),
        measure: Box::new(move |span| sample(span, at_once, value, cluster)),
    });
    in_turn(rounds, span, contestants.into(), &[])
}

fn sample(span: Span, at_once: usize, value: &Bytes, cluster: &Cluster) -> Result<Sample, Error> {
    let requests: Vec<Vec<u8>> =
        (0..KEYS).map(|key| request("PUT", &format!("/v1/kv/counts/{key:04}"), value)).collect();
    let open = |_| Connection::open(cluster.leader);
    let mut connections = (0..at_once).map(open).collect::<Result<Vec<_>, Error>>()?;
    let mut done = 0;
    while done < WARM_UP {
        done += put_all(&mut connections, &requests, done)?;
    }

    let idle = watched(cluster, || {
        std::thread::sleep(IDLE);
        Ok(())
    })?;
    let (watch, mut done) = (span.start(), 0);
    let busy = watched(cluster, || {
        while watch.goes_on(done) {
            done += put_all(&mut connections, &requests, done)?;
        }
        Ok(())
    })?;
    let puts = done as f64;
    let each = |name, rate: fn(&Watched) -> f64, seconds: f64| {
        (name, ((rate(&busy) - rate(&idle)) * seconds).max(0.0) / puts)
    };
    Ok(vec![
        ("puts/s", puts / busy.seconds),
        each("messages/put", |w| w.totals.messages / w.totals_seconds, busy.totals_seconds),
        each("turns/put", |w| w.totals.turns / w.totals_seconds, busy.totals_seconds),
        each("syncs/put", |w| w.totals.syncs / w.totals_seconds, busy.totals_seconds),
        each("allocations/put", |w| w.allocations / w.seconds, busy.seconds),
    ])
}

/// What the cluster did while something else was done.
struct Watched {
    /// The counts of the nodes, over a time that includes reading them.
    totals: Totals,
    totals_seconds: f64,
    /// The allocations of the process, over a time that does not.
    allocations: f64,
    seconds: f64,
}

fn watched(
    cluster: &Cluster,
    action: impl FnOnce() -> Result<(), Error>,
) -> Result<Watched, Error> {
    let (before, totals_began) = (cluster.totals()?, Instant::now());
    let (allocations_before, began) = (allocations::count(), Instant::now());
    action()?;
    let seconds = began.elapsed().as_secs_f64();
    let allocations = (allocations::count() - allocations_before) as f64;
    let totals = cluster.totals()?.since(&before);
    let totals_seconds = totals_began.elapsed().as_secs_f64();
    Ok(Watched { totals, totals_seconds, allocations, seconds })
}

/// Sends a request on each connection, and then waits for all answers.
fn put_all(connections: &mut [Connection], requests: &[Vec<u8>], done: u64) -> Result<u64, Error> {
    for (at, connection) in connections.iter_mut().enumerate() {
        connection.send(&requests[(done as usize + at) % requests.len()])?;
    }
    for connection in connections.iter_mut() {
        let (status, body) = connection.answer()?;
        if status != 200 {
            let body = String::from_utf8_lossy(body);
            return Err(format!("a write was answered with {status}: {body}").into());
        }
    }
    Ok(connections.len() as u64)
}

/// Counts of all nodes together.
struct Totals {
    messages: f64,
    turns: f64,
    syncs: f64,
}

impl Totals {
    fn since(&self, before: &Totals) -> Totals {
        Totals {
            messages: self.messages - before.messages,
            turns: self.turns - before.turns,
            syncs: self.syncs - before.syncs,
        }
    }
}

/// Three nodes in this process.
struct Cluster {
    /// The nodes, until they are stopped.
    nodes: Vec<Running>,
    leader: SocketAddr,
    runtime: Runtime,
    /// Removed after the nodes have stopped.
    _directory: tempfile::TempDir,
}

impl Cluster {
    fn start(dir: &Path) -> Result<Self, Error> {
        let directory = tempfile::tempdir_in(dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let starting: Vec<_> = configs(directory.path())?
            .into_iter()
            .map(|config| runtime.spawn(run(config)))
            .collect();
        let mut nodes = Vec::new();
        for node in starting {
            nodes.push(runtime.block_on(node)??);
        }
        let leader = leader(&nodes)?;
        Ok(Cluster { nodes, leader, runtime, _directory: directory })
    }

    fn totals(&self) -> Result<Totals, Error> {
        std::thread::sleep(METRICS_PAUSE);
        let mut totals = Totals { messages: 0.0, turns: 0.0, syncs: 0.0 };
        for node in &self.nodes {
            let text = get(node.client_addr(), "/metrics")?;
            let value = |name| value(&text, name).ok_or_else(|| format!("no metric {name}"));
            totals.messages += value("driver_messages_sent_total")?;
            totals.turns += value("driver_turns_total")?;
            totals.syncs += value("driver_persists_total")?;
        }
        Ok(totals)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.drain(..) {
            // The result of the benchmark is there already.
            let _ = self.runtime.block_on(node.stop());
        }
    }
}

/// Waits until a node leads.
fn leader(nodes: &[Running]) -> Result<SocketAddr, Error> {
    let began = Instant::now();
    while began.elapsed() < ELECTION_MAX {
        for node in nodes {
            if get(node.client_addr(), "/is_leader")?.contains("true") {
                return Ok(node.client_addr());
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("no node was elected".into())
}

/// Listeners on free ports that no outgoing connection gets by chance.
fn free_listeners() -> impl Iterator<Item = TcpListener> {
    let ports = std::iter::repeat_with(|| 10_000 + rand::random::<u16>() % 20_000);
    ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
}

/// Settings of three nodes on free ports.
fn configs(directory: &Path) -> Result<Vec<ServeConfig>, Error> {
    // All ports are held until all are chosen.
    let held: Vec<_> = free_listeners().take(6).collect();
    let ports: Vec<SocketAddr> =
        held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let peer = |id: usize| Peer {
        id: NodeId(id as u64),
        client_address: ports[2 * id].to_string(),
        peer_address: ports[2 * id + 1].to_string(),
    };
    let peers: Vec<Peer> = (0..3).map(peer).collect();
    let config = |id: usize| ServeConfig {
        bootstrap: true,
        campaign_at_start: id == 0,
        // A busy machine may delay the leader, and an election is not what is measured.
        election_timeout: Duration::from_secs(5),
        ..ServeConfig::new(
            NodeId(id as u64),
            ports[2 * id],
            ports[2 * id + 1],
            peers.clone(),
            directory.join(id.to_string()),
        )
    };
    Ok((0..3).map(config).collect())
}

fn get(address: SocketAddr, path: &str) -> Result<String, Error> {
    let mut connection = Connection::open(address)?;
    connection.send(&request("GET", path, b""))?;
    let (_, body) = connection.answer()?;
    Ok(String::from_utf8(body.to_vec())?)
}

/// The value of a metric.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}
