//! Why a call did not succeed, and what is known of it then.

use raft::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// Why a proposal was not taken. It has certainly not been done, and never will be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Only a leader takes proposals.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if this node knows. Ask there.
        leader: Option<NodeId>,
    },
    /// Too much is waiting. Try again later.
    #[error("too much is waiting on this node; try again later")]
    Busy,
    /// The command is larger than the configuration allows.
    #[error("the command is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The disk has no room, so nothing more is taken until it has.
    #[error("this node is read-only: {reason}")]
    ReadOnly {
        /// What the store said.
        reason: Arc<str>,
    },
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// What is known of a proposal that was taken but is not known to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outcome {
    /// It has certainly not been done, and never will be: another leader's entries took its place.
    #[error("not done: another leader took over")]
    NotDone,
    /// It may be done, now or later.
    #[error("unknown: it may have been done, or may still be")]
    Unknown,
}

/// What became of a command that is not known to be done: see [`Handle::execute`](crate::Handle::execute).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// It was not taken. It has certainly not been done.
    #[error(transparent)]
    Refused(ProposeError),
    /// It was taken, and has certainly not been done: another leader's entries took its place.
    #[error("not done: another leader took over")]
    NotDone,
    /// It may be done, now or later.
    #[error("unknown: it may have been done, or may still be")]
    Unknown,
}

impl From<Outcome> for ExecuteError {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NotDone => ExecuteError::NotDone,
            Outcome::Unknown => ExecuteError::Unknown,
        }
    }
}

/// Why a read was not answered. It can be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There was no leader to confirm it within the time given.
    #[error("no leader is known")]
    NoLeader,
    /// Too many reads are waiting. Try again later.
    #[error("too many reads are waiting on this node; try again later")]
    Busy,
    /// The leader did not confirm it within the time given, or the state machine is behind.
    #[error("the read was not confirmed in time")]
    Timeout,
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why waiting for a command to be applied ended without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The command of this number and term will never be applied: a later term has taken over.
    #[error("superseded: a later leader took over before the command was applied")]
    Superseded,
    /// Too many are waiting. Try again later.
    #[error("too many are waiting on this node; try again later")]
    Busy,
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a node is not ready to serve, though it may be about to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// It has just been started.
    #[error("the node is starting")]
    Starting,
    /// It has stopped, or is stopping.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
    /// A peer has told it that it is not a member: its disk was wiped, or it was removed.
    #[error("the node is not a member of the cluster any more")]
    NotAMember,
    /// Its disk has no room for the log.
    #[error("the disk has no room: {reason}")]
    DiskFull {
        /// The error of the disk.
        reason: Arc<str>,
    },
    /// A write to its disk has not returned for two election timeouts or longer.
    #[error("the disk does not answer")]
    DiskStalled,
    /// It has lost entries that it had acknowledged, and is being repaired by its peers.
    #[error("the log was damaged and is being repaired by the other nodes")]
    Repairing,
    /// It knows no leader.
    #[error("no leader is known")]
    NoLeader,
    /// Since its start, its state has not reached a commit index that a quorum has confirmed.
    #[error("the node is catching up after its start")]
    CatchingUp,
    /// Its state is too old.
    #[error("the node is {behind:?} behind the leader")]
    Behind {
        /// How old.
        behind: Duration,
    },
}

/// Why a node has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// It was told to.
    #[error("it was shut down")]
    Shutdown,
    /// The store failed. Nobody knows what the disk holds; look at the disk, then start again.
    #[error("the store failed: {0}")]
    Store(Arc<str>),
    /// What this node has applied, or the answers of its state machine, differ from those of a quorum. It
    /// has forgotten its log. Start it again: it is repaired by the others. If it happens again, the
    /// state machine is not deterministic, or the machine has bad memory.
    #[error(
        "this node's copy of the state differs from those of the other nodes; it has forgotten its \
         log and is repaired by them when it is started again"
    )]
    Diverged,
    /// The state could not be restored from a snapshot.
    #[error("the state could not be restored: {0}")]
    Restore(Arc<str>),
    /// The state machine has panicked. That is a bug of it, and would happen again.
    #[error("the state machine panicked: {0}")]
    StateMachine(Arc<str>),
    /// A part of the node has panicked. That is a bug of this library.
    #[error("the {part} panicked: {message}")]
    Panic {
        /// Which part.
        part: &'static str,
        /// What it said.
        message: Arc<str>,
    },
    /// A part of the node was dropped while the others were running.
    #[error("the {part} was dropped")]
    Dropped {
        /// Which part.
        part: &'static str,
    },
}
