//! The seam for those who want to see a node at work: the checks of a simulation.

use crate::{Outcome, StateMachine};
use bytes::Bytes;
use raft::{Entry, LogId, Node, Snapshot};

/// Looks at the core and the state machine of a node. It sees everything and changes nothing; what is
/// not looked at costs nothing.
pub trait Inspect<S: StateMachine>: Clone + Send + Sync + 'static {
    /// The node has been put together, from what its disk has kept.
    fn started(&self, _node: &Node) {}

    /// What has come in at once from the node's own parts, or one message or tick, or the calls of a
    /// turn, have been taken; what follows from them has not been handed out yet.
    fn look(&self, _node: &Node) {}

    /// An entry has been applied, with this answer; an empty one if it is no command. `machine` has
    /// applied the batch that the entry belongs to.
    fn applied(&self, _entry: &Entry, _answer: &Bytes, _machine: &S) {}

    /// Whoever proposed this is told that. It is told to nobody if nobody waits any more.
    fn decided(&self, _id: LogId, _outcome: &Result<Bytes, Outcome>) {}

    /// The state has been replaced by that of a snapshot, or begins with it.
    fn restored(&self, _snapshot: &Snapshot, _machine: &S) {}
}

/// Nobody looks.
impl<S: StateMachine> Inspect<S> for () {}
