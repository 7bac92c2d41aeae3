//! The members of a cluster, and what a quorum of them is.
//!
//! Membership changes use joint consensus only (§4.3): during a change there are two halves, and
//! every decision needs a quorum of both. Single-server changes are deliberately absent: as first
//! published they are unsafe (raft-dev, July 2015), and they save nothing.
//!
//! A change is declared: it names the voters and learners that the cluster is to have, from any
//! configuration to any other. It stands in the log, so any leader can finish it:
//!
//! 1. [`Membership::planned`]: the voters decide as before, and new members are learners. It ends
//!    when it is committed, each new voter has caught up, and a quorum of the target's voters
//!    replies and has it on disk.
//! 2. [`Membership::joint`]: a quorum of the new voters and one of the old decide. It ends when it
//!    is committed.
//! 3. [`Membership::entered`]: the new voters decide.
//!
//! A change that only concerns learners or addresses is one entry, since its voters stay the same.
//! The steps of a leader are in `change.rs`.

use crate::bounded::MEMBERS_MAX;
use crate::{Incarnation, LogTime, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Up to this many voters, [`Membership::reached`] allocates nothing. A leader calls it for each
/// acknowledgement.
const FEW_VOTERS: usize = 9;

/// The incarnation and addresses of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The incarnation that was admitted. Messages of another incarnation under the same id are
    /// rejected.
    pub incarnation: Incarnation,
    /// The address for its peers, as `host:port`.
    pub peer_address: String,
    /// The address for its clients, as `host:port`.
    pub client_address: String,
}

/// The configuration of a cluster.
///
/// Invariants ([`Membership::is_sound`]): there is a voter; every voter, outgoing voter and member
/// of the target is in `members`; `outgoing`, where present, is not empty, and then there is a
/// target. A member that is a voter of neither half is a learner: it receives the log, and counts
/// for no quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// All members with their addresses, learners included. At most 1,024.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub members: BTreeMap<NodeId, Member>,
    /// The members whose votes and acknowledgements count.
    #[serde(deserialize_with = "crate::bounded::set")]
    pub voters: BTreeSet<NodeId>,
    /// While a joint configuration is in force: the voters of the configuration that is being left.
    #[serde(deserialize_with = "crate::bounded::optional_set")]
    pub outgoing: Option<BTreeSet<NodeId>>,
    /// The configuration that a change in progress leads to.
    pub target: Option<Target>,
    /// The nodes that were members and have been removed, with their incarnations. Those whose
    /// addition was given up are among them. They are told so, and cannot be added again with the
    /// same data directory. At most 1,024: those with the lowest ids are forgotten first.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub removed: BTreeMap<NodeId, Incarnation>,
}

/// The configuration that a change in progress leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its voters.
    #[serde(deserialize_with = "crate::bounded::set")]
    pub voters: BTreeSet<NodeId>,
    /// Its learners.
    #[serde(deserialize_with = "crate::bounded::set")]
    pub learners: BTreeSet<NodeId>,
    /// The nodes that were no members before the change. They are removed if it is given up.
    #[serde(deserialize_with = "crate::bounded::set")]
    pub added: BTreeSet<NodeId>,
    /// The log time at which the change is given up, if the target is not ready by then.
    /// Once the joint configuration is in the log, a change is always finished.
    pub until: LogTime,
}

impl Membership {
    /// A configuration in which every member votes.
    pub fn of_voters(members: BTreeMap<NodeId, Member>) -> Self {
        let voters = members.keys().copied().collect();
        Membership { members, voters, ..Membership::default() }
    }

