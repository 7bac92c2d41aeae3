//! The stream of changes that a client of the node may follow.

use crate::DriverStatus;
use crate::shared::Shared;
use raft::{Membership, NodeId, Term};
use std::sync::Arc;

/// The view that a node has of its cluster, and whether it serves. See [`Changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct View {
    /// The node's current term.
    pub term: Term,
    /// The leader of that term, if the node knows it.
    pub leader: Option<NodeId>,
    /// Whether the node leads, knows what is committed, and takes proposals. See
    /// [`DriverStatus::serving`].
    pub serving: bool,
    /// The latest membership in the node's log. It acts from the moment it is in the log, and may
    /// still be replaced by an earlier one if it is never committed.
    pub membership: Membership,
    /// Whether the node knows that this membership is committed.
    pub is_committed: bool,
}

impl View {
    fn of(status: &DriverStatus) -> Self {
        View {
            term: status.raft.term,
            leader: status.raft.leader,
            serving: status.serving(),
            membership: status.raft.membership.clone(),
            is_committed: status.is_membership_committed(),
        }
    }
}

/// The changes of a node's [`View`], for one follower. Made by
/// [`Handle::changes`](crate::Handle::changes).
///
/// It is no queue: [`Changes::next`] returns the view as it is now, if it differs from the one
/// returned before. A slow follower misses what has come and gone meanwhile, costs the node no
/// memory, and never holds it up. The view is as old as the published status: changes of term and
/// leader are published in the turn in which they happen, the others at the next tick in which
/// anything is due.
///
/// It is not a `Stream`, which would need a dependency in the interface of this crate. The function
/// `unfold` of the crate `futures` makes one of it.
pub struct Changes {
    shared: Arc<Shared>,
    /// The status whose view was returned last.
    last: Option<Arc<DriverStatus>>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.last.as_deref().map(View::of);
        f.debug_struct("Changes").field("last", &last).finish_non_exhaustive()
    }
}

impl Changes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Changes { shared, last: None }
    }

    /// The node's view, once it differs from the one returned before. The first call returns the
    /// present one at once. `None` once the node has stopped and its last view was returned.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<View> {
        loop {
            // Registered before the check, or a change between the two could be missed.
            let changed = self.shared.changed();
            let status = self.shared.status.load_full();
            if !self.last.as_ref().is_some_and(|last| last.shows_the_same(&status)) {
                let view = View::of(&status);
                self.last = Some(status);
                return Some(view);
            }
            if status.stopped.is_some() {
                return None;
            }
            changed.await;
        }
    }
}
