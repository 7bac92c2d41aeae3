//! The conformance kits: correct implementations pass, and each planted mistake is found.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use super::{Connected, Peer, SnapshotStart, snapshot_store, transport};
use crate::{Clock, Inbox, Sleep, SnapshotSink, SnapshotStore, Transport};
use raft::{
    Body, Incarnation, LogId, Membership, Message, NodeId, Now, Snapshot, SnapshotOffer,
    SnapshotStatus,
};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::Snapshots;
use storage::testing::{MemDisk, SectorFate};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

// Snapshot stores.

#[test]
fn the_snapshots_of_the_storage_conform() {
    let mut disk = MemDisk::new();
    snapshot_store(|start| {
        match start {
            SnapshotStart::New => disk = MemDisk::new(),
            SnapshotStart::PowerFailure => disk.crash(|_| SectorFate::Lost),
        }
        Snapshots::new(disk.clone()).expect("a disk without faults")
    });
}

/// A mistake of a snapshot store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreMistake {
    None,
    /// `finish` does not sync.
    SyncForgotten,
    /// Bytes that are buffered when `finish` is called are lost.
    LastPieceLost,
    /// Pieces of a snapshot are stored in another order.
    Reordered,
    /// A snapshot can be read while it is written.
    VisibleBeforeFinish,
    /// A snapshot that was given up stays.
    GivenUpStays,
    /// Beginning a snapshot removes the one of the same name.
    BeginReplaces,
    /// A snapshot of a name that is taken is not written.
    FirstOneWins,
    /// A missing snapshot is an empty one.
    MissingIsEmpty,
    /// A missing snapshot is damaged.
    MissingIsDamaged,
    /// Snapshots are named by their index alone.
    NamedByIndex,
    /// All that are written share a file.
    OneFileForAll,
    /// The snapshot that the log begins after is removed.
    BaseRemoved,
    /// Only the snapshot that the log begins after is kept.
    LaterOnesRemoved,
    /// Those that are to be kept are removed too.
    KeptRemoved,
    /// Nothing is removed.
    NothingRemoved,
    /// A snapshot that is being written is removed too.
    UnfinishedRemoved,
}

#[derive(Default)]
struct Files {
    volatile: BTreeMap<LogId, Vec<u8>>,
    durable: BTreeMap<LogId, Vec<u8>>,
    shared: Vec<u8>,
    /// Raised by a removal that takes what is being written with it.
    removals: u64,
}

#[derive(Clone)]
struct NaiveStore {
    mistake: StoreMistake,
    files: Arc<Mutex<Files>>,
}

struct NaiveSink {
    store: NaiveStore,
    id: LogId,
    state: Vec<u8>,
    pieces: usize,
    removals: u64,
    finished: bool,
}

impl SnapshotStore for NaiveStore {
    fn create(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
        let mut id = snapshot.last;
        let mut files = lock(&self.files);
        match self.mistake {
            StoreMistake::NamedByIndex => id.term = raft::Term(0),
            StoreMistake::BeginReplaces => drop(files.volatile.remove(&id)),
            StoreMistake::OneFileForAll => files.shared.clear(),
            _ => {}
        }
        let (store, removals) = (self.clone(), files.removals);
        Ok(Box::new(NaiveSink {
            store,
            id,
            state: Vec::new(),
            pieces: 0,
            removals,
            finished: false,
        }))
    }

