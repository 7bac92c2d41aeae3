//! What a node tells about itself: a status that is published, and counters.

use crate::{NotReady, StopReason};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The state of a node as last published: at every change of leadership and every tick. Reading it
/// waits for nothing, whatever the disk does.
#[derive(Clone, Debug)]
pub struct DriverStatus {
    /// The core's own state. `raft.serving` says whether this node leads and takes proposals.
    pub raft: raft::Status,
    /// Why the node takes no proposals although it may lead: the disk has no room.
    pub read_only: Option<Arc<str>>,
    /// What waits within it.
    pub load: Load,
    /// Why the node has stopped, if it has.
    pub stopped: Option<StopReason>,
    /// Why the node is not ready to serve, if it is not. See [`DriverStatus::ready`].
    pub not_ready: Option<NotReady>,
    /// How long a tick is: the unit of `raft.peers[..].silent_ticks`.
    pub tick: Duration,
}

impl DriverStatus {
    /// Whether this node leads, knows what is committed, and takes proposals.
    pub fn serving(&self) -> bool {
        self.raft.serving && self.read_only.is_none() && self.stopped.is_none()
    }

    /// Whether the node is ready to serve requests, and else why not: its disk answers, it knows a
    /// leader, its state has reached a commit index that was confirmed since the start, and is at most
    /// two seconds behind the leader.
    pub fn ready(&self) -> Result<(), NotReady> {
        match (&self.stopped, &self.not_ready) {
            (Some(reason), _) => Err(NotReady::Stopped(reason.clone())),
            (None, Some(reason)) => Err(reason.clone()),
            (None, None) => Ok(()),
        }
    }
}

/// What waits within a node. Where nobody asks for anything, nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Calls of clients that the core has not taken.
    pub calls: usize,
    /// Messages from peers that it has not taken.
    pub messages: usize,
    /// Proposals that are not decided.
    pub proposals: usize,
    /// Reads that wait for a leader to confirm them.
    pub reads: usize,
    /// Questions that the state machine has not taken.
    pub questions: usize,
    /// Those who wait for a command to be applied.
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
            ("questions", "Confirmed reads that wait for the state machine.", questions),
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
    /// Proposals taken.
    proposals,
    /// Proposals refused, for whatever reason.
    proposals_refused,
    /// Reads that a leader had to confirm.
    reads,
    /// Rounds of the core for such reads; several reads share one.
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
    /// Reports of lost messages.
    peers_unreachable,
    /// Snapshots written.
    snapshots_taken,
    /// Snapshots that could not be written.
    snapshots_failed,
    /// Snapshots offered to peers.
    snapshots_sent,
    /// Snapshots received from a leader.
    snapshots_received,
    /// Turns of the core loop.
    turns,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
