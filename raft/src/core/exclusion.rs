//! Whether this node is still a member, as far as it can know: from its own log, or from what peers
//! report.
//!
//! A node that was removed receives nothing from a leader, so it asks. What it learns may be late:
//! the log decides whether a report is older than the entry that lists this node.

use super::Core;
use crate::{Body, Incarnation, Index, LogId, NodeId};

/// Rejections by leaders, each within an election timeout of the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rejected {
    /// Ticks since the first of them.
    ticks: u32,
    /// Ticks since the last one.
    silent_ticks: u32,
}

impl Rejected {
    fn tick(self) -> Self {
        Rejected {
            ticks: self.ticks.saturating_add(1),
            silent_ticks: self.silent_ticks.saturating_add(1),
        }
    }
}

impl Core {
    /// A node that may not campaign asks nobody for votes, so no peer would tell it that it was
    /// removed. It asks for pre-votes instead, which change nothing at a member, and does not count
    /// them: it states an empty log, so that nobody takes it for a candidate. It may be a learner,
    /// or a voter that has lost log or whose disk is full: it could not even store the entry that
    /// removes it.
    pub fn ask_whether_removed(&mut self) {
        if self.diverged || self.is_not_a_member() {
            return;
        }
        let (next, last) = (self.hard.term.next(), LogId::ZERO);
        let peers: Vec<NodeId> = self.log.membership().members.keys().copied().collect();
        for peer in peers.into_iter().filter(|peer| *peer != self.config.id) {
            let message = self.message(peer, Body::PreVote { next, last });
            self.outbox.send(message);
        }
    }

    /// A peer has rejected our incarnation: its membership has no member with it.
    pub fn leave_the_membership(&mut self, commit: Index, refused: Incarnation, by_leader: bool) {
        if refused == self.config.incarnation {
            self.not_a_member = Some(commit);
            if by_leader {
                self.expelled = self.expelled.max(Some(commit));
                self.rejected.get_or_insert_default().silent_ticks = 0;
            }
        }
    }

    /// Whether a leader that this node followed has rejected it after the entry that lists this
    /// node was committed. Its log has all that is committed, so this node was removed. A rejection
    /// from before that entry is late, and so may be any while this node is being added and does
    /// not have the entry: its log begins with memberships from before that. So without the entry,
    /// a leader has to reject it for an election timeout.
    fn is_expelled(&self) -> bool {
        let listed_at = self.listed_at().filter(|at| *at > Index(0) || self.is_founder());
        match listed_at {
            Some(listed_at) => self.expelled.is_some_and(|told_at| told_at >= listed_at),
            None => self.rejected.is_some_and(|r| r.ticks > self.config.election_ticks),
        }
    }

    /// One tick has passed since the rejections of this node.
    pub fn tick_rejected(&mut self) {
        let lasts = |rejected: &Rejected| rejected.silent_ticks <= self.config.election_ticks;
        self.rejected = self.rejected.map(Rejected::tick).filter(lasts);
    }

    /// Whether the membership with which the log began has this node as a voter. A node that is
    /// added begins with what it was told, in which it is a learner.
    fn is_founder(&self) -> bool {
        let first = self.log.memberships_from(Index(0)).next();
        first.is_some_and(|(at, membership)| at == Index(0) && self.votes_in(membership))
    }

    /// The index of the latest membership that lists this node, of those from the commit index on.
    /// 0 if it comes from no entry. The one in force may not list it, and may never be committed:
    /// then this node is still needed.
    fn listed_at(&self) -> Option<Index> {
        let all = self.log.memberships_from(self.commit);
        let listing = all.filter(|(_, membership)| self.is_listed_in(membership));
        listing.map(|(at, _)| at).last()
    }

    /// Whether the latest known membership, ours or a peer's, excludes us. A peer that had
    /// committed less than we have, or less than the entry that lists us, does not count against a
    /// membership that lists us.
    pub fn is_not_a_member(&self) -> bool {
        let listed_at = self.listed_at();
        let is_told = self.not_a_member.is_some_and(|told_at| {
            listed_at.is_none_or(|listed_at| told_at > self.commit && told_at >= listed_at)
        });
        is_told || self.is_removed()
    }

    /// Whether a committed membership has removed this node.
    pub fn is_removed(&self) -> bool {
        self.is_expelled() || self.has_removed(self.config.id, self.config.incarnation)
    }

    /// Whether a committed membership has removed the node. That a node is in no membership proves
    /// nothing: ours may be older than it (§4.1).
    pub fn has_removed(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let committed = self.log.logged_membership(self.commit);
        committed.is_some_and(|membership| membership.removed.get(&node) == Some(&incarnation))
    }
}
