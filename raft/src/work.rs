//! Work orders of the core, and the receipts for them.
//!
//! A work order is also its receipt. `poll` returns it by value, and it is converted into the
//! receipt when the work is done. So a driver cannot report work that was not ordered, or report it
//! twice. A receipt carries the node, its start nonce and the order's number: a foreign or stale
//! receipt is ignored and counted.

use crate::{Entries, Forwarded, Index, Message, NodeId, ReadId, Snapshot, SnapshotOffer, Term};
use serde::{Deserialize, Serialize};

/// A work order for the driver. Each may be started as soon as it is returned, in parallel with all
/// others.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub enum Action {
    /// Make this write durable, then pass [`Write::durable`] to
    /// [`RawNode::persisted`](crate::RawNode::persisted).
    Persist(Write),
    /// Send this message. It may be lost.
    Send(Message),
    /// Apply these entries to the state machine in order, then pass [`Apply::applied`] to
    /// [`RawNode::applied`](crate::RawNode::applied).
    Apply(Apply),
    /// Serve the read now, from the state as applied so far.
    Serve(ReadId),
    /// Reject the read: no leader could confirm it. The client may retry.
    Refuse(ReadId),
    /// The outcome of a command that [`RawNode::forward`](crate::RawNode::forward) has sent to the
    /// leader.
    Forwarded {
        /// The number that `forward` returned.
        number: u64,
        /// The outcome as far as this node knows it.
        outcome: Forwarded,
    },
    /// Write a snapshot of the state machine as it is now, then pass [`TakeSnapshot::durable`] to
    /// [`RawNode::compact`](crate::RawNode::compact).
    TakeSnapshot(TakeSnapshot),
    /// Send the snapshot `offer.snapshot` with its offer, then call
    /// [`RawNode::snapshot_sent`](crate::RawNode::snapshot_sent).
    SendSnapshot(SnapshotOffer),
    /// Replace the state of the state machine by that of this snapshot, which is durable. Then pass
    /// [`Restore::restored`] to [`RawNode::applied`](crate::RawNode::applied).
    Restore(Restore),
}

/// How the transfer of a snapshot has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// The snapshot is durable at the peer.
    Delivered,
    /// It is not, or that is unknown. The leader offers it again after a pause, which doubles from
    /// one failure to the next unless they get on.
    Failed {
        /// How many bytes of the snapshot the peer had, from earlier transfers, when this one
        /// began; 0 if that is unknown.
        resumed_at: u64,
    },
}

impl SnapshotStatus {
    /// The end of a transfer that continued after this many bytes.
    pub fn of(delivered: bool, resumed_at: u64) -> Self {
        match delivered {
            true => SnapshotStatus::Delivered,
            false => SnapshotStatus::Failed { resumed_at },
        }
    }
}

/// Identifies a work order: node, start nonce, sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) node: NodeId,
    pub(crate) start_nonce: u64,
    pub(crate) number: u64,
}

/// The durable state outside the log (§3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term that this node has seen.
    pub term: Term,
    /// The candidate that it voted for in that term.
    pub vote: Option<NodeId>,
    /// Set after disk damage: part of the log was lost, and the node may have acknowledged it. The
    /// value is the last entry of the log before the loss. The node neither votes nor campaigns
    /// until its log is as up to date again.
    pub lost: Option<crate::LogId>,
    /// The longest time, in milliseconds, for which this node may have promised to grant no vote
    /// since it heard from a leader (see [`LeaseConfig`](crate::LeaseConfig)). It waits for as long
    /// after a start. 0 if it has made no such promise.
    pub promise_ms: u32,
}

/// How a write changes where the log begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogStart {
    /// The snapshot is durable and replaces the entries up to its `last`, which may be freed. Later
    /// entries remain.
    Compact(Snapshot),
    /// The snapshot is durable and replaces the whole log. No entry from before this write remains.
    Reset(Snapshot),
}

impl LogStart {
    /// The snapshot that the log begins after.
    pub fn snapshot(&self) -> &Snapshot {
        match self {
            LogStart::Compact(snapshot) | LogStart::Reset(snapshot) => snapshot,
        }
    }
}

