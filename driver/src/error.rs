//! Errors of calls. Each tells whether the command may have been done.

use crate::SessionError;
use raft::NodeId;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a proposal was rejected. It has not been done and never will be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Only a leader takes proposals. Retry at the leader.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if this node knows it.
        leader: Option<NodeId>,
    },
    /// The queue is full. Retry later.
    #[error("too much is waiting on this node; try again later")]
    Busy,
    /// The command is larger than `command_bytes_max` of the core's configuration.
    #[error("the command is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The disk of this node is full, or does not answer. Commands are rejected until it stores
    /// again: a follower applies only what it has stored, so it could not answer them either.
    #[error("this node is read-only: {reason}")]
    ReadOnly {
        /// The error of the store, or that it does not answer.
        reason: Arc<str>,
    },
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// The outcome of a proposal that was accepted but is not known to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outcome {
    /// It has not been done and never will be: another leader's entry took its place.
    #[error("not done: another leader took over")]
    NotDone,
    /// It may have been done, or may still be done.
    #[error("unknown: it may have been done, or may still be")]
    Unknown,
}

/// The outcome of a command that is not known to be done. See
/// [`Handle::execute`](crate::Handle::execute).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// It was rejected. It has not been done and never will be.
    #[error(transparent)]
    Refused(ProposeError),
    /// It was appended, but has not been done and never will be: another leader's entry took its
    /// place.
    #[error("not done: another leader took over")]
    NotDone,
    /// It may have been done, or may still be done.
    #[error("unknown: it may have been done, or may still be")]
    Unknown,
    /// The command belongs to a session, which does not execute it.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<Outcome> for AttemptError {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NotDone => AttemptError::NotDone,
            Outcome::Unknown => AttemptError::Unknown,
        }
    }
}

/// Why a read was not answered. A query changes nothing, so it may be repeated, on any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader was known when the time was over.
    #[error("no leader is known")]
    NoLeader,
    /// The queue is full. Retry later.
    #[error("too many reads are waiting on this node; try again later")]
    Busy,
    /// The leader did not confirm the read within the time of this call, or the state machine is
    /// behind.
    #[error("the read was not confirmed in time")]
    Timeout,
    /// The disk of this node is full, or does not answer, and it does not lead. It applies only
    /// what it has stored, so its state falls behind. Ask another node.
    #[error("this node stores nothing, so its state is not up to date; ask another node")]
    ReadOnly,
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// It was not begun.
    #[error(transparent)]
    Refused(#[from] raft::TransferRefused),
    /// The target did not become leader in time. This node goes on as the leader, or another node
    /// was elected.
    #[error("node {to} did not take over in time")]
    NotTaken {
        /// The target.
        to: NodeId,
    },
    /// Too many calls are waiting. Retry later.
    #[error("too much is waiting on this node; try again later")]
    Busy,
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a change of the membership was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// It was not begun. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] raft::ChangeError),
    /// The membership is another one than the change declared: its new voters did not catch up in
    /// time, no majority of its voters stored entries, it was given up on request, or its leader
    /// was lost before it was committed.
    #[error(
        "the change was given up: its new voters did not catch up in time, no majority of its \
         voters stored entries, another change took its place, or its leader was lost"
    )]
    GivenUp,
    /// Another change has followed, so it is unknown whether this one was done.
    #[error(
        "another change of the members has followed, and it is unknown whether this one was done: \
         look at the membership"
    )]
    Superseded,
    /// Too many calls are waiting. Retry later.
    #[error("too much is waiting on this node; try again later")]
    Busy,
    /// The node is stopping or has stopped. The change may go on.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a wait ended before the command was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The command with this number and term will never be applied: a later term has begun.
    #[error("superseded: a later leader took over before the command was applied")]
    Superseded,
    /// Too many callers are waiting. Retry later.
    #[error("too many are waiting on this node; try again later")]
    Busy,
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a node is not ready to serve. Most of these pass by themselves. If several apply, the first
/// in the order of the variants is reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The node has just been started.
    #[error("the node is starting")]
    Starting,
    /// The node is stopping or has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
    /// A peer has rejected the node as a non-member: its disk was wiped, or it was removed.
    #[error("the node is not a member of the cluster any more")]
    NotAMember,
    /// The disk has no room for the log.
    #[error("the disk has no room: {reason}")]
    DiskFull {
        /// The error of the disk.
        reason: Arc<str>,
    },
    /// A write has been pending for two election timeouts or longer.
    #[error("the disk does not answer")]
    DiskStalled,
    /// The node needs a snapshot of the leader to catch up, and cannot store it. The leader sends
    /// it again from time to time.
    #[error("a snapshot of the leader cannot be stored: {reason}")]
    SnapshotNotStored {
        /// The error of the disk.
        reason: Arc<str>,
    },
    /// The node has lost entries that it had acknowledged, and its peers are repairing it. That
    /// takes a majority of the voters without this node.
    #[error(
        "the log was damaged and is being repaired by the other nodes, which takes a majority \
         without this one"
    )]
    Repairing,
    /// The node knows no leader.
    #[error("no leader is known")]
    NoLeader,
    /// The node has no connection to its leader and has received nothing from it for a while. An
    /// election follows if the leader is gone.
    #[error("the leader is not connected")]
    LeaderNotConnected,
    /// The node leads, and its oldest entry that is not committed has waited for longer than 2 s:
    /// no majority of the voters stores its entries.
    #[error("nothing was committed for {waiting:?}: no majority of the voters stores the entries")]
    NotCommitting {
        /// How long the entry has waited.
        waiting: Duration,
    },
    /// Since its start the node has not applied up to a commit index that a quorum has confirmed.
    #[error("the node is catching up after its start")]
    CatchingUp,
    /// The node's state is too far behind the leader's.
    #[error("the node is {behind:?} behind the leader")]
    Behind {
        /// The lag.
        behind: Duration,
    },
}