    /// Whether `node` is a voter in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node)
            || self.outgoing.as_ref().is_some_and(|outgoing| outgoing.contains(&node))
    }

    /// Whether `node` is a member that votes in neither half.
    pub fn is_learner(&self, node: NodeId) -> bool {
        self.members.contains_key(&node) && !self.is_voter(node)
    }

    /// Whether a membership change is in progress, in any of its phases.
    pub fn is_changing(&self) -> bool {
        self.target.is_some()
    }

    /// Whether two quorums are needed for a decision.
    pub fn is_joint(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Whether the invariants hold. What comes from a peer is checked before it is used.
    pub fn is_sound(&self) -> bool {
        let known = |ids: &BTreeSet<NodeId>| ids.iter().all(|id| self.members.contains_key(id));
        !self.voters.is_empty()
            && known(&self.voters)
            && self.outgoing.as_ref().is_none_or(|ids| !ids.is_empty() && known(ids))
            && self.target.as_ref().is_none_or(|target| {
                !target.voters.is_empty()
                    && known(&target.voters)
                    && known(&target.learners)
                    && target.voters.is_disjoint(&target.learners)
            })
            && (self.outgoing.is_none() || self.target.is_some())
    }

    /// The first configuration of a change to `members`, of which `voters` vote. If the voters stay
    /// the same, it is also the last. Otherwise new members are learners, and those that are to be
    /// removed stay, until the joint configuration is left.
    #[must_use]
    pub fn planned(
        &self,
        members: BTreeMap<NodeId, Member>,
        voters: BTreeSet<NodeId>,
        until: LogTime,
    ) -> Self {
        let learners = members.keys().copied().filter(|id| !voters.contains(id)).collect();
        let added = members.keys().copied().filter(|id| !self.members.contains_key(id)).collect();
        let target = Target { voters, learners, added, until };
        let mut all = self.members.clone();
        all.extend(members);
        let planned = Membership { members: all, target: Some(target), ..self.clone() };
        let same = planned.target.as_ref().is_some_and(|target| target.voters == self.voters);
        if same { planned.entered() } else { planned }
    }

    /// The joint configuration of a planned change (§4.3).
    #[must_use]
    pub fn joint(&self) -> Self {
        let Some(target) = &self.target else { return self.clone() };
        let outgoing = Some(self.voters.clone());
        Membership { voters: target.voters.clone(), outgoing, ..self.clone() }
    }

    /// The configuration that a change leads to, alone in force.
    #[must_use]
    pub fn entered(&self) -> Self {
        let Some(target) = &self.target else { return self.clone() };
        let stays = |id: &NodeId| target.voters.contains(id) || target.learners.contains(id);
        let (members, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.members.clone().into_iter().partition(|(id, _)| stays(id));
        let removed = self.removed_with(&members, gone);
        Membership { members, voters: target.voters.clone(), outgoing: None, target: None, removed }
    }

    /// The configuration before a planned change, if the change is given up. Changed addresses
    /// stay. The added nodes may have joined as learners by now, so they count as removed: they are
    /// told so, and stop.
    #[must_use]
    pub fn given_up(&self) -> Self {
        let Some(target) = &self.target else { return self.clone() };
        let (gone, members): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.members.clone().into_iter().partition(|(id, _)| target.added.contains(id));
        let removed = self.removed_with(&members, gone);
        Membership { members, target: None, removed, ..self.clone() }
    }

    /// The removed nodes of a configuration with these members, once `gone` are removed too.
    fn removed_with(
        &self,
        members: &BTreeMap<NodeId, Member>,
        gone: BTreeMap<NodeId, Member>,
    ) -> BTreeMap<NodeId, Incarnation> {
        let mut removed = self.removed.clone();
        removed.extend(gone.into_iter().map(|(id, member)| (id, member.incarnation)));
        // An id may come back with another data directory.
        removed.retain(|id, _| !members.contains_key(id));
        while removed.len() > MEMBERS_MAX {
            removed.pop_first();
        }
        removed
    }

    /// Whether the nodes for which `agrees` holds form a quorum: a majority of each half. An empty
    /// configuration has no quorum.
    pub fn is_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        self.halves().all(|half| half.iter().filter(|id| agrees(**id)).count() > half.len() / 2)
    }

    /// Whether a quorum is impossible, given that the nodes for which `refuses` holds never agree.
    /// With voters 1, 2, 3 and outgoing voters 3, 4, 5: 4 and 5 are enough to make it impossible,
    /// since one half is lost; 1 and 4 are not.
    pub fn is_lost(&self, refuses: impl Fn(NodeId) -> bool) -> bool {
        !self.is_quorum(|id| !refuses(id))
    }

    /// The greatest value that a quorum has reached, where `value` is the value of each voter. In a
    /// joint configuration: the lesser of the two halves. If each voter has ten times its id,
    /// voters 1, 2, 3 have reached 20. With outgoing voters 3, 4, 5, which have reached 40, it is
    /// still 20.
    pub fn reached<T: Ord + Default + Copy>(&self, value: impl Fn(NodeId) -> T) -> T {
        self.halves()
            .map(|half| {
                let mut few = [T::default(); FEW_VOTERS];
                let mut many = Vec::new();
                let values = if half.len() <= FEW_VOTERS {
                    &mut few[..half.len()]
                } else {
                    many.resize(half.len(), T::default());
                    &mut many[..]
                };
                values.iter_mut().zip(half).for_each(|(place, id)| *place = value(*id));
                values.sort_unstable_by(|a, b| b.cmp(a));
                values.get(half.len() / 2).copied().unwrap_or_default()
            })
            .min()
            .unwrap_or_default()
    }

    /// The number of bytes that it counts for in limits.
    pub fn cost_bytes(&self) -> usize {
        self.members
            .values()
            .map(|m| 64 + m.peer_address.len() + m.client_address.len())
            .sum::<usize>()
            + 16 * self.removed.len()
            + 64
    }

    fn halves(&self) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        std::iter::once(&self.voters).chain(self.outgoing.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn of(voters: &[u64], outgoing: Option<&[u64]>) -> Membership {
        Membership { voters: ids(voters), outgoing: outgoing.map(ids), ..Membership::default() }
    }

    /// Voters, outgoing voters, nodes that agree, whether they are a quorum.
    type Case<'a> = (&'a [u64], Option<&'a [u64]>, &'a [u64], bool);

    #[test]
    fn a_quorum_is_a_majority_of_each_half() {
        let cases: [Case; 10] = [
            (&[], None, &[], false),
            (&[1], None, &[1], true),
            (&[1, 2], None, &[1], false),
            (&[1, 2, 3], None, &[1, 2], true),
            (&[1, 2, 3, 4], None, &[1, 2], false),
            (&[1, 2, 3], None, &[1, 8, 9], false),
            (&[1, 2, 3], Some(&[1, 2, 4]), &[1, 2], true),
            (&[1, 2, 3], Some(&[4, 5, 6]), &[1, 2, 3, 4], false),
            (&[1, 2, 3], Some(&[4, 5, 6]), &[1, 2, 4, 5], true),
            (&[1], Some(&[2]), &[1], false),
        ];
        for (voters, outgoing, agree, quorum) in cases {
            let (membership, agree) = (of(voters, outgoing), ids(agree));
            let is_quorum = membership.is_quorum(|id| agree.contains(&id));
            assert_eq!(is_quorum, quorum, "{voters:?} {outgoing:?} {agree:?}");
        }
    }

    #[test]
    fn a_vote_is_lost_once_those_who_are_left_are_no_quorum() {
        let joint = of(&[1, 2, 3], Some(&[3, 4, 5]));
        assert!(!joint.is_lost(|id| id == NodeId(1) || id == NodeId(4)));
        assert!(joint.is_lost(|id| id == NodeId(4) || id == NodeId(5)), "one half is enough");
    }

    #[test]
    fn what_a_quorum_has_reached_is_the_lesser_of_the_halves() {
        let reached = |membership: Membership| membership.reached(|id| id.0 * 10);
        assert_eq!(reached(of(&[], None)), 0);
        assert_eq!(reached(of(&[1], None)), 10);
        assert_eq!(reached(of(&[1, 2], None)), 10);
        assert_eq!(reached(of(&[1, 2, 3], None)), 20);
        assert_eq!(reached(of(&[1, 2, 3, 4], None)), 20);
        assert_eq!(reached(of(&[1, 2, 3], Some(&[3, 4, 5]))), 20);
        assert_eq!(reached(of(&[7, 8, 9], Some(&[1, 2]))), 10);
        let voters: Vec<u64> = (1..=2 * FEW_VOTERS as u64 + 1).collect();
        for count in 1..=voters.len() {
            let least_of_a_quorum = count as u64 - count as u64 / 2;
            assert_eq!(reached(of(&voters[..count], None)), 10 * least_of_a_quorum);
        }
    }
}
