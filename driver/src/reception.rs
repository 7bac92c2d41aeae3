//! The reception of one snapshot from a peer.
//!
//! If a transfer breaks, what has arrived is kept, and a later offer of the same snapshot continues
//! after it, also one of another sender: two snapshots with the same description hold the same
//! state, and the checksums of the part are compared. A store may keep the part when the node
//! ends. At most one unfinished snapshot is kept. It is removed by the next reception that begins
//! anew, and once the node has committed what it covers.

use crate::error::OfferError;
use crate::messages::PeerSnapshot;
use crate::report::report;
use crate::snapshot_store::{Prefix, SnapshotSink, SnapshotStore, Unfinished};
use raft::{Index, ReceiveSnapshot, Snapshot};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::OwnedPermit;

/// The state that the receptions of a node share. A clone is another handle to it.
#[derive(Clone, Default)]
pub(crate) struct Receptions {
    /// Whether a snapshot is being received. Only one is received at a time.
    busy: Arc<AtomicBool>,
    unfinished: Arc<Mutex<Option<Unfinished>>>,
    failures: Arc<Mutex<Failures>>,
}

/// The snapshots of a leader that could not be stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    /// Their number since the start.
    pub count: u64,
    /// Why the last one could not, until one is stored or none is needed any more.
    pub latest: Option<Arc<str>>,
}

impl Receptions {
    /// Begins with what an earlier process has received. Blocks.
    pub fn of(store: &dyn SnapshotStore) -> Self {
        let receptions = Receptions::default();
        match store.unfinished() {
            Ok(left) => *receptions.unfinished() = left,
            Err(error) => report(|| {
                tracing::warn!(%error, "a snapshot that was received in part cannot be read");
            }),
        }
        receptions
    }

    fn unfinished(&self) -> MutexGuard<'_, Option<Unfinished>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures_mut(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshots that could not be stored.
    pub fn failures(&self) -> Failures {
        self.failures_mut().clone()
    }

    /// A snapshot is stored, or none is needed any more.
    pub fn forget_failure(&self) {
        self.failures_mut().latest = None;
    }

    /// Counts it if a snapshot could not be stored.
    fn counted<T>(&self, stored: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &stored {
            let mut failures = self.failures_mut();
            failures.count += 1;
            failures.latest = Some(error.to_string().into());
        }
        stored
    }

    /// The part of a snapshot that an earlier transfer has left.
    pub fn prefix(&self, snapshot: &Snapshot) -> Prefix {
        match &*self.unfinished() {
            Some(unfinished) if unfinished.snapshot == *snapshot => unfinished.prefix,
            _ => Prefix::default(),
        }
    }

    /// Removes and returns the part that was left of a snapshot whose entries are committed here up
    /// to `commit`: it is not needed any more.
    pub fn unneeded(&self, commit: Index) -> Option<Box<dyn SnapshotSink>> {
        let mut unfinished = self.unfinished();
        let is_unneeded = |left: &Unfinished| left.snapshot.last.index <= commit;
        unfinished.take_if(|left| is_unneeded(left)).map(|left| left.sink)
    }

    /// Begins a reception that continues after `start`. `start` must be what
    /// [`Receptions::prefix`] has returned, or empty to begin anew. `core` takes the snapshot.
    pub fn begin(
        &self,
        order: Box<ReceiveSnapshot>,
        start: Prefix,
        store: Arc<dyn SnapshotStore>,
        core: OwnedPermit<PeerSnapshot>,
    ) -> Result<Reception, OfferError> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(OfferError::Busy);
        }
        let turn = Turn(self.busy.clone());
        let left = self.unfinished().take();
        let sink = match left {
            Some(left) if left.prefix == start && left.snapshot == *order.snapshot() => {
                Some(left.sink)
            }
            _ => None,
        };
        if start != Prefix::default() && sink.is_none() {
            return Err(OfferError::Gone);
        }
        Ok(Reception {
            unfinished: Some((order, core)),
            store,
            sink,
            prefix: start,
            receptions: self.clone(),
            _turn: turn,
        })
    }
}

/// A snapshot that is being received. Writing blocks. If it is dropped before
/// [`Reception::finish`], a later offer may continue it.
pub struct Reception {
    /// The order of the core, and the place in the core's queue for its result. `None` only once it
    /// is finished.
    unfinished: Option<(Box<ReceiveSnapshot>, OwnedPermit<PeerSnapshot>)>,
    store: Arc<dyn SnapshotStore>,
    /// Opened at the first write, since opening may block.
    sink: Option<Box<dyn SnapshotSink>>,
    prefix: Prefix,
    receptions: Receptions,
    _turn: Turn,
}

