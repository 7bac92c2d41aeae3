//! Checks of changes of the membership (§4), by what the logs of the nodes hold.

use super::{Observer, Seen};
use crate::checks::Check;
use crate::in_force::News;
use crate::violation::{Violation, violation};
use driver::StateMachine;
use raft::{Change, Incarnation, Index, LogId, Membership, NodeId, RawNode, Snapshot};
use std::collections::BTreeSet;

/// The memberships that were committed.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// Each with its index; that of the beginning has index 0.
    committed: Vec<(Index, Membership)>,
    /// Every directory that a committed membership has removed.
    removed: BTreeSet<(NodeId, Incarnation)>,
    /// The memberships that nodes with an empty log began with later. A snapshot of such a node may
    /// have that, although its last entry is an earlier one.
    given: Vec<Membership>,
    none: Membership,
}

impl Memberships {
    /// The empty log of a node begins with this membership.
    pub fn begins(&mut self, membership: &Membership) {
        match self.committed.first() {
            None if !membership.members.is_empty() => {
                self.committed.push((Index(0), membership.clone()));
            }
            Some((_, first)) if first != membership && !self.given.contains(membership) => {
                self.given.push(membership.clone());
            }
            _ => {}
        }
    }

    /// Whether a snapshot may have the membership, and the index, that it has.
    fn suits(&self, snapshot: &Snapshot) -> bool {
        let Snapshot { last, membership, membership_index, .. } = snapshot;
        self.at(last.index).is_none_or(|known| known == (*membership_index, &**membership))
            || self.given.contains(membership) && *membership_index == Index(0)
    }

    /// The latest committed membership, and its index.
    pub fn latest(&self) -> (Index, &Membership) {
        self.committed.last().map_or((Index(0), &self.none), |(at, latest)| (*at, latest))
    }

    /// The committed membership as of an index, and the index of its entry.
    fn at(&self, index: Index) -> Option<(Index, &Membership)> {
        let after = self.committed.partition_point(|(at, _)| *at <= index);
        self.committed.get(after.checked_sub(1)?).map(|(at, membership)| (*at, membership))
    }

    /// An entry with a membership is committed. Returns a node that it adds again with a directory
    /// that was removed.
    pub fn commit(&mut self, index: Index, membership: &Membership) -> Option<NodeId> {
        let before = self.latest().1;
        let is_in = |membership: &Membership, id: &NodeId, incarnation: Incarnation| {
            membership.members.get(id).is_some_and(|member| member.incarnation == incarnation)
        };
        // Nodes of a change that is given up are removed too.
        let gone = (before.members.iter())
            .filter(|(id, member)| !is_in(membership, id, member.incarnation));
        let gone: Vec<_> = gone.map(|(id, member)| (*id, member.incarnation)).collect();
        self.removed.extend(gone);
        self.committed.push((index, membership.clone()));
        let mut members = membership.members.iter();
        let again = members.find(|(id, member)| self.removed.contains(&(**id, member.incarnation)));
        again.map(|(id, _)| *id)
    }
}

impl<M: StateMachine> Observer<M> {
    /// The membership in force at a node, by what its log holds.
    pub fn membership(&self, at: usize) -> &Membership {
        self.in_force[at].latest().1
    }

    /// The entry of the membership in force at a node.
    pub(crate) fn membership_id(&self, at: usize) -> LogId {
        self.in_force[at].latest().0
    }

    /// The latest committed membership.
    pub fn committed_membership(&self) -> &Membership {
        self.memberships.latest().1
    }

    /// Checks the answer to a change: it is done by the membership of the entry at `index`.
    pub fn change_is_done(&self, change: &Change, index: Index) -> Result<(), Violation> {
        let there = self.memberships.at(index).filter(|(at, _)| *at == index);
        let is_declared = |membership: &Membership| {
            !membership.is_changing()
                && membership.members == change.members
                && membership.voters == change.voters
        };
        if there.is_some_and(|(_, membership)| is_declared(membership)) {
            return Ok(());
        }
        let committed = self.committed_index();
        let detail = format!("{change:?} done by entry {index} of {committed}: {there:?}");
        violation(Check::ChangeIsDoneWhenItIsCommitted, index, detail)
    }

