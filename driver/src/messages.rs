//! The messages between the parts of a node.
//!
//! A *call* comes from a client, through the [`Handle`](crate::Handle). An *order* comes from the
//! core loop. Both are named after the part that takes them. The part that carries out an order
//! sends a [`Receipt`] to the core loop. What comes from peers, through the
//! [`Inbox`](crate::Inbox), begins with `Peer`.
//!
//! The parts share these types and do not depend on one another.

use crate::FrozenReplica;
use crate::erased::{ErasedFrozen, ErasedMachine};
use crate::error::{AttemptError, Outcome, ProposeError, StopReason};
use crate::machine::StateMachine;
use crate::pending::{Reply, Undecided};
use crate::snapshot_store::SnapshotSink;
use crate::waiters::WaitReply;
use bytes::Bytes;
use raft::{
    Applied, Apply, Change, CommandNumber, Durable, LogId, LogTime, NodeId, Proposed, ReadProof,
    ReceiveSnapshot, Request, Restore, SnapshotDurable, SnapshotOffer, SnapshotReceived,
    SnapshotStatus, TakeSnapshot, Term, Write,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Receipts that may wait. At most one Write, one Apply or Restore, and one snapshot are pending,
/// and the store may report a failure too.
pub(crate) const RECEIPTS_MAX: usize = 16;
/// Orders to the machine task that may wait. At most one `Apply` or `Restore` and one
/// `TakeSnapshot` are pending.
pub(crate) const MACHINE_ORDERS_MAX: usize = 4;

/// A client's call to the core loop.
pub(crate) enum CoreCall {
    Propose {
        command: Bytes,
        taken: oneshot::Sender<Result<Proposed, ProposeError>>,
        done: Reply<Outcome>,
    },
    /// Appends a request, here or on the leader, and answers when it is applied here.
    Execute {
        request: Request,
        done: Reply<AttemptError>,
    },
    Read {
        proof: ReadProof,
        read: Read,
    },
    Campaign,
    /// Hands leadership over. Answered once that has begun.
    Transfer {
        to: Option<NodeId>,
        begun: oneshot::Sender<Result<NodeId, raft::TransferRefused>>,
    },
    /// Changes the membership. Answered with the index of the first entry.
    SetMembers {
        change: Box<Change>,
        begun: crate::preflight::Begun,
    },
}

/// A client's call to the machine task.
pub(crate) enum MachineCall {
    Read(Read),
    /// Reads that one read of the core has confirmed. They come from the core loop.
    Reads(Vec<Read>),
    Wait {
        number: CommandNumber,
        term: Option<Term>,
        reply: WaitReply,
    },
    /// A caller has stopped waiting for the command with this number.
    Forget(CommandNumber),
}

/// One read of the state machine, and where its answer goes.
pub(crate) enum Read {
    Query { query: Bytes, reply: oneshot::Sender<Bytes> },
    Freeze { reply: oneshot::Sender<ErasedFrozen> },
}

impl Read {
    /// Whether the caller has stopped waiting.
    pub fn is_abandoned(&self) -> bool {
        match self {
            Read::Query { reply, .. } => reply.is_closed(),
            Read::Freeze { reply } => reply.is_closed(),
        }
    }

    pub fn answer(self, machine: &ErasedMachine, time: LogTime) {
        match self {
            Read::Query { query, reply } => drop(reply.send(machine.query(time, &query))),
            Read::Freeze { reply } => drop(reply.send(machine.freeze())),
        }
    }
}

/// An order to the machine task. Orders are carried out as they arrive.
pub(crate) enum MachineOrder {
    Apply { apply: Apply, decided: VecDeque<Undecided> },
    Restore { restore: Restore, decided: VecDeque<Undecided> },
    TakeSnapshot(TakeSnapshot),
}

/// An order to the part that writes snapshots.
pub(crate) enum SnapshotOrder {
    /// Write this state to the store. It comes from the machine task.
    Write { order: Box<TakeSnapshot>, frozen: FrozenReplica<ErasedFrozen> },
    /// The durable log begins after `base`: remove older snapshots, but those in `kept`.
    Clean { base: LogId, kept: Vec<LogId> },
    /// The part of a snapshot that nobody needs: remove it.
    Discard(Box<dyn SnapshotSink>),
}

/// The result of an order, for the core loop.
pub(crate) enum Receipt {
    Durable(Durable),
    StoreFull { write: Box<Write>, reason: Arc<str> },
    StoreFailed(StopReason),
    Applied(Applied),
    Snapshot(SnapshotDurable),
}

/// A snapshot from a peer, for the core loop.
pub(crate) enum PeerSnapshot {
    /// A peer offers a snapshot. The reply is the order to receive it, if it is needed.
    Offered { offer: Box<SnapshotOffer>, reply: oneshot::Sender<Option<Box<ReceiveSnapshot>>> },
    /// The snapshot of an offer is durable here.
    Received(Box<SnapshotReceived>),
}

/// Reports about peers that must not be lost and must not wait. Bounded by the number of peers.
#[derive(Default)]
pub(crate) struct PeerReports {
    new: Mutex<NewPeerReports>,
    pub notify: Notify,
}

/// The reports since they were last taken.
#[derive(Default)]
pub(crate) struct NewPeerReports {
    pub unreachable: BTreeSet<NodeId>,
    pub gone: BTreeSet<NodeId>,
    pub snapshots_sent: BTreeMap<(NodeId, LogId), SnapshotStatus>,
    /// Snapshots of this node that could not be read for sending.
    pub unreadable: BTreeSet<LogId>,
}

impl PeerReports {
    pub fn take(&self) -> NewPeerReports {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reports that messages to `peer` were lost.
    pub fn unreachable(&self, peer: NodeId) {
        self.add(|reports| {
            reports.unreachable.insert(peer);
        });
    }

    /// Reports that the process of `peer` has ended.
    pub fn gone(&self, peer: NodeId) {
        self.add(|reports| {
            reports.gone.insert(peer);
        });
    }

    /// Reports that the transfer of a snapshot has ended.
    pub fn snapshot_sent(&self, to: NodeId, snapshot: LogId, status: SnapshotStatus) {
        self.add(|reports| {
            reports.snapshots_sent.insert((to, snapshot), status);
        });
    }

    /// Reports that a snapshot of this node is missing or damaged.
    pub fn unreadable(&self, snapshot: LogId) {
        self.add(|reports| {
            reports.unreadable.insert(snapshot);
        });
    }

    fn add(&self, report: impl FnOnce(&mut NewPeerReports)) {
        report(&mut self.new.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}