/// The right to receive a snapshot, which only one reception has at a time.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Reception {
    /// The part that has been written so far, including by earlier transfers.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    fn open(&mut self) -> io::Result<Box<dyn SnapshotSink>> {
        match (self.sink.take(), &self.unfinished) {
            (Some(sink), _) => Ok(sink),
            (None, Some((order, _))) => self.store.receive(order.snapshot()),
            (None, None) => Err(io::Error::other("the reception has ended")),
        }
    }

    /// Writes the next bytes of the state. Blocks. After an error nothing is kept.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let opened = self.open();
        let mut sink = self.receptions.counted(opened)?;
        let written = sink.write_all(bytes);
        if let Err(error) = self.receptions.counted(written) {
            sink.discard();
            return Err(error);
        }
        self.prefix.add(bytes);
        self.sink = Some(sink);
        Ok(())
    }

    /// Makes the snapshot durable after all its bytes were written, reads it back to verify it,
    /// since the log is reset to it next, and passes it to the core. Blocks, for a large snapshot
    /// for minutes. It does all of it even if the sender gives up meanwhile. An error also if the
    /// node has stopped.
    pub fn finish(mut self) -> io::Result<()> {
        let stored = self.store_all();
        let (order, core) = self.receptions.counted(stored)?;
        self.receptions.forget_failure();
        let core = core.send(PeerSnapshot::Received(Box::new(order.durable())));
        match core.is_closed() {
            true => Err(io::Error::other("this node is stopping")),
            false => Ok(()),
        }
    }

    fn store_all(&mut self) -> io::Result<(Box<ReceiveSnapshot>, OwnedPermit<PeerSnapshot>)> {
        self.open()?.finish()?;
        let (order, core) = self.unfinished.take().ok_or(io::ErrorKind::Other)?;
        io::copy(&mut self.store.open(order.snapshot().last)?, &mut io::sink())?;
        Ok((order, core))
    }

    /// Removes what has been written: it is not a prefix of the snapshot.
    pub fn discard(mut self) {
        if let Some(sink) = self.sink.take() {
            sink.discard();
        }
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        if let (Some(sink), Some((order, _))) = (self.sink.take(), &self.unfinished) {
            let snapshot = order.snapshot().clone();
            *self.receptions.unfinished() =
                Some(Unfinished { snapshot, prefix: self.prefix, sink });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Incarnation, LogId, Membership, NodeId};

    struct Sink;

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl SnapshotSink for Sink {
        fn finish(self: Box<Self>) -> io::Result<()> {
            Ok(())
        }
    }

    /// It stores and reads back nothing, or finds no room.
    struct Store {
        is_full: bool,
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl SnapshotSink for Full {
        fn finish(self: Box<Self>) -> io::Result<()> {
            Ok(())
        }
    }

    impl SnapshotStore for Store {
        fn create(&self, _snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
            unreachable!("no snapshot is taken")
        }

        fn receive(&self, _snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
            if self.is_full { Ok(Box::new(Full)) } else { Ok(Box::new(Sink)) }
        }

        fn unfinished(&self) -> io::Result<Option<Unfinished>> {
            Ok(None)
        }

        fn open(&self, _id: LogId) -> io::Result<Box<dyn io::Read + Send>> {
            Ok(Box::new(io::empty()))
        }

        fn remove_before(&self, _id: LogId, _kept: &[LogId]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_snapshot_that_cannot_be_stored_is_counted_and_the_reason_stands_until_one_is() {
        let receptions = Receptions::default();
        let (core, _received) = tokio::sync::mpsc::channel(8);
        let member = |id| raft::Member {
            incarnation: Incarnation(id),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = [1, 2].map(|id| (NodeId(id), member(id)));
        let membership = Membership::of_voters(members.into());
        let restored = raft::Restored::initial(Snapshot::initial(membership.clone()));
        let config = raft::Config::new(NodeId(1), Incarnation(1), 1);
        let mut node = raft::RawNode::new(config, restored).unwrap();
        let snapshot = Snapshot { last: LogId::new(5, 1), ..Snapshot::initial(membership) };
        let (from, to, term, incarnation) = (NodeId(2), NodeId(1), raft::Term(1), Incarnation(2));
        let offer = raft::SnapshotOffer { from, to, term, incarnation, snapshot };
        let mut begin = |is_full| {
            let permit = core.clone().try_reserve_owned().unwrap();
            let order = Box::new(node.accept(offer.clone()).unwrap());
            let store = Arc::new(Store { is_full });
            receptions.begin(order, Prefix::default(), store, permit).unwrap()
        };
        for failed in 1..=2 {
            assert!(begin(true).write(b"state").is_err());
            let failures = receptions.failures();
            assert_eq!(failures.count, failed);
            assert!(failures.latest.unwrap().contains("space"));
        }
        let mut reception = begin(false);
        reception.write(b"state").unwrap();
        reception.finish().unwrap();
        let failures = receptions.failures();
        assert_eq!((failures.count, failures.latest), (2, None));
    }

    #[test]
    fn a_part_is_unneeded_once_the_log_has_what_it_covers() {
        let receptions = Receptions::default();
        assert!(receptions.unneeded(Index(9)).is_none());
        let mut snapshot = Snapshot::initial(Membership::default());
        snapshot.last = LogId::new(7, 2);
        let prefix = Prefix { bytes: 5, checksum: 1 };
        let part = Unfinished { snapshot: snapshot.clone(), prefix, sink: Box::new(Sink) };
        *receptions.unfinished() = Some(part);
        assert!(receptions.unneeded(Index(6)).is_none());
        assert_eq!(receptions.prefix(&snapshot), prefix);
        assert!(receptions.unneeded(Index(7)).is_some());
        assert_eq!(receptions.prefix(&snapshot), Prefix::default());
    }
}
