//! Read-only views of a node for tests, simulators and tools. They serve checks after each event,
//! without the cost of a whole [`Status`](crate::Status).

use crate::{
    Counters, Entry, HardState, Incarnation, Index, LogId, Membership, Now, RawNode, Snapshot, Term,
};

impl RawNode {
    /// Identifies its data directory.
    pub fn incarnation(&self) -> Incarnation {
        self.core().config.incarnation
    }

    /// What was ignored, and elections.
    pub fn counters(&self) -> &Counters {
        &self.core().counters
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.core().term()
    }

    /// Term and vote in memory; they may not be durable yet.
    pub fn hard_state(&self) -> &HardState {
        self.core().hard_state()
    }

    /// Term and vote on disk.
    pub fn durable_hard_state(&self) -> &HardState {
        self.core().durable_hard_state()
    }

    /// The commit index, as far as this node knows it.
    pub fn commit(&self) -> Index {
        self.core().commit
    }

    /// The last entry that the state machine has applied.
    pub fn applied_index(&self) -> Index {
        self.core().applied
    }

    /// The last entry that is on disk.
    pub fn durable_index(&self) -> Index {
        self.core().log.durable()
    }

    /// The last entry of the log.
    pub fn last(&self) -> LogId {
        self.core().log.last()
    }

    /// The membership in force: the latest in the log.
    pub fn membership(&self) -> &Membership {
        self.core().log.membership()
    }

    /// The memberships that may be in force: the one as of the commit index, and all later ones.
    pub fn memberships(&self) -> impl Iterator<Item = &Membership> {
        let core = self.core();
        core.log.memberships_from(core.commit).map(|(_, membership)| membership)
    }

    /// The snapshot that the log begins after.
    pub fn base(&self) -> &Snapshot {
        self.core().log.base()
    }

    /// The entry at `index`, if it is in memory.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.core().log.entry(index)
    }

    /// Whether this node's state was found to be wrong: see
    /// [`Status::diverged`](crate::Status::diverged).
    pub fn is_diverged(&self) -> bool {
        self.core().is_diverged()
    }

    /// Whether this node's state was found to be wrong, and it is durable that the log begins anew.
    /// A driver stops the node then, and not before: otherwise the next start has the same state.
    pub fn has_given_up(&self) -> bool {
        self.core().has_given_up()
    }

    /// Whether this node leads and holds a lease at this reading of its clocks.
    pub fn holds_lease(&self, now: Now) -> bool {
        self.leads_with_lease(now.monotonic_ns)
    }

    /// The priority that this node states for now: 0 for a while after it has failed as a leader
    /// (see [`Config::priority`](crate::Config::priority)).
    pub fn stated_priority(&self) -> u8 {
        self.core().priority()
    }

    /// Whether this node is the leader of its term.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.core().id())
    }
}