/// Why a node has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// The node was shut down by a call of [`Handle::shutdown`](crate::Handle::shutdown).
    #[error("it was shut down")]
    Shutdown,
    /// The store failed, and the content of the disk is unknown. Check the disk, then restart.
    #[error("the store failed: {0}")]
    Store(Arc<str>),
    /// This node's state differs from that of a quorum: it has applied other entries, or its state
    /// machine gave other answers. It has reset its log. Restart it: its peers repair it. If it
    /// happens again, the state machine is not deterministic, or the hardware has bad memory.
    #[error(
        "this node's copy of the state differs from those of the other nodes: its state machine is \
         not deterministic or of another version, or its memory is bad; it has forgotten its log \
         and is repaired by them when it is started again"
    )]
    Diverged,
    /// The node was removed from its cluster, or its data directory is not that of the member with
    /// this id. Do not restart it. To let it take part again, empty its data directory, start it as
    /// a node that joins, and add it.
    #[error(
        "this node is not a member of its cluster any more: it was removed, or its data directory is \
         that of an earlier member with this id. To add it again, start it with an empty data \
         directory, as a node that joins"
    )]
    NotAMember,
    /// A snapshot could not be read: a part of it is damaged, or the disk failed. Restart the node:
    /// the start checks the snapshot, and peers repair what is lost.
    #[error(
        "a snapshot could not be read: {0}; start the node again: what is lost is repaired by the \
         other nodes"
    )]
    SnapshotUnreadable(Arc<str>),
    /// The state machine could not be restored from a snapshot whose checksums are correct. Nothing
    /// is removed, because another version of the program may be able to read it.
    #[error(
        "the state could not be restored from its snapshot: {0}; if the program was changed, start \
         the version that wrote the snapshot"
    )]
    Restore(Arc<str>),
    /// The state machine has panicked, or `apply_batch` has returned a wrong number of answers.
    /// This is a bug in it, and would happen again.
    #[error("the state machine failed: {0}")]
    StateMachine(Arc<str>),
    /// A part of the node has panicked. This is a bug in this library.
    #[error("the {part} panicked: {message}")]
    Panic {
        /// The name of the part.
        part: &'static str,
        /// The message of the panic.
        message: Arc<str>,
    },
    /// A part of the node was dropped while others were running. That happens when the program
    /// drops the node, or its runtime, without a shutdown.
    #[error(
        "the {part} was dropped: the program dropped its node or its runtime without a shutdown"
    )]
    Dropped {
        /// The name of the part.
        part: &'static str,
    },
}

/// Why a snapshot is rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// This node does not need it. Stop offering it.
    #[error("the snapshot is of no use here")]
    Unwanted,
    /// Another snapshot is being received. Retry later.
    #[error("another snapshot is being received")]
    Busy,
    /// The part to continue after is not here. Offer the snapshot from its beginning.
    #[error("the part that was received earlier is gone; the snapshot has to begin anew")]
    Gone,
    /// The snapshot could not be stored. See the cause.
    #[error("the snapshot cannot be stored: {0}")]
    Io(io::Error),
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}
