//! openraft next to `driver`: a raft library on tokio, with its log and its network as traits.
//!
//! Three nodes in one process. Their log is a queue in memory, a write is durable at once, and a
//! request to a peer is a direct call of its node. Each client proposes its next command when the
//! last one is applied.
//!
//! Comparable: the runtime, the clients, the values, a state machine that only counts, when a
//! snapshot is taken and which entries stay behind it. No bytes of a value are copied, and no
//! message is encoded.
//!
//! Not comparable: each node of ours has a thread that writes and one that applies, so that a slow
//! disk does not stop the core. With openraft that is up to the host, and this one writes and
//! applies in the tasks of openraft. One client waits for the threads to be woken, which costs more
//! than the work itself. Our driver also keeps sessions, clocks and limits on what waits. The
//! timeouts of openraft are longer than its defaults, so that a busy machine causes no election and
//! no repeated request.

use crate::allocations;
use crate::cluster;
use crate::layers::driver::load;
use crate::rounds::{Contestant, Error, Sample, Span};
use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Config, EntryPayload, LogState, RaftLogReader, RaftNetwork, RaftNetworkFactory,
    RaftSnapshotBuilder, ServerState, Snapshot, SnapshotMeta, SnapshotPolicy, StoredMembership,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

openraft::declare_raft_types!(
    /// The types of this cluster.
    Types: D = Bytes, R = ()
);

type Entry = openraft::Entry<Types>;
type LogId = openraft::LogId<u64>;
type Raft = openraft::Raft<Types>;
type StorageError = openraft::StorageError<u64>;
type Vote = openraft::Vote<u64>;

/// How long a follower waits for what the leader has committed, at most.
const CATCH_UP: Duration = Duration::from_secs(10);

/// openraft in the setting of `driver`.
pub fn contestant<'a>(
    clients: u64,
    setting: String,
    value: &'a Bytes,
    runtime: &'a Runtime,
) -> Contestant<'a> {
    let measure = move |span| runtime.block_on(sample(span, clients, value));
    Contestant { system: "openraft", setting, measure: Box::new(measure) }
}

async fn sample(span: Span, clients: u64, value: &Bytes) -> Result<Sample, Error> {
    let counts = Arc::new(Counts::default());
    let nodes = start(&counts).await?;
    let leader = nodes[0].raft.clone();
    let (messages, writes) = (counts.messages.load(Relaxed), counts.writes.load(Relaxed));
    let allocations = allocations::count();
    let (operations, seconds) = load(span, clients, |turns| {
        let (leader, value) = (leader.clone(), value.clone());
        async move {
            while turns.goes_on() {
                leader.client_write(value.clone()).await.expect("it keeps leading");
                turns.done();
            }
        }
    })
    .await?;
    let each = |name, count: u64| (name, count as f64 / operations);
    let sample = vec![
        ("proposals/s", operations / seconds),
        each("messages/op", counts.messages.load(Relaxed) - messages),
        each("writes/op", counts.writes.load(Relaxed) - writes),
        each("allocations/op", allocations::count() - allocations),
    ];
    check(&nodes, operations as u64, value).await?;
    for node in &nodes {
        node.raft.shutdown().await?;
    }
    Ok(sample)
}

/// Checks that each node has applied each command.
async fn check(nodes: &[Node], operations: u64, value: &Bytes) -> Result<(), Error> {
    let last = nodes[0].raft.metrics().borrow().last_applied;
    let all = Applied { commands: operations, bytes: operations * value.len() as u64 };
    for node in nodes {
        let wait = node.raft.wait(Some(CATCH_UP));
        wait.applied_index_at_least(last.map(|last| last.index), "as the leader").await?;
        assert_eq!(lock(&node.machine.0).applied, all, "a node applies each command once");
    }
    Ok(())
}

struct Node {
    raft: Raft,
    machine: Machine,
}

/// The totals of all nodes.
#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    writes: AtomicU64,
}

/// Starts three nodes. The first one campaigns at once.
async fn start(counts: &Arc<Counts>) -> Result<Vec<Node>, Error> {
    let config = Arc::new(config().validate()?);
    let peers: Arc<OnceLock<Vec<Raft>>> = Arc::default();
    let mut nodes = Vec::new();
    for id in cluster::IDS {
        let network = Network { peers: peers.clone(), counts: counts.clone() };
        let log = Log { log: Arc::default(), counts: counts.clone() };
        let machine = Machine::default();
        let raft = Raft::new(id.0, config.clone(), network, log, machine.clone()).await?;
        nodes.push(Node { raft, machine });
    }
    let all = nodes.iter().map(|node| node.raft.clone()).collect();
    assert!(peers.set(all).is_ok(), "they are set once");
    let members: BTreeMap<u64, BasicNode> =
        cluster::IDS.iter().map(|id| (id.0, BasicNode::default())).collect();
    nodes[0].raft.initialize(members).await?;
    nodes[0].raft.wait(Some(CATCH_UP)).state(ServerState::Leader, "it leads").await?;
    // It has a quorum, and what it had to commit itself is committed.
    nodes[0].raft.ensure_linearizable().await?;
    Ok(nodes)
}

