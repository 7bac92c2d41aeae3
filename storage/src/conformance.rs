//! A conformance kit for log stores: does an implementation of [`LogStore`] keep its promises?
//!
//! The kit drives a real core, so the writes are those of the protocol: votes, appends, a tail that
//! is replaced, compactions, a log that is replaced by a leader's snapshot. Between them it cuts
//! the power, starts again, and compares what is restored with what was acknowledged.
//!
//! It measures no speed. It does not damage what was synced either: what a store reports of that is
//! its own affair.

use crate::{LogStore, PersistError};
use bytes::Bytes;
use raft::{
    Action, Body, CommandNumber, Config, Entry, HardState, Incarnation, Index, LeaseConfig, LogId,
    LogStart, LogTime, Member, Membership, Message, NodeId, Now, Payload, RawNode, Restored, Round,
    Snapshot, SnapshotOffer, TakeSnapshot, Term, Write,
};
use std::time::Duration;

/// The node whose log is stored. Its peers are 2, which sends everything, and 3.
const NODE: NodeId = NodeId(1);
const LEADER: NodeId = NodeId(2);

/// How a store under test starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// On an empty medium. The log of a new node begins with `Snapshot::initial(membership())`; see
    /// [`membership`].
    New,
    /// On the medium of the store before, which has been dropped, after a power failure: everything
    /// that was not synced is lost.
    PowerFailure,
    /// Like `PowerFailure`. When the store has started, the next sync of a file fails, once. What
    /// it should have synced is lost at the next power failure.
    SyncFails,
}

/// The membership of the kit's cluster: node 1, whose log is under test, and the nodes 2 and 3. The
/// incarnation of each is its number.
pub fn membership() -> Membership {
    let member = |id| Member {
        incarnation: Incarnation(id),
        peer_address: format!("peer{id}:9080"),
        client_address: format!("client{id}:8080"),
    };
    Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))).collect())
}

/// Tests a log store. `open` starts it and returns what it has restored.
///
/// ```
/// use raft::{Incarnation, NodeId};
/// use storage::testing::conformance::{Start, log_store, membership};
/// use storage::testing::{SectorFate, MemDisk, DiskOperation, DiskVerdict};
/// use storage::{ClusterId, Directory, LogConfig};
///
/// let mut disk = MemDisk::new();
/// log_store(|start| {
///     match start {
///         Start::New => disk = MemDisk::new(),
///         _ => disk.crash(|_| SectorFate::Lost),
///     }
///     disk.clear_faults();
///     let mut config = LogConfig::default();
///     config.background = false;
///     let member = match Directory::open(disk.clone(), config).unwrap().0 {
///         Directory::Member(member) => member,
///         Directory::Unclaimed(unclaimed) => unclaimed
///             .announce(NodeId(1), Incarnation(1), &[NodeId(1), NodeId(2), NodeId(3)])
///             .unwrap()
///             .join(ClusterId(1), membership())
///             .unwrap(),
///     };
///     if start == Start::SyncFails {
///         let mut failed = false;
///         disk.set_faults(Box::new(move |operation| match operation {
///             DiskOperation::Sync { .. } if !failed => {
///                 failed = true;
///                 DiskVerdict::FailsAndForgets
///             }
///             _ => DiskVerdict::Done,
///         }));
///     }
///     member.into_log()
/// });
/// ```
///
/// # Panics
///
/// If the store breaks a promise. The message says which, and at which step of which story.
pub fn log_store<L: LogStore>(mut open: impl FnMut(Start) -> (L, Restored)) {
    let open: &mut dyn FnMut(Start) -> (L, Restored) = &mut open;
    votes(&mut Kit::new("votes", open));
    appends(&mut Kit::new("appends", open));
    replaced_tail(&mut Kit::new("a tail that is replaced", open));
    compaction(&mut Kit::new("a compaction", open));
    reset(&mut Kit::new("a log that a snapshot replaces", open));
    many_starts(&mut Kit::new("many starts", open));
    failed_sync(&mut Kit::new("a sync that fails", open));
}

// The stories.

fn votes<L: LogStore>(kit: &mut Kit<'_, L>) {
    kit.cut_power("nothing was written yet");
    kit.receive(5, Body::Vote { last: LogId::ZERO, transfer: false });
    kit.cut_power("a vote was granted");
    kit.append(6, LogId::ZERO, vec![], 0);
    kit.cut_power("a later term was entered, without a vote");
    kit.receive(7, Body::Vote { last: LogId::ZERO, transfer: true });
    kit.cut_power("a vote was granted in that term");
}