    /// The latest committed membership, and every later one that is in the log of a node: each may
    /// decide what is committed next.
    pub fn possible_memberships(&self) -> impl Iterator<Item = &Membership> {
        let (index, committed) = self.memberships.latest();
        let later = self.in_force.iter().flat_map(move |node| node.after(index));
        std::iter::once(committed).chain(later)
    }

    /// Checks a node whose memberships have changed.
    pub(super) fn look_at_memberships(
        &mut self,
        at: usize,
        node: &RawNode,
        (before, now): (Seen, Seen),
        news: News,
    ) -> Result<(), Violation> {
        let in_force = &self.in_force[at];
        let (id, latest) = in_force.latest();
        if node.membership() != latest {
            let detail = format!("node {at}: the latest in its log is that of {id}");
            return violation(Check::LatestMembershipIsInForce, (at, id), detail);
        }
        let base = node.base();
        let committed = self.memberships.at(base.last.index);
        let own = in_force.at_base();
        let is_right =
            self.memberships.suits(base) && own.is_none_or(|own| *own == *base.membership);
        if base.last != LogId::ZERO && !is_right {
            let detail = format!(
                "node {at}: the snapshot {} has {:?} of entry {}, and it is {committed:?}",
                base.last, base.membership, base.membership_index
            );
            return violation(Check::SnapshotHasTheMembershipAtItsEnd, (at, base.last), detail);
        }
        if news.rolled_back {
            self.marks.hit("a membership was rolled back with the log");
        }
        if news.rebased && base.membership.is_joint() {
            self.marks.hit("a snapshot had a joint membership");
        }
        let leads = before.leads && now.leads && before.term == now.term;
        if leads && news.gained > 0 {
            self.changes_members(at, node, before)?;
        }
        let distinct = self.in_force.iter().map(|node| node.latest().1);
        self.time.decides(distinct);
        Ok(())
    }

    /// Checks a membership that a leader has appended to its log.
    fn changes_members(
        &mut self,
        at: usize,
        node: &RawNode,
        before: Seen,
    ) -> Result<(), Violation> {
        let in_force = &self.in_force[at];
        let (id, new) = in_force.latest();
        let Some((known, old)) = in_force.previous() else { return Ok(()) };
        // The log in memory may begin after that entry.
        let base = Some(node.base().last).filter(|base| base.index == before.commit);
        let committed = node.entry(before.commit).map(|entry| entry.id).or(base);
        let of_this_term = committed.is_some_and(|committed| committed.term == id.term);
        if before.commit < known.index || !of_this_term {
            let detail = format!(
                "node {at} appends {id} when it had committed {}, after that of {known}",
                before.commit
            );
            return violation(Check::OneChangeOfTheMembershipAtATime, (at, [known, id]), detail);
        }
        let outgoing = old.outgoing.as_ref();
        let follows = match (outgoing, &new.outgoing) {
            (None, None) | (Some(_), None) => new.voters == old.voters,
            (None, Some(left)) => *left == old.voters,
            (Some(_), Some(_)) => false,
        };
        if !follows {
            let detail = format!("node {at} appends {id}: {new:?} after {old:?}");
            return violation(Check::VotersChangeByAJointMembership, (at, [known, id]), detail);
        }
        match outgoing {
            Some(left) => {
                self.marks.hit("a joint membership was left");
                if self.leaders.get(&known.term).is_some_and(|leader| *leader != at as u64) {
                    self.marks.hit("a joint membership was left by another leader");
                }
                if new.voters.iter().any(|voter| !left.contains(voter)) {
                    self.marks.hit("a learner was promoted");
                }
            }
            None if new.is_joint() => self.marks.hit("a joint membership was entered"),
            None if new.is_changing() => self.marks.hit("a change of the membership began"),
            None if old.is_changing() => self.marks.hit("a change of the membership was given up"),
            None => self.marks.hit("learners or members changed"),
        }
        Ok(())
    }
}