/// One atomic change of the durable state. After a crash, either all of it is on disk or none.
///
/// `log_start` takes effect before `entries`. The entries are contiguous. The first one may be at
/// or below the end of the log: it replaces everything from its index on.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Write {
    pub(crate) ticket: Ticket,
    /// Term and vote after this write. Always present, so that the latest write alone restores
    /// them.
    pub hard_state: HardState,
    /// How the start of the log changes, if it does.
    pub log_start: Option<LogStart>,
    /// The entries to append. May be empty.
    pub entries: Entries,
}

impl Write {
    /// Converts the order into its receipt. Call it only after the sync that made the write
    /// durable.
    pub fn durable(self) -> Durable {
        Durable { ticket: self.ticket }
    }
}

/// The receipt for a [`Write`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Durable {
    pub(crate) ticket: Ticket,
}

/// Committed entries to apply, in order. All kinds of entries are included, not only commands; the
/// state machine's owner skips those that it does not need.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Apply {
    pub(crate) ticket: Ticket,
    /// The entries to apply: contiguous, starting right after those applied before.
    pub entries: Entries,
}

impl Apply {
    /// Converts the order into its receipt once all entries are applied, without hashes. Use
    /// [`Apply::applied_with`] to compare copies.
    pub fn applied(self) -> Applied {
        self.applied_with(Vec::new())
    }

    /// Converts the order into its receipt once all entries are applied. `hashes` has one
    /// [`entry_hash`](crate::entry_hash) for each entry; nodes whose state differs are detected by
    /// them.
    pub fn applied_with(self, hashes: Vec<u64>) -> Applied {
        let to = self.entries.last().map(|entry| entry.id.index).unwrap_or_default();
        Applied { ticket: self.ticket, to, hashes }
    }
}

/// The receipt for an [`Apply`] or a [`Restore`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Applied {
    pub(crate) ticket: Ticket,
    pub(crate) to: Index,
    pub(crate) hashes: Vec<u64>,
}

/// An order to take a snapshot of the state machine.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct TakeSnapshot {
    pub(crate) ticket: Ticket,
    /// Describes the snapshot to take: the state as applied up to `snapshot.last`.
    pub snapshot: Snapshot,
}

impl TakeSnapshot {
    /// Converts the order into its receipt. Call it once the snapshot survives a power failure: its
    /// file and its directory are synced.
    pub fn durable(self) -> SnapshotDurable {
        SnapshotDurable { ticket: self.ticket, snapshot: Some(self.snapshot) }
    }

    /// Reports that the snapshot could not be written. The core orders another one later.
    pub fn failed(self) -> SnapshotDurable {
        SnapshotDurable { ticket: self.ticket, snapshot: None }
    }
}

/// The receipt for a [`TakeSnapshot`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct SnapshotDurable {
    pub(crate) ticket: Ticket,
    pub(crate) snapshot: Option<Snapshot>,
}

/// An order to receive the snapshot that a leader offers, made by
/// [`RawNode::accept`](crate::RawNode::accept). Dropping it gives the transfer up; the leader
/// offers a snapshot again. Several may be out, since a transfer that its sender has given up may
/// still finish.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct ReceiveSnapshot {
    pub(crate) ticket: Ticket,
    pub(crate) offer: SnapshotOffer,
}

impl ReceiveSnapshot {
    /// Describes the snapshot to receive.
    pub fn snapshot(&self) -> &Snapshot {
        &self.offer.snapshot
    }

    /// Converts the order into its receipt. Call it once the received snapshot survives a power
    /// failure: its file and its directory are synced.
    pub fn durable(self) -> SnapshotReceived {
        SnapshotReceived { ticket: self.ticket, offer: self.offer }
    }
}

/// The receipt for a [`ReceiveSnapshot`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct SnapshotReceived {
    pub(crate) ticket: Ticket,
    pub(crate) offer: SnapshotOffer,
}

impl SnapshotReceived {
    /// Describes the snapshot that was received.
    pub fn snapshot(&self) -> &Snapshot {
        &self.offer.snapshot
    }
}

/// An order to replace the state of the state machine by that of a snapshot.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Restore {
    pub(crate) ticket: Ticket,
    /// Describes the snapshot to restore.
    pub snapshot: Snapshot,
}

impl Restore {
    /// Converts the order into its receipt once the state machine has the snapshot's state.
    pub fn restored(self) -> Applied {
        let to = self.snapshot.last.index;
        Applied { ticket: self.ticket, to, hashes: Vec::new() }
    }
}