fn appends<L: LogStore>(kit: &mut Kit<'_, L>) {
    let payloads = vec![
        Payload::NoOp,
        Payload::Command(Bytes::new()),
        Payload::Command(Bytes::from_static(b"\x00\xff")),
        Payload::Clock,
        Payload::Membership(Box::new(membership())),
        Payload::Command(Bytes::from_iter((0..100_000_u32).map(|n| (n % 251) as u8))),
        Payload::Command(Bytes::from(vec![0; 5_000])),
    ];
    let mut number = 0;
    let entries = (1..).zip(payloads).map(|(index, payload)| {
        let entry = Entry {
            id: LogId::new(index, 1),
            time: LogTime(1_000 + index),
            number: CommandNumber(number),
            payload,
        };
        number = entry.number_after().0;
        entry
    });
    kit.append(1, LogId::ZERO, entries.collect(), 0);
    kit.cut_power("entries of all kinds were acknowledged");
    kit.append(1, LogId::new(7, 1), commands(8, 8, 1), 0);
    kit.cut_power("one more was");
}

fn replaced_tail<L: LogStore>(kit: &mut Kit<'_, L>) {
    kit.append(1, LogId::ZERO, commands(1, 10, 1), 0);
    kit.append(2, LogId::new(4, 1), commands(5, 5, 2), 0);
    kit.cut_power("one entry replaced six");
    kit.append(2, LogId::new(5, 2), commands(6, 9, 2), 0);
    kit.append(3, LogId::new(8, 2), commands(9, 12, 3), 0);
    kit.cut_power("the last entry was replaced, and more appended");
    kit.append(4, LogId::ZERO, commands(1, 3, 4), 0);
    kit.cut_power("the whole log was replaced by a shorter one");
}

fn compaction<L: LogStore>(kit: &mut Kit<'_, L>) {
    kit.snapshots = true;
    kit.append(1, LogId::ZERO, commands(1, 10, 1), 8);
    assert_eq!(kit.model.snapshot.last, LogId::new(8, 1), "the kit's core compacts");
    kit.cut_power("the log was compacted up to the last but two");
    kit.hold = true;
    kit.append(1, LogId::new(10, 1), vec![], 10);
    let order = kit.held.take().expect("a snapshot is due");
    kit.hold = false;
    kit.node.compact(Now::default(), order.durable());
    kit.append(1, LogId::new(10, 1), commands(11, 13, 1), 10);
    assert_eq!(kit.model.snapshot.last, LogId::new(10, 1), "the kit's core compacts");
    kit.cut_power("one write compacted the whole log and appended to it");
    kit.append(1, LogId::new(13, 1), commands(14, 15, 1), 13);
    kit.append(2, LogId::new(14, 1), commands(15, 16, 2), 13);
    kit.cut_power("a tail was replaced after a compaction");
}

fn reset<L: LogStore>(kit: &mut Kit<'_, L>) {
    kit.append(1, LogId::ZERO, commands(1, 10, 1), 2);
    kit.install(LogId::new(6, 2));
    kit.work();
    kit.cut_power("a snapshot replaced the log, with the entries behind its end");
    kit.append(2, LogId::new(6, 2), commands(7, 8, 2), 6);
    kit.install(LogId::new(20, 2));
    kit.work();
    kit.cut_power("a snapshot ahead of the log replaced it");
    kit.append(2, LogId::new(20, 2), commands(21, 25, 2), 20);
    kit.install(LogId::new(40, 3));
    kit.append(3, LogId::new(40, 3), commands(41, 42, 3), 40);
    kit.cut_power("one write replaced the log by a snapshot and appended to it");
}

fn many_starts<L: LogStore>(kit: &mut Kit<'_, L>) {
    let mut last = LogId::ZERO;
    for round in 1..=40 {
        let next = last.index.0 + 1;
        let to = next + round % 7;
        kit.append(round, last, commands(next, to, round), last.index.0);
        last = LogId::new(to, round);
        if round % 3 == 0 {
            kit.cut_power("some entries were acknowledged");
        }
        if round % 10 == 0 {
            kit.cut_power("the node had just started");
        }
    }
}

