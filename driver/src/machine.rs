//! What a user of the library writes: a state machine.

use bytes::Bytes;
use raft::{CommandNumber, LogId, LogTime};
use std::io::{self, Read, Write};

/// A deterministic state machine: the same commands in the same order leave the same state on every
/// node.
///
/// A panic in any of its methods stops the node: it would happen again on every node, and a state
/// that is half changed must not be served.
pub trait StateMachine: Send + 'static {
    /// The state at one moment, see [`StateMachine::freeze`].
    type Frozen: Frozen + Send + 'static;

    /// Applies a command. Deterministic: it may look at the state, the command and `at`, and at
    /// nothing else. The answer goes to the client that proposed the command. The bytes can be kept
    /// without a copy; they share an allocation with the log while it has the entry.
    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes;

    /// Applies several commands, and returns their answers in the same order. Must do the same as
    /// [`StateMachine::apply`] on each, which is what it does unless it is overridden: for machines that
    /// have work to do once a batch, such as a commit to a database of their own. The number of commands
    /// in a batch differs from node to node.
    fn apply_batch(&mut self, commands: Vec<(ApplyContext, Bytes)>) -> Vec<Bytes> {
        commands.into_iter().map(|(at, command)| self.apply(at, command)).collect()
    }

    /// Answers a read; changes nothing. `time` is the log time of the last entry that was applied: a
    /// read can tell by it what has expired, as `apply` can by [`ApplyContext::time`].
    fn query(&self, time: LogTime, query: &[u8]) -> Bytes;

    /// A handle to the state as it is now. It is written out elsewhere while commands are applied, so
    /// its cost should not depend on the size of the state.
    fn freeze(&self) -> Self::Frozen;

    /// Replaces the state by one that [`Frozen::write`] wrote: all or nothing.
    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError>;
}

/// The state of a state machine at one moment.
pub trait Frozen {
    /// Writes all of it, for [`StateMachine::restore`] to read.
    fn write(&self, to: &mut dyn Write) -> io::Result<()>;
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// Its place in the log.
    pub id: LogId,
    /// The log time: the leader's clock, which never goes backwards and steps forward by no more than
    /// a bound.
    pub time: LogTime,
    /// Its number among the commands, without gaps.
    pub number: CommandNumber,
}

/// Why a state could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It could not be read.
    #[error("the snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no state of this machine, or of a later version of it.
    #[error("the snapshot is not understood: {0}")]
    Malformed(String),
}
