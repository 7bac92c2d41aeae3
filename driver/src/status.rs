//! The published status and the counters of a node.

use crate::{NotReady, StopReason};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The state of a node as last published: at every change of leadership, and at every tick in which
/// the node had anything to do. Reading it never blocks.
#[derive(Clone, Debug)]
pub struct DriverStatus {
    /// The status of the core. `raft.serving` is true if the node leads and has applied the no-op
    /// of its term.
    pub raft: raft::Status,
    /// Set while the disk has no room: the node rejects proposals even if it leads.
    pub read_only: Option<Arc<str>>,
    /// The lengths of the node's queues.
    pub load: Load,
    /// The open sessions. See [`SessionId`](crate::SessionId).
    pub sessions: usize,
    /// Their size, as [`SessionLimits::bytes_max`](crate::SessionLimits::bytes_max) counts it.
    pub session_bytes: u64,
    /// Why the node has stopped, if it has.
    pub stopped: Option<StopReason>,
    /// Why the node is not ready to serve, if it is not. See [`DriverStatus::ready`].
    pub not_ready: Option<NotReady>,
    /// The length of a tick, the unit of `raft.peers[..].silent_ticks`.
    pub tick: Duration,
}

impl DriverStatus {
    /// Whether this node follows, and applies nothing new because its disk stores nothing.
    pub(crate) fn falls_behind(&self) -> bool {
        let stores_nothing = self.read_only.is_some() || self.raft.disk_stalled;
        stores_nothing && self.raft.leader != Some(self.raft.id)
    }

    /// Whether this node leads, knows what is committed, and takes proposals. It stays true while
    /// leadership is handed over (`raft.transferring`), when proposals wait for the next leader.
    pub fn serving(&self) -> bool {
        self.raft.serving && self.read_only.is_none() && self.stopped.is_none()
    }

    /// Whether a [`View`](crate::View) of either is the same.
    pub(crate) fn shows_the_same(&self, other: &DriverStatus) -> bool {
        self.raft.term == other.raft.term
            && self.raft.leader == other.raft.leader
            && self.serving() == other.serving()
            && self.raft.membership == other.raft.membership
            && self.is_membership_committed() == other.is_membership_committed()
    }

    pub(crate) fn is_membership_committed(&self) -> bool {
        self.raft.commit >= self.raft.membership_index
    }

    /// Whether the node is ready to serve requests, or why it is not. Several reasons may apply:
    /// the first one counts, in the order of the variants of [`NotReady`].
    pub fn ready(&self) -> Result<(), NotReady> {
        match (&self.stopped, &self.not_ready) {
            (Some(reason), _) => Err(NotReady::Stopped(reason.clone())),
            (None, Some(reason)) => Err(reason.clone()),
            (None, None) => Ok(()),
        }
    }
}

/// The lengths of the queues within a node. All are 0 when there are no requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Client calls that wait for the core.
    pub calls: usize,
    /// Messages from peers that wait for the core.
    pub messages: usize,
    /// Proposals whose outcome is not known yet.
    pub proposals: usize,
    /// Reads that wait to be confirmed by the leader.
    pub reads: usize,
    /// Calls that wait for the state machine: reads, batches of confirmed reads, and waits.
    pub questions: usize,
    /// Callers that wait for a command to be applied.
    pub waiters: usize,
}

impl Load {
    /// Name, description and value of each figure, in order.
    pub fn named(&self) -> [(&'static str, &'static str, usize); 6] {
        let Load { calls, messages, proposals, reads, questions, waiters } = *self;
        [
            ("calls", "Calls that wait for the core loop.", calls),
            ("messages", "Messages of peers that wait for the core loop.", messages),
            ("proposals", "Proposals that wait to be applied.", proposals),
            ("reads", "Reads that wait to be confirmed.", reads),
            ("questions", "Calls that wait for the state machine.", questions),
            ("waiters", "Clients that wait for a command to be applied.", waiters),
        ]
    }
}

macro_rules! metrics {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counters of a node since its start.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $doc] pub $name: AtomicU64,)*
        }

        /// The [`Metrics`] as they were at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MetricsReading {
            $(#[doc = $doc] pub $name: u64,)*
        }

        impl Metrics {
            /// All counters as they are now.
            pub fn read(&self) -> MetricsReading {
                MetricsReading { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl MetricsReading {
            /// Name, description and value of each counter, in order.
            pub fn named(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc.trim_ascii(), self.$name),)*]
            }
        }
    };
}

metrics! {
    /// Commands appended here, or forwarded to the leader.
    proposals,
    /// Commands that were neither appended nor forwarded, for whatever reason.
    proposals_refused,
    /// Times a command of a session was proposed again.
    proposals_repeated,
    /// Reads that a leader had to confirm.
    reads,
    /// Reads of the core for such reads; several share one. Each takes a round or a lease.
    read_rounds,
    /// Reads answered from the state as it was.
    stale_reads,
    /// Log entries applied.
    applied,
    /// Writes made durable.
    persists,
    /// Log entries made durable.
    persisted_entries,
    /// Bytes of entries made durable.
    persisted_bytes,
    /// Times the store had no room.
    store_full,
    /// Messages handed to the transport.
    messages_sent,
    /// Messages taken from peers.
    messages_received,
    /// Times a stream to a peer broke, or its queue was full.
    peers_unreachable,
    /// Snapshots written.
    snapshots_taken,
    /// Snapshots that could not be written.
    snapshots_failed,
    /// Snapshots offered to peers.
    snapshots_sent,
    /// Snapshots received from a leader.
    snapshots_received,
    /// Snapshots of a leader that could not be stored.
    snapshots_not_stored,
    /// Turns of the core loop: one each time that it wakes up.
    turns,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
