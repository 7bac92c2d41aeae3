//! `driver`: three nodes of the driver in one process. Their log and their network are in memory:
//! a write is durable at once, and a message goes straight into the inbox of its receiver.

use crate::allocations;
use crate::cluster;
#[cfg(feature = "peers")]
use crate::peers;
use crate::rounds::{Base, Contestant, Error, Row, Sample, Span, in_turn};
use bytes::Bytes;
use driver::{
    ApplyContext, Dependencies, Driver, DriverConfig, Frozen, Handle, Inbox, RestoreError,
    StateMachine, TokioClock, Transport, inbox, spawn, spawn_tasks,
};
use raft::{
    Durable, LogTime, Membership, Message, NodeId, Restored, Snapshot, SnapshotOffer,
    SnapshotStatus,
};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use storage::testing::MemDisk;
use storage::{LogStore, PersistError, Snapshots};

/// Each client proposes its next command when the last one is applied.
const CLIENTS: [u64; 3] = [1, 64, 1024];

const OPENRAFT: Base = Base { system: "openraft", ratio: "ratio to openraft" };

/// Where the store and the state machine of a node run.
#[derive(Clone, Copy)]
enum Parts {
    /// Threads of their own, as with a real disk.
    Threads,
    /// Tasks of the runtime, like those of openraft.
    Tasks,
}

/// Measures the driver.
pub fn measure(rounds: u32, span: Span, value: &Bytes) -> Result<Vec<Row>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut contestants = Vec::new();
    for clients in CLIENTS {
        let (runtime, setting) = (&runtime, format!("{clients} clients"));
        for (system, parts) in
            [("quorate-driver", Parts::Threads), ("quorate-driver, in tasks", Parts::Tasks)]
        {
            contestants.push(Contestant {
                system,
                setting: setting.clone(),
                measure: Box::new(move |span| {
                    runtime.block_on(sample(span, clients, value, parts))
                }),
            });
        }
        #[cfg(feature = "peers")]
        contestants.push(peers::openraft::contestant(clients, setting, value, runtime));
    }
    in_turn(rounds, span, contestants, &[OPENRAFT])
}

async fn sample(span: Span, clients: u64, value: &Bytes, parts: Parts) -> Result<Sample, Error> {
    let nodes = start(parts)?;
    let leader = nodes[0].clone();
    while !leader.status().serving() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = Totals::of(&nodes);
    let (operations, seconds) = load(span, clients, |turns| {
        let (leader, value) = (leader.clone(), value.clone());
        async move {
            while turns.goes_on() {
                leader.execute(value.clone()).await.expect("it keeps leading");
                turns.done();
            }
        }
    })
    .await?;
    let after = Totals::of(&nodes);
    for node in &nodes {
        node.shutdown().await;
    }
    let each =
        |name, of: fn(&Totals) -> u64| (name, (of(&after) - of(&before)) as f64 / operations);
    Ok(vec![
        ("proposals/s", operations / seconds),
        each("messages/op", |totals| totals.messages),
        each("turns/op", |totals| totals.turns),
        each("writes/op", |totals| totals.writes),
        each("allocations/op", |totals| totals.allocations),
    ])
}

/// Runs `clients` tasks, which share the turns. Returns the number of operations and the time in
/// seconds.
pub async fn load<F>(
    span: Span,
    clients: u64,
    client: impl Fn(Turns) -> F,
) -> Result<(f64, f64), Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    let turns = Turns { span, done: Arc::default(), ended: Arc::default() };
    let watch = span.start();
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client(turns.clone()))).collect();
    if let Span::Time(time) = span {
        tokio::time::sleep(time).await;
        turns.ended.store(true, Relaxed);
    }
    for task in tasks {
        task.await?;
    }
    Ok((turns.done.load(Relaxed) as f64, watch.seconds()))
}

