//! The log of a simulated node: the library's own, or the log store of a user.

use raft::{Durable, HardState, Restored, Snapshot, Write};
use std::io;
use std::rc::Rc;
use storage::testing::MemDisk;
use storage::{Log, LogStore, PersistError};

/// Opens a user's log store on a disk, and returns what it restored. On an empty disk the log
/// begins after the given snapshot, the one that every log of the cluster begins with.
pub type OpenStore = Rc<dyn Fn(MemDisk, &Snapshot) -> Result<Opened, String>>;

/// An open log store of a user, and what it has restored.
pub type Opened = (Box<dyn LogStore>, Restored);

/// The log of a running node.
pub(crate) enum AnyLog {
    Own(Box<Log<MemDisk>>),
    Users(Box<dyn LogStore>),
}

impl AnyLog {
    /// Makes a write durable.
    pub fn persist(&mut self, write: Write) -> Result<Durable, PersistError> {
        match self {
            AnyLog::Own(log) => log.persist(write),
            AnyLog::Users(log) => log.persist(write),
        }
    }

    /// Bytes of the log's files; `None` if only a user knows.
    pub fn used_bytes(&self) -> Option<u64> {
        match self {
            AnyLog::Own(log) => Some(log.usage().bytes),
            AnyLog::Users(_) => None,
        }
    }

    /// Closes the log of a node that stops.
    pub fn close(self) -> io::Result<()> {
        match self {
            AnyLog::Own(log) => log.close(),
            AnyLog::Users(log) => {
                drop(log);
                Ok(())
            }
        }
    }
}

/// A user's log store, and the snapshot that its log begins after on an empty disk.
#[derive(Clone)]
pub(crate) struct Store {
    pub open: OpenStore,
    pub first: Snapshot,
}

impl Store {
    /// Opens it on this disk.
    pub fn open(&self, disk: MemDisk) -> Result<Opened, String> {
        (self.open)(disk, &self.first)
    }

    /// What it restores from an empty disk.
    pub fn empty(&self) -> Restored {
        let (hard_state, snapshot) = (HardState::default(), self.first.clone());
        Restored { hard_state, snapshot, entries: Vec::new() }
    }
}
