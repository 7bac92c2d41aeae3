//! The interface for observers of a running node: the checks of a simulation.

use crate::{Outcome, StateMachine};
use bytes::Bytes;
use raft::{Entry, LogId, Node, Snapshot};

/// Observes the core and the state machine of a node. It can read everything and change nothing.
/// The default methods do nothing and cost nothing.
pub trait Inspect<S: StateMachine>: Clone + Send + Sync + 'static {
    /// The node has been assembled from its restored state.
    fn started(&self, _node: &Node) {}

    /// The core has taken input: the receipts and reports of a turn, one message, a tick, or the
    /// calls of a turn. Its actions have not been carried out yet.
    fn look(&self, _node: &Node) {}

    /// An entry has been applied with this answer, which is empty if the entry is not a command.
    /// `machine` has already applied the whole batch of the entry.
    fn applied(&self, _entry: &Entry, _answer: &Bytes, _machine: &S) {}

    /// The outcome of a proposal of this node is known. Called even if its caller has stopped
    /// waiting.
    fn decided(&self, _id: LogId, _outcome: &Result<Bytes, Outcome>) {}

    /// The state has been replaced by that of a snapshot, or starts with it.
    fn restored(&self, _snapshot: &Snapshot, _machine: &S) {}
}

/// An observer that ignores everything.
impl<S: StateMachine> Inspect<S> for () {}