    fn open(&self, mut id: LogId) -> io::Result<Box<dyn Read + Send>> {
        if self.mistake == StoreMistake::NamedByIndex {
            id.term = raft::Term(0);
        }
        let found = lock(&self.files).volatile.get(&id).cloned();
        match (found, self.mistake) {
            (Some(state), _) => Ok(Box::new(io::Cursor::new(state))),
            (None, StoreMistake::MissingIsEmpty) => Ok(Box::new(io::empty())),
            (None, StoreMistake::MissingIsDamaged) => Err(io::ErrorKind::InvalidData.into()),
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_before(&self, base: LogId, kept: &[LogId]) -> io::Result<()> {
        let mut files = lock(&self.files);
        let keeps = |id: &LogId| match self.mistake {
            StoreMistake::NothingRemoved => true,
            StoreMistake::BaseRemoved => id.index > base.index,
            StoreMistake::LaterOnesRemoved => *id == base,
            StoreMistake::KeptRemoved => *id == base || id.index > base.index,
            _ => *id == base || id.index > base.index || kept.contains(id),
        };
        files.volatile.retain(|id, _| keeps(id));
        files.durable = files.volatile.clone();
        files.removals += u64::from(self.mistake == StoreMistake::UnfinishedRemoved);
        Ok(())
    }
}

impl Write for NaiveSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pieces += 1;
        match self.store.mistake {
            StoreMistake::Reordered if self.pieces.is_multiple_of(4) => {
                let at = self.state.len() - self.state.len().min(3);
                self.state.splice(at..at, bytes.iter().copied());
            }
            StoreMistake::OneFileForAll => {
                lock(&self.store.files).shared.extend_from_slice(bytes);
            }
            _ => self.state.extend_from_slice(bytes),
        }
        if self.store.mistake == StoreMistake::VisibleBeforeFinish {
            lock(&self.store.files).volatile.insert(self.id, self.state.clone());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for NaiveSink {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let mut files = lock(&self.store.files);
        let mut state = self.state.clone();
        match self.store.mistake {
            StoreMistake::LastPieceLost => state.truncate(state.len() / 4_096 * 4_096),
            StoreMistake::OneFileForAll => state.clone_from(&files.shared),
            StoreMistake::FirstOneWins if files.volatile.contains_key(&self.id) => return Ok(()),
            StoreMistake::UnfinishedRemoved if files.removals > self.removals => return Ok(()),
            _ => {}
        }
        files.volatile.insert(self.id, state.clone());
        if self.store.mistake != StoreMistake::SyncForgotten {
            files.durable.insert(self.id, state);
        }
        drop(files);
        self.finished = true;
        Ok(())
    }
}

impl Drop for NaiveSink {
    fn drop(&mut self) {
        if self.store.mistake == StoreMistake::GivenUpStays && !self.finished {
            let state = std::mem::take(&mut self.state);
            lock(&self.store.files).volatile.insert(self.id, state);
        }
    }
}

fn try_store(mistake: StoreMistake) -> Option<String> {
    let mut files = Arc::<Mutex<Files>>::default();
    let open = |start| {
        match start {
            SnapshotStart::New => files = Arc::default(),
            SnapshotStart::PowerFailure => {
                let mut files = lock(&files);
                files.volatile = files.durable.clone();
            }
        }
        NaiveStore { mistake, files: files.clone() }
    };
    let panic = catch_unwind(AssertUnwindSafe(|| snapshot_store(open))).err()?;
    Some(message_of(panic.as_ref()))
}

#[test]
fn every_planted_mistake_of_a_snapshot_store_is_found() {
    use StoreMistake as Of;
    assert_eq!(try_store(Of::None), None);
    let expected = [
        (Of::SyncForgotten, "it was finished before the power failed"),
        (Of::LastPieceLost, "it was finished, and snapshot"),
        (Of::Reordered, "differs from byte"),
        (Of::VisibleBeforeFinish, "it is being written, and snapshot"),
        (Of::GivenUpStays, "it was given up, and snapshot"),
        (Of::BeginReplaces, "another attempt of its name was given up"),
        (Of::FirstOneWins, "it was taken again"),
        (Of::MissingIsEmpty, "nothing was written, and snapshot"),
        (Of::MissingIsDamaged, "ends with InvalidData, not NotFound"),
        (Of::NamedByIndex, "there is one of this index, of another term"),
        (Of::OneFileForAll, "snapshot"),
        (Of::BaseRemoved, "older ones were removed, and it is kept"),
        (Of::LaterOnesRemoved, "older ones were removed, and it is kept"),
        (Of::KeptRemoved, "older ones were removed, and it is kept"),
        (Of::NothingRemoved, "what is older was removed, and snapshot"),
        (Of::UnfinishedRemoved, "older ones were removed, and it is kept"),
    ];
    for (mistake, what) in expected {
        let found = try_store(mistake).unwrap_or_else(|| panic!("{mistake:?} is not found"));
        assert!(found.contains(what), "{mistake:?}: {found}");
    }
}

// Transports.

/// A mistake of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// Commit indexes are lost on the way.
    CommitLost,
    /// An append carries its first entry only.
    EntriesLost,
    /// Messages carry the incarnation of the receiver.
    IncarnationMixedUp,
    /// Everything goes to the third node.
    Misdelivered,
    /// A message of more than a megabyte is dropped.
    LargeDropped,
    /// Every tenth message is dropped, and the loss is not reported.
    LossNotReported,
    /// A message to a peer that is gone is dropped, and the loss is not reported.
    GoneNotReported,
    /// A node that was removed is not answered.
    RemovedNotAnswered,
    /// No peer is ever connected.
    NeverConnected,
    /// The offer of a snapshot loses its time.
    OfferAltered,
    /// The end of a state is cut off.
    StateCutOff,
    /// The parts of a state arrive in another order.
    StateReordered,
    /// A snapshot counts as delivered once its bytes have been sent.
    DeliveredWhenSent,
    /// A snapshot that is not needed counts as delivered.
    UnneededIsDelivered,
    /// The end of a transfer that failed is not reported.
    FailureNotReported,
    /// The end of a transfer is reported twice.
    ReportedTwice,
    /// An error in reading a state counts as its end.
    ReadErrorIsTheEnd,
}

type Inboxes = Arc<Mutex<BTreeMap<NodeId, Inbox>>>;

/// Carries messages from inbox to inbox.
struct Channels {
    mistake: Mistake,
    node: NodeId,
    own: Inbox,
    inboxes: Inboxes,
    members: Mutex<Membership>,
    sent: Mutex<u64>,
}

impl Channels {
    fn peer(&self, to: NodeId) -> Option<Inbox> {
        let is_member = lock(&self.members).members.contains_key(&to);
        let sends = is_member || self.mistake != Mistake::RemovedNotAnswered;
        lock(&self.inboxes).get(&to).filter(|inbox| sends && !inbox.is_closed()).cloned()
    }
}

impl Transport for Channels {
    fn send(&self, mut message: Message) {
        let to = message.to;
        let mut sent = lock(&self.sent);
        *sent += 1;
        let is_large = match (&mut message.body, self.mistake) {
            (Body::Append { commit, .. }, Mistake::CommitLost) => {
                *commit = raft::Index(0);
                false
            }
            (Body::Append { entries, .. }, Mistake::EntriesLost) => {
                *entries = entries.iter().take(1).cloned().collect();
                false
            }
            (body, _) => body.cost_bytes() > 1 << 20,
        };
        let receiver = match self.mistake {
            Mistake::Misdelivered => NodeId(3),
            Mistake::LargeDropped if is_large => return,
            Mistake::LossNotReported if sent.is_multiple_of(10) => return,
            _ => to,
        };
        if self.mistake == Mistake::IncarnationMixedUp {
            message.incarnation = Incarnation(1_000 + to.0);
        }
        match self.peer(receiver) {
            Some(inbox) if inbox.try_message(message) => {}
            _ if self.mistake == Mistake::GoneNotReported => {}
            _ => self.own.unreachable(to),
        }
    }