fn failed_sync<L: LogStore>(kit: &mut Kit<'_, L>) {
    kit.append(1, LogId::ZERO, commands(1, 5, 1), 0);
    kit.start(Start::SyncFails, "some entries were acknowledged");
    let before = kit.model.clone();
    let (first, second) = (kit.write_of(6), kit.write_of(6));
    let mut after = before.clone();
    after.apply(&Planned::of(&first));
    for (write, what) in [(first, "the write"), (second, "a write after it")] {
        match kit.store().persist(write) {
            Ok(_) => kit.fails(&format!("{what} was acknowledged")),
            Err(PersistError::Full { .. }) => kit.fails(&format!("{what} was reported as full")),
            Err(PersistError::Failed { .. }) => {}
        }
    }
    let restored = kit.reopen(Start::PowerFailure);
    if let (Some(difference), Some(_)) =
        (before.differs_from(&restored), after.differs_from(&restored))
    {
        kit.fails(&format!("neither none nor all of the write is there: {difference}"));
    }
}

/// Commands with the indexes from `from` to `to`, of several sizes.
fn commands(from: u64, to: u64, term: u64) -> Vec<Entry> {
    let command = |index| {
        let text = format!("{index}@{term}/").into_bytes();
        let bytes = (index * 379 % 6_000) as usize;
        Entry {
            id: LogId::new(index, term),
            time: LogTime(1_000 + index),
            number: CommandNumber(index - 1),
            payload: Payload::Command(Bytes::from_iter(text.into_iter().cycle().take(bytes))),
        }
    };
    (from..=to).map(command).collect()
}

// The kit.

/// The content of a write, without its receipt.
struct Planned {
    hard_state: HardState,
    log_start: Option<LogStart>,
    entries: Vec<Entry>,
}

impl Planned {
    fn of(write: &Write) -> Self {
        let Write { hard_state, log_start, entries, .. } = write;
        Planned { hard_state: *hard_state, log_start: log_start.clone(), entries: entries.to_vec() }
    }
}

/// The state that a store must restore.
#[derive(Clone, Debug)]
struct Model {
    hard_state: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

impl Model {
    fn apply(&mut self, planned: &Planned) {
        self.hard_state = planned.hard_state;
        match &planned.log_start {
            Some(LogStart::Compact(snapshot)) => {
                self.entries.retain(|entry| entry.id.index > snapshot.last.index);
                self.snapshot = snapshot.clone();
            }
            Some(LogStart::Reset(snapshot)) => {
                self.entries.clear();
                self.snapshot = snapshot.clone();
            }
            None => {}
        }
        if let Some(first) = planned.entries.first() {
            self.entries.retain(|entry| entry.id.index < first.id.index);
        }
        self.entries.extend(planned.entries.iter().cloned());
    }

    /// The first difference between this and what was restored.
    fn differs_from(&self, restored: &Restored) -> Option<String> {
        let Restored { hard_state, snapshot, entries } = restored;
        if *hard_state != self.hard_state {
            return Some(format!("{hard_state:?} instead of {:?}", self.hard_state));
        }
        if *snapshot != self.snapshot {
            return Some(format!("the log begins after {snapshot:?}, not {:?}", self.snapshot));
        }
        let first = entries.iter().zip(&self.entries).find(|(found, expected)| found != expected);
        if let Some((found, expected)) = first {
            let (found, expected) = (brief(found), brief(expected));
            return Some(format!("entry {found} instead of {expected}"));
        }
        let (found, expected) = (entries.len(), self.entries.len());
        (found != expected).then(|| format!("{found} entries instead of {expected}"))
    }
}

fn brief(entry: &Entry) -> String {
    let Entry { id, time, number, payload } = entry;
    let payload: String = format!("{payload:?}").chars().take(60).collect();
    format!("{id} (time {}, number {}, {payload})", time.0, number.0)
}

/// A store under test, the core that orders its writes, and what it has acknowledged.
struct Kit<'a, L> {
    story: &'static str,
    open: &'a mut dyn FnMut(Start) -> (L, Restored),
    store: Option<L>,
    node: RawNode,
    model: Model,
    starts: u64,
    /// Whether the core orders a snapshot after each apply, and whether that order is held back.
    snapshots: bool,
    hold: bool,
    held: Option<TakeSnapshot>,
}

impl<'a, L: LogStore> Kit<'a, L> {
    fn new(story: &'static str, open: &'a mut dyn FnMut(Start) -> (L, Restored)) -> Self {
        let (store, restored) = open(Start::New);
        let initial = Restored::initial(Snapshot::initial(membership()));
        let model = Model {
            hard_state: initial.hard_state,
            snapshot: initial.snapshot,
            entries: initial.entries,
        };
        let node = node(1, restored.clone());
        let (store, starts) = (Some(store), 1);
        let (snapshots, hold, held) = (false, false, None);
        let kit = Kit { story, open, store, node, model, starts, snapshots, hold, held };
        kit.compare(&restored, "the store is new");
        kit
    }

    fn fails(&self, what: &str) -> ! {
        panic!("the log store breaks a promise, in the story of {}: {what}", self.story)
    }

