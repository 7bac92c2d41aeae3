//! A cluster in this process: real drivers and logs on disks in memory, and a transport of channels
//! with links that can be cut.
// These tests run on real threads and a real clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use driver::{
    ApplyContext, Dependencies, Driver, DriverConfig, Frozen, Handle, Inbox, RestoreError,
    StateMachine, TokioClock, Transport, inbox, spawn, spawn_tasks,
};
use raft::{
    Config, Incarnation, LogTime, Member, Membership, Message, NodeId, Restored, SnapshotOffer,
    SnapshotStatus,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use storage::testing::MemDisk;
use storage::{ClusterId, Directory, Log, LogConfig, LogStore, Snapshots};

/// Sums numbers, and counts them.
#[derive(Default)]
pub struct Counter {
    pub sum: u64,
    pub count: u64,
}

impl StateMachine for Counter {
    type Frozen = Counted;

    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        assert_ne!(&command[..], b"panic", "the command says so");
        Gate::pass(&command);
        let number = std::str::from_utf8(&command).ok().and_then(|text| text.parse().ok());
        self.sum += number.unwrap_or(0u64);
        self.count += 1;
        Bytes::from(self.sum.to_string())
    }

    fn query(&self, time: LogTime, query: &[u8]) -> Bytes {
        let answer = match query {
            b"" => self.sum,
            b"count" => self.count,
            b"time" => time.0,
            _ => panic!("no such query"),
        };
        Bytes::from(answer.to_string())
    }

    fn freeze(&self) -> Counted {
        Counted(self.sum, self.count)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut text = String::new();
        from.read_to_string(&mut text)?;
        let (sum, count) = text.split_once(' ').unwrap();
        *self = Counter { sum: sum.parse().unwrap(), count: count.parse().unwrap() };
        Ok(())
    }
}

/// The state of a [`Counter`] at one moment: its sum and its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted(pub u64, pub u64);

impl Frozen for Counted {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        write!(to, "{} {}", self.0, self.1)
    }
}

/// Gates that a state machine has come to, and those that are open.
static GATES: (Mutex<Gates>, Condvar) =
    (Mutex::new(Gates { reached: BTreeSet::new(), open: BTreeSet::new() }), Condvar::new());
/// Each gate and each start of a node gets a number of its own.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

struct Gates {
    reached: BTreeSet<u64>,
    open: BTreeSet<u64>,
}

/// A command that keeps every [`Counter`] that applies it busy until the gate is dropped.
pub struct Gate(u64);

impl Gate {
    pub fn new() -> Self {
        Gate(NUMBERS.fetch_add(1, Ordering::Relaxed))
    }

    pub fn command(&self) -> Bytes {
        Bytes::from(format!("gate {}", self.0))
    }

    /// Whether a state machine waits at this gate.
    pub fn is_reached(&self) -> bool {
        GATES.0.lock().unwrap().reached.contains(&self.0)
    }

    /// Waits until the gate that `command` names is open. Other commands do not wait.
    fn pass(command: &[u8]) {
        let name = std::str::from_utf8(command).ok().and_then(|text| text.strip_prefix("gate "));
        let Some(number) = name.map(|number| number.parse().unwrap()) else { return };
        let mut gates = GATES.0.lock().unwrap();
        gates.reached.insert(number);
        drop(GATES.1.wait_while(gates, |gates| !gates.open.contains(&number)).unwrap());
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        GATES.0.lock().unwrap().open.insert(self.0);
        GATES.1.notify_all();
    }
}

/// Connects the inboxes of the nodes in one process.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<NetworkState>>);

#[derive(Default)]
struct NetworkState {
    inboxes: BTreeMap<NodeId, Inbox>,
    /// Links that lose every message, in this direction.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    pub fn isolate(&self, node: u64, peers: &[u64]) {
        for peer in peers {
            self.cut(node, *peer);
            self.cut(*peer, node);
        }
    }

    /// Loses every message from `from` to `to`.
    pub fn cut(&self, from: u64, to: u64) {
        self.0.lock().unwrap().cut.insert((NodeId(from), NodeId(to)));
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().cut.clear();
    }

    fn inbox(&self, from: NodeId, to: NodeId) -> Option<Inbox> {
        let state = self.0.lock().unwrap();
        if state.cut.contains(&(from, to)) {
            return None;
        }
        state.inboxes.get(&to).cloned()
    }
}

pub struct ChannelTransport {
    node: NodeId,
    network: Network,
    own: Inbox,
}

impl Transport for ChannelTransport {
    fn send(&self, message: Message) {
        let to = message.to;
        let peer = self.network.inbox(message.from, to);
        if !peer.is_some_and(|peer| peer.try_message(message)) {
            self.own.unreachable(to);
        }
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.network.inbox(self.node, peer).is_some_and(|peer| !peer.is_closed())
    }

