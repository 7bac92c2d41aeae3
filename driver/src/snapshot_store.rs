//! Where snapshots are stored: the interface of the driver to the user's store, and its
//! implementation by the library's own.

use raft::{LogId, Snapshot};
use std::io::{self, Read, Write};
use storage::Disk;

/// Stores snapshots. Implemented by `storage::Snapshots`.
///
/// All calls may run at the same time: one thread writes this node's own snapshot and removes old
/// ones, while the transport receives a snapshot and reads others to send them. The conformance kit
/// for it is `driver::testing::snapshot_store`, with the feature `testing`.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Begins a snapshot. If there is one with the same `last`, the new one replaces it at
    /// [`SnapshotSink::finish`]. Any error counts as a failed snapshot, which is tried again later.
    /// Blocks.
    fn create(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>>;
    /// As `create`, for a snapshot that a peer sends. What was written may stay if the sink is
    /// dropped, or if the process ends, for [`SnapshotStore::unfinished`]. By default it does not.
    /// Blocks.
    fn receive(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
        self.create(snapshot)
    }
    /// The part of a snapshot that this node had received before it was started, verified. Called
    /// once, before any `receive`. By default there is none. Blocks.
    fn unfinished(&self) -> io::Result<Option<Unfinished>> {
        Ok(None)
    }
    /// Opens a snapshot to read its verified state. If the snapshot is missing, the error's kind is
    /// `NotFound`. If it is damaged, the kind is `InvalidData`, here or in a later read. Blocks.
    fn open(&self, id: LogId) -> io::Result<Box<dyn Read + Send>>;
    /// Removes the snapshots that are not needed once the durable log begins after `base`: all
    /// except `base`, those in `kept`, and those of a higher index. One that is finished meanwhile
    /// must stay. Blocks.
    fn remove_before(&self, base: LogId, kept: &[LogId]) -> io::Result<()>;
}

/// Receives the state of a snapshot. If it is dropped before `finish`, nothing remains of it,
/// unless it is from [`SnapshotStore::receive`].
/// It receives writes of a few bytes, and should collect them.
pub trait SnapshotSink: Write + Send {
    /// Removes what was written. By default, dropping the sink does that.
    fn discard(self: Box<Self>) {}
    /// Makes the snapshot durable: after this returns it survives a power failure.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl<D: Disk + Sync> SnapshotStore for storage::Snapshots<D> {
    fn create(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(storage::Snapshots::create(self, snapshot)?))
    }

    fn open(&self, id: LogId) -> io::Result<Box<dyn Read + Send>> {
        let reader = storage::Snapshots::open(self, id)?;
        Ok(Box::new(reader))
    }

    fn receive(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(storage::Snapshots::receive(self, snapshot)?))
    }

    fn unfinished(&self) -> io::Result<Option<Unfinished>> {
        let part = storage::Snapshots::unfinished(self)?;
        Ok(part.map(|storage::Part { snapshot, bytes, checksum, writer }| Unfinished {
            snapshot,
            prefix: Prefix { bytes, checksum },
            sink: Box::new(writer),
        }))
    }

    fn remove_before(&self, base: LogId, kept: &[LogId]) -> io::Result<()> {
        storage::Snapshots::remove_before(self, base, kept)
    }
}

impl<D: Disk> SnapshotSink for storage::SnapshotWriter<D> {
    fn discard(self: Box<Self>) {
        storage::SnapshotWriter::discard(*self);
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        storage::SnapshotWriter::finish(*self)
    }
}

/// The first bytes of a snapshot's state. Two equal prefixes are taken to be the same bytes; the
/// transport compares the checksum of the whole state at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The number of bytes.
    pub bytes: u64,
    /// Their CRC-32C.
    pub checksum: u32,
}

impl Prefix {
    /// Adds the bytes that follow.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
    }
}

/// A snapshot of which only a prefix has arrived.
pub struct Unfinished {
    /// The description of the snapshot.
    pub snapshot: Snapshot,
    /// Length and checksum of the state received so far.
    pub prefix: Prefix,
    /// Takes the bytes that follow.
    pub sink: Box<dyn SnapshotSink>,
}