    fn compare(&self, restored: &Restored, before: &str) {
        if let Some(difference) = self.model.differs_from(restored) {
            self.fails(&format!("{before}, and a start restores {difference}"));
        }
    }

    fn store(&mut self) -> &mut L {
        self.store.as_mut().expect("it is open")
    }

    fn reopen(&mut self, start: Start) -> Restored {
        self.store = None;
        let (store, restored) = (self.open)(start);
        self.store = Some(store);
        restored
    }

    /// Cuts the power, starts again, and compares. `before` says what came before.
    fn cut_power(&mut self, before: &str) {
        self.start(Start::PowerFailure, before);
    }

    fn start(&mut self, start: Start, before: &str) {
        let restored = self.reopen(start);
        self.compare(&restored, before);
        self.starts += 1;
        self.node = node(self.starts, restored);
    }

    /// The leader of `term` sends a message, and the core's writes are made durable.
    fn receive(&mut self, term: u64, body: Body) {
        let (term, incarnation) = (Term(term), Incarnation(LEADER.0));
        let message = Message { from: LEADER, to: NODE, term, incarnation, body };
        self.node.step(Now::default(), message);
        self.work();
    }

    fn append(&mut self, term: u64, prev: LogId, entries: Vec<Entry>, commit: u64) {
        let (commit, time) = (Index(commit), LogTime(2_000));
        let entries = entries.into();
        self.receive(term, Body::Append { prev, entries, commit, round: Round(1), time });
    }

    /// A leader's snapshot has been received. The core's writes are left for later.
    fn install(&mut self, last: LogId) {
        let snapshot = Snapshot {
            last,
            time: LogTime(1_000 + last.index.0),
            number: CommandNumber(last.index.0),
            membership: membership().into(),
            membership_index: last.index,
            hash: Some(77),
        };
        let (term, incarnation) = (last.term, Incarnation(LEADER.0));
        let offer = SnapshotOffer { from: LEADER, to: NODE, term, incarnation, snapshot };
        let order = self.node.accept(offer).expect("the kit's core needs it");
        self.node.install(Now::default(), order.durable());
    }

    /// A write that appends entry `index`, of a copy of the core.
    fn write_of(&mut self, index: u64) -> Write {
        let Model { hard_state, snapshot, entries } = self.model.clone();
        let prev = entries.last().map_or(snapshot.last, |entry| entry.id);
        self.starts += 1;
        let mut node = node(self.starts, Restored { hard_state, snapshot, entries });
        let (term, incarnation) = (prev.term, Incarnation(LEADER.0));
        let body = Body::Append {
            prev,
            entries: commands(index, index + 2, term.0).into(),
            commit: Index(0),
            round: Round(1),
            time: LogTime(2_000),
        };
        node.step(Now::default(), Message { from: LEADER, to: NODE, term, incarnation, body });
        match node.poll() {
            Some(Action::Persist(write)) => write,
            other => unreachable!("a write is due before anything else: {other:?}"),
        }
    }

    /// Carries out what the core orders, until it orders nothing more.
    fn work(&mut self) {
        while let Some(action) = self.node.poll() {
            let now = Now::default();
            match action {
                Action::Persist(write) => self.persist(write),
                Action::Apply(order) => self.node.applied(now, order.applied()),
                Action::Restore(order) => self.node.applied(now, order.restored()),
                Action::TakeSnapshot(order) if self.hold => self.held = Some(order),
                Action::TakeSnapshot(order) if self.snapshots => {
                    self.node.compact(now, order.durable());
                }
                Action::TakeSnapshot(order) => self.node.compact(now, order.failed()),
                _ => {}
            }
        }
    }

    fn persist(&mut self, write: Write) {
        let planned = Planned::of(&write);
        match self.store().persist(write) {
            Ok(done) => self.node.persisted(Now::default(), done),
            Err(error) => self.fails(&format!("a write is not durable: {error}")),
        }
        self.model.apply(&planned);
        if self.node.status().counters.stale_receipts > 0 {
            self.fails("the receipt is not the one of the write");
        }
    }
}

fn node(start_nonce: u64, restored: Restored) -> RawNode {
    let mut config = Config::new(NODE, Incarnation(NODE.0), start_nonce);
    config.snapshot_log_bytes = 1;
    // The hard state then has a promise, too.
    config.lease = Some(LeaseConfig { tick: Duration::from_millis(10), drift_ppm: 1_000 });
    match RawNode::new(config, restored) {
        Ok(node) => node,
        Err(error) => panic!("the log store restores a state that no core has: {error}"),
    }
}
