//! The interface for observers of a running node: the checks of a simulation.

use crate::{Answer, ErasedMachine, Outcome, Replica};
use raft::{Entry, LogId, RawNode, Snapshot};

/// The outcome of a proposal: the answer to its entry, once that is applied.
pub type Decision = Result<Answer, Outcome>;

/// Observes the core and the state machine of a node. It can read everything and change nothing.
/// The default methods do nothing and cost nothing.
pub trait Inspect: Send + Sync + 'static {
    /// The node has been assembled from its restored state.
    fn started(&self, _node: &RawNode) {}

    /// The core has taken input: the receipts and reports of a turn, one message, a tick, or the
    /// calls of a turn. Its actions have not been carried out yet.
    fn look(&self, _node: &RawNode) {}

    /// An entry has been applied with this answer. `replica` has already applied the whole batch of
    /// the entry.
    fn applied(&self, _entry: &Entry, _answer: &Answer, _replica: &Replica<ErasedMachine>) {}

    /// The outcome of a proposal of this node is known. Called even if its caller has stopped
    /// waiting.
    fn decided(&self, _id: LogId, _outcome: &Decision) {}

    /// The state has been replaced by that of a snapshot, or starts with it.
    fn restored(&self, _snapshot: &Snapshot, _replica: &Replica<ErasedMachine>) {}
}

/// An observer that ignores everything.
impl Inspect for () {}
