//! Whole nodes on 127.0.0.1: the real driver and log, with this transport between them.

use bytes::Bytes;
use driver::{
    ApplyContext, Consistency, DriverConfig, Frozen, Handle, LogTime, RestoreError, StateMachine,
    TokioClock,
};
use quorate::assembly::{Assembled, Parts};
use raft::{Config, Incarnation, NodeId};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{ClusterId, Directory, DurableIncarnation, Log, LogConfig, RealDisk, Snapshots};
use tempfile::TempDir;
use transport_http::{Founder, HttpTransport, Listed, PeerServer, TransportConfig, bootstrap};

/// Sums up the lengths of its commands.
#[derive(Default, Clone)]
pub struct Sum(pub u64);

impl StateMachine for Sum {
    type Frozen = Sum;

    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
        self.0 += command.len() as u64;
        self.query(at.time, &[])
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn freeze(&self) -> Sum {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl Frozen for Sum {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}

pub struct TestNode {
    pub handle: Handle<Sum>,
    pub transport: Arc<HttpTransport>,
    pub server: PeerServer,
    pub directory: TempDir,
    pub cluster: ClusterId,
}

/// A founder for each of these servers, from node 0 on, with the incarnations 100, 101, and so on.
pub fn founders_of(servers: &[PeerServer]) -> Vec<Founder> {
    (0..).zip(servers).map(|(id, server)| founder(id, server, 100 + id)).collect()
}

pub fn founder(node: u64, server: &PeerServer, incarnation: u64) -> Founder {
    let who = DurableIncarnation::assumed(NodeId(node), Incarnation(incarnation));
    Founder::new(who, server.local_addr().to_string(), String::new())
}

pub async fn servers(count: u64) -> Vec<PeerServer> {
    let mut servers = Vec::new();
    for _ in 0..count {
        let address = "127.0.0.1:0".parse().expect("an address");
        servers.push(PeerServer::bind(address).await.expect("a free port"));
    }
    servers
}

pub fn list(founders: &[Founder]) -> Vec<Listed> {
    founders.iter().map(Founder::listed).collect()
}

/// Bootstraps a cluster of `count` nodes and starts all of them.
pub async fn start(count: u64, tune: impl Fn(&mut Config)) -> Vec<TestNode> {
    start_at(count, tune, &[], false).await
}

/// Like [`start`], but the membership has another address for the nodes in `elsewhere`. With
/// `tells` each node tells its peers its own.
pub async fn start_at(
    count: u64,
    tune: impl Fn(&mut Config),
    elsewhere: &[(u64, String)],
    tells: bool,
) -> Vec<TestNode> {
    let servers = servers(count).await;
    let founders: Vec<Founder> =
        (0..count).map(|id| founder(id, &servers[id as usize], 100 + id)).collect();
    let list = list(&founders);
    for (server, founder) in servers.iter().zip(&founders) {
        server.bootstrap_service().answer_as_founder(founder.clone(), list.clone());
    }
    let mut founded = Vec::new();
    for (server, founder) in servers.iter().zip(&founders) {
        founded
            .push(bootstrap(server.bootstrap_service(), founder, &list).await.expect("all are up"));
    }
    for (id, address) in elsewhere {
        for one in &mut founded {
            let member = one.membership.members.get_mut(&NodeId(*id)).expect("it is a member");
            member.peer_address.clone_from(address);
        }
    }
    assert!(founded.iter().all(|one| *one == founded[0]), "all found the same cluster");
    let mut nodes = Vec::new();
    for (server, founder) in servers.into_iter().zip(founders) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::new(directory.path());
        let (opened, _) = Directory::open(disk.clone(), LogConfig::default()).expect("it is empty");
        let Directory::Unclaimed(unclaimed) = opened else { unreachable!("it is empty") };
        let announced = unclaimed
            .announce(founder.node(), founder.incarnation(), &[])
            .expect("it can be written");
        let founded = founded[0].clone();
        let cluster = founded.cluster;
        let member = announced.join(cluster, founded.membership).expect("it can be written");
        let mut config = TransportConfig::new(cluster, founder.node(), founder.incarnation());
        if tells {
            config.peer_address = server.local_addr().to_string();
        }
        let mut raft = Config::new(founder.node(), founder.incarnation(), 1);
        tune(&mut raft);
        let parts = Parts {
            machine: Sum::default(),
            member,
            snapshots: Snapshots::new(disk).expect("it can be written"),
            clock: Arc::new(TokioClock::new()),
            config: DriverConfig::new(raft),
            messages_max: None,
            inspect: Arc::new(()),
        };
        let Assembled { driver, log, transport, .. } = parts
            .assemble(|inbox| Arc::new(HttpTransport::new(config, inbox)))
            .expect("it is sound");
        server.open(&transport);
        let close = |log: Log<RealDisk>| drop(log.close());
        let handle = driver::spawn(driver, log, close).expect("threads can be started");
        nodes.push(TestNode { handle, transport, server, directory, cluster });
    }
    nodes
}

/// Proposes a command of this length on the leader, until one is done. Returns the sum after it.
pub async fn add(nodes: &[TestNode], bytes: usize) -> u64 {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        for node in nodes {
            let command = Bytes::from(vec![7; bytes]);
            let Ok(proposal) = node.handle.propose(command).await else { continue };
            if let Ok(sum) = proposal.done.await {
                return u64::from_le_bytes(sum[..].try_into().expect("eight bytes"));
            }
        }
        assert!(Instant::now() < until, "nobody takes a proposal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn read(node: &TestNode) -> Option<u64> {
    let sum = node.handle.read(Bytes::new(), Consistency::Linearizable).await.ok()?;
    Some(u64::from_le_bytes(sum[..].try_into().ok()?))
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn stop(nodes: Vec<TestNode>) {
    for node in &nodes {
        node.handle.shutdown().await;
    }
    drop(nodes);
}
