//! Read-only views of a node for tests, simulators and tools: what a check wants to know after each
//! event, without the cost of a whole [`Status`](crate::Status).

use crate::{Entry, HardState, Index, LogId, Node, Snapshot, Term};

impl Node {
    /// Its term.
    pub fn term(&self) -> Term {
        self.core().term()
    }

    /// Term and vote, whether or not they are on disk yet.
    pub fn hard_state(&self) -> &HardState {
        self.core().hard_state()
    }

    /// Term and vote as they are on disk.
    pub fn durable_hard_state(&self) -> &HardState {
        self.core().durable_hard_state()
    }

    /// Up to here the log is committed, as far as it knows.
    pub fn commit(&self) -> Index {
        self.core().commit
    }

    /// Up to here the state machine has applied the log.
    pub fn applied_index(&self) -> Index {
        self.core().applied
    }

    /// Up to here the log is on disk.
    pub fn durable_index(&self) -> Index {
        self.core().log.durable()
    }

    /// The end of the log.
    pub fn last(&self) -> LogId {
        self.core().log.last()
    }

    /// The snapshot that the log begins after.
    pub fn base(&self) -> &Snapshot {
        self.core().log.base()
    }

    /// The entry at `index`, if it is in memory.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.core().log.entry(index)
    }

    /// Whether its copy was found to be wrong: see [`Status::diverged`](crate::Status::diverged).
    pub fn is_diverged(&self) -> bool {
        self.core().is_diverged()
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.core().id())
    }
}