/// The settings of a node. Where both have a setting, it is that of this project.
fn config() -> Config {
    let own = cluster::config(cluster::IDS[0]);
    // The limits are in entries here. Those of this project are in bytes, and these are the entries
    // with values of 256 bytes.
    let entries = |bytes: usize| bytes as u64 / 256;
    Config {
        cluster_name: "bench".into(),
        // A busy machine may delay the leader, and an election is not what is measured.
        election_timeout_min: 5_000,
        election_timeout_max: 10_000,
        // This is also the timeout of an append.
        heartbeat_interval: 500,
        max_payload_entries: entries(own.append_bytes_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(entries(own.snapshot_log_bytes)),
        max_in_snapshot_log_to_keep: entries(own.retained_bytes),
        purge_batch_size: 1024,
        // A peer that is behind gets entries, and no snapshot.
        replication_lag_threshold: u64::MAX,
        ..Config::default()
    }
}

/// The lock is held for a few moves only, none of which panics.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log in memory.
#[derive(Clone)]
struct Log {
    log: Arc<Mutex<Stored>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Stored {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// The entries after `purged`, contiguous.
    entries: VecDeque<Entry>,
}

impl Stored {
    /// The index of the first entry, or of the one that comes next.
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// The place of an index in `entries`, or the nearest one.
    fn place(&self, index: u64) -> usize {
        // The log is in memory, so a number of entries fits.
        (index.saturating_sub(self.first()) as usize).min(self.entries.len())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let log = lock(&self.log);
        let start = match range.start_bound() {
            Bound::Included(start) => log.place(*start),
            Bound::Excluded(before) => log.place(before + 1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => log.place(last + 1),
            Bound::Excluded(end) => log.place(*end),
            Bound::Unbounded => log.entries.len(),
        };
        Ok(log.entries.range(start..end.max(start)).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let log = lock(&self.log);
        let last_log_id = log.entries.back().map(|entry| entry.log_id).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        lock(&self.log).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(lock(&self.log).vote)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        lock(&self.log).entries.extend(entries);
        self.counts.writes.fetch_add(1, Relaxed);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let mut log = lock(&self.log);
        let kept = log.place(since.index);
        log.entries.truncate(kept);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut log = lock(&self.log);
        let purged = log.place(upto.index + 1);
        log.entries.drain(..purged);
        log.purged = Some(upto);
        Ok(())
    }
}

/// Counts commands.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    applied: Applied,
    last: Option<LogId>,
    membership: StoredMembership<u64, BasicNode>,
}

/// The commands that a node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Applied {
    commands: u64,
    bytes: u64,
}

impl Machine {
    /// A snapshot without data: no node installs one, see [`config`].
    fn snapshot(&self) -> Snapshot<Types> {
        let State { last, membership, .. } = lock(&self.0).clone();
        let snapshot_id = last.map_or(String::new(), |last| last.to_string());
        let meta = SnapshotMeta { last_log_id: last, last_membership: membership, snapshot_id };
        Snapshot { meta, snapshot: Box::default() }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembership<u64, BasicNode>), StorageError> {
        let state = lock(&self.0);
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut state = lock(&self.0);
        let mut answers = Vec::new();
        for entry in entries {
            state.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(command) => {
                    state.applied.commands += 1;
                    state.applied.bytes += command.len() as u64;
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        panic!("no node falls behind that far")
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, BasicNode>,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        panic!("no node falls behind that far")
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        // A start without a snapshot is the only one here.
        Ok(None)
    }
}

/// A network of direct calls.
struct Network {
    peers: Arc<OnceLock<Vec<Raft>>>,
    counts: Arc<Counts>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Peer {
        Peer { target, peers: self.peers.clone(), counts: self.counts.clone() }
    }
}

/// The way to one node.
struct Peer {
    target: u64,
    peers: Arc<OnceLock<Vec<Raft>>>,
    counts: Arc<Counts>,
}

impl Peer {
    /// The node. A request and its reply are two messages.
    fn call(&self) -> &Raft {
        self.counts.messages.fetch_add(2, Relaxed);
        let peers = self.peers.get().expect("no node calls another before all are there");
        &peers[self.target as usize - 1]
    }
}

/// The error of a request, which has its own type of errors.
type Failed<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        Ok(self.call().append_entries(request).await.expect("the node runs"))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed> {
        Ok(self.call().vote(request).await.expect("the node runs"))
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        panic!("no node falls behind that far")
    }
}
