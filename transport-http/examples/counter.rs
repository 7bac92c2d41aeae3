//! A replicated counter: what embedding the library takes. Three nodes in this one process, each with
//! a data directory and a port of its own; then a number of clients count, and the rate is printed.
//!
//! ```text
//! cargo run --release -p transport-http --example counter -- [clients] [seconds] [memory]
//! ```
//!
//! With `memory`, the nodes keep their logs in memory: what remains is the cost of the loop and of the
//! network.

use bytes::Bytes;
use driver::{
    At, Driver, DriverConfig, Frozen, Handle, ReadMode, RestoreError, Seams, StateMachine,
    TokioClock, inbox, spawn,
};
use raft::{Config, Incarnation, NodeId, Snapshot};
use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::testing::MemDisk;
use storage::{Disk, Identity, Log, LogConfig, RealDisk, Snapshots};
use transport_http::{Founder, HttpTransport, Listed, PeerServer, TransportConfig, found};

/// The state machine: this is all that is particular to a counter.
#[derive(Clone, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Frozen = Counter;

    fn apply(&mut self, _at: At, _command: &[u8]) -> Bytes {
        self.0 += 1;
        self.query(&[])
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn freeze(&self) -> Counter {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl Frozen for Counter {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}

/// Founds the cluster together with the others, and starts the node. The transport and the server
/// live as long as the node is to talk to its peers.
async fn start<D: Disk + Sync>(
    server: PeerServer,
    own: Founder,
    founders: Vec<Listed>,
    disk: D,
) -> Result<(Handle<Counter>, PeerServer), Box<dyn Error + Send + Sync>> {
    server.desk().sit(own.clone(), founders.clone());
    let founded = found(server.desk(), &own, &founders).await?;
    let (mut log, _) = Log::open(disk.clone(), LogConfig::default())?;
    log.identify(Identity {
        node: own.node,
        incarnation: own.incarnation,
        cluster: Some(founded.cluster),
        peers: founded.membership.members.keys().copied().collect(),
    })?;
    let restored = log.begin(Snapshot::initial(founded.membership))?;
    let snapshots = Arc::new(Snapshots::new(disk)?);
    let (inbox, mailbox) = inbox(snapshots.clone());
    let config = TransportConfig::new(founded.cluster, own.node, own.incarnation);
    let transport = Arc::new(HttpTransport::new(config, inbox));
    server.open(&transport);
    let clock = Arc::new(TokioClock::new());
    let mut config = DriverConfig::new(Config::new(own.node, own.incarnation, rand::random()));
    config.raft.campaign_at_start = own.node == NodeId(0);
    let seams = Seams { machine: Counter::default(), transport, mailbox, snapshots, clock };
    let driver = Driver::new(config, restored, seams)?;
    Ok((spawn(driver, log, |log| drop(log.close()))?, server))
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| arguments.get(at).and_then(|n| n.parse().ok()).unwrap_or(or);
    let (clients, seconds) = (number(0, 64), number(1, 2));
    let in_memory = arguments.iter().any(|argument| argument == "memory");

    let mut servers = Vec::new();
    for node in 0..3 {
        let server = PeerServer::bind(([127, 0, 0, 1], 0).into()).await?;
        let founder = Founder {
            node: NodeId(node),
            incarnation: Incarnation(rand::random()),
            peer_address: server.local_addr().to_string(),
            client_address: String::new(),
        };
        servers.push((server, founder));
    }
    let founders: Vec<Listed> = servers.iter().map(|(_, founder)| founder.listed()).collect();
    let directory = tempfile::tempdir()?;
    let mut starting = Vec::new();
    for (server, founder) in servers {
        let founders = founders.clone();
        let path = directory.path().join(founder.node.to_string());
        starting.push(tokio::spawn(async move {
            match in_memory {
                true => start(server, founder, founders, MemDisk::new()).await,
                false => start(server, founder, founders, RealDisk::new(path)).await,
            }
        }));
    }
    let mut nodes = Vec::new();
    for start in starting {
        nodes.push(start.await??);
    }
    let leader = loop {
        match nodes.iter().find(|(node, _)| node.status().serving()) {
            Some((node, _)) => break node.clone(),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };

    let until = Instant::now() + Duration::from_secs(seconds);
    let counting: Vec<_> = (0..clients)
        .map(|_| {
            let node = leader.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < until {
                    let begin = Instant::now();
                    let Ok(proposal) = node.propose(Bytes::from_static(b"count")).await else {
                        continue;
                    };
                    if proposal.done.await.is_ok() {
                        took.push(begin.elapsed());
                    }
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for client in counting {
        took.extend(client.await?);
    }
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    println!(
        "{} counts a second with {clients} clients; half within {:?}, 99 % within {:?}",
        took.len() as u64 / seconds.max(1),
        at(50),
        at(99)
    );
    for (node, _) in &nodes {
        let count = node.read(ReadMode::Linearizable, Bytes::new()).await?;
        println!(
            "node {} reads {:?}",
            node.status().raft.id,
            count.first_chunk().map(|n| u64::from_le_bytes(*n))
        );
    }
    println!("{:?}", leader.metrics());
    for (node, _) in &nodes {
        node.shutdown().await;
    }
    Ok(())
}