    fn send_snapshot(&self, offer: SnapshotOffer, mut state: Box<dyn Read + Send>) {
        let (own, peer) = (self.own.clone(), self.network.inbox(offer.from, offer.to));
        tokio::spawn(async move {
            let (to, id) = (offer.to, offer.snapshot.last);
            let delivered = async {
                let peer = peer?;
                let mut reception = peer.offer(offer).await.ok()?;
                let mut bytes = Vec::new();
                state.read_to_end(&mut bytes).ok()?;
                reception.write(&bytes).ok()?;
                reception.finish().ok()
            };
            let delivered = delivered.await.is_some();
            own.snapshot_sent(to, id, SnapshotStatus::of(delivered, 0));
        });
    }

    fn set_members(&self, _membership: &Membership) {}
}

pub fn membership(nodes: u64) -> Membership {
    Membership::of_voters(
        (1..=nodes)
            .map(|id| {
                let member = Member {
                    incarnation: Incarnation(100 + id),
                    peer_address: String::new(),
                    client_address: String::new(),
                };
                (NodeId(id), member)
            })
            .collect(),
    )
}

pub fn open_log(disk: &MemDisk, id: u64, nodes: u64) -> (Log<MemDisk>, Restored) {
    open_log_of(disk, id, nodes, |_| {})
}

/// As [`open_log`]. `adapt` changes the settings of the log.
pub fn open_log_of(
    disk: &MemDisk,
    id: u64,
    nodes: u64,
    adapt: impl FnOnce(&mut LogConfig),
) -> (Log<MemDisk>, Restored) {
    let mut config = LogConfig::default();
    (config.segment_bytes, config.background) = (64 << 10, false);
    adapt(&mut config);
    let member = match Directory::open(disk.clone(), config).unwrap().0 {
        Directory::Member(member) => member,
        Directory::Unclaimed(unclaimed) => {
            let founders: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
            unclaimed
                .announce(NodeId(id), Incarnation(100 + id), &founders)
                .unwrap()
                .join(ClusterId(1), membership(nodes))
                .unwrap()
        }
    };
    member.into_log()
}

/// Starts node `id` of `nodes` on `disk`. `adapt` changes its settings.
pub fn start(
    network: &Network,
    disk: &MemDisk,
    id: u64,
    nodes: u64,
    adapt: impl FnOnce(&mut DriverConfig),
) -> Handle<Counter> {
    let (log, restored) = open_log(disk, id, nodes);
    start_with(network, disk, id, restored, log, adapt, |log| log.close().unwrap())
}

/// Starts node `id` of `nodes` on `disk`, without threads.
pub fn start_tasks(network: &Network, disk: &MemDisk, id: u64, nodes: u64) -> Handle<Counter> {
    let (log, restored) = open_log(disk, id, nodes);
    let clock = TokioClock::for_tasks();
    let driver = assemble(network, disk, id, restored, clock, |_| {});
    spawn_tasks(driver, log, |log| log.close().unwrap())
}

/// Starts node `id` with the given store.
pub fn start_with<L: LogStore + 'static>(
    network: &Network,
    disk: &MemDisk,
    id: u64,
    restored: Restored,
    log: L,
    adapt: impl FnOnce(&mut DriverConfig),
    close: impl FnOnce(L) + Send + 'static,
) -> Handle<Counter> {
    let driver = assemble(network, disk, id, restored, TokioClock::new(), adapt);
    spawn(driver, log, close).unwrap()
}

fn assemble(
    network: &Network,
    disk: &MemDisk,
    id: u64,
    restored: Restored,
    clock: TokioClock,
    adapt: impl FnOnce(&mut DriverConfig),
) -> Driver<Counter> {
    let snapshots = Arc::new(Snapshots::new(disk.clone()).unwrap());
    let (inbox, inbox_receiver) = inbox(snapshots.clone());
    network.0.lock().unwrap().inboxes.insert(NodeId(id), inbox.clone());
    let transport = ChannelTransport { node: NodeId(id), network: network.clone(), own: inbox };
    let transport = Arc::new(transport);
    let nonce = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let mut config = DriverConfig::new(Config::new(NodeId(id), Incarnation(100 + id), nonce));
    config.raft.campaign_at_start = id == 1;
    // On a busy machine a leader may be delayed, and few tests are about that.
    config.raft.election_ticks = 60;
    adapt(&mut config);
    let (machine, clock) = (Counter::default(), Arc::new(clock));
    let dependencies = Dependencies { machine, transport, inbox_receiver, snapshots, clock };
    Driver::new(config, restored, dependencies).unwrap()
}

/// The limit of all waits: what has not happened by then never will, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds. Panics after [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a leader that serves.
pub async fn leader<'a>(handles: &[&'a Handle<Counter>]) -> &'a Handle<Counter> {
    eventually("a leader", || handles.iter().any(|handle| handle.status().serving())).await;
    handles.iter().find(|handle| handle.status().serving()).unwrap()
}

pub async fn add(handle: &Handle<Counter>, number: u64) -> u64 {
    let proposal = handle.propose(Bytes::from(number.to_string())).await.unwrap();
    text(&proposal.done.await.unwrap())
}

pub fn text(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}