    fn send_snapshot(&self, mut offer: SnapshotOffer, mut state: Box<dyn Read + Send>) {
        let (own, peer, mistake) = (self.own.clone(), self.peer(offer.to), self.mistake);
        tokio::spawn(async move {
            let (to, last) = (offer.to, offer.snapshot.last);
            if mistake == Mistake::OfferAltered {
                offer.snapshot.time = Default::default();
            }
            let delivered = async {
                let peer = peer?;
                let reception = peer.offer(offer).await.ok();
                if reception.is_none() && mistake == Mistake::UnneededIsDelivered {
                    return Some(());
                }
                let mut reception = reception?;
                let mut bytes = Vec::new();
                let read = state.read_to_end(&mut bytes);
                if mistake != Mistake::ReadErrorIsTheEnd {
                    read.ok()?;
                }
                match mistake {
                    Mistake::StateCutOff => bytes.truncate(bytes.len() / 1_000 * 1_000 - 1),
                    Mistake::StateReordered => bytes.chunks_mut(100_000).for_each(<[u8]>::reverse),
                    Mistake::DeliveredWhenSent => {
                        own.snapshot_sent(to, last, SnapshotStatus::Delivered);
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                    _ => {}
                }
                reception.write(&bytes).ok()?;
                reception.finish().ok()
            };
            let delivered = delivered.await.is_some();
            match mistake {
                Mistake::FailureNotReported if !delivered => return,
                Mistake::DeliveredWhenSent if delivered => return,
                Mistake::ReportedTwice => {
                    own.snapshot_sent(to, last, SnapshotStatus::of(delivered, 0));
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                _ => {}
            }
            own.snapshot_sent(to, last, SnapshotStatus::of(delivered, 0));
        });
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.mistake != Mistake::NeverConnected && self.peer(peer).is_some()
    }

    fn set_members(&self, membership: &Membership) {
        *lock(&self.members) = membership.clone();
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        lock(&self.inboxes).remove(&self.node);
    }
}

/// The paused clock of a test's runtime, which goes on when everything waits.
struct Paused(tokio::time::Instant);

impl Clock for Paused {
    fn now(&self) -> Now {
        Now { monotonic_ns: self.0.elapsed().as_nanos() as u64, wall_ms: 0 }
    }

    fn sleep(&self, time: std::time::Duration) -> Sleep {
        Box::pin(tokio::time::sleep(time))
    }
}

fn try_transport(mistake: Mistake) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    let connect = |peers: Vec<Peer>| async move {
        let inboxes = Inboxes::default();
        let connected = peers.into_iter().map(|peer| {
            lock(&inboxes).insert(peer.node, peer.inbox.clone());
            let channels = Channels {
                mistake,
                node: peer.node,
                own: peer.inbox,
                inboxes: inboxes.clone(),
                members: Mutex::default(),
                sent: Mutex::default(),
            };
            Connected {
                transport: Arc::new(channels),
                address: format!("{}", peer.node),
                keep: Box::new(()),
            }
        });
        connected.collect()
    };
    let kit = async {
        let clock = Paused(tokio::time::Instant::now());
        transport(&clock, connect).await;
    };
    let panic = catch_unwind(AssertUnwindSafe(|| runtime.block_on(kit))).err()?;
    Some(message_of(panic.as_ref()))
}

#[test]
fn every_planted_mistake_of_a_transport_is_found() {
    assert_eq!(try_transport(Mistake::None), None);
    let expected = [
        (Mistake::CommitLost, "a message arrived that nobody has sent"),
        (Mistake::EntriesLost, "a message arrived that nobody has sent"),
        (Mistake::IncarnationMixedUp, "a message arrived that nobody has sent"),
        (Mistake::Misdelivered, "arrived at"),
        (Mistake::LargeDropped, "a message never arrives"),
        (Mistake::LossNotReported, "of 200 messages were lost, and no loss was reported"),
        (Mistake::GoneNotReported, "messages to a peer that is gone are lost"),
        (Mistake::RemovedNotAnswered, "a message never arrives"),
        (Mistake::NeverConnected, "`is_connected` is false"),
        (Mistake::OfferAltered, "an offer of a snapshot is not the one that was sent"),
        (Mistake::StateCutOff, "arrived, and differ at byte"),
        (Mistake::StateReordered, "arrived, and differ at byte 0"),
        (Mistake::DeliveredWhenSent, "before it was durable"),
        (Mistake::UnneededIsDelivered, "was not needed, and reported as [true]"),
        (Mistake::FailureNotReported, "was not needed, and reported as []"),
        (Mistake::ReportedTwice, "reported as [true, true]"),
        (Mistake::ReadErrorIsTheEnd, "could not be read to its end, and was reported as [true]"),
    ];
    for (mistake, what) in expected {
        let found = try_transport(mistake).unwrap_or_else(|| panic!("{mistake:?} is not found"));
        assert!(found.contains(what), "{mistake:?}: {found}");
    }
}