/// The turns of the clients of one measurement.
#[derive(Clone)]
pub struct Turns {
    span: Span,
    done: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Turns {
    /// Whether a client takes another turn.
    pub fn goes_on(&self) -> bool {
        match self.span {
            Span::Time(_) => !self.ended.load(Relaxed),
            Span::Operations(operations) => self.done.load(Relaxed) < operations,
        }
    }

    /// A client has finished a turn.
    pub fn done(&self) {
        self.done.fetch_add(1, Relaxed);
    }
}

/// Counts of all nodes together.
struct Totals {
    messages: u64,
    turns: u64,
    writes: u64,
    allocations: u64,
}

impl Totals {
    fn of(nodes: &[Handle<Counter>]) -> Self {
        let sum = |of: fn(&driver::MetricsReading) -> u64| {
            nodes.iter().map(|node| of(&node.metrics())).sum()
        };
        Totals {
            messages: sum(|metrics| metrics.messages_sent),
            turns: sum(|metrics| metrics.turns),
            writes: sum(|metrics| metrics.persists),
            allocations: allocations::count(),
        }
    }
}

/// Starts three nodes. The first one campaigns at once.
fn start(parts: Parts) -> Result<Vec<Handle<Counter>>, Error> {
    let network: Arc<Network> = Arc::new(OnceLock::new());
    let mut inboxes = Vec::new();
    let mut ends = Vec::new();
    for id in cluster::IDS {
        let snapshots = Arc::new(Snapshots::new(MemDisk::new())?);
        let (inbox, receiver) = inbox(snapshots.clone());
        inboxes.push(inbox);
        ends.push((id, snapshots, receiver));
    }
    assert!(network.set(inboxes).is_ok(), "it is set once");
    let mut nodes = Vec::new();
    for (id, snapshots, inbox_receiver) in ends {
        let mut config = DriverConfig::new(cluster::config(id));
        config.raft.campaign_at_start = id == cluster::IDS[0];
        // A busy machine may delay the leader, and an election is not what is measured.
        config.raft.election_ticks = 500;
        let dependencies = Dependencies {
            machine: Counter::default(),
            transport: Arc::new(Memory { own: id, network: network.clone() }),
            inbox_receiver,
            snapshots,
            clock: Arc::new(match parts {
                Parts::Threads => TokioClock::new(),
                Parts::Tasks => TokioClock::for_tasks(),
            }),
        };
        let restored = Restored::initial(Snapshot::initial(cluster::membership()));
        let node = Driver::new(config, restored, dependencies)?;
        nodes.push(match parts {
            Parts::Threads => spawn(node, InMemory, drop)?,
            Parts::Tasks => spawn_tasks(node, InMemory, drop),
        });
    }
    Ok(nodes)
}

/// A log in memory. The core has the entries anyway.
struct InMemory;

impl LogStore for InMemory {
    fn persist(&mut self, write: raft::Write) -> Result<Durable, PersistError> {
        Ok(write.durable())
    }
}

/// The inboxes of all nodes, in the order of their ids.
type Network = OnceLock<Vec<Inbox>>;

struct Memory {
    own: NodeId,
    network: Arc<Network>,
}

impl Memory {
    fn inbox(&self, node: NodeId) -> Option<&Inbox> {
        self.network.get()?.get(node.0 as usize - 1)
    }
}

impl Transport for Memory {
    fn send(&self, message: Message) {
        let to = message.to;
        let is_taken = self.inbox(to).is_some_and(|inbox| inbox.try_message(message));
        if let (false, Some(own)) = (is_taken, self.inbox(self.own)) {
            own.unreachable(to);
        }
    }

    fn send_snapshot(&self, offer: SnapshotOffer, _state: Box<dyn Read + Send>) {
        // No node falls behind that far. If one does, its leader goes on without it.
        if let Some(own) = self.inbox(self.own) {
            let status = SnapshotStatus::Failed { resumed_at: 0 };
            own.snapshot_sent(offer.to, offer.snapshot.last, status);
        }
    }

    fn set_members(&self, _membership: &Membership) {}
}

/// Counts commands.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Frozen = Counted;

    fn apply(&mut self, _at: ApplyContext, _command: Bytes) -> Bytes {
        self.0 += 1;
        Bytes::new()
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn freeze(&self) -> Counted {
        Counted(self.0)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// The state of a [`Counter`] at one moment.
struct Counted(u64);

impl Frozen for Counted {
    fn write(&self, to: &mut dyn io::Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}
