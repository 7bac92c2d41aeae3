//! The trait that a user of the library implements: a state machine.

use bytes::Bytes;
use raft::{CommandNumber, LogId, LogTime};
use std::io::{self, Read, Write};

/// A deterministic state machine: the same commands in the same order give the same state and the
/// same answers on every node, byte for byte.
///
/// Nodes compare a hash of the commands and the answers. A node that differs from a quorum resets
/// its log and stops ([`StopReason::Diverged`](crate::StopReason::Diverged)). If no quorum agrees,
/// no node stops; a log line and `PeerStatus::differs_at` report it. So a new version of the
/// machine must give the old answer to an old command, error texts included. To change what a
/// command does, put a version into the command.
///
/// A panic in any of its methods stops the node, since a state that is only partly changed must not
/// be served. If `query` panics on what a client has sent, the node that was asked stops. If
/// `apply` does, every node stops, and again at each start. Return an error as the answer instead,
/// and never index into bytes that a client has sent.
pub trait StateMachine: Send + 'static {
    /// The state at one moment, see [`StateMachine::freeze`].
    type Frozen: Frozen + Send + 'static;

    /// Applies a command. Must be deterministic: it may depend only on the state, the command and
    /// `at`. The answer is returned to the client that proposed the command. The bytes may be kept
    /// without a copy; they share an allocation with the log while the log holds the entry.
    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes;

    /// Applies several commands, and returns their answers in the same order. The result must be
    /// the same as that of [`StateMachine::apply`] on each, which is the default. Override it for a
    /// machine with work per batch, such as a commit to its own database. The number of commands in
    /// a batch differs between nodes. Commands of sessions come one by one through `apply`, and so
    /// does all that a follower forwards.
    fn apply_batch(&mut self, commands: Vec<(ApplyContext, Bytes)>) -> Vec<Bytes> {
        commands.into_iter().map(|(at, command)| self.apply(at, command)).collect()
    }

    /// A command number that is not executed: the command is the repeat of one that was executed
    /// before, or its session has ended (see [`SessionId`](crate::SessionId)). Called in the order
    /// of the log, like `apply`. Does nothing by default. Override it for a machine that keeps
    /// something under every [`ApplyContext::number`]; it must be deterministic then.
    fn skip(&mut self, _at: ApplyContext) {}

    /// Answers a read. Changes nothing. `time` is the log time of the last applied entry: a read
    /// uses it to decide what has expired, as `apply` uses [`ApplyContext::time`]. While nothing is
    /// written it stands still for up to [`raft::Config::clock_ticks`] (30 s by default), so what
    /// has expired is shown as live for that long.
    fn query(&self, time: LogTime, query: &[u8]) -> Bytes;

    /// Returns the current state, to be written on another thread. Commands wait while `freeze`
    /// runs, so its cost should not depend on the size of the state. A snapshot calls it, and
    /// [`Handle::freeze`](crate::Handle::freeze). Several frozen states may exist at once.
    fn freeze(&self) -> Self::Frozen;

    /// Replaces the whole state, whatever it is, by one that [`Frozen::write`] has written. Called
    /// at a start if there is a snapshot, and on a follower that has received one. It must be able
    /// to read the states of all earlier versions of the machine. `from` ends where the state ends;
    /// read all of it. An error stops the node
    /// ([`StopReason::Restore`](crate::StopReason::Restore)).
    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError>;
}

/// The state of a state machine at one moment.
pub trait Frozen {
    /// Writes the whole state, in the format that [`StateMachine::restore`] reads. Runs on another
    /// thread, while commands are applied. An error counts as a failed snapshot, which is taken
    /// again after a pause that grows. Equal states should give equal bytes on all nodes.
    fn write(&self, to: &mut dyn Write) -> io::Result<()>;
}

/// The position and time of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// The entry that holds the command.
    pub id: LogId,
    /// The log time: the cluster's own clock, which never goes backwards. See [`LogTime`].
    pub time: LogTime,
    /// The dense number of the command.
    pub number: CommandNumber,
}

/// Why a state could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The snapshot could not be read.
    #[error("the snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not a state of this machine, or of a later version of it.
    #[error("the snapshot is not understood: {0}")]
    Malformed(String),
}
