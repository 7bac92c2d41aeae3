//! The transfer of a snapshot goes on where it stopped, whatever has stopped it.

use quorate::{
    ApplyContext, Builder, Consistency, Frozen, LogTime, Node, RestoreError, StartError,
    StateMachine,
};
use raft::{LogId, NodeId};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const COMMAND_BYTES: usize = 1 << 20;
/// A snapshot is due after as many.
const COMMANDS: usize = 24;
/// How often the transfer is cut off.
const CUTS: u64 = 5;

/// Keeps all its commands.
#[derive(Clone, Default)]
struct Kept(Vec<bytes::Bytes>);

impl Kept {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|command| command.len() as u64).sum()
    }
}

impl StateMachine for Kept {
    type Frozen = Kept;

    fn apply(&mut self, at: ApplyContext, command: bytes::Bytes) -> bytes::Bytes {
        self.0.push(command);
        self.query(at.time, &[])
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> bytes::Bytes {
        let sum = self
            .0
            .iter()
            .flatten()
            .fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        bytes::Bytes::from([self.bytes().to_le_bytes(), sum.to_le_bytes()].concat())
    }

    fn freeze(&self) -> Kept {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut all = Vec::new();
        from.read_to_end(&mut all)?;
        self.0 = vec![all.into()];
        Ok(())
    }
}

impl Frozen for Kept {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|command| to.write_all(command))
    }
}

/// Stands before the peer port of a node. It counts the bytes of snapshots that come in, and closes
/// their connections once there are as many as it may let through.
#[derive(Default)]
struct Gate {
    bytes: AtomicU64,
    bytes_max: AtomicU64,
}

impl Gate {
    async fn run(self: Arc<Self>, listener: TcpListener, to: SocketAddr) {
        while let Ok((from, _)) = listener.accept().await {
            let gate = self.clone();
            tokio::spawn(async move {
                if let Ok(to) = TcpStream::connect(to).await {
                    let _ = gate.pass(from, to).await;
                }
            });
        }
    }

    fn is_shut(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) >= self.bytes_max.load(Ordering::SeqCst)
    }

    async fn pass(&self, from: TcpStream, to: TcpStream) -> io::Result<()> {
        const HEAD: &[u8] = b"POST /raft/v1/snapshot HTTP";
        let mut head = [0; HEAD.len()];
        while from.peek(&mut head).await? < HEAD.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let is_snapshot = head == HEAD;
        let (mut from_in, mut from_out) = from.into_split();
        let (mut to_in, mut to_out) = to.into_split();
        let back = async move { tokio::io::copy(&mut to_in, &mut from_out).await.map(drop) };
        let forth = async move {
            let mut piece = vec![0; 16 << 10];
            loop {
                if is_snapshot && self.is_shut() {
                    return Ok(());
                }
                let len = from_in.read(&mut piece).await?;
                if len == 0 {
                    return to_out.shutdown().await;
                }
                if is_snapshot {
                    self.bytes.fetch_add(len as u64, Ordering::SeqCst);
                }
                to_out.write_all(&piece[..len]).await?;
            }
        };
        // Either side ends both: the connection is closed in the middle.
        tokio::select! {
            ended = back => ended,
            ended = forth => ended,
        }
    }
}

async fn free_port() -> (TcpListener, SocketAddr) {
    let listener = crate::listener();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

struct Cluster<'a> {
    data: &'a Path,
    members: Vec<(u64, String)>,
    /// Where node 3 listens, behind the gate.
    behind: SocketAddr,
}

impl Cluster<'_> {
    fn builder(&self, id: u64) -> Builder<Kept> {
        let builder = Node::builder(Kept::default()).id(id).members(self.members.clone());
        let builder = builder.data_dir(self.data.join(id.to_string())).bootstrap();
        let builder = builder.election_timeout(Duration::from_millis(300)).tune(|config| {
            config.raft.snapshot_log_bytes = COMMANDS * COMMAND_BYTES;
            config.raft.retained_bytes = 0;
        });
        let builder = builder.snapshot_bytes_per_second(32 << 20);
        if id == 3 { builder.listen(self.behind) } else { builder }
    }

    async fn start(&self, id: u64) -> Node<Kept> {
        loop {
            match self.builder(id).start().await {
                // A node that was dropped a moment ago may still hold its address and its
                // directory.
                Err(StartError::Listen { .. } | StartError::Lock(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                started => return started.unwrap(),
            }
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn base(node: &Node<Kept>) -> LogId {
    node.status().raft.snapshot.last
}

async fn write(node: &Node<Kept>, commands: usize) {
    for at in 0..commands {
        let command: Vec<u8> =
            (0..COMMAND_BYTES).map(|byte| (byte * 7 + at + byte / 4_099) as u8).collect();
        node.execute(command).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_after_cuts_a_restart_another_leader_and_a_newer_snapshot() {
    let data = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let (entrance, gate_address) = free_port().await;
    let ((_, first), (_, second), (_, behind)) =
        (free_port().await, free_port().await, free_port().await);
    let members =
        vec![(1, first.to_string()), (2, second.to_string()), (3, gate_address.to_string())];
    let gating = tokio::spawn(gate.clone().run(entrance, behind));
    let cluster = Cluster { data: data.path(), members, behind };
    let (one, two, third) = tokio::join!(cluster.start(1), cluster.start(2), cluster.start(3));
    eventually("a leader", || [&one, &two, &third].iter().any(|node| node.leader().is_some()))
        .await;
    // Node 3 is away while the others write so much that their logs begin after a snapshot.
    third.shutdown().await;
    // It may be taken a quarter later than it is due.
    write(&one, COMMANDS * 4 / 3).await;
    eventually("snapshots", || base(&one).index.0 > 0 && base(&two).index.0 > 0).await;
    let snapshot = base(&one);
    assert_eq!(snapshot, base(&two), "both have taken the same one");
    let size = one.status().raft.snapshot.number.0 * COMMAND_BYTES as u64;

    let mut third = cluster.start(3).await;
    for cut in 1..=CUTS {
        gate.bytes_max.store(cut * size / (CUTS + 1), Ordering::SeqCst);
        eventually("the transfer is cut off", || gate.is_shut()).await;
        let leads = if one.status().serving() { &one } else { &two };
        match cut {
            // The receiver stops as if it had been killed, and starts again.
            2 => {
                drop(third);
                third = cluster.start(3).await;
            }
            // The other node leads, which holds the same snapshot.
            3 => {
                let to = NodeId(3 - leads.id().0);
                assert_eq!(leads.transfer(Some(to)).await.unwrap(), to);
            }
            // The leader takes a newer snapshot.
            4 => {
                write(leads, COMMANDS * 2).await;
                eventually("a newer snapshot", || base(leads).index > snapshot.index).await;
            }
            _ => {}
        }
    }
    gate.bytes_max.store(u64::MAX, Ordering::SeqCst);
    let whole = one.read(Vec::new(), Consistency::Linearizable).await.unwrap();
    eventually("node 3 has the snapshot", || third.handle().metrics().snapshots_received > 0).await;
    assert_eq!(third.read(Vec::new(), Consistency::Linearizable).await.unwrap(), whole);
    assert_eq!(third.handle().metrics().snapshots_received, 1, "the rest came from the log");
    let sent = gate.bytes.load(Ordering::SeqCst);
    println!("{sent} bytes were sent of a snapshot of {size}");
    assert!(sent >= size, "{sent} bytes were sent of {size}");
    assert!(sent <= size * 6 / 5, "{sent} bytes were sent of {size}");
    gating.abort();
}
