//! The work that the core asks for, and the receipts for it.
//!
//! A work order is its own receipt: it is moved out by `poll`, and turned into the receipt once the
//! work is done, so that nothing can be reported that was not ordered, and nothing twice. A receipt
//! names the node, its start and the number of the order: a foreign or stale one is ignored and
//! counted.

use crate::{Entry, Forwarded, Index, Message, NodeId, Offer, ReadId, Snapshot, Term};
use serde::{Deserialize, Serialize};

/// Something for the driver to do. Every action may be started the moment it is returned, in
/// parallel with all others.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub enum Action {
    /// Make this durable, then hand [`Write::durable`] to `persisted`.
    Persist(Write),
    /// Send this; it may be lost.
    Send(Message),
    /// Apply these to the state machine in order, then hand [`Apply::applied`] to `applied`.
    Apply(Apply),
    /// The read may be answered now, from the state as applied so far.
    Serve(ReadId),
    /// The read cannot be confirmed: no leader answered for it. It may be asked again.
    Refuse(ReadId),
    /// What became of a command that [`Node::forward`](crate::Node::forward) has sent to the leader.
    Forwarded {
        /// The number that it was given.
        number: u64,
        /// What became of it so far.
        outcome: Forwarded,
    },
    /// Write a snapshot of the state machine as it is now, then hand [`TakeSnapshot::durable`] to
    /// `compact`.
    TakeSnapshot(TakeSnapshot),
    /// Send the snapshot `offer.snapshot` with its offer, then call `snapshot_sent`.
    SendSnapshot(Offer),
    /// Replace the state machine's state by this snapshot's, which is durable, then hand
    /// [`Restore::restored`] to `applied`.
    Restore(Restore),
}

/// Which order this is: of which node, of which start of it, and the how manieth of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) node: NodeId,
    pub(crate) start_nonce: u64,
    pub(crate) number: u64,
}

/// The part of a node's state that is not in the log but as binding (§3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// If set, the node once had on its disk, and may have acknowledged, a log that ended here, and
    /// has lost part of it to a damaged disk. Until its log is as up to date again it takes no part
    /// in elections.
    pub lost: Option<crate::LogId>,
}

/// How a write changes where the log begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rebase {
    /// The snapshot is durable and stands for the entries up to its `last`; they may be freed. Those
    /// after it remain.
    Compact(Snapshot),
    /// The snapshot, which is durable, replaces the whole log: no entry before this write remains.
    Reset(Snapshot),
}

impl Rebase {
    /// The snapshot that the log begins after.
    pub fn snapshot(&self) -> &Snapshot {
        match self {
            Rebase::Compact(snapshot) | Rebase::Reset(snapshot) => snapshot,
        }
    }
}

/// One ordered, atomic change of the durable state. On disk it is there whole or not at all.
///
/// The order within: `rebase`, then `entries`. The first of `entries` may stand at or below the end
/// of the log: it and what follows replace everything from its index on. Entries are contiguous.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Write {
    pub(crate) ticket: Ticket,
    /// Term and vote after this write; always given, so that any one write restores them.
    pub hard_state: HardState,
    /// Where the log begins, if that changes.
    pub rebase: Option<Rebase>,
    /// What is appended.
    pub entries: Vec<Entry>,
}

impl Write {
    /// The receipt. To be called right after the sync that made the write durable, and only then.
    pub fn durable(self) -> Durable {
        let mut buffer = self.entries;
        buffer.clear();
        Durable { ticket: self.ticket, buffer }
    }
}

/// The receipt for a [`Write`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub struct Durable {
    pub(crate) ticket: Ticket,
    /// The write's buffer, emptied, for the next one.
    pub(crate) buffer: Vec<Entry>,
}

/// Committed entries to apply, in order. Not only commands: the state machine's owner sees every
/// entry, and skips what it need not know.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Apply {
    pub(crate) ticket: Ticket,
    /// What to apply: contiguous, beginning right after what was applied before.
    pub entries: Vec<Entry>,
}

impl Apply {
    /// The receipt, once all of it is applied, from whoever does not compare copies. See
    /// [`Apply::applied_with`].
    pub fn applied(self) -> Applied {
        self.applied_with(Vec::new())
    }

    /// The receipt, once all of it is applied, with an [`entry_hash`](crate::entry_hash) for each entry:
    /// copies that differ are found by these.
    pub fn applied_with(self, hashes: Vec<u64>) -> Applied {
        let to = self.entries.last().map(|entry| entry.id.index).unwrap_or_default();
        let mut buffer = self.entries;
        buffer.clear();
        Applied { ticket: self.ticket, to, hashes, buffer }
    }
}

/// The receipt for an [`Apply`] or a [`Restore`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub struct Applied {
    pub(crate) ticket: Ticket,
    pub(crate) to: Index,
    pub(crate) hashes: Vec<u64>,
    pub(crate) buffer: Vec<Entry>,
}

/// An order for a snapshot of the state machine.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct TakeSnapshot {
    pub(crate) ticket: Ticket,
    /// What the snapshot is to contain: the state as applied up to `snapshot.last`.
    pub snapshot: Snapshot,
}

impl TakeSnapshot {
    /// The receipt, once the snapshot would survive a power failure (its file and its directory are
    /// synced).
    pub fn durable(self) -> SnapshotDurable {
        SnapshotDurable { ticket: self.ticket, snapshot: Some(self.snapshot) }
    }

    /// The snapshot could not be written. The core asks again later.
    pub fn failed(self) -> SnapshotDurable {
        SnapshotDurable { ticket: self.ticket, snapshot: None }
    }
}

/// The receipt for a [`TakeSnapshot`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub struct SnapshotDurable {
    pub(crate) ticket: Ticket,
    pub(crate) snapshot: Option<Snapshot>,
}

impl Offer {
    /// The receipt for a snapshot received from a leader, once it would survive a power failure.
    pub fn durable(self) -> OfferDurable {
        OfferDurable { offer: self }
    }
}

/// The receipt for a received snapshot, see [`Offer`].
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub struct OfferDurable {
    pub(crate) offer: Offer,
}

/// An order to replace the state machine's state by a snapshot's.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
#[must_use]
pub struct Restore {
    pub(crate) ticket: Ticket,
    /// Which snapshot.
    pub snapshot: Snapshot,
}

impl Restore {
    /// The receipt, once the state machine's state is the snapshot's.
    pub fn restored(self) -> Applied {
        let to = self.snapshot.last.index;
        Applied { ticket: self.ticket, to, hashes: Vec::new(), buffer: Vec::new() }
    }
}
